//! Target of `berth_fuzz::prev_result`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: berth_fuzz::seeds::write(berth_fuzz::seeds::prev_result()),
    |input: &[u8]| {
        berth_fuzz::prev_result(input);
    }
);

#[cfg(not(fuzzing))]
fn main() {}
