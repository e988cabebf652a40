//! Target of `berth_fuzz::record`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: berth_fuzz::seeds::write(berth_fuzz::seeds::record()),
    |input: &[u8]| {
        berth_fuzz::record(input);
    }
);

#[cfg(not(fuzzing))]
fn main() {}
