//! The programs' own log: requested levels are forwarded, and `off` has no lines.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_probes::{LogLevel, Options, Probes};
use berth_testbed::skip;

use crate::world::{Netns, key, options};

const SOON: Duration = Duration::from_secs(2);

/// Captured output of `tracing`.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn of(&self, netns: &Netns) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let part = format!(" of namespace {} ", netns.identity().cookie.0);
        text.lines().filter(|line| line.contains(&part)).map(str::to_owned).collect()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Log lines of the ends of a followed device and of another one. Lines about the canary, which is followed
/// too, may come late; they name other namespaces.
struct Logged {
    /// Lines about the followed device's namespace.
    followed: Vec<String>,
    /// Lines about the other's.
    other: Vec<String>,
    probes: Probes,
}

fn logged(level: LogLevel) -> Option<Logged> {
    let mut probes = Probes::start(&Options { log: level, ..options()? }).unwrap();
    if probes.rung().is_none() {
        skip::because(&format!("this kernel takes no program that sees teardowns: {:?}", probes.refusals()));
        return None;
    }
    let (pod, other) = (Netns::new("pod"), Netns::new("other"));
    let index = pod.pair("192.0.2.7");
    other.pair("192.0.2.8");
    probes.attachments().follow(&key("logged"), &pod.identity(), Some(index)).unwrap();
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        other.ip("link del net1");
        pod.ip("link del net1");
        // The event comes after the device's end, and the line after the event.
        let end = Instant::now() + SOON;
        let mut told = false;
        while !told && Instant::now() < end {
            told = !probes.drain().unwrap().is_empty();
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(told, "the end is logged");
        let patience = if level < LogLevel::Debug { Duration::from_millis(50) } else { SOON };
        let end = Instant::now() + patience;
        while lines.of(&pod).is_empty() && Instant::now() < end {
            probes.drain_log();
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    Some(Logged { followed: lines.of(&pod), other: lines.of(&other), probes })
}

#[test]
fn the_end_of_a_followed_device_is_logged_where_that_is_asked_for() {
    let Some(Logged { followed, other, probes }) = logged(LogLevel::Debug) else { return };
    assert!(probes.log_fd().is_some());
    assert_eq!((followed.len(), other.len()), (1, 0), "{followed:?} {other:?}");
    assert!(followed[0].contains("DEBUG berth_ebpf: device "), "{followed:?}");
}

#[test]
fn below_its_level_and_off_nothing_is_logged() {
    let Some(Logged { followed, mut probes, .. }) = logged(LogLevel::Warn) else { return };
    assert_eq!((followed, probes.log_fd().is_some(), probes.drain_log()), (vec![], true, 0));
    let Some(Logged { followed, mut probes, .. }) = logged(LogLevel::Off) else { return };
    assert_eq!((followed, probes.log_fd().is_some(), probes.drain_log()), (vec![], false, 0));
}

/// Every rung that this kernel takes, it takes with every line in it, too.
#[test]
fn no_level_costs_a_rung() {
    let Some(options) = options() else { return };
    let quiet = Probes::start(&options).unwrap();
    let loud = Probes::start(&Options { log: LogLevel::Trace, ..options }).unwrap();
    assert_eq!((loud.rung(), loud.sees_tasks()), (quiet.rung(), quiet.sees_tasks()));
    assert_eq!(loud.refusals().len(), quiet.refusals().len(), "{:?}", loud.refusals());
}
