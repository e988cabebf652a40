//! Protection of records against the agents of other nodes, for `doctor`.
//!
//! RBAC gives all agents the same rights. The admission policy of `deploy/admission-policy.yaml` restricts
//! one node's token to its own records, by the node in the token. Both are checked: the token at the start,
//! and the policy by a canary, a heartbeat of another node that the API server judges without storing it
//! (`dryRun`).
//!
//! Invariant: only advice depends on this. An agent without protection works.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_ipam::name::NodeName;
use berth_protocol::response::Finding;
use berth_store::kubernetes::TokenNode;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use kube::core::ObjectMeta;
use kube::{Api, Client};

use super::heartbeat::name::PREFIX;
use super::request::{RequestError, within};
use crate::committer::chain;
use crate::doctor::finding;

/// Time between two canaries while they are denied.
const DENIED_AGAIN: Duration = Duration::from_hours(1);
/// Time between two canaries while they are admitted, or fail: an operator may be about to apply the policy.
const OPEN_AGAIN: Duration = Duration::from_mins(1);
/// Name of the finding.
const WHAT: &str = "rights";

/// State of the protection.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// No canary was answered yet.
    Unasked,
    /// The token names no node, so that a policy cannot distinguish this agent from others.
    NoNode(TokenNode),
    /// The token names this other node.
    OtherNode(String),
    /// The canary was admitted.
    Open,
    /// The canary was denied by an admission policy.
    Denied,
    /// The canary failed in another way.
    Unclear(String),
}

/// The shared state. Clones show the same.
#[derive(Debug, Clone)]
pub struct Rights(Arc<Mutex<State>>);

impl Default for Rights {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State::Unasked)))
    }
}

impl Rights {
    fn set(&self, state: State) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *held == state {
            return;
        }
        let (ok, text) = words(&state);
        if ok {
            tracing::info!("{WHAT}: {text}");
        } else {
            tracing::warn!("{WHAT}: {text}");
        }
        *held = state;
    }

    /// The finding of `doctor`. It never makes a node unready.
    pub fn finding(&self) -> Finding {
        let (ok, text) = words(&self.0.lock().unwrap_or_else(PoisonError::into_inner));
        finding(WHAT, ok, false, text)
    }

    /// Sends canaries until the agent ends, if its token names its node.
    pub async fn watch(self, client: Client, namespace: String, node: NodeName, token: TokenNode) {
        match token {
            TokenNode::Named(name) if name == node.as_str() => {}
            TokenNode::Named(name) => return self.set(State::OtherNode(name)),
            token @ (TokenNode::Unnamed | TokenNode::NoToken) => return self.set(State::NoNode(token)),
        }
        let leases = Api::<Lease>::namespaced(client, &namespace);
        loop {
            let state = canary(&leases, &node).await;
            let pause = if state == State::Denied { DENIED_AGAIN } else { OPEN_AGAIN };
            self.set(state);
            tokio::time::sleep(pause).await;
        }
    }
}

/// Has the API server judge a heartbeat that is not this node's.
async fn canary(leases: &Api<Lease>, node: &NodeName) -> State {
    let name = Some(format!("{PREFIX}{node}.canary"));
    let lease = Lease { metadata: ObjectMeta { name, ..ObjectMeta::default() }, spec: None };
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    match within(leases.create(&dry, &lease)).await {
        Ok(_) => State::Open,
        Err(error) if is_of_admission(&error) => State::Denied,
        Err(error) => State::Unclear(chain(&error)),
    }
}

/// True if a refusal comes from an admission policy: one from RBAC proves nothing about the policy.
fn is_of_admission(error: &RequestError) -> bool {
    error.is_refused() && chain(error).contains("ValidatingAdmissionPolicy")
}

fn words(state: &State) -> (bool, String) {
    const ANY: &str = "any agent's token can write and delete the records and heartbeats of other nodes";
    let text = match state {
        State::Denied => {
            let text =
                "an admission policy keeps this agent's token from the records and heartbeats of other nodes";
            return (true, text.to_owned());
        }
        State::Unasked => "the API server was not asked yet whether records are protected".to_owned(),
        State::NoNode(token) => {
            let which = match token {
                TokenNode::NoToken => "the agent has no token that can be read",
                _ => {
                    "the agent's token names no node (Kubernetes below 1.30, or a token that is not bound to a pod)"
                }
            };
            format!(
                "records are unprotected: {which}; {ANY}. Run the agent as a pod on Kubernetes 1.30 or newer, or \
                 with a token that is bound to its Node object, and apply deploy/admission-policy.yaml"
            )
        }
        State::OtherNode(name) => format!(
            "the agent's token is of node {name}, which is not this one: the admission policy of \
             deploy/admission-policy.yaml denies what the agent writes; give each node's agent a token of its own"
        ),
        State::Open => format!(
            "records are unprotected: no admission policy denied a heartbeat of another node (dry run); {ANY}. Apply \
             deploy/admission-policy.yaml"
        ),
        State::Unclear(why) => format!("whether records are protected is not known: {why}"),
    };
    (false, text)
}

