//! Capabilities: the agent drops unneeded ones before any other work.
//!
//! Capabilities belong to threads, and a new thread inherits its creator's. [`reduce`] therefore runs before
//! the runtime starts; later, the other threads would keep theirs. A missing capability is reported and never
//! fatal: each serves one purpose, and the rest of the agent works without it.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use berth_protocol::response::Finding;
use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};

/// One capability that the agent keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// The needed capability.
    pub capability: Capability,
    /// Function that fails without it.
    pub purpose: &'static str,
    /// True if its absence requires action; false for an optional attach mode.
    pub vital: bool,
}

/// All that the agent keeps. `CAP_DAC_OVERRIDE` is not among them: nothing is written outside the
/// agent's own folders.
pub const NEEDS: [Need; 9] = [
    vital(Capability::CAP_NET_ADMIN, "links, addresses and namespace numbers by netlink"),
    vital(Capability::CAP_NET_RAW, "ARP and neighbour discovery probes on the parent"),
    vital(Capability::CAP_SYS_ADMIN, "entering a pod's namespace to remove addresses"),
    vital(Capability::CAP_SYS_PTRACE, "seeing in which namespace a process of another user is"),
    // Measured: without it root cannot list /proc/PID/fd of another user's process.
    vital(Capability::CAP_DAC_READ_SEARCH, "seeing who holds a descriptor of a namespace"),
    optional(Capability::CAP_NET_BROADCAST, "kernels that ask for it in multicast sockets"),
    optional(Capability::CAP_BPF, "the eBPF rung"),
    optional(Capability::CAP_PERFMON, "the eBPF rung's tracing programs"),
    // kernel.kptr_restrict hides addresses from processes without it.
    optional(Capability::CAP_SYSLOG, "the early hint of the tracepoint rung that namespaces end"),
];

const fn vital(capability: Capability, purpose: &'static str) -> Need {
    Need { capability, purpose, vital: true }
}

const fn optional(capability: Capability, purpose: &'static str) -> Need {
    Need { capability, purpose, vital: false }
}

/// Reason why the capabilities could not be reduced or read.
#[derive(Debug, thiserror::Error)]
pub enum CapabilityError {
    /// The thread's capabilities could not be read.
    #[error("read the {set:?} capabilities")]
    Read {
        /// Affected capability set.
        set: CapSet,
        /// Error from the kernel.
        #[source]
        cause: CapsError,
    },
    /// The kernel refused a smaller set.
    #[error("reduce the {set:?} capabilities")]
    Reduce {
        /// Affected capability set.
        set: CapSet,
        /// Error from the kernel.
        #[source]
        cause: CapsError,
    },
    /// A thread's status cannot be read.
    #[error("read {}", path.display())]
    Status {
        /// Path of the file.
        path: PathBuf,
        /// Error from the kernel.
        #[source]
        cause: io::Error,
    },
    /// A thread's status does not look as it should.
    #[error("{} has no line {line}", path.display())]
    Line {
        /// Path of the file.
        path: PathBuf,
        /// Prefix of the missing line.
        line: &'static str,
    },
}

/// Capabilities after [`reduce`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The needed capabilities that this process has.
    pub held: CapsHashSet,
    /// Reason for a bounding set that is larger than needed, if it is: a child that runs as root could regain
    /// those capabilities.
    pub bounding: Option<String>,
}

/// Drops every capability that is not in [`NEEDS`]: inheritable and ambient sets are emptied, permitted,
/// effective and bounding ones reduced. Call it on the only thread.
pub fn reduce() -> Result<Held, CapabilityError> {
    let needed: CapsHashSet = NEEDS.iter().map(|need| need.capability).collect();
    let permitted = read(CapSet::Permitted)?;
    // First the bounding set, because shrinking it takes CAP_SETPCAP, which goes afterwards.
    let bounding = bound(&needed)?;
    let held: CapsHashSet = permitted.intersection(&needed).copied().collect();
    if caps::runtime::ambient_set_supported().is_ok() {
        write(CapSet::Ambient, &HashSet::new())?;
    }
    // Effective may never exceed permitted, so it shrinks first, and is raised to all of it by that.
    write(CapSet::Effective, &held)?;
    write(CapSet::Permitted, &held)?;
    write(CapSet::Inheritable, &HashSet::new())?;
    Ok(Held { held, bounding })
}

