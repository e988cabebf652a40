//! Tests that prove nothing on this machine report that, instead of passing silently.
//!
//! libtest has no skipped tests. A test without its requirements calls [`because`] and returns; the line goes
//! to standard error and is appended to the file of `BERTH_SKIP_FILE`, where `cargo xtask test` counts it.
//! Without that variable (a plain `cargo test`) the line is only printed.

use std::io::Write as _;

/// The variable that names the file to which skips are appended.
pub const FILE_VARIABLE: &str = "BERTH_SKIP_FILE";

/// Records that the running test is skipped; `reason` names the missing requirement and how to get it. The
/// caller returns from the test right after.
pub fn because(reason: &str) {
    let thread = std::thread::current();
    let line = line(thread.name().unwrap_or("unnamed"), reason);
    eprint!("{line}");
    if let Some(path) = std::env::var_os(FILE_VARIABLE) {
        let opened = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        // One write: appends of several test processes must not mix within a line.
        if let Err(error) = opened.and_then(|mut file| file.write_all(line.as_bytes())) {
            eprintln!("skip: append to {}: {error}", path.display());
        }
    }
}

/// True if this process is not root, recorded as a skip: `if skip::unless_root() { return; }`.
pub fn unless_root() -> bool {
    // The owner of a process's /proc folder is its effective user.
    let root =
        std::fs::metadata("/proc/self").is_ok_and(|folder| std::os::unix::fs::MetadataExt::uid(&folder) == 0);
    if !root {
        because("needs root for network namespaces; run `cargo xtask test` as root");
    }
    !root
}

fn line(test: &str, reason: &str) -> String {
    format!("SKIP {test}: {}\n", reason.replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_is_one_line_whatever_the_reason_holds() {
        assert_eq!(line("a::b", "no\nroot"), "SKIP a::b: no root\n");
    }
}
