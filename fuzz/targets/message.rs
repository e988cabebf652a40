//! Target of `berth_fuzz::message`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: berth_fuzz::seeds::write(berth_fuzz::seeds::message()),
    |input: &[u8]| {
        berth_fuzz::message(input);
    }
);

#[cfg(not(fuzzing))]
fn main() {}
