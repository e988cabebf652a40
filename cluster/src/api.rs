//! A client of the API server inside a namespace of the cluster. Its sockets must be created there, so all of
//! it runs on one thread that is started there and exits there.
//!
//! Callers pass futures; the thread runs them concurrently. No code here blocks that thread.

use std::future::Future;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// Time limit of a connection to the server.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Time limit of any response; the server itself gives up after a minute.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);

/// The thread, with its client.
pub struct Api {
    handle: Handle,
    client: Client,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Api {
    /// Starts a client in the namespace at `netns`, with the identity of a kubeconfig. It sends no request
    /// yet.
    pub fn open(netns: &Path, kubeconfig: &Path) -> Result<Self> {
        let (send, receive) = mpsc::channel();
        let (end, ended) = oneshot::channel();
        let (netns, path) = (netns.to_owned(), kubeconfig.to_owned());
        let thread = std::thread::spawn(move || {
            let inside = berth_testbed::netns::inside(&netns, || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    let client = client(&path).await;
                    if send.send(client.map(|client| (Handle::current(), client))).is_ok() {
                        // Either way it is time to go.
                        let _ = ended.await;
                    }
                });
                // A blocking call may still run; it holds nothing of ours.
                runtime.shutdown_background();
                Ok(())
            });
            drop(inside);
        });
        let answer = receive.recv().map_err(|_| Error::ApiGone { what: "its start".to_owned() })?;
        let (handle, client) = answer?;
        Ok(Self { handle, client, end: Some(end), thread: Some(thread) })
    }

    /// The client, for use in futures that [`Self::wait`] and [`Self::spawn`] run.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Runs a future on the thread and waits for its end. Never call it from such a future.
    pub fn wait<T, F>(&self, what: &str, future: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (send, receive) = mpsc::channel();
        self.handle.spawn(async move {
            // The caller may be gone.
            let _ = send.send(future.await);
        });
        receive.recv().map_err(|_| Error::ApiGone { what: what.to_owned() })
    }

    /// The same for a request, which has an end: its error names it.
    pub fn ask<T, F>(&self, what: &str, request: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = kube::Result<T>> + Send + 'static,
    {
        self.ask_within(what, ANSWER_LIMIT, request)
    }

    fn ask_within<T, F>(&self, what: &str, within: Duration, request: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = kube::Result<T>> + Send + 'static,
    {
        let limited = async move { tokio::time::timeout(within, request).await };
        let answered = self.wait(what, limited)?;
        answered
            .map_err(|_| Error::Timeout { what: format!("an answer to: {what}"), within })?
            .map_err(Error::request(what))
    }

    /// Lets a future run on the thread.
    pub fn spawn<F>(&self, future: F) -> tokio::task::JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.handle.spawn(future)
    }

    /// The text at a path such as `/metrics`.
    pub fn text(&self, path: &str) -> Result<String> {
        self.text_within(path, ANSWER_LIMIT)
    }

    /// The same, and no longer than that.
    pub fn text_within(&self, path: &str, within: Duration) -> Result<String> {
        let client = self.client();
        let request = http_get(path)?;
        self.ask_within(path, within, async move { client.request_text(request).await })
    }
}

/// A GET of a path.
fn http_get(path: &str) -> Result<http::Request<Vec<u8>>> {
    http::Request::get(path).body(Vec::new()).map_err(|error| Error::Usage(format!("{path}: {error}")))
}

impl Drop for Api {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A client with the identity of a kubeconfig, for futures on an [`Api`]'s thread.
pub(crate) async fn client(path: &Path) -> Result<Client> {
    Client::try_from(config(path).await?).map_err(Error::request("make a client"))
}

/// Configuration of such a client.
pub(crate) async fn config(path: &Path) -> Result<Config> {
    let wrong = |cause| Error::Kubeconfig { path: path.to_owned(), cause: Box::new(cause) };
    let text = std::fs::read_to_string(path).map_err(Error::file(format!("read {}", path.display())))?;
    let file = Kubeconfig::from_yaml(&text).map_err(wrong)?;
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(file, &options).await.map_err(wrong)?;
    config.connect_timeout = Some(CONNECT_LIMIT);
    // A stand-in that repeats refused requests would hide the refusal.
    config.default_retry = false;
    Ok(config)
}
