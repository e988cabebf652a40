//! Making a client of the Kubernetes API.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::error::StoreError;

/// A server that is there accepts a connection in this time.
const CONNECT: Duration = Duration::from_secs(3);

type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// A client without automatic retries, for the cluster of `kubeconfig`, or else for the one in which this
/// process runs as a pod. Must be called inside a tokio runtime.
///
/// The retries of kube, which are on by default, would repeat writes after a 503 or 504, when it is unknown
/// whether the first one was applied.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, StoreError> {
    let mut config = config(kubeconfig).await?;
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT);
    // Each request has its own deadline, and a watch may be silent for longer.
    config.read_timeout = None;
    Client::try_from(config).map_err(|cause| failed(kubeconfig, Arc::new(cause)))
}

/// The way to the API server, with the credentials for it.
pub(super) async fn config(kubeconfig: Option<&Path>) -> Result<Config, StoreError> {
    match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|cause| failed(kubeconfig, Arc::new(cause)))?;
            let loaded = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
            loaded.map_err(|cause| failed(kubeconfig, Arc::new(cause)))
        }
        None => Config::incluster().map_err(|cause| failed(kubeconfig, Arc::new(cause))),
    }
}

fn failed(kubeconfig: Option<&Path>, cause: Cause) -> StoreError {
    let from =
        kubeconfig.map_or_else(|| "the pod's ServiceAccount".to_owned(), |path| path.display().to_string());
    StoreError::Connect { from, cause }
}
