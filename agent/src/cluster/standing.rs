//! State of a pod in the API server beyond its annotations: the labels of its namespace, and its controller.
//!
//! Pools may select pods by either, so both are read live, and only for ADDs in networks that need them.
//! Invariant: an unreadable value is an error, never "none".

use std::time::Duration;

use berth_ipam::access::{Needs, Owner, Standing};
use berth_ipam::attachment::PodRef;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt as _};
use tokio::time::Instant;

use super::pods::{ASK_AGAIN, UNREACHABLE, named, uids};
use super::request::{RequestError, within};
use crate::committer::chain;

/// Time for which a missing object is read again: a mirror pod may be created after its ADD.
const ABSENT: Duration = Duration::from_secs(2);

/// Reads the values that an ADD needs about its pod. The error names the unreadable value, and is the
/// response to the ADD.
pub async fn read(client: &Client, pod: &PodRef, needs: Needs) -> Result<Standing, String> {
    let mut standing = Standing::default();
    if needs.labels {
        let api = Api::<Namespace>::all(client.clone());
        let what = format!("namespace {}", pod.namespace);
        let found = patiently(&what, || async {
            Ok(within(api.get_metadata_opt(&pod.namespace)).await?.map(|found| found.labels().clone()))
        });
        standing.labels = Some(found.await?);
    }
    if needs.owner {
        let what = format!("pod {}/{}", pod.namespace, pod.name);
        standing.owner = patiently(&what, || owner(client, pod)).await?;
    }
    Ok(standing)
}

/// The controller of that very pod; the outer `None`: it is not there.
async fn owner(client: &Client, pod: &PodRef) -> Result<Option<Option<Owner>>, RequestError> {
    let found = within(named(client, pod, "")).await?;
    let found = found.filter(|found| pod.uid.as_ref().is_none_or(|uid| uids(found).contains(uid)));
    Ok(found.map(|found| {
        let controller = found.owner_references().iter().find(|owner| owner.controller == Some(true));
        controller.map(|owner| Owner { kind: owner.kind.clone(), name: owner.name.clone() })
    }))
}

/// Repeats a read until a response comes, for a bounded time.
async fn patiently<T, F>(what: &str, ask: impl Fn() -> F) -> Result<T, String>
where
    F: Future<Output = Result<Option<T>, RequestError>>,
{
    let began = Instant::now();
    loop {
        let (patience, why) = match ask().await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => (ABSENT, format!("{what}: the API server has none")),
            Err(error) if error.is_refused() => (Duration::ZERO, format!("{what}: {}", chain(&error))),
            Err(error) => (UNREACHABLE, format!("{what}: {}", chain(&error))),
        };
        if began.elapsed() >= patience {
            return Err(why);
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::{Fault, Script};
    use super::*;

    const LABELS: Needs = Needs { labels: true, owner: false };

    fn pod() -> PodRef {
        PodRef { namespace: "shop".to_owned(), name: "a".to_owned(), uid: Some("u1".to_owned()) }
    }

    fn namespace(labels: &serde_json::Value) -> serde_json::Value {
        serde_json::json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {"name": "shop", "labels": labels},
        })
    }

    #[tokio::test(start_paused = true)]
    async fn the_labels_of_a_namespace_are_read_live_and_waited_for() {
        let script = Script::default();
        let path = "/api/v1/namespaces/shop";
        script.put(path, namespace(&serde_json::json!({"team": "a"})));
        let read_labels = || async { read(&script.client(), &pod(), LABELS).await.map(|found| found.labels) };
        let labels = read_labels().await.unwrap().unwrap();
        assert_eq!(labels.get("team").map(String::as_str), Some("a"));
        script.put(path, namespace(&serde_json::json!({"team": "b"})));
        assert_eq!(read_labels().await.unwrap().unwrap()["team"], "b", "an edit counts at once");
        script.faults(|_, _| Some(Fault::Code(403)));
        let refused = read_labels().await.unwrap_err();
        assert!(refused.contains("namespace shop") && refused.contains("403"), "{refused}");
        for fault in [Fault::Code(500), Fault::Unreachable, Fault::Hang] {
            script.faults(move |_, _| Some(fault));
            let began = Instant::now();
            assert!(read_labels().await.unwrap_err().contains("namespace shop"), "{fault:?}");
            assert!(began.elapsed() >= UNREACHABLE, "{fault:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_is_not_there_is_an_error_and_nothing_is_asked_without_need() {
        let script = Script::default();
        let none = read(&script.client(), &pod(), LABELS).await.unwrap_err();
        assert!(none.contains("has none"), "{none}");
        let script = Script::default();
        assert_eq!(read(&script.client(), &pod(), Needs::default()).await, Ok(Standing::default()));
        assert!(script.log().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_controller_is_that_of_the_very_pod() {
        let script = Script::default();
        let object = |uid: &str, controls: bool| {
            serde_json::json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": {"name": "a", "namespace": "shop", "uid": uid, "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "x"},
                    {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "y", "controller": controls},
                ]},
            })
        };
        let needs = Needs { labels: false, owner: true };
        let owner = |kind: &str| Some(Owner { kind: kind.to_owned(), name: "db".to_owned() });
        for (uid, controls, expected) in
            [("u1", true, Ok(owner("StatefulSet"))), ("u1", false, Ok(None)), ("u2", true, Err(()))]
        {
            script.put("/api/v1/namespaces/shop/pods/a", object(uid, controls));
            let found = read(&script.client(), &pod(), needs).await;
            assert_eq!(found.map(|found| found.owner).map_err(drop), expected, "{uid} {controls}");
        }
    }
}
