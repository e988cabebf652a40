//! Attach modes: the programs that observe teardowns, in order of preference, and the reasons why others are
//! not used.
//!
//! Pure, except for reading the parts of an error. Versions and configuration are unreliable (vendors disable
//! features of a version), so each mode is tried, and its result is kept here.

use std::fmt;
use std::io;

use aya::programs::ProgramError;
use berth_ebpf_common::Source;

/// Length of the kept part of a verifier log: its end, which names the refused instruction.
const LOG_TAIL: usize = 600;

/// A way to see teardowns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rung {
    /// At the entry of kernel functions: every device and every namespace, exactly once.
    Fentry,
    /// At tracepoints: devices that were up; of namespaces a hint without their name.
    TpBtf,
    /// By breakpoints on the same functions; refused under lockdown.
    Kprobe,
}

impl Rung {
    /// All, the best first.
    pub const ALL: [Self; 3] = [Self::Fentry, Self::TpBtf, Self::Kprobe];

    /// Name of the mode on the command line and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::TpBtf => "tp_btf",
            Self::Kprobe => "kprobe",
        }
    }

    /// Source of its events.
    pub fn source(self) -> Source {
        match self {
            Self::Fentry => Source::Fentry,
            Self::TpBtf => Source::TpBtf,
            Self::Kprobe => Source::Kprobe,
        }
    }

    /// Programs of the mode: name in the object, attach target, and whether the mode requires it.
    pub(crate) fn programs(self) -> &'static [(&'static str, &'static str, bool)] {
        match self {
            Self::Fentry => {
                &[("dev_down_fe", "dev_shutdown", true), ("net_end_fe", "rtnetlink_net_exit", true)]
            }
            Self::TpBtf => {
                &[("dev_down_tp", "qdisc_destroy", true), ("net_hint_tp", "workqueue_execute_start", false)]
            }
            Self::Kprobe => {
                &[("dev_down_kp", "dev_shutdown", true), ("net_end_kp", "rtnetlink_net_exit", true)]
            }
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Attach modes that may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Allowed {
    /// All, the best first.
    #[default]
    Any,
    /// This one or none.
    Only(Rung),
    /// None: netlink and reads alone.
    None,
}

impl Allowed {
    /// The rungs to try, in order.
    pub fn rungs(self) -> Vec<Rung> {
        match self {
            Self::Any => Rung::ALL.to_vec(),
            Self::Only(rung) => vec![rung],
            Self::None => Vec::new(),
        }
    }
}

impl std::str::FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "any" => Ok(Self::Any),
            "none" => Ok(Self::None),
            _ => Rung::ALL.into_iter().find(|rung| rung.as_str() == text).map(Self::Only).ok_or_else(|| {
                format!("no rung is called {text:?}; there are any, fentry, tp_btf, kprobe, none")
            }),
        }
    }
}

/// Progress of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The kernel did not take it.
    Load,
    /// It could not be put in its place.
    Attach,
    /// It ran, or not, and the canary's end did not arrive as it should.
    Prove,
}

/// Reason why a program is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The program's name.
    pub program: &'static str,
    /// Attach target of the program.
    pub target: &'static str,
    /// Stage that it reached.
    pub stage: Stage,
    /// Error number, if the kernel returned one.
    pub errno: Option<i32>,
    /// The reason, with the end of the verifier's log if it wrote one.
    pub reason: String,
}

impl Refusal {
    pub(crate) fn of(
        program: &'static str,
        target: &'static str,
        stage: Stage,
        error: &ProgramError,
    ) -> Self {
        let errno = errno(error);
        let reason = match error {
            ProgramError::LoadError { io_error, verifier_log } => {
                load_reason(io_error, &verifier_log.to_string())
            }
            other => chain(other),
        };
        Self { program, target, stage, errno, reason }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            Stage::Load => "load",
            Stage::Attach => "attach",
            Stage::Prove => "prove",
        };
        write!(f, "{stage} {} at {}: {}", self.program, self.target, self.reason)
    }
}

/// Reason why the kernel refused a program. A ban and a missing capability look the same: EPERM, and an empty
/// verifier log.
fn load_reason(error: &io::Error, log: &str) -> String {
    let log = tail(log);
    if !log.is_empty() {
        return format!("{error}; the verifier: {log}");
    }
    if error.kind() == io::ErrorKind::PermissionDenied {
        return format!(
            "{error}, without a word of the verifier: a capability is missing (CAP_BPF and CAP_PERFMON, \
             or CAP_SYS_ADMIN), or this kernel forbids programs of this kind"
        );
    }
    error.to_string()
}

/// The number that the kernel returned, wherever in the chain it is.
fn errno(error: &ProgramError) -> Option<i32> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(number) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(number);
        }
        next = error.source();
    }
    // Transparent errors hide their cause's own place in the chain.
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        ProgramError::IOError(error) => error.raw_os_error(),
        _ => None,
    }
}

/// An error with its causes, each once.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// The end of a log, on one line.
fn tail(log: &str) -> String {
    let line = log.split_whitespace().collect::<Vec<_>>().join(" ");
    let start = line.len().saturating_sub(LOG_TAIL);
    let start = (start..=line.len()).find(|at| line.is_char_boundary(*at)).unwrap_or(line.len());
    line[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_command_line() {
        assert_eq!("none".parse(), Ok(Allowed::None));
        assert_eq!("tp_btf".parse(), Ok(Allowed::Only(Rung::TpBtf)));
        assert!("xdp".parse::<Allowed>().unwrap_err().contains("tp_btf"));
        assert_eq!(Allowed::Any.rungs(), [Rung::Fentry, Rung::TpBtf, Rung::Kprobe]);
    }

    #[test]
    fn a_silent_eperm_and_a_log_are_told_apart() {
        let eperm = io::Error::from_raw_os_error(1);
        assert!(load_reason(&eperm, "").contains("CAP_PERFMON"));
        let log = format!("{}R1 invalid mem access 'scalar'\n", "x \n".repeat(1000));
        let refused = load_reason(&eperm, &log);
        assert!(refused.ends_with("R1 invalid mem access 'scalar'"), "{refused}");
        assert!(refused.len() < 700);
    }

    #[test]
    fn the_number_is_found_in_a_transparent_error() {
        let attach = ProgramError::IOError(io::Error::from_raw_os_error(2));
        assert_eq!(Refusal::of("p", "t", Stage::Attach, &attach).errno, Some(2));
    }
}
