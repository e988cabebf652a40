//! The licence of the programs for the kernel, in the three places that name it.
//!
//! The kernel reads a word in the object and permits helpers accordingly; the manifests are for readers. Code
//! of this repository that is compiled into the object must be under that licence. Left out: other
//! dependencies: aya's crates for the kernel are under MIT or Apache-2.0, at choice.

use super::{Finding, Source};

const PROGRAMS: &str = "ebpf/src/main.rs";
const MANIFESTS: [&str; 2] = ["ebpf/Cargo.toml", "ebpf-common/Cargo.toml"];

/// The words that the kernel accepts as a compatible licence (include/linux/license.h), and their names in
/// manifests.
const WORDS: [(&str, &str); 5] = [
    ("GPL", "GPL-2.0-or-later"),
    ("GPL v2", "GPL-2.0-only"),
    ("Dual BSD/GPL", "BSD-3-Clause OR GPL-2.0-only"),
    ("Dual MIT/GPL", "MIT OR GPL-2.0-only"),
    ("Dual MPL/GPL", "MPL-2.0 OR GPL-2.0-only"),
];

/// Checks that the word in the object and both manifests agree.
pub fn check(sources: &[Source]) -> Vec<Finding> {
    let word = word(super::text_of(sources, PROGRAMS));
    let Some((word, wanted)) = WORDS.into_iter().find(|(known, _)| word == Some(known)) else {
        let text =
            format!("LICENSE must be one of {:?}: the kernel accepts no other", WORDS.map(|(word, _)| word));
        return vec![Finding::new(PROGRAMS, text)];
    };
    let mut findings = Vec::new();
    for manifest in MANIFESTS {
        let line = format!("license = \"{wanted}\"");
        if !super::text_of(sources, manifest).lines().any(|found| found == line) {
            let text = format!("must hold the line `{line}`: {PROGRAMS} declares {word:?} to the kernel");
            findings.push(Finding::new(manifest, text));
        }
    }
    findings
}

/// Licence that the object declares to the kernel.
fn word(text: &str) -> Option<&str> {
    text.split("static LICENSE:").nth(1)?.split("b\"").nth(1)?.split("\\0\"").next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_that_says_otherwise_is_found() {
        let good = [
            (PROGRAMS, "static LICENSE: [u8; 13] = *b\"Dual MIT/GPL\\0\";"),
            (MANIFESTS[0], "license = \"MIT OR GPL-2.0-only\""),
            (MANIFESTS[1], "license = \"MIT OR GPL-2.0-only\""),
        ];
        let with = |at: usize, text: &str| -> Vec<Source> {
            let mut files = good;
            if let Some(file) = files.get_mut(at) {
                file.1 = text;
            }
            files.map(|(path, text)| Source { path: path.into(), text: text.into() }).into()
        };
        assert_eq!(check(&with(9, "")), []);
        assert_eq!(check(&with(1, "license = \"Apache-2.0 OR GPL-2.0-only\""))[0].place, MANIFESTS[0]);
        assert_eq!(check(&with(2, "license.workspace = true"))[0].place, MANIFESTS[1]);
        // A word that the kernel does not accept; and one that it accepts, but the manifests do not have.
        assert_eq!(check(&with(0, "static LICENSE: [u8; 11] = *b\"Apache-2.0\\0\";"))[0].place, PROGRAMS);
        assert_eq!(check(&with(0, "static LICENSE: [u8; 7] = *b\"GPL v2\\0\";")).len(), 2);
        assert_eq!(check(&[]).len(), 1);
    }
}
