//! Per-interface kernel settings under `/proc/sys/net`.
//!
//! That folder shows the namespace of the *calling thread*, so these calls belong inside
//! [`crate::netns::run_in`]. Settings follow an interface through a rename.

use std::io;
use std::path::PathBuf;

use berth_ipam::name::IfName;

use crate::error::Error;

/// A setting of one interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// ARP replies only for addresses of the receiving interface (1).
    ArpIgnore,
    /// Source address of ARP requests (2: the best one for the target).
    ArpAnnounce,
    /// Announcement of IPv4 addresses when the interface comes up or its MAC is set (1).
    ArpNotify,
    /// The same for IPv6 (1).
    NdiscNotify,
    /// Acceptance of router advertisements (0: off).
    AcceptRa,
    /// IPv6 duplicate address detection (0: off).
    AcceptDad,
    /// Switch that disables IPv6 on the interface (1).
    DisableIpv6,
}

impl Setting {
    fn file(self) -> (&'static str, &'static str) {
        match self {
            Self::ArpIgnore => ("ipv4", "arp_ignore"),
            Self::ArpAnnounce => ("ipv4", "arp_announce"),
            Self::ArpNotify => ("ipv4", "arp_notify"),
            Self::NdiscNotify => ("ipv6", "ndisc_notify"),
            Self::AcceptRa => ("ipv6", "accept_ra"),
            Self::AcceptDad => ("ipv6", "accept_dad"),
            Self::DisableIpv6 => ("ipv6", "disable_ipv6"),
        }
    }

    fn path(self, interface: &IfName) -> PathBuf {
        let (family, name) = self.file();
        // A dot in an interface name is part of the file name here; only sysctl(8) turns it into a slash.
        PathBuf::from(format!("/proc/sys/net/{family}/conf/{interface}/{name}"))
    }
}

/// Writes one setting of an interface in the calling thread's namespace. `Ok(false)`: an IPv6 setting
/// on a kernel without IPv6, where nothing needs to be set.
pub fn write(interface: &IfName, setting: Setting, value: u8) -> Result<bool, Error> {
    let path = setting.path(interface);
    let text = value.to_string();
    match std::fs::write(&path, &text) {
        Ok(()) => Ok(true),
        Err(cause)
            if cause.kind() == io::ErrorKind::NotFound && setting.file().0 == "ipv6" && !has_ipv6() =>
        {
            Ok(false)
        }
        Err(cause) => Err(Error::Sysctl { path, value: text, cause }),
    }
}

fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}
