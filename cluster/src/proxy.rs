//! A proxy between one client and the API server that injects faults on command.
//!
//! It listens next to the API server, with the same certificate, and passes requests on with the client's own
//! credentials. Only a client with [`Proxy::kubeconfig`] goes through it. Like [`crate::api::Api`] it is one
//! thread that is started in the namespace: all of its sockets are there, and all are gone when it is
//! dropped.

pub mod faults;
pub mod request;
mod stream;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER, TRANSFER_ENCODING};
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::api;
use crate::error::{Error, Result};
use crate::network::CONTROL;
use crate::pki::Pki;

pub use faults::{Counts, Faults, Refusal};
pub use request::Verb;

use faults::Fate;
use request::Asked;

/// Maximum number of concurrent connections; an agent has about ten.
const CONNECTIONS: usize = 128;
/// Time limit of a client's handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Maximum size of a request's body.
const REQUEST_MAX: usize = 4 << 20;

type AnyError = Box<dyn std::error::Error + Send + Sync>;
type Answer = Response<UnsyncBoxBody<Bytes, AnyError>>;

/// Ends a client's connection without a response: the request or its response was interrupted, or must be.
#[derive(Debug, thiserror::Error)]
#[error("a request without a response")]
struct Broken;

/// A running proxy.
pub struct Proxy {
    /// Faults to inject, and their counts.
    pub faults: Faults,
    kubeconfig: PathBuf,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Specification of a proxy.
pub(crate) struct Plan<'a> {
    /// The namespace of the control plane.
    pub netns: &'a Path,
    /// The control plane's keys.
    pub pki: &'a Pki,
    /// Kubeconfig of the client behind the proxy.
    pub original: &'a Path,
    /// Path of the copy that leads through the proxy.
    pub kubeconfig: PathBuf,
}

impl Proxy {
    /// Starts one that does nothing wrong yet.
    pub(crate) fn start(plan: Plan<'_>) -> Result<Self> {
        let faults = Faults::default();
        let tls = tls(plan.pki)?;
        let (send, receive) = mpsc::channel();
        let (end, ended) = oneshot::channel();
        let (netns, original, switches) = (plan.netns.to_owned(), plan.original.to_owned(), faults.clone());
        let thread = std::thread::spawn(move || {
            let inside = berth_testbed::netns::inside(&netns, || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    match open(&original).await {
                        Ok((listener, address, client)) => {
                            let relay = Arc::new(Relay { client, faults: switches });
                            if send.send(Ok(address)).is_ok() {
                                tokio::select! {
                                    () = serve(listener, tls, relay) => {}
                                    _ = ended => {}
                                }
                            }
                        }
                        // The caller that waits for the address gets the error; without a caller, nothing was
                        // started.
                        Err(error) => drop(send.send(Err(error))),
                    }
                });
                // Connections end with their tasks, and these with the runtime.
                Ok(())
            });
            drop(inside);
        });
        let address: SocketAddr =
            receive.recv().map_err(|_| Error::ApiGone { what: "a proxy".to_owned() })??;
        let proxy = Self { faults, kubeconfig: plan.kubeconfig, end: Some(end), thread: Some(thread) };
        proxy.write_kubeconfig(plan.original, address)?;
        Ok(proxy)
    }

    fn write_kubeconfig(&self, original: &Path, address: SocketAddr) -> Result<()> {
        let read = std::fs::read_to_string(original);
        let text = read.map_err(Error::file(format!("read {}", original.display())))?;
        let text = text.replace(&format!("https://{CONTROL}:6443"), &format!("https://{address}"));
        let written = std::fs::write(&self.kubeconfig, text);
        written.map_err(Error::file(format!("write {}", self.kubeconfig.display())))
    }

    /// Kubeconfig for clients that go through it.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The API server's own certificate: it names the address, and all clients trust its authority.
