//! The programs' own log: what is asked for is passed on, and off means off.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_probes::{LogLevel, Options, Probes};
use berth_testbed::skip;

use crate::world::{Netns, key, options};

const SOON: Duration = Duration::from_secs(2);

/// What tracing would print, kept.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Ends a followed device and an unfollowed one, and returns what was logged of that.
fn logged(level: LogLevel) -> Option<(String, u32, Probes)> {
    let mut probes = Probes::start(&Options { log: level, ..options()? }).unwrap();
    if probes.rung().is_none() {
        skip::because(&format!("this kernel takes no program that sees teardowns: {:?}", probes.refusals()));
        return None;
    }
    // What the canary left.
    probes.drain_log();
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
        assert!(told, "the end is told");
        while level != LogLevel::Off && probes.drain_log() == 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    Some((text, index, probes))
}

#[test]
fn the_end_of_a_followed_device_is_logged_where_that_is_asked_for() {
    let Some((text, index, probes)) = logged(LogLevel::Debug) else { return };
    assert!(probes.log_fd().is_some());
    let ends: Vec<&str> = text.lines().filter(|line| line.contains(" of namespace ")).collect();
    assert_eq!(ends.len(), 1, "the followed one alone: {text}");
    assert!(
        ends[0].contains("DEBUG berth_ebpf: ") && ends[0].contains(&format!("device {index} ")),
        "{text}"
    );
}

#[test]
fn below_its_level_and_off_nothing_is_logged() {
    let Some((text, _, probes)) = logged(LogLevel::Warn) else { return };
    assert_eq!((text.as_str(), probes.log_fd().is_some()), ("", true));
    let Some((text, _, mut probes)) = logged(LogLevel::Off) else { return };
    assert_eq!((text.as_str(), probes.log_fd().is_some(), probes.drain_log()), ("", false, 0));
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
