//! The pods of this node: the wanted ones, and the requests in their annotations.
//!
//! Only the metadata of pods is read, and only of those that are not terminal: the API server leaves out the
//! others. All of it is intent. No pod object, present or absent, decides about an address in use. The
//! kubelet identifies a static pod by the hash of its file, the API server by the UID of its mirror: both
//! lead to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_ipam::attachment::PodRef;
use berth_ipam::ledger::io::{Input, PodNews};
use berth_ipam::name::NodeName;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::follow::{News, follow};
use crate::committer::chain;

/// Annotation with which a mirror pod names its static pod.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Prefix of Berth's annotations.
const OURS: &str = "berth.dev/";
/// Time that an ADD waits for its pod to appear in the API server: a mirror pod may be created after the ADD.
const UNKNOWN: Duration = Duration::from_secs(2);
/// Time that it waits for an unreachable API server; its record could not be written anyway.
pub(super) const UNREACHABLE: Duration = Duration::from_mins(1);
/// Interval of the reads in that time.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(250);
const ASK_FOR: Duration = Duration::from_secs(2);

/// Berth's annotations of one pod.
pub type Annotations = BTreeMap<String, String>;

/// Parts of a pod that are read.
type PodMeta = PartialObjectMeta<Pod>;

/// Field selector of pods that are not terminal.
const NOT_TERMINAL: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// The uids by which a pod is called.
pub(super) fn uids(pod: &PodMeta) -> BTreeSet<String> {
    let mirror = pod.annotations().get(CONFIG_HASH).cloned();
    pod.uid().into_iter().chain(mirror).collect()
}

/// The pod of that name, by a live read; `selector` restricts it further.
pub(super) async fn named(client: &Client, pod: &PodRef, selector: &str) -> kube::Result<Option<PodMeta>> {
    let api = Api::<Pod>::namespaced(client.clone(), &pod.namespace);
    let name = format!("metadata.name={}", pod.name);
    let selector = if selector.is_empty() { name } else { format!("{name},{selector}") };
    let listed = api.list_metadata(&ListParams::default().fields(&selector)).await?;
    Ok(listed.items.into_iter().next())
}

/// State of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    uids: BTreeSet<String>,
    wanted: bool,
    annotations: Annotations,
}

impl Known {
    fn of(pod: &PodMeta) -> Self {
        let ours = pod.annotations().iter().filter(|(key, _)| key.starts_with(OURS));
        Self {
            uids: uids(pod),
            wanted: pod.metadata.deletion_timestamp.is_none(),
            annotations: ours.map(|(key, value)| (key.clone(), value.clone())).collect(),
        }
    }

    /// True if it is that pod, and not a later one of its name.
    fn is(&self, pod: &PodRef) -> bool {
        pod.uid.as_ref().is_none_or(|uid| self.uids.contains(uid))
    }
}

/// The pods of this node as the watch last showed them, by namespace and name.
#[derive(Debug, Clone, Default)]
pub struct Pods(Arc<Mutex<BTreeMap<(String, String), Known>>>);

impl Pods {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Berth's annotations of a pod, if the watch has shown it.
    pub fn annotations(&self, pod: &PodRef) -> Option<Annotations> {
        let pods = self.lock();
        let known = pods.get(&(pod.namespace.clone(), pod.name.clone()))?;
        known.is(pod).then(|| known.annotations.clone())
    }

    /// Applies an event of the watch; returns the resulting inputs of the ledger.
    fn take(&self, news: News<PodMeta>) -> Vec<PodNews> {
        let key = |pod: &PodMeta| (pod.namespace().unwrap_or_default(), pod.name_any());
        let mut pods = self.lock();
        match news {
            News::All(all) => {
                *pods = all.iter().map(|pod| (key(pod), Known::of(pod))).collect();
                let wanted = pods.values().filter(|known| known.wanted);
                vec![PodNews::Listed(wanted.flat_map(|known| known.uids.iter().cloned()).collect())]
            }
            News::Changed(pod) => {
                let now = Known::of(&pod);
                let before = pods.insert(key(&pod), now.clone());
                if before
                    .as_ref()
                    .is_some_and(|before| before.wanted == now.wanted && before.uids == now.uids)
                {
                    return Vec::new();
                }
                let other = before.filter(|before| before.uids != now.uids);
                let gone = other.into_iter().flat_map(|before| before.uids).map(PodNews::Unwanted);
                let change = if now.wanted { PodNews::Wanted } else { PodNews::Unwanted };
                gone.chain(now.uids.into_iter().map(change)).collect()
            }
            News::Gone(pod) => {
                pods.remove(&key(&pod));
                Known::of(&pod).uids.into_iter().map(PodNews::Unwanted).collect()
            }
            News::Failed(why) => {
                tracing::warn!(error = why, "watch this node's pods");
                Vec::new()
            }
        }
    }

    /// Follows the pods of `node`.
    pub async fn run(self, client: Client, node: NodeName, inputs: UnboundedSender<Input>) {
        let mine = watcher::Config::default().fields(&format!("spec.nodeName={node},{NOT_TERMINAL}"));
        follow(Api::<PodMeta>::all(client), mine, |news| {
            self.take(news).into_iter().all(|news| inputs.send(Input::Pods(news)).is_ok())
        })
        .await;
    }

