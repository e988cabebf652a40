//! The programs that Berth runs in the kernel: they report the ends of devices, namespaces and tasks, and
//! claims of addresses on the segment.
//!
//! They observe: they reach no verdict and change no kernel state, and they drop no packets except those that
//! a declared source guard refuses. They create one object: a copy of the agent's own marked probe, which is
//! received on the parent so that it reaches the links under it. Filters run here, keyed by the objects that
//! user space follows, so that a busy node costs nothing. Two invariants: the preferred attach modes read
//! without a helper (plain loads of typed arguments work under lockdown, where `bpf_probe_read_kernel` is
//! refused), and an event that could not be sent is always counted.
//!
//! Log lines are optional (`AYA_LOG_LEVEL`, frozen: the verifier removes those below it). They cover followed
//! objects and losses alone, and are never in the path of a packet.

#![no_std]
#![no_main]

mod device;
mod maps;
mod netns;
mod read;
mod watch;

/// Read by the kernel when it loads a program; the licence of this crate and of all that is linked
/// into it (`aya-ebpf` and `aya-log-ebpf` are MIT or Apache-2.0, taken under MIT).
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// No program here can panic, but the linker requires a handler.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
