//! One request to the API server: sent once, awaited for a bounded time, its response read as a whole.
//!
//! [`super::judge`] decides the meaning of a response for a lease. This module only distinguishes two facts
//! for it: whether a response came, and whether the request can have reached the server.

use std::error::Error;
use std::io;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use kube::Client;
use kube::client::Body;
use serde::Deserialize;

use super::contact::Contact;

/// Path of the leases in the API.
pub const BASE: &str = "/apis/berth.dev/v1alpha1/ipleases";

/// Maximum size of a response in bytes: a page of 500 leases has one million.
const ANSWER_MAX: usize = 32 << 20;

/// Reason for the lack of a valid response.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The response is late.
    #[error("no response within {} ms; check the API server and the network to it", .0.as_millis())]
    Late(Duration),
    /// The connection failed.
    #[error("the connection to the API server failed; check that it runs and is reachable")]
    Connection(#[source] kube::Error),
    /// The connection failed during the read of the response.
    #[error("the response of the API server was truncated")]
    Cut(#[source] Box<dyn Error + Send + Sync>),
    /// It answered that it will not, or cannot.
    #[error("the API server responded {code} {reason}: {message}")]
    Answered {
        /// The HTTP status.
        code: u16,
        /// Reason in the response, if it has one.
        reason: String,
        /// Message of the response.
        message: String,
    },
    /// The response is not from an API server.
    #[error(
        "the response did not come from a Kubernetes API server; check the server URL in the agent's kubeconfig"
    )]
    Foreign(#[source] serde_json::Error),
    /// The response repeatedly contradicts itself.
    #[error("{0}")]
    Unsteady(&'static str),
}

impl Fault {
    /// True if the request cannot have reached the server.
    pub fn never_sent(&self) -> bool {
        let Self::Connection(error) = self else { return false };
        // The credentials are read before anything is sent.
        if matches!(error, kube::Error::Auth(_)) {
            return true;
        }
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = cause {
            // Only a new connection can be refused, and an existing one is not used then.
            if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
            {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// A complete response.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub retry_after: Option<Duration>,
    pub body: Vec<u8>,
}

/// Fields of a `Status` that distinguish responses.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    pub message: String,
    pub reason: String,
    pub details: Details,
}

/// Object of a `Status`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Details {
    pub name: String,
    pub kind: String,
    pub retry_after_seconds: u32,
}

impl Answer {
    /// The `Status` in its body; empty if the body is another object.
    pub fn said(&self) -> Status {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// It as the cause of an error.
    pub fn into_fault(self) -> Fault {
        let said = self.said();
        let message =
            if said.message.is_empty() { String::from_utf8_lossy(&self.body).into() } else { said.message };
        // A proxy's page may be long.
        let message = message.trim().chars().take(500).collect();
        Fault::Answered { code: self.status.as_u16(), reason: said.reason, message }
    }
}

/// The way to the API server.
pub struct Door {
    client: Client,
    deadline: Duration,
    contact: Contact,
}

impl Door {
    pub fn new(client: Client, deadline: Duration, contact: Contact) -> Self {
        Self { client, deadline, contact }
    }

    /// Sends a request about one object and reads the complete response, within the usual deadline.
    pub async fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Answer, Fault> {
        self.ask_within(self.deadline, method, path, body).await
    }

    /// The same with a separate deadline. The server gets a shorter one, so that it reports the time-out
    /// itself, and does not apply a write much later.
    pub async fn ask_within(
        &self,
        deadline: Duration,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Answer, Fault> {
        let sent = self.contact.now();
        let joint = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{joint}timeout={}ms", (deadline * 9 / 10).as_millis());
        let work = async {
            let response = self.send(method, &path, body).await?;
            let (status, retry_after) = (response.status(), retry_after(&response));
            let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(Fault::Cut)?;
            Ok(Answer { status, retry_after, body: body.to_bytes().to_vec() })
        };
        let answer = tokio::time::timeout(deadline, work).await.map_err(|_| Fault::Late(deadline))??;
        self.heard(&answer, sent);
        Ok(answer)
    }

    /// Opens a stream of events; an error response is read as a whole.
    pub async fn open(&self, path: &str) -> Result<Result<Body, Answer>, Fault> {
        let sent = self.contact.now();
        let work = async {
            let response = self.send(Method::GET, path, Vec::new()).await?;
            let (status, retry_after) = (response.status(), retry_after(&response));
            if status.is_success() {
                return Ok(Ok(response.into_body()));
            }
            let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(Fault::Cut)?;
            Ok(Err(Answer { status, retry_after, body: body.to_bytes().to_vec() }))
        };
        let opened =
            tokio::time::timeout(self.deadline, work).await.map_err(|_| Fault::Late(self.deadline))??;
        if opened.is_ok() {
            self.contact.note(sent);
        }
        Ok(opened)
    }

    async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Response<Body>, Fault> {
        let mut request =
            Request::builder().method(method).uri(path).header(header::ACCEPT, "application/json");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request =
            request.body(Body::from(body)).map_err(|e| Fault::Connection(kube::Error::HttpError(e)))?;
        self.client.send(request).await.map_err(Fault::Connection)
    }

    /// A response of the server's storage counts as contact; a response of its admission does not.
    fn heard(&self, answer: &Answer, sent: berth_ipam::time::Time) {
        let stored = answer.status == StatusCode::CONFLICT
            || (answer.status == StatusCode::NOT_FOUND && !answer.said().details.name.is_empty());
        if answer.status.is_success() || stored {
            self.contact.note(sent);
        }
    }
}

/// `Retry-After` in seconds; its other form, a date, is not used by API servers.
fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refused_connection_proves_that_nothing_was_sent() {
        let fault = |kind: io::ErrorKind| {
            Fault::Connection(kube::Error::Service(Box::new(io::Error::new(kind, io::Error::from(kind)))))
        };
        assert!(fault(io::ErrorKind::ConnectionRefused).never_sent());
        assert!(!fault(io::ErrorKind::ConnectionReset).never_sent());
        assert!(!fault(io::ErrorKind::BrokenPipe).never_sent());
        assert!(!Fault::Late(Duration::from_secs(5)).never_sent());
    }

    #[test]
    fn a_page_of_a_proxy_is_quoted_in_part() {
        let body = format!("<html>{}", "x".repeat(100_000)).into_bytes();
        let answer = Answer { status: StatusCode::BAD_GATEWAY, retry_after: None, body };
        let text = answer.into_fault().to_string();
        assert!(text.contains("502") && text.contains("<html>") && text.len() < 600, "{}", text.len());
    }
}
