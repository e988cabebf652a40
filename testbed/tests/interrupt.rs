//! A run that is interrupted removes everything itself; after one that was killed, the next run does.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use berth_testbed::cleanup::{self, Process};
use berth_testbed::world::World;
use berth_testbed::{Error, Result, skip};

/// Set in the process that is interrupted: this test, started again.
const VICTIM: &str = "BERTH_TEST_VICTIM";

/// Remains of the run with that prefix: namespaces, folders, processes.
fn left(prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["/run/netns".into(), std::env::temp_dir()] {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        found.extend(names.filter(|name| name.starts_with(&format!("{prefix}-"))));
    }
    let mark = format!("{}={prefix}", cleanup::MARK).into_bytes();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark) {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

/// Creates a world with a process in a pod, reports that, and waits for its end.
fn be_the_victim() -> Result<()> {
    cleanup::watch_signals()?;
    let world = World::build()?;
    let _inhabitant = world.inhabit(&world.pod()?)?;
    println!("\nready {}", cleanup::prefix());
    let outcome = cleanup::pause(Duration::from_mins(1));
    assert!(matches!(outcome, Err(Error::Interrupted)), "{outcome:?}");
    Ok(())
}

#[test]
fn an_interrupted_run_leaves_nothing_and_a_killed_one_is_cleaned_up_by_the_next() {
    if std::env::var_os(VICTIM).is_some() {
        return be_the_victim().unwrap();
    }
    if skip::unless_root() {
        return;
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGKILL] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("--nocapture").env(VICTIM, "1").stdout(Stdio::piped()).stderr(Stdio::null());
        let mut victim = Process::guard(command.spawn().unwrap());
        let output = BufReader::new(victim.child().stdout.take().unwrap());
        let mut lines = output.lines().map_while(std::result::Result::ok);
        let prefix = lines.find_map(|line| line.strip_prefix("ready ").map(str::to_owned)).unwrap();
        assert!(left(&prefix).len() >= 6, "{:?}", left(&prefix));
        victim.signal(signal);
        assert!(victim.wait(Duration::from_secs(20)).unwrap().is_some());
        if signal == libc::SIGKILL {
            assert!(!left(&prefix).is_empty(), "a killed run cannot clean up");
            cleanup::sweep();
        }
        // A killed process is gone from /proc when its new parent has reaped it.
        let deadline = Instant::now() + Duration::from_secs(5);
        while !left(&prefix).is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(left(&prefix).is_empty(), "after signal {signal}: {:?}", left(&prefix));
    }
}