fn tls(pki: &Pki) -> Result<TlsAcceptor> {
    let failed = |cause: AnyError| Error::Proxy { what: "use the API server's certificate", cause };
    let certificate =
        CertificateDer::from_pem_file(pki.file("apiserver.crt")).map_err(|e| failed(e.into()))?;
    let key = PrivateKeyDer::from_pem_file(pki.file("apiserver.key")).map_err(|e| failed(e.into()))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(e.into()))?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(|e| failed(e.into()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A listener at a free port, and a client without credentials: those of requests are passed on.
async fn open(original: &Path) -> Result<(TcpListener, SocketAddr, Client)> {
    let listen = async {
        let listener = TcpListener::bind((CONTROL, 0)).await?;
        listener.local_addr().map(|address| (listener, address))
    };
    let (listener, address) = listen.await.map_err(Error::file("listen as a proxy"))?;
    let mut config = api::config(original).await?;
    config.auth_info = kube::config::AuthInfo::default();
    // A watch may be silent for long.
    config.read_timeout = None;
    let client = Client::try_from(config).map_err(Error::request("make a proxy's client"))?;
    Ok((listener, address, client))
}

/// Takes connections for ever.
async fn serve(listener: TcpListener, tls: TlsAcceptor, relay: Arc<Relay>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptors are left, perhaps; a client that waits comes again.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (tls, relay) = (tls.clone(), Arc::clone(&relay));
        tokio::spawn(async move {
            connection(stream, tls, relay).await;
            drop(place);
        });
    }
}

/// Serves one connection to its end: a client that disconnects is not an error here.
async fn connection(stream: TcpStream, tls: TlsAcceptor, relay: Arc<Relay>) {
    // Small responses must not wait for each other.
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await else { return };
    let service = service_fn(move |request| {
        let relay = Arc::clone(&relay);
        async move { relay.answer(request).await }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// The way from a client to the API server.
struct Relay {
    client: Client,
    faults: Faults,
}

impl Relay {
    /// The response to a request.
    async fn answer(&self, request: Request<Incoming>) -> Result<Answer, Broken> {
        let asked = Asked::read(request.method(), request.uri());
        let (delay, fate) = self.faults.fate(&asked);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if let Fate::Refuse(how) = fate {
            return refuse(how, &asked);
        }
        let response = self.forward(request).await?;
        if fate == Fate::LoseReply {
            let carried_out = response.status().is_success();
            if self.faults.lost(&asked, carried_out) {
                // To its end: the API server is not to see a client that went away.
                drop(response.into_body().collect().await);
                return Err(Broken);
            }
        }
        let (mut head, body) = response.into_parts();
        for name in [CONNECTION, TRANSFER_ENCODING] {
            head.headers.remove(name);
        }
        let body = if asked.verb == Verb::Watch && head.status.is_success() {
            let body = stream::held(body, asked, &self.faults);
            body.map_err(|never: Infallible| match never {}).boxed_unsync()
        } else {
            body.map_err(Into::into).boxed_unsync()
        };
        Ok(Response::from_parts(head, body))
    }

    async fn forward(&self, request: Request<Incoming>) -> Result<Response<Body>, Broken> {
        let (mut head, body) = request.into_parts();
        // They are about the connection to this proxy, and the next one has its own.
        for name in [HOST, CONNECTION, TRANSFER_ENCODING] {
            head.headers.remove(name);
        }
        let body = Limited::new(body, REQUEST_MAX).collect().await.map_err(|_| Broken)?.to_bytes();
        let request = Request::from_parts(head, Body::from(body));
        self.client.send(request).await.map_err(|_| Broken)
    }
}

fn refuse(how: Refusal, asked: &Asked) -> Result<Answer, Broken> {
    let mut answer = Response::builder().status(how.code()).header(CONTENT_TYPE, "application/json");
    if let Some(seconds) = how.retry_after() {
        answer = answer.header(RETRY_AFTER, seconds);
    }
    let body = Full::new(Bytes::from(how.status(asked)));
    answer.body(body.map_err(|never| match never {}).boxed_unsync()).map_err(|_| Broken)
}
