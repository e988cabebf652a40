//! Flags of the parts of the control plane.
//!
//! The rate limits of clients are raised far above their defaults: a bench of 1,000 pods would otherwise
//! measure the 20 requests a second of a controller manager.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{ControlPlane, Part, User};
use crate::network::CONTROL;

/// The command of a part.
pub(super) fn command(part: Part, plane: &ControlPlane) -> Command {
    let program = match part {
        Part::Etcd => &plane.programs.etcd,
        Part::ApiServer => &plane.programs.apiserver,
        Part::Controllers => &plane.programs.controllers,
        Part::Scheduler => &plane.programs.scheduler,
    };
    let mut command = Command::new(program);
    command.args(match part {
        Part::Etcd => etcd(plane),
        Part::ApiServer => apiserver(plane),
        Part::Controllers => controllers(plane),
        Part::Scheduler => {
            let mut flags = client(&plane.kubeconfig(&User::Scheduler));
            flags.push(format!("--config={}", scheduler_file(plane).display()));
            flags
        }
    });
    command
}

/// Path of the scheduler's configuration.
pub(super) fn scheduler_file(plane: &ControlPlane) -> PathBuf {
    plane.folder.join("scheduler.yaml")
}

/// The scheduler's configuration. Nodes have room for exactly their share of pods: a pod without room is
/// retried a second later, instead of up to ten, which would dominate a rebuild.
pub(super) fn scheduler_configuration(plane: &ControlPlane) -> String {
    format!(
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n\
         clientConnection:\n  kubeconfig: {}\n  qps: 2000\n  burst: 4000\n\
         leaderElection:\n  leaderElect: false\npodInitialBackoffSeconds: 1\npodMaxBackoffSeconds: 1\n",
        plane.kubeconfig(&User::Scheduler).display()
    )
}

fn etcd(plane: &ControlPlane) -> Vec<String> {
    let mut flags = vec![
        format!("--data-dir={}", plane.folder.join("etcd").display()),
        "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
        "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--logger=zap".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    if !plane.settings.durable {
        flags.push("--unsafe-no-fsync".to_owned());
    }
    flags
}

fn apiserver(plane: &ControlPlane) -> Vec<String> {
    let file = |name: &str| plane.pki.file(name).display().to_string();
    let mut flags = vec![
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        "--secure-port=6443".to_owned(),
        "--bind-address=0.0.0.0".to_owned(),
        format!("--advertise-address={CONTROL}"),
        format!("--cert-dir={}", plane.folder.join("pki").display()),
        format!("--tls-cert-file={}", file("apiserver.crt")),
        format!("--tls-private-key-file={}", file("apiserver.key")),
        format!("--service-account-key-file={}", file("sa.pub")),
        format!("--service-account-signing-key-file={}", file("sa.key")),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--token-auth-file={}", plane.folder.join("tokens.csv").display()),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--allow-privileged=true".to_owned(),
        // One command that deletes a thousand pods is cut off after a minute; one worker takes as long.
        "--delete-collection-workers=20".to_owned(),
        // No profiling and no usage reports.
        "--profiling=false".to_owned(),
        // No endpoints of services on nodes: what cannot be reached need not be tried.
        "--endpoint-reconciler-type=none".to_owned(),
    ];
    if plane.settings.fast_failure {
        flags.push("--default-unreachable-toleration-seconds=5".to_owned());
        flags.push("--default-not-ready-toleration-seconds=5".to_owned());
    }
    flags
}

/// Flags that the two clients of the API server share.
fn client(kubeconfig: &Path) -> Vec<String> {
    let path = kubeconfig.display();
    vec![
        format!("--kubeconfig={path}"),
        format!("--authentication-kubeconfig={path}"),
        format!("--authorization-kubeconfig={path}"),
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
    ]
}

fn controllers(plane: &ControlPlane) -> Vec<String> {
    let mut flags = client(&plane.kubeconfig(&User::Controllers));
    flags.extend([
        "--use-service-account-credentials=true".to_owned(),
        format!("--service-account-private-key-file={}", plane.pki.file("sa.key").display()),
        format!("--root-ca-file={}", plane.pki.file("ca.crt").display()),
        "--kube-api-qps=2000".to_owned(),
        "--kube-api-burst=4000".to_owned(),
        "--concurrent-deployment-syncs=20".to_owned(),
        "--concurrent-replicaset-syncs=20".to_owned(),
    ]);
    if plane.settings.fast_failure {
        flags.extend(["--node-monitor-period=1s", "--node-monitor-grace-period=10s"].map(str::to_owned));
    }
    flags
}
