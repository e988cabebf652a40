//! Identity of namespaces, boots, machines and transactions.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A network namespace's cookie (`SO_NETNS_COOKIE`, Linux 5.14): never repeats within one boot.
/// On the wire and in records a decimal string, because it does not fit into a JSON double.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetnsCookie(pub u64);

impl fmt::Display for NetnsCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl TryFrom<String> for NetnsCookie {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

impl From<NetnsCookie> for String {
    fn from(cookie: NetnsCookie) -> Self {
        cookie.0.to_string()
    }
}

/// The number by which the agent's namespace knows another one (`RTM_NEWNSID`). Never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nsid(pub i32);

impl Nsid {
    /// Numbers from here on are drawn: the kernel counts up from 0 and takes the lowest free one, so it gets here
    /// only with 65,536 namespaces that have a number.
    pub const FIRST_DRAWN: i32 = 1 << 16;

    /// True if it was drawn, and so does not come back soon.
    pub const fn is_drawn(self) -> bool {
        self.0 >= Self::FIRST_DRAWN
    }
}

impl fmt::Display for Nsid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One network namespace, as the plugin saw it when it asked for a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetnsIdentity {
    /// The cookie: the namespace's identity within this boot.
    pub cookie: NetnsCookie,
    /// The inode of its nsfs file. Recycled at once after its end: a hint for people only.
    pub inode: u64,
    /// Its number in the node's namespace.
    pub nsid: Nsid,
    /// True if that number was drawn for this namespace, and so does not come back soon (the name is that of
    /// a former way to draw it, and stays because records have it). The kernel's own small numbers are
    /// re-used at once, so what they resolve to is weaker evidence.
    pub nsid_is_random: bool,
}

macro_rules! id {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(pub String);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// The kernel's boot id: names one epoch of a machine.
    BootId
);
id!(
    /// `/etc/machine-id`: names one machine over its boots.
    MachineId
);
id!(
    /// One ADD, named by the plugin: 128 random bits as 32 hexadecimal digits.
    TxnId
);
