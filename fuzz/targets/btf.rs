//! Target of `berth_fuzz::btf`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(
    init: berth_fuzz::seeds::write(berth_fuzz::seeds::btf()),
    |input: &[u8]| {
        berth_fuzz::btf(input);
    }
);

#[cfg(not(fuzzing))]
fn main() {}
