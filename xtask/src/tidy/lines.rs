//! Rules that hold within one file: its length, its head, and words that must not be in it.

use super::{Finding, Source};

/// Maximum number of lines of a file.
const LINES_MAX: usize = 900;
/// Above this a file is worth a thought; most are shorter.
const LINES_USUAL: usize = 300;

/// The modules that make system calls directly. Everything else is safe Rust.
const UNSAFE_MODULES: &[&str] = &[
    "probes/src/memory.rs",
    "probes/src/readable.rs",
    "store/tests/full_disk.rs",
    "testbed/src/sys/bpf.rs",
    "testbed/src/sys/netns.rs",
    "testbed/src/sys/process.rs",
    "testbed/src/sys/socket.rs",
    "underlay/src/syscall.rs",
    "underlay/src/tasks/syscall.rs",
    "underlay/src/wire/device.rs",
    "underlay/src/wire/socket.rs",
];

/// The modules that enter a network namespace, on a thread that exits afterwards.
const NAMESPACE_MODULES: &[&str] = &["underlay/src/netns.rs", "testbed/src/sys/netns.rs"];

// The words are assembled here so that this file does not break its own rules.
const SETNS: &[&str] = &[
    concat!("set", "ns("),
    concat!("move_into_link_", "name_space"),
    concat!("move_into_thread_", "name_spaces"),
];
const UNSAFE: &[&str] = &[concat!("expect(unsafe", "_code"), concat!("allow(unsafe", "_code")];
const ALLOW: &[&str] = &[concat!("#[all", "ow("), concat!("#![all", "ow(")];
const UNFINISHED: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME")];
const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
const REGISTRIES: &[&str] = &[
    concat!("crates", ".io"),
    concat!("docker", ".io"),
    concat!("ghcr", ".io"),
    concat!("quay", ".io"),
    concat!("gcr", ".io"),
    concat!("registry.k8s", ".io"),
    concat!("proxy.golang", ".org"),
    concat!("deb.debian", ".org"),
    concat!("pypi", ".org"),
];

/// All rules for one file.
pub fn check(source: &Source) -> Vec<Finding> {
    // Lock files are cargo's; they name their registry.
    if source.path.ends_with("Cargo.lock") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        if let Some(text) = breach(source, line) {
            findings.push(Finding::new(format!("{}:{}", source.name(), index + 1), text));
        }
    }
    findings.extend(check_length(source));
    findings.extend(check_head(source));
    findings
}

fn breach(source: &Source, line: &str) -> Option<String> {
    let has = |words: &[&str]| words.iter().any(|word| line.contains(word));
    if has(UNFINISHED) && !names_an_issue(line) {
        return Some("unfinished work without the number of its issue: write (#12) after the word".into());
    }
    if let Some(path) = MACHINE_PATHS.iter().find(|path| names_path(line, path)) {
        return Some(format!("{path} is a path of one machine; make it relative or an argument"));
    }
    if let Some(host) = REGISTRIES.iter().find(|host| line.contains(*host)) {
        return Some(format!("{host} is a registry's host; the build environment chooses the registry"));
    }
    if !source.has_extension("rs") {
        return None;
    }
    let code = line.trim_start();
    if has(ALLOW) {
        return Some("use #[expect(lint, reason = \"...\")]: it ends when its cause ends".into());
    }
    if has(UNSAFE) && !listed(source, UNSAFE_MODULES) {
        return Some("unsafe code outside the listed modules; see UNSAFE_MODULES in tidy".into());
    }
    if has(SETNS) && !code.starts_with("//") && !listed(source, NAMESPACE_MODULES) {
        return Some("only the modules in NAMESPACE_MODULES of tidy enter a namespace".into());
    }
    None
}

fn listed(source: &Source, modules: &[&str]) -> bool {
    modules.contains(&source.name().as_str())
}

/// True if the line holds `#` and a digit, as in `(#12)`.
fn names_an_issue(line: &str) -> bool {
    line.as_bytes().windows(2).any(|pair| pair[0] == b'#' && pair[1].is_ascii_digit())
}

/// True if the line holds `path` at the start of a path: the same folder below another (a process's root in
/// /proc) is not a path of a machine.
fn names_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !"}*._)>$~-".contains(c))
    })
}

fn check_length(source: &Source) -> Option<Finding> {
    let count = source.text.lines().count();
    (source.has_extension("rs") && count > LINES_MAX).then(|| {
        Finding::new(source.name(), format!("{count} lines, more than {LINES_MAX}: split it by noun"))
    })
}

/// A file that is longer than most, which is not a breach.
pub fn long(source: &Source) -> Option<Finding> {
    let count = source.text.lines().count();
    (source.has_extension("rs") && count > LINES_USUAL && count <= LINES_MAX)
        .then(|| Finding::new(source.name(), format!("{count} lines; most files are under {LINES_USUAL}")))
}

