//! The programs that Berth runs in the kernel: who dies, and who speaks on the wire.
//!
//! They only look: no verdict and no kernel state is changed, and no packet of others but those that a declared source
//! guard drops. One thing is made: a copy of the
//! agent's own marked probe, which comes in on the parent so that the links under it hear it. Filters run here, keyed by
//! what user space follows, so that a busy node costs nothing. Two invariants: on the rungs that
//! matter nothing is read by a helper (plain loads of typed arguments work under lockdown, where
//! `bpf_probe_read_kernel` is refused), and an event that could not be sent is counted, always.
//!
//! Log lines are for whoever asks for them (`AYA_LOG_LEVEL`, frozen: the verifier takes out what is
//! below it), about what is followed and about loss alone, and never in the path of a packet.

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

/// No program here can panic; the linker wants one all the same.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
