//! Fuzz targets. A target fails if it panics or takes too long.
//!
//! Only parsers of outside input: the kernel's types and its netlink replies, frames, input from a runtime,
//! the lines between plugin and agent, the rows in the agent's files. Each target also asserts the properties
//! of a parsed input. Left out: the loop, the coverage and the shrinking, which libFuzzer does; and the
//! start, which `cargo xtask fuzz` does.

#![cfg(fuzzing)]

mod cni;
mod rows;
pub mod seeds;

use berth_ebpf_common::frame::{self, Bytes, Claim, Meta};
use berth_probes::btf::Btf;
use berth_probes::{agreement, btf_blob, kernel};

pub use berth_underlay::trial::netlink;
pub use cni::{conf, prev_result};
pub use rows::{message, record};

/// Names that the agent looks up in a kernel.
const NAMES: [&str; 4] = ["dev_shutdown", "rtnetlink_net_exit", "btf_trace_qdisc_destroy", "qdisc_destroy"];
/// Lookups in addition to those of [`kernel::resolve`], which ends at its first error.
const MEMBERS: [(&str, &str); 6] = [
    ("net_device", "nd_net.net"),
    ("net_device", "reg_state"),
    ("net", "ns.inum"),
    ("net", "ns.__ns_ref"),
    ("device", "inner"),
    ("holder", "device.name"),
];

/// Type information. The first byte selects whether its header comes with it or is constructed: few random
/// changes leave all lengths valid.
pub fn btf(input: &[u8]) {
    let Some((mode, rest)) = input.split_first() else { return };
    if mode & 1 == 0 {
        return types(rest);
    }
    let Some((split, rest)) = rest.split_first_chunk::<2>() else { return };
    let split = usize::from(u16::from_le_bytes(*split)).min(rest.len());
    let (types_part, strings) = rest.split_at(split & !3);
    types(&btf_blob::Blob { types: types_part.to_vec(), strings: strings.to_vec() }.bytes());
}

fn types(bytes: &[u8]) {
    let btf = match Btf::parse(bytes) {
        Ok(btf) => btf,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let _ = kernel::resolve(&btf);
    for (holder, path) in MEMBERS {
        let _ = btf.member(holder, path);
    }
    let Ok(hollow) = btf.hollow(&NAMES) else { return };
    // Twelve bytes a type as before, and at most one short name for each.
    assert!(hollow.len() <= 4 * bytes.len() + 64, "{} of {}", hollow.len(), bytes.len());
    assert!(Btf::parse(&hollow).is_ok(), "a hollow copy is type information");
    let _ = aya::Btf::parse(&hollow, aya::Endianness::default());
}

/// A frame, after a byte of kernel metadata and two of a removed tag.
pub fn frame(input: &[u8]) {
    let Some((&[flags, high, low], bytes)) = input.split_first_chunk::<3>() else { return };
    let protocol = match flags >> 1 & 7 {
        1 => frame::ARP,
        2 => frame::IPV6,
        3 => frame::VLAN,
        4 => frame::SERVICE_VLAN,
        _ => Bytes::whole(bytes).map_or(0, |whole| whole.meta.protocol),
    };
    let tag = (flags & 1 == 1).then_some(u16::from_be_bytes([high, low]));
    if let Ok(claim) = frame::read(&Bytes { meta: Meta { protocol, tag }, bytes }) {
        believable(&claim);
    }
    let mut repaired = bytes.to_vec();
    agree(&repaired);
    agreement::repair(&mut repaired);
    agree(&repaired);
}

/// Checks the values that the programs would write into the map for a watched address.
fn believable(claim: &Claim) {
    assert!(claim.vlan < 4096);
    assert!(claim.mac[0] & 1 == 0 && claim.mac != [0; 6], "{claim:?}");
    assert!(claim.address != [0; 16], "{claim:?}");
    match claim.family {
        4 => {
            let is_group = claim.address[0] & 0xf0 == 224 || claim.address[..4] == [0xff; 4];
            assert!(!is_group, "{claim:?}");
            assert!(claim.address[4..] == [0; 12], "{claim:?}");
        }
        family => {
            assert!(family == 6 && matches!(claim.operation, 135 | 136), "{claim:?}");
            assert!(claim.address[0] != 0xff, "{claim:?}");
        }
    }
}

fn agree(bytes: &[u8]) {
    if let Err(defect) = agreement::check(bytes) {
        panic!("{defect}");
    }
}
