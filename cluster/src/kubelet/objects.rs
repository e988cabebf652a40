//! The objects that a kubelet writes, as JSON, without requests.

use std::net::IpAddr;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::Identity;
use super::pod::Facts;

/// A node's object, with its status.
pub fn node(id: &Identity) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": id.name, "labels": {
            "kubernetes.io/hostname": id.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            // Agents are processes here: the pods of their DaemonSet would only take places of others.
            "berth.dev/agent": "none",
        }},
        "status": node_status(id)["status"],
    })
}

/// The status alone, as a restarted kubelet writes it.
pub fn node_status(id: &Identity) -> Value {
    let now = now();
    let resources = json!({"cpu": "64", "memory": "256Gi", "pods": id.capacity.to_string(),
                           "ephemeral-storage": "1Ti"});
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": "by the stand-in",
               "lastHeartbeatTime": now, "lastTransitionTime": now})
    };
    json!({"status": {
        "capacity": resources, "allocatable": resources,
        "addresses": [{"type": "InternalIP", "address": id.address}, {"type": "Hostname", "address": id.name}],
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID"),
            condition("Ready", "True", "KubeletReady"),
        ],
        "nodeInfo": {
            "machineID": id.machine, "bootID": id.boot, "systemUUID": id.machine,
            "architecture": "amd64", "operatingSystem": "linux", "osImage": "a namespace",
            "kernelVersion": "", "containerRuntimeVersion": "berth://stand-in", "kubeletVersion": "stand-in",
            "kubeProxyVersion": "",
        },
    }})
}

/// A node's Lease, renewed now.
pub fn lease(id: &Identity) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": id.name, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": id.name, "leaseDurationSeconds": (id.heartbeat.as_secs() * 4).max(1),
                 "renewTime": micros()},
    })
}

/// Status of a pod with running containers.
pub fn pod_status(id: &Identity, facts: &Facts, container: &str, addresses: &[IpAddr]) -> Value {
    let now = now();
    let ready = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now});
    let conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"].map(ready);
    let containers = facts.containers.iter().map(|(name, image)| {
        json!({"name": name, "image": image, "imageID": image, "ready": true, "started": true,
               "restartCount": 0, "containerID": format!("berth://{container}"),
               "state": {"running": {"startedAt": now}}})
    });
    // Another sandbox has other addresses: those of the previous one must be removed.
    let replace = std::iter::once(json!({"$patch": "replace"}));
    let listed = replace.chain(addresses.iter().map(|address| json!({"ip": address})));
    json!({"status": {
        "phase": "Running", "hostIP": id.address, "hostIPs": [{"ip": id.address}], "startTime": now,
        "podIP": addresses.first(),
        "podIPs": listed.collect::<Vec<_>>(),
        "conditions": conditions,
        "containerStatuses": containers.collect::<Vec<_>>(),
    }})
}

/// For other programs, which order nothing by it here.
fn now() -> String {
    format!("{:.0}", Timestamp::now())
}

fn micros() -> String {
    format!("{:.6}", Timestamp::now())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::api::coordination::v1::Lease;
    use k8s_openapi::api::core::v1::{Node, Pod};

    use super::*;
    use crate::runtime::PodName;

    fn identity() -> Identity {
        Identity {
            name: "n1".to_owned(),
            address: "10.200.1.1".parse().unwrap(),
            machine: "m".to_owned(),
            boot: "b".to_owned(),
            capacity: 7,
            heartbeat: Duration::from_secs(10),
        }
    }

    #[test]
    fn the_objects_are_what_the_api_calls_by_their_names() {
        let node: Node = serde_json::from_value(node(&identity())).unwrap();
        let status = node.status.unwrap();
        assert_eq!(status.node_info.unwrap().boot_id, "b");
        assert_eq!(status.allocatable.unwrap()["pods"].0, "7");
        let lease: Lease = serde_json::from_value(lease(&identity())).unwrap();
        let spec = lease.spec.unwrap();
        assert_eq!(spec.lease_duration_seconds, Some(40));
        assert!(spec.renew_time.is_some());
    }

    #[test]
    fn a_running_pod_has_its_addresses_in_order_and_is_ready() {
        let pod = PodName {
            namespace: "d".to_owned(),
            name: "p".to_owned(),
            uid: "u".to_owned(),
            annotations: Value::Null,
        };
        let facts = Facts { pod, containers: vec![("c".to_owned(), "i".to_owned())], host_network: false };
        let addresses: Vec<IpAddr> = vec!["10.50.16.0".parse().unwrap(), "fd00:50::1000".parse().unwrap()];
        let mut status = pod_status(&identity(), &facts, "c1", &addresses)["status"].clone();
        assert_eq!(status["podIPs"].as_array_mut().unwrap().remove(0), json!({"$patch": "replace"}));
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "status": status})).unwrap();
        let status = pod.status.unwrap();
        assert_eq!(status.pod_ip.as_deref(), Some("10.50.16.0"));
        assert_eq!(status.pod_ips.unwrap().len(), 2);
        assert!(status.conditions.unwrap().iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    }
}
