//! Seeds of each target: inputs that reach deep code, generated here because git is not a place for binary
//! files. Written into the folder of `BERTH_FUZZ_SEEDS` before libFuzzer reads it.

mod json;

use std::fs;
use std::path::PathBuf;

use berth_ebpf_common::frame::{ARP, IPV6};
use berth_probes::btf::Btf;
use berth_probes::{btf_blob, kernel};

pub use json::{conf, message, prev_result, record};

/// Maximum size of the kernel's types in a seed: libFuzzer slows down with the length.
const KERNEL_TYPES: usize = 16 << 10;
const KERNEL_STRINGS: usize = 16 << 10;

/// Writes a target's seeds; without the variable (a single input is tried) it writes none.
pub fn write(seeds: Vec<Vec<u8>>) {
    let Some(folder) = std::env::var_os("BERTH_FUZZ_SEEDS").map(PathBuf::from) else { return };
    for (number, seed) in seeds.iter().enumerate() {
        let path = folder.join(format!("seed-{number:02}"));
        if let Err(error) = fs::write(&path, seed) {
            panic!("write {}: {error}", path.display());
        }
    }
}

/// Type information: by hand, whole and in parts, and the beginning of the running kernel's.
pub fn btf() -> Vec<Vec<u8>> {
    let mut blobs = vec![btf_blob::sample(), btf_blob::kernel(), circle(), fan()];
    blobs.extend(beginning());
    let mut seeds = Vec::new();
    for blob in blobs {
        seeds.push([&[0][..], &blob.bytes()].concat());
        if let Ok(split) = u16::try_from(blob.types.len()) {
            seeds.push([&[1][..], &split.to_le_bytes(), &blob.types, &blob.strings].concat());
        }
    }
    seeds
}

/// Typedefs of each other, a structure that holds itself, an array of itself.
fn circle() -> btf_blob::Blob {
    let mut blob = btf_blob::Blob::default();
    blob.add("a", 8, 0, false, 2, &[]);
    blob.add("b", 8, 0, false, 1, &[]);
    blob.structure("", 8, false, &[("", 3, 0)]);
    blob.add("", 3, 0, false, 0, &[4, 1, 2]);
    blob.structure("device", 8, false, &[("round", 1, 0), ("inner", 4, 0), ("", 3, 0)]);
    blob
}

/// Structures without a name, each with many of the next.
fn fan() -> btf_blob::Blob {
    let mut blob = btf_blob::Blob::default();
    for number in 1..=12 {
        blob.structure(if number == 1 { "device" } else { "" }, 8, false, &[("", number + 1, 0); 9]);
    }
    blob.add("int", 1, 0, false, 4, &[32]);
    blob
}

/// The first types and strings of the running kernel, cut where a type ends.
fn beginning() -> Option<btf_blob::Blob> {
    let bytes = fs::read(kernel::TYPES).ok()?;
    let word = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?) as usize);
    let (header, types, strings) = (word(4)?, word(8)?, word(16)?);
    let part = |start: usize, length: usize| bytes.get(header + start..header + start + length);
    let mut names = part(strings, KERNEL_STRINGS)?.to_vec();
    *names.last_mut()? = 0;
    let lengths = (0..=KERNEL_TYPES).rev().step_by(4);
    let blobs = lengths.filter_map(|length| {
        Some(btf_blob::Blob { types: part(types, length)?.to_vec(), strings: names.clone() })
    });
    blobs.take(1000).find(|blob| Btf::parse(&blob.bytes()).is_ok())
}

/// Frames: ARP and neighbour messages of each kind, tagged and not.
pub fn frame() -> Vec<Vec<u8>> {
    let (host, sender, target) = ([2, 0, 0, 0, 0, 7], [192, 0, 2, 5], [192, 0, 2, 6]);
    let mut six = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
    let own = six;
    six[15] = 6;
    let mut frames = vec![
        arp(1, host, sender, target),
        arp(2, host, sender, target),
        arp(1, host, sender, sender),
        arp(1, host, [0; 4], target),
        neighbour(135, own, six, &[1, 1, 2, 0, 0, 0, 0, 7]),
        neighbour(135, own, six, &[]),
        neighbour(135, [0; 16], six, &[]),
        neighbour(136, own, six, &[2, 1, 2, 0, 0, 0, 0, 7]),
        neighbour(136, own, six, &[14, 1, 0, 0, 0, 0, 0, 0, 2, 1, 2, 0, 0, 0, 0, 7]),
    ];
    for index in [0, 7] {
        let frame: &Vec<u8> = &frames[index];
        let tagged = [&frame[..12], &[0x81, 0, 0xa0, 12], &frame[12..]].concat();
        let twice = [&frame[..12], &[0x88, 0xa8, 0, 7], &tagged[12..]].concat();
        frames.extend([tagged, twice]);
    }
    let known = [[0, 0, 0], [1, 0xa0, 12]];
    frames.iter().flat_map(|frame| known.map(|meta| [&meta[..], frame].concat())).collect()
}

