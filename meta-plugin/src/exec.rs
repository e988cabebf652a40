//! Execution of another plugin: its binary is searched in `CNI_PATH`, it gets this process's environment with
//! another verb, and its standard error goes to this process's. Left out: the meaning of its output.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Limit of a plugin's output in bytes, above any result.
const OUTPUT_LIMIT: u64 = 16 * 1024 * 1024;

/// Number and interval of attempts to start a binary that is just being written.
const BUSY: (u32, Duration) = (20, Duration::from_millis(25));

/// Exit of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// True if its exit status is success.
    pub success: bool,
    /// Text of its exit status.
    pub status: String,
    /// Its standard output.
    pub stdout: Vec<u8>,
}

/// Runs a plugin of `CNI_PATH` to its end. The only time limit is the runtime's own: a delegate that is
/// killed in the middle leaks an address.
pub fn run(kind: &str, verb: &'static str, input: &[u8]) -> io::Result<Ended> {
    let path = std::env::var_os("CNI_PATH").unwrap_or_default();
    let binary = find(kind, &path)?;
    let mut child = start(Command::new(&binary).env("CNI_COMMAND", verb))?;
    let (pipe, output) = (child.stdin.take(), child.stdout.take());
    let mut stdout = Vec::new();
    std::thread::scope(|scope| {
        // In a separate thread, for a delegate that prints before it has read everything. A delegate that
        // does not read at all explains that in its own error.
        scope.spawn(move || pipe.map(|mut pipe| pipe.write_all(input)));
        output.map_or(Ok(0), |output| output.take(OUTPUT_LIMIT).read_to_end(&mut stdout))
    })?;
    let status = child.wait()?;
    Ok(Ended { success: status.success(), status: status.to_string(), stdout })
}

/// The first of that name in the folders.
fn find(kind: &str, path: &OsStr) -> io::Result<PathBuf> {
    let mut folders = std::env::split_paths(path).filter(|folder| !folder.as_os_str().is_empty());
    let found = folders.find_map(|folder| Some(folder.join(kind)).filter(|binary| binary.is_file()));
    let missing = || io::Error::other(format!("it is in no folder of CNI_PATH {}", path.display()));
    found.ok_or_else(missing)
}

fn start(command: &mut Command) -> io::Result<Child> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let (tries, pause) = BUSY;
    for _ in 1..tries {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => std::thread::sleep(pause),
            outcome => return outcome,
        }
    }
    command.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_folder_that_has_the_plugin_is_taken() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(first.path().join("x")).unwrap();
        std::fs::write(second.path().join("x"), "").unwrap();
        let path = std::env::join_paths(["".as_ref(), first.path(), second.path()]).unwrap();
        assert_eq!(find("x", &path).unwrap(), second.path().join("x"));
        let error = find("y", &path).unwrap_err().to_string();
        assert!(error.contains(first.path().to_str().unwrap()), "{error}");
    }
}
