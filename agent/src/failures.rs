//! The one table from what the agent refuses to the CNI code and the advice that the plugin passes on.
//!
//! docs/errors.md lists the codes for operators. The words that go-cni takes for "nothing to do"
//! never appear here (cni.md D8).

use berth_ipam::ledger::io::LedgerError;
use berth_protocol::Failure;

use crate::cluster::annotations::AnnotationError;

/// Bad environment: the attachment exists elsewhere.
const BAD_ENVIRONMENT: u32 = 4;
/// Input or output failed.
const IO: u32 = 5;
/// Code of bad configuration.
const BAD_CONFIGURATION: u32 = 7;
/// Try again later.
const TRY_AGAIN: u32 = 11;
/// The attachment is not as it should be (a plugin's own code).
const DIFFERS: u32 = 100;

/// Advice where the plugin undoes what it did.
const ADD_AGAIN: &str = "the ADD is undone: add the container again";

/// A failure of the agent's own.
pub fn failure(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Failure {
    Failure { code, msg: msg.into(), details: details.into() }
}

/// The parent of a network cannot be used.
pub fn no_parent(network: &str, why: &str) -> Failure {
    failure(
        BAD_CONFIGURATION,
        format!("network {network}: {why}"),
        "create the interface, or correct spec.link.parent of the UnderlayNetwork",
    )
}

/// A parent is there, and no link of the network's can be made on it.
pub fn unfit_parent(network: &str, why: &str, advice: &str) -> Failure {
    failure(BAD_CONFIGURATION, format!("network {network}: {why}"), advice)
}

/// A shared VLAN device could not be made.
pub fn no_vlan(network: &str, why: &str) -> Failure {
    failure(
        IO,
        format!("network {network}: {why}"),
        "load the module 8021q, or create the VLAN device by hand: it is adopted",
    )
}

/// Code of pod annotations that cannot be parsed.
pub fn bad_annotation(error: &AnnotationError) -> Failure {
    failure(BAD_CONFIGURATION, error.to_string(), "correct the annotation of the pod, or of its template")
}

/// Code of a pool's selector or reservation that cannot be evaluated, because an object could not be read.
pub fn unknown_standing(why: &str) -> Failure {
    failure(
        TRY_AGAIN,
        format!("whether this pod may draw from the network's pools is not known: {why}"),
        "the ADD may be repeated as it is; the agent's ServiceAccount must be allowed to get namespaces and to list pods",
    )
}

/// The failure that a refusal of the ledger becomes.
pub fn of(error: &LedgerError) -> Failure {
    let (code, advice) = match error {
        LedgerError::UnknownNetwork(_) => (
            BAD_CONFIGURATION,
            "declare an UnderlayNetwork of that name for the agent, or correct `network` in the CNI configuration",
        ),
        LedgerError::NoPool(_) => {
            (BAD_CONFIGURATION, "name an IPPool in the UnderlayNetwork's spec.pools that is not disabled")
        }
        LedgerError::LeftOut { .. } => (
            BAD_CONFIGURATION,
            "put the pools of both networks into one segment, or give one network another parent or VLAN",
        ),
        LedgerError::Moved { .. } => {
            (TRY_AGAIN, "add the container again; one that was attached before the edit needs a DEL first")
        }
        LedgerError::NotGivable { .. } => {
            (BAD_CONFIGURATION, "ask for an address of the network's pools, or for none")
        }
        LedgerError::NotAdmitted { .. } => (
            BAD_CONFIGURATION,
            "label the namespace as spec.namespaceSelector of the IPPool asks for, or name a network whose pools admit it",
        ),
        LedgerError::MacRefused { .. } => (
            BAD_CONFIGURATION,
            "ask for a MAC that nothing else on the segment has, such as one that begins with 02, or for none",
        ),
        LedgerError::MacInUse { .. } => (
            TRY_AGAIN,
            "the ADD may be repeated as it is; `berthctl explain` on the holder's node shows what keeps it",
        ),
        LedgerError::Exhausted { .. } => (
            TRY_AGAIN,
            "enlarge the pool, delete holders that are not wanted, or look at one with `berthctl explain`; a \
             workload that fits its pool exactly must roll with maxSurge: 0",
        ),
        LedgerError::AttachmentExists(_) => {
            (BAD_ENVIRONMENT, "DEL the former attachment of this container and interface first")
        }
        LedgerError::FormerAdd { .. } => (
            TRY_AGAIN,
            "DEL the container, then add it again; `berthctl leases` shows what the other ADD waits for",
        ),
        LedgerError::Deleted(_) => (TRY_AGAIN, "add the container again if it is still wanted"),
        LedgerError::NotOpen(..) | LedgerError::TakenMeanwhile { .. } => (TRY_AGAIN, ADD_AGAIN),
        LedgerError::NotTheLink { .. } => (IO, ADD_AGAIN),
        LedgerError::Wire { .. } => {
            (TRY_AGAIN, "set the parent up and connect it: no address is given that could not be asked for")
        }
        LedgerError::Storage(_) => (
            IO,
            "make room in, and correct the permissions of, the agent's --state-dir; see `berthctl doctor`",
        ),
        LedgerError::Barred { .. } => (
            TRY_AGAIN,
            "the ADD may be repeated as it is; `berthctl doctor` on this node shows what keeps it waiting",
        ),
        LedgerError::NotCollected { .. } => {
            (IO, "call GC again; what is over is freed without it, too, as soon as it can be judged")
        }
        LedgerError::NotRecorded(_) => (DIFFERS, "re-create the pod"),
        LedgerError::Ambiguous { .. } => (DIFFERS, "name the one that is meant with --segment"),
        LedgerError::UnknownSegment { .. } => (DIFFERS, "name one of these with --segment"),
        LedgerError::HeldAbroad { .. } => (DIFFERS, "ask the agent of that node"),
        LedgerError::Free(_) => (DIFFERS, "nothing is to be done"),
        LedgerError::Alive { .. } => (
            DIFFERS,
            "end its holder, or use --force, which quarantines the address until the wire is silent",
        ),
    };
    failure(code, error.to_string(), advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_failure_says_what_go_cni_takes_for_success() {
        let key = berth_ipam::attachment::AttachmentKey {
            network: "lan".parse().unwrap(),
            container_id: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let errors = [
            LedgerError::UnknownNetwork("lan".parse().unwrap()),
            LedgerError::NotRecorded(key.clone()),
            LedgerError::AttachmentExists(key),
            LedgerError::Storage("disk full".to_owned()),
        ];
        for error in errors {
            let failure = of(&error);
            let text = format!("{} {}", failure.msg, failure.details).to_lowercase();
            assert!(!text.contains("not found") && !text.contains("no such file"), "{text}");
            assert!(!failure.details.is_empty());
        }
    }
}