fn bound(needed: &CapsHashSet) -> Result<Option<String>, CapabilityError> {
    let mut reason = None;
    for capability in read(CapSet::Bounding)?.difference(needed) {
        if let Err(error) = caps::drop(None, CapSet::Bounding, *capability) {
            reason = Some(error.to_string());
        }
    }
    Ok(reason)
}

fn read(set: CapSet) -> Result<CapsHashSet, CapabilityError> {
    caps::read(None, set).map_err(|cause| CapabilityError::Read { set, cause })
}

fn write(set: CapSet, value: &CapsHashSet) -> Result<(), CapabilityError> {
    caps::set(None, set, value).map_err(|cause| CapabilityError::Reduce { set, cause })
}

impl Held {
    /// The needed capabilities that are missing.
    pub fn missing(&self) -> impl Iterator<Item = &'static Need> + '_ {
        NEEDS.iter().filter(|need| !self.held.contains(&need.capability))
    }

    /// Held against needed, for `doctor`.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings: Vec<_> = NEEDS.iter().map(|need| self.finding(need)).collect();
        findings.push(Finding {
            what: "capability.bounding".to_owned(),
            ok: self.bounding.is_none(),
            needs_a_hand: false,
            text: match &self.bounding {
                None => "reduced to what the agent needs".to_owned(),
                Some(why) => {
                    format!("larger than needed ({why}); start the agent with CAP_SETPCAP to have it reduced")
                }
            },
        });
        findings
    }

    fn finding(&self, need: &Need) -> Finding {
        let ok = self.held.contains(&need.capability);
        let name = need.capability.to_string();
        let text = if ok {
            format!("held, for {}", need.purpose)
        } else {
            format!("missing; without it no {}. Add {name} to the agent's capabilities", need.purpose)
        };
        let short = name.trim_start_matches("CAP_").to_lowercase();
        Finding { what: format!("capability.{short}"), ok, needs_a_hand: need.vital && !ok, text }
    }
}

/// The capability sets of one thread, as bit masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ThreadSets {
    /// ID of the thread.
    pub tid: u32,
    /// Set that it may pass on to programs that request it.
    pub inheritable: u64,
    /// Set that it may use.
    pub permitted: u64,
    /// Set that it uses.
    pub effective: u64,
    /// Set that limits it and its children.
    pub bounding: u64,
    /// Set that its children keep.
    pub ambient: u64,
}

/// The sets of every thread of process `pid`. A thread that ends meanwhile is left out.
pub fn threads(pid: u32) -> Result<Vec<ThreadSets>, CapabilityError> {
    let folder = PathBuf::from(format!("/proc/{pid}/task"));
    let failed = |cause| CapabilityError::Status { path: folder.clone(), cause };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(tid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
        match std::fs::read_to_string(path.join("status")) {
            Ok(text) => found.push(parse_status(tid, &text, &path)?),
            Err(error) if has_left(&error) => {}
            Err(cause) => return Err(CapabilityError::Status { path, cause }),
        }
    }
    Ok(found)
}

