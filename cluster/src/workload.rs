//! Pods of a cluster: Deployments, created and deleted as a user does, and their state in the API server and
//! the kubelets.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api as Kind;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

use crate::chain::DEFAULT_NETWORK;
use crate::cluster::Cluster;
use crate::error::{Error, Result};
use crate::node::Node;

/// Namespace of the pods.
pub const NAMESPACE: &str = "default";
/// The label that all of them have.
const LABEL: &str = "bench";

/// A Deployment of pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// Name of the Deployment.
    pub name: String,
    /// Number of its pods.
    pub replicas: u32,
    /// Its pods' annotations.
    pub annotations: Value,
}

/// `count` Deployments of `replicas` pods each.
pub fn apps(count: u32, replicas: u32) -> Vec<App> {
    let app = |number| App { name: format!("app-{number}"), replicas, annotations: json!({}) };
    (1..=count).map(app).collect()
}

impl App {
    /// The same with pods that get their addresses from this network.
    pub fn on(mut self, network: &str) -> Self {
        self.annotations[DEFAULT_NETWORK] = Value::from(network);
        self
    }

    fn object(&self) -> Value {
        let labels = json!({"app": self.name, LABEL: "pods"});
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": self.name, "labels": labels},
            "spec": {
                "replicas": self.replicas,
                "selector": {"matchLabels": {"app": self.name}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "25%"}},
                "template": {
                    "metadata": {"labels": labels, "annotations": self.annotations},
                    "spec": {
                        "automountServiceAccountToken": false,
                        "terminationGracePeriodSeconds": 5,
                        "containers": [{"name": "main", "image": "none"}],
                        // A node that is off for a moment keeps its pods.
                        "tolerations": [
                            {"key": "node.kubernetes.io/unreachable", "operator": "Exists"},
                            {"key": "node.kubernetes.io/not-ready", "operator": "Exists"},
                        ],
                    },
                },
            },
        })
    }
}

/// Creates the Deployments.
pub fn create(cluster: &Cluster, apps: &[App]) -> Result<()> {
    let api = cluster.control.api()?;
    for app in apps {
        let object: Deployment = serde_json::from_value(app.object())
            .map_err(|error| Error::Usage(format!("internal error in a Deployment: {error}")))?;
        let kind: Kind<Deployment> = Kind::namespaced(api.client(), NAMESPACE);
        let request = async move { kind.create(&PostParams::default(), &object).await };
        api.ask(&format!("create Deployment {}", app.name), request)?;
    }
    Ok(())
}

/// Deletes them, and by that their pods.
pub fn delete(cluster: &Cluster, apps: &[App]) -> Result<()> {
    let api = cluster.control.api()?;
    for app in apps {
        let kind: Kind<Deployment> = Kind::namespaced(api.client(), NAMESPACE);
        let name = app.name.clone();
        let request = async move { kind.delete(&name, &DeleteParams::background()).await };
        api.ask(&format!("delete Deployment {}", app.name), request)?;
    }
    Ok(())
}

/// Deletes all their pods by one command; the Deployments make new ones.
pub fn delete_pods(cluster: &Cluster) -> Result<()> {
    let api = cluster.control.api()?;
    let kind: Kind<Pod> = Kind::namespaced(api.client(), NAMESPACE);
    let all = ListParams::default().labels(&format!("{LABEL}=pods"));
    api.ask("delete all pods", async move { kind.delete_collection(&DeleteParams::default(), &all).await })?;
    Ok(())
}

/// The pods that run, by uid.
pub fn uids(cluster: &Cluster) -> BTreeSet<String> {
    let kubelets = cluster.nodes.iter().filter_map(Node::kubelet);
    kubelets.flat_map(|kubelet| kubelet.running().into_keys()).collect()
}

/// Waits until the API server reports exactly `count` pods, all of them Ready, each with its own addresses.
pub fn confirm(cluster: &Cluster, count: usize, limit: Duration) -> Result<()> {
    let api = cluster.control.api()?;
    let what = format!("{count} pods Ready with their own addresses");
    cluster.wait_until(&what, limit, || {
        let kind: Kind<Pod> = Kind::namespaced(api.client(), NAMESPACE);
        let all = ListParams::default().labels(&format!("{LABEL}=pods"));
        let pods = api.ask("list pods", async move { kind.list(&all).await })?.items;
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        let addresses: Vec<&str> = pods.iter().flat_map(addresses).collect();
        let distinct: BTreeSet<&str> = addresses.iter().copied().collect();
        if distinct.len() != addresses.len() {
            let twice = addresses.len() - distinct.len();
            return Err(Error::Usage(format!("{twice} addresses are in the status of more than one pod")));
        }
        Ok(pods.len() == count && ready == count)
    })
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn addresses(pod: &Pod) -> impl Iterator<Item = &str> {
    let listed = pod.status.as_ref().and_then(|status| status.pod_ips.as_ref());
    listed.into_iter().flatten().map(|entry| entry.ip.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_is_a_deployment_that_never_has_a_pod_too_many() {
        let app = &apps(3, 7)[2];
        assert_eq!((app.name.as_str(), app.replicas), ("app-3", 7));
        let object: Deployment = serde_json::from_value(app.object()).unwrap();
        let spec = object.spec.unwrap();
        assert_eq!(spec.replicas, Some(7));
        assert_eq!(spec.selector.match_labels.unwrap()["app"], "app-3");
        assert_eq!(spec.template.spec.unwrap().termination_grace_period_seconds, Some(5));
    }
}