fn ethernet(protocol: u16, payload: &[u8]) -> Vec<u8> {
    [&[0xff; 6][..], &[2, 0, 0, 0, 0, 8], &protocol.to_be_bytes(), payload].concat()
}

fn arp(operation: u8, mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let head = [0, 1, 0x08, 0, 6, 4, 0, operation];
    ethernet(ARP, &[&head[..], &mac, &sender, &[0; 6], &target].concat())
}

fn neighbour(kind: u8, source: [u8; 16], target: [u8; 16], options: &[u8]) -> Vec<u8> {
    let length = u16::try_from(24 + options.len()).unwrap_or(0).to_be_bytes();
    let header = [0x60, 0, 0, 0, length[0], length[1], 58, 255];
    let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let message = [kind, 0, 0, 0, 0, 0, 0, 0];
    let mut frame = ethernet(IPV6, &[&header[..], &source, &all_nodes, &message, &target, options].concat());
    berth_probes::agreement::repair(&mut frame);
    frame
}

/// Replies of the kernel: whole dumps, framed ones, and truncated ones.
pub fn netlink() -> Vec<Vec<u8>> {
    let attribute = |kind: u16, value: &[u8]| {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let info = [attribute(1, b"macvlan\0"), attribute(2, &attribute(1, &4_u32.to_ne_bytes()))].concat();
    let link = [
        vec![0, 0, 1, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        attribute(3, b"eth0\0"),
        attribute(1, &[2, 0, 0, 0, 0, 7]),
        attribute(4, &1500_u32.to_ne_bytes()),
        attribute(5, &3_u32.to_ne_bytes()),
        attribute(20, b"berth:lan:c1:eth0:7\0"),
        attribute(18, &info),
        attribute(45, &7_i32.to_ne_bytes()),
    ]
    .concat();
    let four = [vec![2, 24, 0, 0, 9, 0, 0, 0], attribute(2, &[192, 0, 2, 7]), attribute(1, &[192, 0, 2, 7])];
    let six = [vec![10, 64, 0, 0, 9, 0, 0, 0], attribute(1, &[0x20; 16]), attribute(8, &[0x80, 0, 0, 0])];
    let route = [
        vec![2, 24, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0],
        attribute(1, &[203, 0, 113, 0]),
        attribute(5, &[192, 0, 2, 1]),
        attribute(4, &9_u32.to_ne_bytes()),
    ];
    let entry = [vec![7, 0, 0, 0, 3, 0, 0, 0, 0, 0, 2, 0], attribute(2, &[2, 0, 0, 0, 0, 7])];
    let number = [vec![0; 4], attribute(1, &7_i32.to_ne_bytes())];
    let bodies = [
        (16, link.clone()),
        (17, link),
        (20, four.concat()),
        (21, six.concat()),
        (24, route.concat()),
        (28, entry.concat()),
        (89, number.concat()),
    ];
    let done = (3, vec![0; 4]);
    let refused = (2, [&(-19_i32).to_ne_bytes()[..], &[0; 16], &attribute(1, b"no such device\0")].concat());
    let mut seeds = Vec::new();
    for body in bodies {
        for end in [&done, &refused] {
            for (mode, framed) in [(0x83, true), (2, false)] {
                let message = |part: &(u8, Vec<u8>)| part_of(part, framed);
                seeds.push([&[mode][..], &message(&body), &message(end)].concat());
            }
        }
    }
    seeds
}

/// One message, as a trial frames it or as the kernel sends it.
fn part_of((kind, body): &(u8, Vec<u8>), framed: bool) -> Vec<u8> {
    let length = u8::try_from(body.len()).unwrap_or(u8::MAX);
    if framed {
        return [&[*kind, 4, length][..], body].concat();
    }
    let total = 16 + u32::from(length);
    let head = [&total.to_ne_bytes()[..], &[*kind, 0, 2, 0, 7, 0, 0, 0, 0, 0, 0, 0]].concat();
    let mut message = [&head[..], body].concat();
    message.resize(message.len().next_multiple_of(4), 0);
    message
}