    /// Berth's annotations of a pod, waiting for the pod to appear in the API server; none if it never does.
    pub async fn ask(&self, client: &Client, pod: &PodRef) -> Annotations {
        let began = Instant::now();
        loop {
            if let Some(known) = self.annotations(pod) {
                return known;
            }
            let patience = match tokio::time::timeout(ASK_FOR, named(client, pod, "")).await {
                Ok(Ok(found)) => {
                    let found = found.as_ref().map(Known::of);
                    if let Some(known) = found.filter(|known| known.is(pod)) {
                        return known.annotations;
                    }
                    UNKNOWN
                }
                Ok(Err(error)) => {
                    tracing::warn!(error = chain(&error), pod = pod.name, "read the annotations of a pod");
                    UNREACHABLE
                }
                Err(_) => UNREACHABLE,
            };
            if began.elapsed() >= patience {
                tracing::warn!(
                    pod = pod.name,
                    namespace = pod.namespace,
                    "go on without a pod's annotations"
                );
                return Annotations::new();
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}

/// True if a pod is wanted, by a live read; `None` without an answer.
pub async fn is_wanted(client: &Client, pod: &PodRef) -> Option<bool> {
    match tokio::time::timeout(ASK_FOR, named(client, pod, NOT_TERMINAL)).await {
        Ok(Ok(found)) => {
            Some(found.as_ref().map(Known::of).is_some_and(|known| known.wanted && known.is(pod)))
        }
        Ok(Err(error)) => {
            tracing::warn!(error = chain(&error), pod = pod.name, "read a pod");
            None
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::{Fault, Script};
    use super::*;

    fn pod(name: &str, uid: &str, more: serde_json::Value) -> PodMeta {
        let mut object = serde_json::json!({"metadata": {"namespace": "d", "name": name, "uid": uid}});
        let (into, from) = (object.as_object_mut().unwrap(), more);
        for (key, value) in from.as_object().unwrap() {
            match into.get_mut(key).and_then(serde_json::Value::as_object_mut) {
                Some(old) => old.extend(value.as_object().unwrap().clone()),
                None => drop(into.insert(key.clone(), value.clone())),
            }
        }
        serde_json::from_value(object).unwrap()
    }

    fn plain(name: &str, uid: &str) -> PodMeta {
        pod(name, uid, serde_json::json!({}))
    }

    fn said(news: &[PodNews]) -> Vec<String> {
        news.iter().map(|news| format!("{news:?}")).collect()
    }

    #[test]
    fn who_is_meant_to_live_is_told_once_and_until_it_is_not() {
        let pods = Pods::default();
        let listed = pods.take(News::All(vec![plain("a", "u1")]));
        assert_eq!(said(&listed), [r#"Listed({"u1"})"#]);
        assert!(pods.take(News::Changed(plain("a", "u1"))).is_empty());
        let deleting = serde_json::json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(said(&pods.take(News::Changed(pod("a", "u1", deleting)))), [r#"Unwanted("u1")"#]);
        assert_eq!(said(&pods.take(News::Gone(plain("a", "u1")))), [r#"Unwanted("u1")"#]);
        assert_eq!(said(&pods.take(News::Changed(plain("a", "u3")))), [r#"Wanted("u3")"#]);
        // A StatefulSet's pod of the same name is another pod (T3).
        assert_eq!(
            said(&pods.take(News::Changed(plain("a", "u4")))),
            [r#"Unwanted("u3")"#, r#"Wanted("u4")"#]
        );
    }

    #[test]
    fn annotations_are_those_of_the_very_pod_and_only_berths() {
        let pods = Pods::default();
        let annotated =
            serde_json::json!({"metadata": {"annotations": {"berth.dev/ips": "10.0.0.7", "x/y": "z"}}});
        pods.take(News::All(vec![pod("a", "u1", annotated)]));
        let of = |uid: Option<&str>| PodRef {
            namespace: "d".to_owned(),
            name: "a".to_owned(),
            uid: uid.map(str::to_owned),
        };
        let ours = Annotations::from([("berth.dev/ips".to_owned(), "10.0.0.7".to_owned())]);
        assert_eq!(pods.annotations(&of(Some("u1"))), Some(ours.clone()));
        assert_eq!(pods.annotations(&of(None)), Some(ours));
        assert_eq!(pods.annotations(&of(Some("u0"))), None, "a former pod of that name");
    }

    #[test]
    fn a_static_pod_is_known_by_the_hash_of_its_file() {
        let pods = Pods::default();
        let mirror = serde_json::json!({"metadata": {"annotations": {"kubernetes.io/config.hash": "h1"}}});
        pods.take(News::All(vec![pod("a", "u1", mirror)]));
        let of = PodRef { namespace: "d".to_owned(), name: "a".to_owned(), uid: Some("h1".to_owned()) };
        assert!(pods.annotations(&of).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_is_over_only_if_the_server_says_so_now() {
        let (script, path) = (Script::default(), "/api/v1/namespaces/d/pods/a");
        let of = PodRef { namespace: "d".to_owned(), name: "a".to_owned(), uid: Some("u1".to_owned()) };
        let wanted = |script: &Script| {
            let (client, of) = (script.client(), of.clone());
            async move { is_wanted(&client, &of).await }
        };
        assert_eq!(wanted(&script).await, Some(false), "there is none");
        let object = |pod: PodMeta| serde_json::to_value(pod).unwrap();
        script.put(path, object(plain("a", "u1")));
        assert_eq!(wanted(&script).await, Some(true));
        let deleting = serde_json::json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        for over in [pod("a", "u1", deleting), plain("a", "u2")] {
            script.put(path, object(over));
            assert_eq!(wanted(&script).await, Some(false));
        }
        // The API server filters terminal pods.
        let asked = script.queries();
        assert!(
            asked.iter().all(|query| query.contains("metadata.name%3Da%2Cstatus.phase%21%3DSucceeded%2C")),
            "{asked:?}"
        );
        for fault in [Fault::Code(500), Fault::Code(403), Fault::Hang, Fault::Unreachable] {
            script.faults(move |_, _| Some(fault));
            assert_eq!(wanted(&script).await, None, "{fault:?}");
        }
    }
}
