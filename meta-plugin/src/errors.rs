//! Every way in which the plugin fails, and the one table from failure to CNI code and advice.
//!
//! docs/errors.md lists the same rows for operators.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use berth_cni::error::code;
use berth_cni::{ErrorObject, Version};
use berth_ipam::mac::Mac;
use berth_ipam::name::IfName;
use berth_protocol::spool::SpoolError;
use berth_protocol::{CallError, Failure};
use berth_underlay::error::{Error as KernelError, Unknown};

/// CHECK: the attachment is not as ADD left it (one of the codes from 100 on that are a plugin's own).
pub const CHECK_DIFFERS: u32 = 100;

/// Reason why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The call itself is wrong: environment, configuration, version.
    #[error(transparent)]
    Call(#[from] berth_cni::Error),
    /// Standard input cannot be read.
    #[error("cannot read the network configuration from standard input")]
    Stdin(#[source] io::Error),
    /// Standard input is longer than any configuration.
    #[error("the network configuration on standard input is longer than {limit} bytes")]
    StdinTooLong {
        /// Limit in bytes.
        limit: u64,
    },
    /// `CNI_NETNS` cannot be used.
    #[error("CNI_NETNS cannot be used")]
    Netns(#[source] KernelError),
    /// `CNI_NETNS` is the node's own namespace.
    #[error("CNI_NETNS {} is the plugin's own network namespace", path.display())]
    OwnNetns {
        /// Path of the namespace.
        path: PathBuf,
    },
    /// ADD as main plugin finds its interface's name taken.
    #[error("the container already has an interface {ifname}")]
    InterfaceExists {
        /// Value of `CNI_IFNAME`.
        ifname: IfName,
    },
    /// A repeated ADD does not find the interface that the agent recorded.
    #[error("an earlier ADD bound interface {ifindex}, but the container has no {ifname} of that index")]
    NotAsBound {
        /// Value of `CNI_IFNAME`.
        ifname: IfName,
        /// Index of the bound interface.
        ifindex: u32,
    },
    /// A chained plugin or CHECK finds no interface.
    #[error("the container has no interface {ifname}")]
    InterfaceMissing {
        /// Value of `CNI_IFNAME`.
        ifname: IfName,
    },
    /// An attachment gets one address of each family, but two of one were requested.
    #[error("two addresses of one family requested, {first} and {second}; an attachment gets one")]
    TwoOfAFamily {
        /// The first of them.
        first: IpAddr,
        /// The second of them.
        second: IpAddr,
    },
    /// The requested MAC cannot belong to an interface.
    #[error("the requested MAC {mac} is not a unicast address")]
    NoHostMac {
        /// The requested MAC.
        mac: Mac,
    },
    /// An interface without an Ethernet address.
    #[error("the interface {ifname} has no Ethernet address")]
    NoMac {
        /// Value of `CNI_IFNAME`.
        ifname: IfName,
    },
    /// The network's parent is not on this node.
    #[error("the parent interface {parent} of network {network} does not exist on this node")]
    NoParent {
        /// Name of the parent.
        parent: IfName,
        /// Name of the network.
        network: String,
    },
    /// The kernel refused such a link: a fault in the configuration of the node or of the network.
    #[error("cannot create an interface on the parent {parent}: {why}")]
    LinkRefused {
        /// Name of the parent.
        parent: IfName,
        /// Obstacle, with the value or the holder.
        why: String,
        /// Advice for the operator.
        advice: String,
        /// The kernel's refusal.
        #[source]
        cause: Box<KernelError>,
    },
    /// A requested MAC is in use on the parent.
    #[error("the requested MAC {mac} is in use on the parent {parent} by {holder}")]
    MacTaken {
        /// The requested MAC.
        mac: Mac,
        /// Name of the parent.
        parent: IfName,
        /// Text that names its holder.
        holder: String,
        /// The kernel's refusal.
        #[source]
        cause: Box<KernelError>,
    },
    /// Every MAC that the attachment may have is in use on the parent.
    #[error("all {tried} MACs of this attachment are in use on the parent {parent}")]
    NoMacLeft {
        /// Number of MACs tried.
        tried: u8,
        /// Name of the parent.
        parent: IfName,
    },
    /// The agent was absent for longer than an upgrade takes.
    #[error("no agent responded for {} s", waited.as_secs())]
    AgentAbsent {
        /// Duration of its absence.
        waited: Duration,
        /// The last attempt.
        #[source]
        cause: CallError,
    },
    /// A call to the agent failed.
    #[error("cannot {what}: the call to the agent failed")]
    Agent {
        /// The requested operation.
        what: &'static str,
        /// Error of the call.
        #[source]
        cause: CallError,
    },
    /// The agent refused; its message is passed on.
    #[error("{}", .0.msg)]
    Refused(Failure),
    /// The agent's response is of another kind than the request.
    #[error("unexpected response from the agent to: {what}")]
    OtherAnswer {
        /// The requested operation.
        what: &'static str,
    },
    /// The kernel refused.
    #[error("cannot {what}")]
    Kernel {
        /// The failed operation.
        what: &'static str,
        /// The kernel's refusal.
        #[source]
        cause: KernelError,
    },
    /// The kernel gave no valid answer.
    #[error("cannot {what}")]
    Unknown {
        /// The failed read.
        what: &'static str,
        /// Reason why the answer does not count.
        #[source]
        cause: Unknown,
    },
    /// A DEL reached neither the agent nor the spool.
    #[error("cannot spool the release for the agent")]
    Spool(#[source] SpoolError),
    /// Failure to get random numbers.
    #[error("cannot get random bytes from the kernel")]
    Random(#[source] io::Error),
    /// A route that was added is not on the interface.
    #[error(
        "the route to {to}{} is not on {ifname} after it was added",
        via.map_or_else(String::new, |via| format!(" via {via}"))
    )]
    RouteMissing {
        /// Value of `CNI_IFNAME`.
        ifname: IfName,
        /// Destination of the route.
        to: ipnetwork::IpNetwork,
        /// Its next hop.
        via: Option<IpAddr>,
    },
    /// CHECK: the attachment differs from the result of ADD.
    #[error("the attachment differs from its result: {what}")]
    Differs {
        /// Description of the difference.
        what: String,
    },
    /// CHECK without the result to compare with.
    #[error("CHECK requires a prevResult, but the configuration has none")]
    NoPrevResult,
    /// The configuration names an IPAM of its own for an interface that another plugin made.
    #[error("berth is chained after another main plugin, but its configuration names the IPAM {kind}")]
    IpamOfChained {
        /// Value of `ipam.type`.
        kind: String,
    },
    /// The IPAM plugin of the configuration cannot be run.
    #[error("cannot run the IPAM plugin {kind}")]
    NoDelegate {
        /// Value of `ipam.type`.
        kind: String,
        /// Cause of the failure.
        #[source]
        cause: io::Error,
    },
    /// The IPAM plugin of the configuration failed; its message is passed on.
    #[error("the IPAM plugin {kind} refused {verb}: {}", object.msg)]
    Delegate {
        /// Value of `ipam.type`.
        kind: String,
        /// The requested CNI command.
        verb: &'static str,
        /// Error object that it printed.
        object: Box<ErrorObject>,
    },
    /// The IPAM plugin of the configuration printed an unusable result.
    #[error("the IPAM plugin {kind} returned an invalid result of {verb}: {why}")]
    DelegateOutput {
        /// Value of `ipam.type`.
        kind: String,
        /// The requested CNI command.
        verb: &'static str,
        /// Description of the fault.
        why: String,
    },
    /// STATUS: an ADD would not be served.
    #[error("the node cannot attach pods: {why}")]
    Unavailable {
        /// Cause of the failure.
        why: String,
    },
}

impl PluginError {
    /// The table: code and advice of every failure.
    fn row(&self) -> (u32, String) {
        let advised = |code, advice: &str| (code, advice.to_owned());
        match self {
            Self::Call(error) => call_row(error),
            Self::Stdin(_) => {
                advised(code::IO, "the runtime must write the configuration and close the pipe")
            }
            Self::StdinTooLong { .. } => advised(code::DECODE, "shorten the network configuration"),
            Self::Netns(_) => {
                advised(code::BAD_ENVIRONMENT, "CNI_NETNS must be the path of a living network namespace")
            }
            Self::OwnNetns { .. } => advised(
                code::BAD_NETNS,
                "name the container's namespace, or set CNI_NETNS_OVERRIDE=1 if the node's own is meant",
            ),
            Self::InterfaceExists { .. }
            | Self::NotAsBound { .. }
            | Self::InterfaceMissing { .. }
            | Self::NoMac { .. } => self.interface_row(),
            Self::TwoOfAFamily { .. } => advised(
                code::BAD_CONFIG,
                "request one address of a family (runtimeConfig.ips, args.cni.ips or IP in CNI_ARGS), or attach twice",
            ),
            Self::NoHostMac { .. } => advised(
                code::BAD_CONFIG,
                "request a unicast MAC, with an even first octet (runtimeConfig.mac, args.cni.mac or MAC in CNI_ARGS)",
            ),
            Self::NoParent { .. } => advised(
                code::BAD_CONFIG,
                "create the interface, or correct link.parent of the UnderlayNetwork",
            ),
            Self::LinkRefused { advice, .. } => advised(code::BAD_CONFIG, advice),
            Self::MacTaken { .. } => {
                advised(code::TRY_AGAIN, "delete its holder first, or request another MAC or none")
            }
            Self::NoMacLeft { .. } => {
                advised(code::IO, "look for foreign macvlans with MACs that start with b2 on that parent")
            }
            Self::AgentAbsent { .. } => {
                advised(code::TRY_AGAIN, "start berth-agent, or correct \"socket\" in the configuration")
            }
            Self::Agent { cause, .. } => agent_row(cause),
            Self::Refused(failure) => (failure.code, failure.details.clone()),
            Self::OtherAnswer { .. } => {
                advised(code::IO, "install the same release of berth and berth-agent")
            }
            Self::Kernel { .. } | Self::Unknown { .. } => {
                advised(code::IO, "the attempt was undone; see the kernel's error above")
            }
            Self::Spool(_) => advised(code::IO, "start berth-agent, or make room in its stateDir"),
            Self::Random(_) => advised(code::IO, "the kernel's random source is not ready; try again"),
            Self::RouteMissing { .. } => advised(
                code::TRY_AGAIN,
                "another process changes the container's routes; try again, or remove the route from the pool",
            ),
            Self::Differs { .. } => advised(CHECK_DIFFERS, "re-create the pod"),
            Self::NoPrevResult => advised(code::BAD_CONFIG, "pass the result of ADD as prevResult"),
            Self::IpamOfChained { .. } => advised(
                code::BAD_CONFIG,
                "move \"ipam\" to the main plugin's configuration: berth tracks what it gives",
            ),
            Self::NoDelegate { .. } => {
                advised(code::BAD_CONFIG, "install the plugin in a folder of CNI_PATH, or correct ipam.type")
            }
            Self::Delegate { object, .. } => (object.code, object.details.clone()),
            Self::DelegateOutput { .. } => {
                advised(code::DECODE, "see what it wrote to the runtime's log, and which CNI versions it has")
            }
            Self::Unavailable { .. } => advised(code::UNAVAILABLE, "see: berthctl doctor"),
        }
    }

    /// The rows of the container's interface.
    fn interface_row(&self) -> (u32, String) {
        let advised = |code, advice: &str| (code, advice.to_owned());
        match self {
            Self::InterfaceExists { .. } => advised(
                code::BAD_ENVIRONMENT,
                "delete the former attachment first, or use another CNI_IFNAME",
            ),
            Self::NotAsBound { .. } => advised(
                code::TRY_AGAIN,
                "delete the attachment first: its interface was renamed, moved or removed",
            ),
            Self::InterfaceMissing { .. } => advised(
                code::BAD_CONFIG,
                "the main plugin before berth in the list must make it; check their order",
            ),
            _ => advised(code::BAD_CONFIG, "use a main plugin that makes Ethernet interfaces"),
        }
    }

    /// The object that is printed.
    pub fn object(&self, version: Version) -> ErrorObject {
        let (code, details) = self.row();
        ErrorObject { version, code, msg: chain(self), details }
    }

    /// The error object of a DEL: go-cni interprets certain words as "nothing to do" and would drop the
    /// release, so they never appear.
    pub fn object_of_del(&self, version: Version) -> ErrorObject {
        let object = self.object(version);
        ErrorObject { msg: without_words(&object.msg), details: without_words(&object.details), ..object }
    }
}

/// The rows of what the protocol crate finds.
fn call_row(error: &berth_cni::Error) -> (u32, String) {
    use berth_cni::Error;
    let (code, advice) = match error {
        Error::UnknownCommand { .. } | Error::MissingVariables { .. } => {
            (code::BAD_ENVIRONMENT, "the container runtime sets the CNI_ variables; by hand, use cnitool")
        }
        Error::NotText { .. } | Error::WrongVariable { .. } | Error::WrongArgs { .. } => {
            (code::BAD_ENVIRONMENT, "correct the variable where the runtime sets it")
        }
        Error::NotJson { .. } => (code::DECODE, "correct the network configuration file"),
        Error::UnsupportedVersion { .. } => {
            (code::INCOMPATIBLE_VERSION, "change cniVersion in the network configuration")
        }
        Error::VerbTooNew { .. } => {
            (code::INCOMPATIBLE_VERSION, "raise cniVersion in the network configuration")
        }
        _ => (code::BAD_CONFIG, "correct the network configuration"),
    };
    (code, advice.to_owned())
}

/// The rows of what the client of the agent's socket finds.
fn agent_row(cause: &CallError) -> (u32, String) {
    let (code, advice) = match cause {
        CallError::Refused(failure) => return (failure.code, failure.details.clone()),
        CallError::Absent { .. } => (code::TRY_AGAIN, "start berth-agent"),
        CallError::Silent { .. } => (code::TRY_AGAIN, "look at the agent's log and load"),
        CallError::Unusable { .. } => (code::IO, "correct \"socket\", or its permissions"),
        CallError::Malformed { .. } => (code::DECODE, "install the same release of berth and berth-agent"),
        CallError::TooLong { .. } => (code::BAD_CONFIG, "shorten names and requested addresses"),
    };
    (code, advice.to_owned())
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

fn without_words(text: &str) -> String {
    let mut kept = text.to_owned();
    for (words, instead) in [
        ("not found", "absent"),
        ("no such file or directory", "the path is absent"),
        ("no such file", "the path is absent"),
    ] {
        while let Some(start) = kept.to_ascii_lowercase().find(words) {
            kept.replace_range(start..start + words.len(), instead);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool_error() -> PluginError {
        PluginError::Spool(SpoolError::Create {
            path: PathBuf::from("/not found/spool"),
            cause: io::ErrorKind::NotFound.into(),
        })
    }

    #[test]
    fn a_cause_is_told_once_and_in_order() {
        let text = chain(&PluginError::Spool(SpoolError::Create {
            path: PathBuf::from("/x"),
            cause: io::Error::from_raw_os_error(13),
        }));
        assert_eq!(
            text,
            "cannot spool the release for the agent: cannot create the spool folder /x: Permission denied (os error 13)"
        );
    }

    #[test]
    fn d8_t13_a_del_never_says_the_words() {
        let raw = PluginError::Spool(SpoolError::Write {
            path: PathBuf::from("/x/Not Found"),
            cause: io::Error::from_raw_os_error(2),
        });
        for error in [spool_error(), raw] {
            let text = error.object_of_del(Version::LATEST).to_json().to_string().to_ascii_lowercase();
            assert!(!text.contains("not found") && !text.contains("no such file"), "{text}");
        }
    }

    #[test]
    fn the_agents_words_are_passed_on() {
        let failure =
            Failure { code: 11, msg: "pool lan-v4 is full".to_owned(), details: "maxSurge: 0".to_owned() };
        let object = PluginError::Refused(failure).object(Version::V0_4_0);
        assert_eq!(
            (object.code, object.msg.as_str(), object.details.as_str()),
            (11, "pool lan-v4 is full", "maxSurge: 0")
        );
    }

    #[test]
    fn every_code_is_in_the_operators_table() {
        let table = include_str!("../../docs/errors.md");
        for code in [1, 4, 5, 6, 7, 8, 11, 50, CHECK_DIFFERS, code::INTERNAL] {
            assert!(table.contains(&format!("| {code} |")), "code {code} is missing in docs/errors.md");
        }
    }
}
