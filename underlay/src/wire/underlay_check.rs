//! Probe of a gateway for its MAC, from any address or none: `berthctl doctor underlay` does so from a
//! temporary macvlan with a new MAC, and a silent gateway then points at port security on the switch.
//!
//! Left out: creation and removal of that macvlan.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::time::Duration;

use berth_ipam::mac::Mac;

use super::WireError;
use super::frame;
use super::shell::{boot_time, drain, wait};
use super::socket::PacketSocket;

/// Time limit for the gateway's reply.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Interval of the request within that time.
const REPEAT: Duration = Duration::from_millis(200);

/// Outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is at this MAC; `after` is the time since the first question.
    At {
        /// The answering MAC.
        mac: Mac,
        /// The time to the reply.
        after: Duration,
    },
    /// No reply within a second.
    Silent,
}

/// Probes `gateway` on an interface of the calling thread's namespace, which must be up. With an unspecified
/// `own` address the request is an ARP probe, which every host answers and which does not update the
/// gateway's neighbour table. Needs `CAP_NET_RAW`.
pub fn ask_gateway(ifindex: u32, mac: Mac, own: IpAddr, gateway: IpAddr) -> Result<Answer, WireError> {
    let question = match (own, gateway) {
        (IpAddr::V4(own), IpAddr::V4(asked)) => frame::arp_request(mac, own, asked),
        (IpAddr::V6(own), IpAddr::V6(asked)) => {
            frame::neighbour_solicitation(mac, Some(own).filter(|own| !own.is_unspecified()), asked)
        }
        (own, asked) => return Err(WireError::MixedFamilies { own, asked }),
    };
    let socket = PacketSocket::listening(ifindex)?;
    let receive_error = |cause| WireError::Receive { ifindex, cause };
    let start = boot_time();
    let mut next = start;
    while boot_time().since(start) < PATIENCE {
        let now = boot_time();
        if now >= next {
            socket.send(&question, gateway)?;
            next = now + REPEAT;
        }
        wait([socket.as_fd()], next.min(start + PATIENCE)).map_err(|errno| receive_error(errno.into()))?;
        let mut answer = None;
        drain(&socket, |statement, _| {
            let fits = statement.kind.is_claim() && statement.vlan.is_none() && statement.address == gateway;
            if fits && statement.mac != mac {
                answer.get_or_insert(statement.mac);
            }
        })
        .map_err(receive_error)?;
        if let Some(mac) = answer {
            return Ok(Answer::At { mac, after: boot_time().since(start) });
        }
    }
    Ok(Answer::Silent)
}

/// The address that claims nothing, of the family of `of`.
pub fn unspecified_like(of: IpAddr) -> IpAddr {
    match of {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}
