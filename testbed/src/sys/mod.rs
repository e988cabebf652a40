//! The testbed's own system calls: the only modules here with `unsafe`, and the only ones that
//! enter a namespace (on threads or in children that do nothing else).

pub mod bpf;
pub mod netns;
pub mod process;
pub mod socket;

use std::io;

/// Turns a C return value into a result.
fn check(value: libc::c_int) -> io::Result<libc::c_int> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}
