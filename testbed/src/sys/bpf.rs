//! The one call to the kernel's BPF side that no tool makes for us: counting runs while we live.
#![expect(unsafe_code, reason = "bpf(2) has no safe form in the standard library")]

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

use super::check;

/// `BPF_ENABLE_STATS` of linux/bpf.h.
const ENABLE_STATS: libc::c_int = 32;
/// `BPF_STATS_RUN_TIME` of the kernel.
const RUN_TIME: u32 = 0;

/// Makes the kernel count every program's runs and their time, as `kernel.bpf_stats_enabled` does, until the
/// descriptor is closed, at the latest by the end of this process.
pub fn count_runs() -> io::Result<OwnedFd> {
    let kind = RUN_TIME;
    // SAFETY: the pointer is to a live value of the length given, all that this command reads.
    let raw = unsafe { libc::syscall(libc::SYS_bpf, ENABLE_STATS, &raw const kind, size_of_val(&kind)) };
    let raw = check(libc::c_int::try_from(raw).map_err(io::Error::other)?)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
