//! MAC addresses, and the rule that derives one from an attachment.
//!
//! Plugin and agent derive the same address without talking to each other, so an answer on the
//! wire names its holder, and a DEL that finds no agent still knows which link is its own.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::attachment::AttachmentKey;

/// The first octet of every MAC that Berth derives: locally administered, unicast.
pub const BERTH_PREFIX: u8 = 0xb2;

/// Number of salts that [`Mac::derive`] may be asked for: 0 to 3, tried in order on a collision.
pub const SALTS: u8 = 4;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// A text that is not a MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address; write six hexadecimal octets joined by colons, as in b2:00:5e:00:53:01")]
pub struct MacError(String);

impl Mac {
    /// The MAC of an attachment: `b2` and 40 bits of SHA-256 over network, container id,
    /// interface name and `salt`, each ended by a zero byte.
    pub fn derive(key: &AttachmentKey, salt: u8) -> Self {
        let mut hash = Sha256::new();
        for part in [key.network.as_str(), key.container_id.as_str(), key.ifname.as_str()] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        hash.update([salt]);
        let digest = hash.finalize();
        Self([BERTH_PREFIX, digest[0], digest[1], digest[2], digest[3], digest[4]])
    }

    /// True if this MAC is one that Berth would derive for `key`, with any salt.
    pub fn belongs_to(self, key: &AttachmentKey) -> bool {
        (0..SALTS).any(|salt| Self::derive(key, salt) == self)
    }

    /// True if the first octet says that Berth may have made this MAC. One in 64 of the random MACs that
    /// others make has such an octet too: alone it proves nothing of a link.
    pub fn is_berth(self) -> bool {
        self.0[0] == BERTH_PREFIX
    }

    /// Reads a MAC from the six octets of a netlink attribute or a frame; `None` for any other length.
    pub fn from_octets(octets: &[u8]) -> Option<Self> {
        octets.try_into().ok().map(Self)
    }
}

impl fmt::Display for Mac {
    #[expect(clippy::many_single_char_names, reason = "six octets in a row need no better names")]
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let wrong = || MacError(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Self(octets)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(network: &str, container: &str, ifname: &str) -> AttachmentKey {
        AttachmentKey {
            network: network.parse().unwrap(),
            container_id: container.parse().unwrap(),
            ifname: ifname.parse().unwrap(),
        }
    }

    #[test]
    fn derivation_is_stable_across_releases() {
        // A changed derivation would orphan every attachment at an upgrade.
        assert_eq!(Mac::derive(&key("lan", "c1", "eth0"), 0).to_string(), "b2:e8:80:43:59:e9");
    }

    #[test]
    fn parts_and_salts_separate() {
        let base = Mac::derive(&key("lan", "c1", "eth0"), 0);
        assert_ne!(base, Mac::derive(&key("lan", "c1", "eth0"), 1));
        assert_ne!(Mac::derive(&key("ab", "c", "eth0"), 0), Mac::derive(&key("a", "bc", "eth0"), 0));
        assert!(base.is_berth() && base.belongs_to(&key("lan", "c1", "eth0")));
        assert!(!base.belongs_to(&key("lan", "c2", "eth0")));
    }

    #[test]
    fn text_round_trips_and_refuses_nonsense() {
        assert_eq!("b2:00:5e:00:53:0A".parse::<Mac>().unwrap().to_string(), "b2:00:5e:00:53:0a");
        for bad in
            ["", "b2", "b2:00:5e:00:53", "b2:00:5e:00:53:01:02", "b2:00:5e:00:53:0", "zz:00:5e:00:53:01"]
        {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