#[cfg(test)]
mod tests {
    use super::super::script::{Fault, Script};
    use super::*;

    const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/berth-system/leases";

    async fn found(script: &Script, token: TokenNode, asked: Duration) -> Finding {
        let rights = Rights::default();
        let watch =
            rights.clone().watch(script.client(), "berth-system".to_owned(), "n1".parse().unwrap(), token);
        let _ = tokio::time::timeout(asked, watch).await;
        rights.finding()
    }

    fn named(name: &str) -> TokenNode {
        TokenNode::Named(name.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_names_no_node_leaves_records_unprotected_and_asks_nothing() {
        for token in [TokenNode::Unnamed, TokenNode::NoToken, named("n2")] {
            let script = Script::default();
            let found = found(&script, token.clone(), Duration::from_secs(1)).await;
            assert!(!found.ok && !found.needs_a_hand, "{token:?}: {found:?}");
            let word = if token == named("n2") { "is of node n2" } else { "records are unprotected" };
            assert!(found.text.contains(word) && found.text.contains("deploy/admission-policy.yaml"));
            assert!(script.log().is_empty(), "{token:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_denial_by_a_policy_counts_as_protection() {
        let denial = "leases \"x\" is forbidden: ValidatingAdmissionPolicy 'berth-own-node' denied request";
        let rbac = "leases.coordination.k8s.io is forbidden: User \"u\" cannot create resource \"leases\"";
        for (fault, ok, part) in [
            (Some(Fault::Says(403, denial)), true, "keeps this agent's token"),
            (Some(Fault::Says(422, denial)), true, "keeps this agent's token"),
            (Some(Fault::Says(500, denial)), false, "not known"),
            (Some(Fault::Says(403, rbac)), false, "cannot create resource"),
            (Some(Fault::Unreachable), false, "not known"),
            (None, false, "records are unprotected"),
        ] {
            let script = Script::default();
            script.faults(move |_, _| fault);
            let found = found(&script, named("n1"), Duration::from_secs(1)).await;
            assert!(found.ok == ok && !found.needs_a_hand, "{fault:?}: {found:?}");
            assert!(found.text.contains(part), "{fault:?}: {found:?}");
            let asked = script.log();
            assert_eq!(asked[0].1, format!("POST {LEASES}"));
        }
    }

    /// The file is written by hand: what it calls things must be what agents call them.
    #[test]
    fn the_policy_is_about_what_agents_write() {
        use super::super::steward::election::LEASE;
        let policy = include_str!("../../../deploy/admission-policy.yaml");
        let agent = include_str!("../../../deploy/agent.yaml");
        assert!(policy.contains(&format!("== '{PREFIX}' + variables.node")));
        assert!(
            policy.contains(&format!("['{LEASE}', ")) && policy.contains(&format!("    name: {LEASE}\n"))
        );
        let account = "- kind: ServiceAccount\n    name: berth-agent\n    namespace: berth-system\n";
        assert!(agent.contains(account));
        let user = "request.userInfo.username == 'system:serviceaccount:berth-system:berth-agent'\n";
        assert_eq!(policy.matches(user).count(), 2);
        // Both words may be replaced everywhere: no other object has them.
        let (_, documents) = policy.split_once("---\n").unwrap();
        assert_eq!(documents.matches("berth-agent").count(), 2);
        assert_eq!(documents.matches("berth-system").count(), 2 + 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_policy_that_is_applied_later_is_noticed_within_a_minute() {
        let script = Script::default();
        let flag = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let applied = flag.clone();
        script.faults(move |_, _| {
            let denied = Fault::Says(403, "ValidatingAdmissionPolicy 'p' denied request");
            applied.load(std::sync::atomic::Ordering::Relaxed).then_some(denied)
        });
        let rights = Rights::default();
        let client = script.client();
        let watch =
            rights.clone().watch(client, "berth-system".to_owned(), "n1".parse().unwrap(), named("n1"));
        let watching = tokio::spawn(watch);
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(!rights.finding().ok);
        flag.store(true, std::sync::atomic::Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(31)).await;
        assert!(rights.finding().ok, "{:?}", rights.finding());
        let asked = script.log().len();
        tokio::time::sleep(Duration::from_mins(50)).await;
        assert_eq!(script.log().len(), asked, "a protection that holds is looked at once an hour");
        watching.abort();
    }
}
