//! The running kernel: where its structures keep what the programs read.
//!
//! Each member is checked for its size, and pointers for being pointers; the verifier checks the
//! offsets once more. A kernel that differs is refused here, with the member's name.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use berth_ebpf_common::{ABSENT, KernelLayout};

use crate::btf::{Btf, BtfError};
use crate::error::Error;

/// Path of the kernel's BTF.
pub const TYPES: &str = "/sys/kernel/btf/vmlinux";
/// Maximum size read: ten times that of distributions' kernels.
const TYPES_MAX: u64 = 64 << 20;

/// Expected type of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Pointer,
    /// A value of this number of bytes.
    Bytes(u32),
}

/// Properties of the running kernel.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Offsets of the members.
    pub layout: KernelLayout,
    /// Its types in reduced form; see [`Btf::hollow`].
    pub hollow: Vec<u8>,
}

/// Reads the types at `path`; `targets` are the functions and tracepoints that programs attach to.
pub(crate) fn read(path: &Path, targets: &[&str]) -> Result<Kernel, Error> {
    let bytes = types(path).map_err(|cause| Error::ReadTypes { path: path.to_owned(), cause })?;
    if bytes.len() as u64 > TYPES_MAX {
        return Err(Error::Types(BtfError::TooLong(TYPES_MAX)));
    }
    let btf = Btf::parse(&bytes).map_err(Error::Types)?;
    let mut layout = resolve(&btf).map_err(Error::Types)?;
    layout.cleanup_net = std::fs::read_to_string("/proc/kallsyms")
        .ok()
        .and_then(|symbols| address(&symbols, "cleanup_net"))
        .unwrap_or(0);
    // Name of the type of a tracepoint's arguments.
    let tracepoints: Vec<String> = targets.iter().map(|target| format!("btf_trace_{target}")).collect();
    let names: Vec<&str> = targets.iter().copied().chain(tracepoints.iter().map(String::as_str)).collect();
    Ok(Kernel { layout, hollow: btf.hollow(&names).map_err(Error::Types)? })
}

/// At most one byte more than there may be.
fn types(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len().min(TYPES_MAX);
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    file.take(TYPES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Finds all members. `cleanup_net` stays 0: it is an address, and BTF has none.
pub fn resolve(btf: &Btf<'_>) -> Result<KernelLayout, BtfError> {
    let find = |holder: &str, member: &str, shape: Shape| offset(btf, holder, member, shape);
    Ok(KernelLayout {
        cleanup_net: 0,
        dev_ifindex: find("net_device", "ifindex", Shape::Bytes(4))?,
        dev_net: find("net_device", "nd_net.net", Shape::Pointer)?,
        dev_name: find("net_device", "name", Shape::Bytes(16))?,
        dev_reg_state: find("net_device", "reg_state", Shape::Bytes(1))?,
        dev_ip_ptr: find("net_device", "ip_ptr", Shape::Pointer)?,
        in_dev_ifa_list: find("in_device", "ifa_list", Shape::Pointer)?,
        ifa_local: find("in_ifaddr", "ifa_local", Shape::Bytes(4))?,
        ifa_next: find("in_ifaddr", "ifa_next", Shape::Pointer)?,
        net_inum: find("net", "ns.inum", Shape::Bytes(4))?,
        net_cookie: find("net", "net_cookie", Shape::Bytes(8))?,
        net_count: users(btf),
        qdisc_queue: find("Qdisc", "dev_queue", Shape::Pointer)?,
        queue_dev: find("netdev_queue", "dev", Shape::Pointer)?,
        task_nsproxy: find("task_struct", "nsproxy", Shape::Pointer)?,
        nsproxy_net: find("nsproxy", "net_ns", Shape::Pointer)?,
        task_pid: find("task_struct", "pid", Shape::Bytes(4))?,
        work_func: find("work_struct", "func", Shape::Pointer)?,
        dev_flags: find("net_device", "flags", Shape::Bytes(4))?,
    })
}

/// Offset of a namespace's user count, which has had three places; it only serves to report a dying namespace
/// sooner.
fn users(btf: &Btf<'_>) -> u32 {
    ["count", "ns.__ns_ref", "ns.count"]
        .into_iter()
        .find_map(|member| offset(btf, "net", member, Shape::Bytes(4)).ok())
        .unwrap_or(ABSENT)
}

fn offset(btf: &Btf<'_>, holder: &str, path: &str, shape: Shape) -> Result<u32, BtfError> {
    let member = btf.member(holder, path)?;
    let fits = match shape {
        Shape::Pointer => member.is_pointer,
        Shape::Bytes(size) => !member.is_pointer && member.size == size,
    };
    if fits {
        return Ok(member.offset);
    }
    let describe = |is_pointer, size| {
        if is_pointer { "a pointer".to_owned() } else { format!("{size} bytes") }
    };
    Err(BtfError::OtherShape {
        member: format!("{holder}.{path}"),
        found: describe(member.is_pointer, member.size),
        wanted: match shape {
            Shape::Pointer => describe(true, 8),
            Shape::Bytes(size) => describe(false, size),
        },
    })
}

/// The address of a function, if it is shown and there is one of that name.
fn address(symbols: &str, name: &str) -> Option<u64> {
    let mut found = symbols.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (address, kind, symbol) = (words.next()?, words.next()?, words.next()?);
        let is_function = kind.eq_ignore_ascii_case("t") && symbol == name && words.next().is_none();
        is_function.then(|| u64::from_str_radix(address, 16).ok())?
    });
    let only = found.next()?;
    (found.next().is_none() && only != 0).then_some(only)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_hidden_or_not_alone_is_none() {
        let line = "ffffffff81e523c0 t cleanup_net\n";
        assert_eq!(address(line, "cleanup_net"), Some(0xffff_ffff_81e5_23c0));
        assert_eq!(address("0000000000000000 t cleanup_net\n", "cleanup_net"), None);
        assert_eq!(address(&format!("{line}{line}"), "cleanup_net"), None);
        assert_eq!(address("ffffffff81e523c0 d cleanup_net\nx", "cleanup_net"), None);
        assert_eq!(address("ffffffffc0 t cleanup_net\t[mod]\n", "cleanup_net"), None);
    }

    #[test]
    fn a_file_without_an_end_is_refused() {
        let refused = read(Path::new("/dev/zero"), &[]);
        assert!(matches!(refused, Err(Error::Types(BtfError::TooLong(_)))), "{refused:?}");
        let absent = read(Path::new("/nonexistent/berth"), &[]);
        assert!(matches!(absent, Err(Error::ReadTypes { .. })), "{absent:?}");
    }

    #[test]
    fn a_kernel_by_hand_is_understood() {
        let bytes = crate::btf_blob::kernel().bytes();
        let btf = Btf::parse(&bytes).unwrap();
        let layout = resolve(&btf).unwrap();
        assert_eq!((layout.dev_ifindex, layout.dev_net, layout.net_inum, layout.net_count), (8, 16, 8, 12));
        assert!(!btf.hollow(&["dev_shutdown"]).unwrap().is_empty());
    }

    #[test]
    fn the_running_kernel_is_understood() {
        let Ok(bytes) = std::fs::read(TYPES) else { return };
        let layout = resolve(&Btf::parse(&bytes).unwrap()).unwrap();
        assert_ne!(layout.dev_ifindex, layout.dev_net);
        assert_ne!(layout.net_count, ABSENT);
        assert_eq!(layout.work_func % 8, 0);
    }
}