fn check_head(source: &Source) -> Option<Finding> {
    // The tests of one module in a separate file are covered by that module's head.
    let own_tests = source.name().ends_with("tests.rs");
    let headless = source.has_extension("rs") && !own_tests && !source.text.trim_start().starts_with("//!");
    headless.then(|| {
        Finding::new(
            source.name(),
            "no module head: start with //! and state the purpose and the omissions of the file",
        )
    })
}

/// Clippy checks function length and the bans; its configuration must enable them, in every crate.
pub fn check_lints(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut require = |name: &str, wanted: &str, why: &str| {
        let text = super::text_of(sources, name);
        if !text.lines().any(|line| line.trim() == wanted) {
            findings.push(Finding::new(name, format!("must hold the line `{wanted}`: {why}")));
        }
    };
    require("clippy.toml", "too-many-lines-threshold = 70", "no function is longer");
    require("Cargo.toml", "pedantic = { level = \"warn\", priority = -1 }", "too_many_lines is in it");
    require("Cargo.toml", "unwrap_used = \"deny\"", "an error has a message, not a panic");
    require("Cargo.toml", "unsafe_code = \"deny\"", "unsafe code is an exception with a reason");
    for source in sources {
        let manifest = source.path.file_name().is_some_and(|name| name == "Cargo.toml");
        if manifest && source.text.contains("[package]") && !source.text.contains("[lints]\nworkspace = true")
        {
            findings
                .push(Finding::new(source.name(), "takes no workspace lints: add [lints] workspace = true"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let source = Source { path: path.into(), text: text.into() };
        check(&source).into_iter().map(|finding| format!("{}: {}", finding.place, finding.text)).collect()
    }

    fn only(path: &str, text: &str, part: &str) {
        let found = findings(path, text);
        assert!(found.len() == 1 && found[0].contains(part), "{found:?}");
    }

    #[test]
    fn unfinished_work_names_its_issue() {
        let word = UNFINISHED[0];
        only("a.md", &format!("x\n{word}: later"), "a.md:2");
        assert!(findings("a.md", &format!("{word}(#4): later")).is_empty());
    }

    #[test]
    fn machine_paths_and_registries_are_found_where_they_are_meant() {
        only("a.md", &format!("see {}main", MACHINE_PATHS[0]), "path of one machine");
        assert!(
            findings("a.md", &format!("/proc/1{}x target{}", MACHINE_PATHS[1], MACHINE_PATHS[0])).is_empty()
        );
        only("a.yaml", &format!("image: {}/x", REGISTRIES[1]), "registry");
        assert!(findings("Cargo.lock", REGISTRIES[0]).is_empty());
    }

    #[test]
    fn allow_and_unsafe_and_setns_are_found() {
        only("a/src/b.rs", &format!("//! Head.\n{}dead_code)]", ALLOW[0]), "expect");
        only("a/src/b.rs", &format!("//! Head.\n#![{}, reason = \"\")]", UNSAFE[0]), "UNSAFE_MODULES");
        only("a/src/b.rs", &format!("//! Head.\n    {}fd)", SETNS[0]), "NAMESPACE_MODULES");
        assert!(findings("a/src/b.rs", &format!("//! Head.\n// {}fd)", SETNS[0])).is_empty());
        assert!(findings(NAMESPACE_MODULES[0], &format!("//! Head.\n{}fd)", SETNS[0])).is_empty());
    }

    #[test]
    fn a_file_has_a_head_and_an_end() {
        only("a/src/b.rs", "fn main() {}", "no module head");
        only("a/src/b.rs", &format!("//! Head.\n{}", "\n".repeat(LINES_MAX)), "split it");
        let source = Source { path: "b.rs".into(), text: "\n".repeat(LINES_USUAL + 1) };
        assert!(long(&source).is_some());
    }

    #[test]
    fn lints_must_stay_configured() {
        let good = [
            ("clippy.toml", "too-many-lines-threshold = 70"),
            (
                "Cargo.toml",
                "pedantic = { level = \"warn\", priority = -1 }\nunwrap_used = \"deny\"\nunsafe_code = \"deny\"",
            ),
            ("a/Cargo.toml", "[package]\n[lints]\nworkspace = true"),
        ];
        let sources = |skip: usize| -> Vec<Source> {
            let kept = good.iter().enumerate().filter(|(index, _)| *index != skip);
            kept.map(|(_, (path, text))| Source { path: path.into(), text: (*text).into() }).collect()
        };
        assert!(check_lints(&sources(9)).is_empty());
        assert_eq!(check_lints(&sources(0)).len(), 1);
        assert_eq!(check_lints(&sources(1)).len(), 3);
        let bare = Source { path: "b/Cargo.toml".into(), text: "[package]".into() };
        assert_eq!(check_lints(&[bare]).len(), 5);
    }
}