fn has_left(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

fn parse_status(tid: u32, text: &str, path: &Path) -> Result<ThreadSets, CapabilityError> {
    let mask = |line: &'static str| {
        let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
        let value = value.and_then(|value| u64::from_str_radix(value.trim(), 16).ok());
        value.ok_or_else(|| CapabilityError::Line { path: path.to_owned(), line })
    };
    Ok(ThreadSets {
        tid,
        inheritable: mask("CapInh")?,
        permitted: mask("CapPrm")?,
        effective: mask("CapEff")?,
        bounding: mask("CapBnd")?,
        ambient: mask("CapAmb")?,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use berth_testbed::skip;

    use super::*;

    fn mask(set: &CapsHashSet) -> u64 {
        set.iter().fold(0, |mask, capability| mask | capability.bitmask())
    }

    /// Runs `test` on a separate thread: dropped capabilities end with it.
    fn aside<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        if caps::has_cap(None, CapSet::Permitted, Capability::CAP_SETPCAP).unwrap() {
            return Some(std::thread::spawn(test).join().unwrap());
        }
        skip::because("needs root with CAP_SETPCAP; run `cargo xtask test` as root");
        None
    }

    #[test]
    fn every_set_of_this_and_every_later_thread_is_reduced() {
        aside(|| {
            let had = mask(&read(CapSet::Permitted).unwrap());
            let had_bounding = mask(&read(CapSet::Bounding).unwrap());
            let needed = mask(&NEEDS.iter().map(|need| need.capability).collect());
            caps::set(None, CapSet::Inheritable, &HashSet::from([Capability::CAP_CHOWN])).unwrap();
            let held = reduce().unwrap();
            assert_eq!(held.bounding, None);
            let mine = || {
                let tid = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
                threads(std::process::id()).unwrap().into_iter().find(|sets| sets.tid == tid).unwrap()
            };
            for sets in [mine(), std::thread::spawn(mine).join().unwrap()] {
                assert_eq!((sets.permitted, sets.effective), (had & needed, had & needed));
                assert_eq!((sets.inheritable, sets.ambient), (0, 0));
                assert_eq!(sets.bounding, had_bounding & needed);
            }
            // Doing it again takes nothing more away, although CAP_SETPCAP is gone.
            assert_eq!(reduce().unwrap().held, held.held);
        });
    }

    #[test]
    fn the_daemon_set_grants_what_is_kept_and_the_right_to_give_up_the_rest() {
        let manifest = include_str!("../../deploy/agent.yaml");
        let (_, after) = manifest.split_once("              add:\n").unwrap();
        let granted = after.lines().map_while(|line| line.strip_prefix("                - "));
        let granted: HashSet<_> = granted.map(|name| format!("CAP_{name}").parse().unwrap()).collect();
        let kept = NEEDS.iter().map(|need| need.capability);
        assert_eq!(granted, kept.chain([Capability::CAP_SETPCAP]).collect());
    }

    #[test]
    fn without_the_right_to_it_the_bounding_set_is_reported() {
        aside(|| {
            caps::drop(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap();
            caps::drop(None, CapSet::Permitted, Capability::CAP_SETPCAP).unwrap();
            caps::drop(None, CapSet::Effective, Capability::CAP_BPF).unwrap();
            caps::drop(None, CapSet::Permitted, Capability::CAP_BPF).unwrap();
            caps::drop(None, CapSet::Effective, Capability::CAP_NET_RAW).unwrap();
            caps::drop(None, CapSet::Permitted, Capability::CAP_NET_RAW).unwrap();
            let held = reduce().unwrap();
            let finding = |what: &str| held.findings().into_iter().find(|found| found.what == what).unwrap();
            assert!(!finding("capability.bounding").ok);
            assert!(!finding("capability.bpf").ok && !finding("capability.bpf").needs_a_hand);
            assert!(finding("capability.net_raw").needs_a_hand);
            assert!(finding("capability.net_raw").text.contains("CAP_NET_RAW"));
            assert!(finding("capability.net_admin").ok);
            let missing: HashSet<_> = held.missing().map(|need| need.capability).collect();
            assert!(missing.is_superset(&HashSet::from([Capability::CAP_BPF, Capability::CAP_NET_RAW])));
        });
    }

    /// A process of another user, killed at the end.
    struct Stranger(Child);

    impl Stranger {
        /// `None` without the right to change the user. The process has started when it responds: before
        /// that, the loader opens and closes files, and a read of its descriptors may meet one that is gone.
        fn new() -> Option<Self> {
            let mut command = Command::new("cat");
            command.uid(65534).gid(65534).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut stranger = Self(command.spawn().ok()?);
            stranger.0.stdin.as_mut().unwrap().write_all(b".").unwrap();
            stranger.0.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
            Some(stranger)
        }
    }

    impl Drop for Stranger {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Reads the same files of a process as the scan for leaked namespaces.
    fn scan(pid: u32) -> (bool, bool) {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).and_then(|entries| {
            entries.map(|entry| std::fs::read_link(entry?.path())).collect::<io::Result<Vec<_>>>()
        });
        let namespace = std::fs::read_link(format!("/proc/{pid}/ns/net"));
        (descriptors.is_ok_and(|found| !found.is_empty()), namespace.is_ok())
    }

    #[test]
    fn the_kept_ones_suffice_to_look_into_processes_and_each_is_needed() {
        // Created and killed by this thread, because the other one soon lacks the right to kill.
        let Some(stranger) = Stranger::new() else {
            skip::because("needs root to run a process of another user; run `cargo xtask test` as root");
            return;
        };
        let pid = stranger.0.id();
        aside(move || {
            reduce().unwrap();
            assert_eq!(scan(pid), (true, true));
            let without = |capability| {
                std::thread::spawn(move || {
                    caps::drop(None, CapSet::Effective, capability).unwrap();
                    scan(pid)
                })
            };
            assert_eq!(without(Capability::CAP_DAC_READ_SEARCH).join().unwrap(), (false, true));
            assert_eq!(without(Capability::CAP_SYS_PTRACE).join().unwrap(), (false, false));
        });
    }
}
