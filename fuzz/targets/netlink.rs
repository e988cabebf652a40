//! Target of `berth_fuzz::netlink`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: berth_fuzz::seeds::write(berth_fuzz::seeds::netlink()),
    |input: &[u8]| {
        berth_fuzz::netlink(input);
    }
);

#[cfg(not(fuzzing))]
fn main() {}
