//! Target of `berth_fuzz::frame`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: berth_fuzz::seeds::write(berth_fuzz::seeds::frame()),
    |input: &[u8]| {
        berth_fuzz::frame(input);
    }
);

#[cfg(not(fuzzing))]
fn main() {}
