//! Log lines of the programs: their level, and forwarding to `tracing`.
//!
//! The level is written into the object before it is loaded, and frozen there: the verifier removes code
//! below it, so a level that is off costs nothing. Lines use a separate ring (`AYA_LOGS`), never that of
//! events. Lines that find it full are lost, which is harmless. Invariant: at most [`LINES_MAX`] lines are
//! forwarded in a second; the suppressed ones are counted and reported.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya_log::EbpfLogger;
use tracing::Level;

/// The map that lines come by.
pub(crate) const MAP: &str = "AYA_LOGS";
/// The object's variable with the level.
pub(crate) const LEVEL: &str = aya_log::LEVEL;
/// The target under which lines are passed on.
pub const TARGET: &str = "berth_ebpf";
/// Number of lines passed on in [`WINDOW`].
pub const LINES_MAX: u32 = 100;
const WINDOW: Duration = Duration::from_secs(1);

/// Level of the programs' log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum LogLevel {
    /// No log lines.
    #[default]
    Off = 0,
    /// Unexpected conditions only.
    Error = 1,
    /// Also lost events.
    Warn = 2,
    /// Also events of interest to an operator.
    Info = 3,
    /// The ends of what is followed too.
    Debug = 4,
    /// Exits of tasks in what is followed too.
    Trace = 5,
}

impl LogLevel {
    /// All levels, the quietest first, with the name of each.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Off, "off"),
        (Self::Error, "error"),
        (Self::Warn, "warn"),
        (Self::Info, "info"),
        (Self::Debug, "debug"),
        (Self::Trace, "trace"),
    ];

    /// Name of the level on the command line.
    pub fn as_str(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// The number that the programs compare with.
    pub(crate) fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|(_, word)| *word == text).map(|(level, _)| level).ok_or_else(|| {
            let words = Self::ALL.map(|(_, word)| word).join(", ");
            format!("no level is called {text:?}; there are {words}")
        })
    }
}

/// The programs' lines; see the module's head.
pub(crate) struct ProgramLog {
    logger: EbpfLogger<Bridge>,
    pace: Arc<Mutex<Pace>>,
}

impl ProgramLog {
    /// `None`: no lines will come, because logging is off or the object has none.
    pub(crate) fn open(ebpf: &mut Ebpf, level: LogLevel) -> Option<Self> {
        if level == LogLevel::Off {
            return None;
        }
        let pace = Arc::new(Mutex::new(Pace::default()));
        match EbpfLogger::init_with_logger(ebpf, Bridge(Arc::clone(&pace))) {
            Ok(logger) => Some(Self { logger, pace }),
            Err(error) => {
                // The log is optional: an object without one works as well.
                tracing::warn!(error = crate::ladder::chain(&error), "the eBPF programs cannot log");
                None
            }
        }
    }

    /// Passes on what waits; how many lines that was, with those that were held back. The ring
    /// bounds how many can wait.
    pub(crate) fn drain(&mut self) -> u64 {
        let before = self.pace().lines;
        self.logger.flush();
        let mut pace = self.pace();
        let held = pace.overdue(Instant::now());
        let lines = pace.lines - before;
        drop(pace);
        tell_held(held);
        lines
    }

    fn pace(&self) -> std::sync::MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for ProgramLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.logger.as_fd()
    }
}

/// Adapter from the `log` facade of aya to `tracing`.
struct Bridge(Arc<Mutex<Pace>>);

impl log::Log for Bridge {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let admitted = self.0.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
        if let Some(held) = admitted {
            tell_held(held);
            tell(record);
        }
    }

    fn flush(&self) {}
}

fn tell(record: &log::Record<'_>) {
    let (program, line, text) = (record.target(), record.line(), record.args());
    // The level of an event is part of its place in the code, so there is one place for each.
    match record.level() {
        log::Level::Error => tracing::event!(target: TARGET, Level::ERROR, program, line, "{text}"),
        log::Level::Warn => tracing::event!(target: TARGET, Level::WARN, program, line, "{text}"),
        log::Level::Info => tracing::event!(target: TARGET, Level::INFO, program, line, "{text}"),
        log::Level::Debug => tracing::event!(target: TARGET, Level::DEBUG, program, line, "{text}"),
        log::Level::Trace => tracing::event!(target: TARGET, Level::TRACE, program, line, "{text}"),
    }
}

fn tell_held(held: u64) {
    if held > 0 {
        tracing::event!(target: TARGET, Level::WARN, held, "lines of the eBPF programs were held back");
    }
}

/// Rate limit of lines. Pure: the time is an argument.
#[derive(Debug, Default)]
struct Pace {
    /// Time at which the window began.
    since: Option<Instant>,
    /// Number of lines passed on in it.
    told: u32,
    /// Number of suppressed lines that are not reported yet.
    held: u64,
    /// Number of there in all.
    lines: u64,
}

impl Pace {
    /// Admits a line or not; if admitted, returns the number of lines suppressed before it.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        self.lines += 1;
        if self.is_over(now) {
            self.since = Some(now);
            self.told = 0;
        }
        if self.told < LINES_MAX {
            self.told += 1;
            return Some(std::mem::take(&mut self.held));
        }
        self.held += 1;
        None
    }

    /// Number of lines suppressed in a window that is over, for use when no further line comes.
    fn overdue(&mut self, now: Instant) -> u64 {
        if self.is_over(now) { std::mem::take(&mut self.held) } else { 0 }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_of_levels() {
        for (index, (level, word)) in LogLevel::ALL.into_iter().enumerate() {
            assert_eq!((usize::from(level.number()), level.as_str(), word.parse()), (index, word, Ok(level)));
        }
        assert!("loud".parse::<LogLevel>().unwrap_err().contains("trace"));
        // As the programs' side numbers them.
        assert_eq!(LogLevel::Error.number(), aya_log::Level::Error as u8);
        assert_eq!(LogLevel::Trace.number(), aya_log::Level::Trace as u8);
    }

    #[test]
    fn a_flood_is_held_back_and_counted() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let admitted = (0..250).filter(|_| pace.admit(start).is_some()).count();
        assert_eq!((admitted, pace.lines), (100, 250));
        assert_eq!(pace.overdue(start + WINDOW / 2), 0, "not while more may come");
        // The first line after it reports the suppressed ones, once.
        assert_eq!(pace.admit(start + WINDOW), Some(150));
        assert_eq!(pace.admit(start + WINDOW), Some(0));
    }

    #[test]
    fn a_flood_that_nothing_follows_is_told_too() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!((0..101).filter_map(|_| pace.admit(start)).count(), 100);
        assert_eq!(pace.overdue(start + WINDOW), 1);
        assert_eq!(pace.overdue(start + WINDOW), 0);
    }
}
