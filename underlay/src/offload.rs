//! State of a device's own forwarding for its macvlans (`l2-fwd-offload`).
//!
//! The MAC of an offloaded macvlan is programmed into the device and is missing from the list of unicast
//! addresses that [`crate::read::Reader::fdb`] reads. Absence from that list proves nothing there.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use berth_ipam::name::IfName;

use crate::error::{Checked, Unknown};
use crate::syscall;

/// The feature's name in the kernel's table.
const FEATURE: &[u8] = b"l2-fwd-offload";
/// Commands of ethtool (linux/ethtool.h).
const GET_STRINGS: u32 = 0x1b;
const GET_SET_SIZES: u32 = 0x37;
const GET_FEATURES: u32 = 0x3a;
/// The table of features, and the bytes of a name in it.
const FEATURES: u32 = 4;
const NAME_BYTES: usize = 32;
/// More features than any kernel has.
const FEATURES_MAX: u32 = 1024;

/// Number of the feature; `Some(None)`: this kernel does not have it.
static NUMBER: OnceLock<Option<usize>> = OnceLock::new();

/// State of the feature on a device in the calling thread's namespace.
pub fn is_on(device: &IfName) -> Checked<bool> {
    let failed = |error| Unknown(format!("read the features of {device}: {error}"));
    // Any socket works; ethtool uses the namespace in which it was created.
    let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).map_err(failed)?;
    let ask = |bytes: &mut [u8]| syscall::ethtool(socket.as_fd(), device.as_str(), bytes).map_err(failed);
    let number = if let Some(number) = NUMBER.get() {
        *number
    } else {
        let mut sizes = request(GET_SET_SIZES, 20);
        put(&mut sizes, 8, 1 << FEATURES);
        ask(&mut sizes)?;
        let count = word(&sizes, 16);
        // The kernel writes all names, regardless of the length in the request.
        if count > FEATURES_MAX {
            return Err(Unknown(format!("the kernel has {count} features, over {FEATURES_MAX}")));
        }
        let mut strings = request(GET_STRINGS, 12 + NAME_BYTES * count as usize);
        put(&mut strings, 4, FEATURES);
        put(&mut strings, 8, count);
        ask(&mut strings)?;
        *NUMBER.get_or_init(|| number_of(&strings))
    };
    let Some(number) = number else { return Ok(false) };
    let blocks = number / 32 + 1;
    let mut features = request(GET_FEATURES, 8 + 16 * blocks);
    put(&mut features, 4, u32::try_from(blocks).unwrap_or(u32::MAX));
    ask(&mut features)?;
    Ok(is_active(&features, number))
}

/// A request of this length.
fn request(command: u32, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    put(&mut bytes, 0, command);
    bytes
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&value.to_ne_bytes());
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..).and_then(<[u8]>::first_chunk);
    four.map_or(0, |four| u32::from_ne_bytes(*four))
}

/// Position of the feature in the answer to [`GET_STRINGS`].
fn number_of(strings: &[u8]) -> Option<usize> {
    let names = strings.get(12..)?.chunks_exact(NAME_BYTES);
    let is_it = |name: &[u8]| name.starts_with(FEATURE) && name.get(FEATURE.len()) == Some(&0);
    names.take(word(strings, 8) as usize).position(is_it)
}

/// The feature's bit in the answer to [`GET_FEATURES`]: available, requested, active, never changed by block.
fn is_active(features: &[u8], number: usize) -> bool {
    word(features, 8 + 16 * (number / 32) + 8) & (1 << (number % 32)) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bit_is_found_by_its_name() {
        let names: [&[u8]; 3] = [b"tx-checksum", b"l2-fwd-offload-more", b"l2-fwd-offload"];
        let mut strings = request(GET_STRINGS, 12 + 3 * NAME_BYTES);
        put(&mut strings, 8, 3);
        for (index, name) in names.iter().enumerate() {
            let at = 12 + index * NAME_BYTES;
            strings[at..at + name.len()].copy_from_slice(name);
        }
        assert_eq!(number_of(&strings), Some(2));
        put(&mut strings, 8, 2);
        assert_eq!(number_of(&strings), None, "beyond what the kernel said that it wrote");
        let mut features = request(GET_FEATURES, 8 + 32);
        for (at, active) in [(8, false), (12, false), (16, true), (20, false), (24, false), (32, false)] {
            features.fill(0);
            put(&mut features, at, 1 << 5);
            assert_eq!(is_active(&features, 5), active, "word at {at}");
        }
        features.fill(0);
        put(&mut features, 32, 1 << 3);
        assert!(is_active(&features, 35) && !is_active(&features, 3));
    }

    #[test]
    fn a_device_without_the_feature_has_it_off_and_one_that_is_not_there_is_unknown() {
        assert!(!is_on(&"lo".parse().unwrap()).unwrap());
        assert!(NUMBER.get().is_some_and(Option::is_some), "this kernel has the feature");
        let error = is_on(&"berth-none".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("berth-none"), "{error}");
    }
}
