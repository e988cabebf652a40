//! Target of `berth_fuzz::conf`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: berth_fuzz::seeds::write(berth_fuzz::seeds::conf()),
    |input: &[u8]| {
        berth_fuzz::conf(input);
    }
);

#[cfg(not(fuzzing))]
fn main() {}
