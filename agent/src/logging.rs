//! The log: one line per event, on stderr.
//!
//! Lines have seconds of `CLOCK_BOOTTIME` and no wall clock: they are comparable with the times of `berthctl
//! explain`, and journals add the date themselves.

use std::fmt;
use std::io::IsTerminal;

use berth_ipam::time::Time;
use berth_probes::LogLevel;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::{SetGlobalDefaultError, set_global_default};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::clock;
use crate::flags::LogForm;

/// The log was set up before.
#[derive(Debug, thiserror::Error)]
#[error("set up the log")]
pub struct LoggingError(#[source] SetGlobalDefaultError);

/// Sends every event of level info and above to stderr in that form, for the whole process, and the log lines
/// of the eBPF programs at their own level.
pub fn init(form: LogForm, programs: LogLevel) -> Result<(), LoggingError> {
    let color = std::io::stderr().is_terminal();
    match form {
        LogForm::Text => set_global_default(text(std::io::stderr, color).with(wanted(programs))),
        LogForm::Json => set_global_default(json(std::io::stderr).with(wanted(programs))),
    }
    .map_err(LoggingError)
}

fn wanted(programs: LogLevel) -> Targets {
    let level = match programs {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Targets::new().with_default(LevelFilter::INFO).with_target(berth_probes::log::TARGET, level)
}

fn text<W>(writer: W, color: bool) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_timer(Boottime);
    builder.with_writer(writer).with_target(false).with_ansi(color).finish()
}

fn json<W>(writer: W) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().json().with_max_level(LevelFilter::TRACE).with_timer(Boottime);
    builder.with_writer(writer).flatten_event(true).with_current_span(false).with_span_list(false).finish()
}

/// Stamps lines with seconds since the boot.
struct Boottime;

impl FormatTime for Boottime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{:.6}", clock::now().since(Time(0)).as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Buffer {
        fn lines(&self) -> Vec<String> {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
        }
    }

    fn say_something() {
        tracing::info!(address = "10.0.0.7", "released");
        tracing::debug!("too fine");
        tracing::info!(target: berth_probes::log::TARGET, "too fine for what was asked of the programs");
    }

    #[test]
    fn json_is_one_object_a_line() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = json(move || writer.clone()).with(wanted(LogLevel::Off));
        tracing::subscriber::with_default(subscriber, say_something);
        let lines = buffer.lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!((&line["message"], &line["address"]), (&"released".into(), &"10.0.0.7".into()));
        assert!(line["timestamp"].as_str().unwrap().parse::<f64>().unwrap() > 0.0);
    }

    #[test]
    fn the_programs_are_heard_at_their_own_level() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = text(move || writer.clone(), false).with(wanted(LogLevel::Debug));
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!(target: berth_probes::log::TARGET, "a device ends");
            tracing::debug!("too fine for the agent itself");
        });
        assert_eq!(buffer.lines().len(), 1, "{:?}", buffer.lines());
    }

    #[test]
    fn text_is_one_line_without_colors() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = text(move || writer.clone(), false).with(wanted(LogLevel::Warn));
        tracing::subscriber::with_default(subscriber, say_something);
        let lines = buffer.lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].ends_with(r#"INFO released address="10.0.0.7""#), "{lines:?}");
        assert!(!lines[0].contains('\u{1b}'));
    }
}
