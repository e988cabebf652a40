//! Classification of API server responses for the caller of a store, as one table.
//!
//! Invariant: an error other than [`StoreError::OutcomeUnknown`] is returned only if the write cannot have
//! been applied. A response without that certainty is unknown.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::door::{Answer, Fault};
use crate::error::StoreError;

/// Description of a request.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Name of the operation, for errors.
    pub operation: &'static str,
    /// The object, or all of them.
    pub object: &'a str,
    /// True if the request changes something.
    pub writes: bool,
}

/// Outcome from which the caller continues.
#[derive(Debug)]
pub enum Said {
    /// It is done: the body.
    Done(Vec<u8>),
    /// The object is not there.
    Missing,
    /// The object already exists, or differs from the precondition.
    Conflict,
    /// The requested state is compacted.
    Expired,
}

impl Asked<'_> {
    /// Reads the outcome of a request.
    pub fn judge(self, outcome: Result<Answer, Fault>) -> Result<Said, StoreError> {
        let answer = match outcome {
            Ok(answer) => answer,
            Err(fault) if fault.never_sent() => return Err(self.unavailable(None, fault)),
            Err(fault) => return Err(self.unknown(fault)),
        };
        let status = answer.status;
        match status {
            _ if status.is_success() => Ok(Said::Done(answer.body)),
            StatusCode::NOT_FOUND if is_about_a_lease(&answer) => Ok(Said::Missing),
            StatusCode::NOT_FOUND => Err(StoreError::NoDefinition { cause: Arc::new(answer.into_fault()) }),
            StatusCode::CONFLICT => Ok(Said::Conflict),
            StatusCode::GONE if !self.writes => Ok(Said::Expired),
            StatusCode::UNAUTHORIZED => Err(StoreError::NotAuthenticated {
                operation: self.operation,
                cause: Arc::new(answer.into_fault()),
            }),
            StatusCode::FORBIDDEN => {
                Err(StoreError::Forbidden { operation: self.operation, cause: Arc::new(answer.into_fault()) })
            }
            StatusCode::TOO_MANY_REQUESTS => Err(self.unavailable(wait(&answer), answer.into_fault())),
            // A proxy sends this when it gave up waiting for a part of the request or for the server.
            StatusCode::REQUEST_TIMEOUT => Err(self.unknown(answer.into_fault())),
            _ if status.is_client_error() => Err(StoreError::Refused {
                operation: self.operation,
                object: self.object.to_owned(),
                cause: Arc::new(answer.into_fault()),
            }),
            // 5xx: the write may already be in etcd. Any other status is not from an API server.
            _ => Err(self.unknown_after(wait(&answer), answer.into_fault())),
        }
    }

    /// The write may have happened; a read has only failed.
    pub fn unknown(self, fault: Fault) -> StoreError {
        self.unknown_after(None, fault)
    }

    fn unknown_after(self, retry_after: Option<Duration>, fault: Fault) -> StoreError {
        if self.writes {
            StoreError::OutcomeUnknown { operation: self.operation, cause: Arc::new(fault) }
        } else {
            self.unavailable(retry_after, fault)
        }
    }

    pub fn unavailable(self, retry_after: Option<Duration>, fault: Fault) -> StoreError {
        StoreError::Unavailable { operation: self.operation, retry_after, cause: Arc::new(fault) }
    }
}

/// True if the object is missing, false if its kind is: without the definition the path itself is unknown.
fn is_about_a_lease(answer: &Answer) -> bool {
    let said = answer.said();
    said.reason == "NotFound" && said.details.kind == "ipleases" && !said.details.name.is_empty()
}

fn wait(answer: &Answer) -> Option<Duration> {
    let said = answer.said().details.retry_after_seconds;
    answer.retry_after.or((said > 0).then(|| Duration::from_secs(said.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(writes: bool, code: u16, body: &str) -> Result<Said, StoreError> {
        let status = StatusCode::from_u16(code).unwrap();
        let answer = Answer { status, retry_after: None, body: body.as_bytes().to_vec() };
        Asked { operation: "create", object: "default.10.0.0.7", writes }.judge(Ok(answer))
    }

    #[test]
    fn what_may_have_been_applied_is_unknown_and_nothing_else() {
        for code in [301, 408, 500, 502, 503, 504, 507] {
            let error = judged(true, code, "").unwrap_err();
            assert!(matches!(error, StoreError::OutcomeUnknown { .. }), "{code}: {error}");
            let error = judged(false, code, "").unwrap_err();
            assert!(matches!(error, StoreError::Unavailable { .. }), "{code}: {error}");
        }
        for code in [400, 401, 403, 404, 405, 413, 415, 422, 429] {
            let error = judged(true, code, "").unwrap_err();
            assert!(!matches!(error, StoreError::OutcomeUnknown { .. }), "{code}: {error}");
        }
    }

    #[test]
    fn a_missing_kind_is_no_missing_object() {
        let missing = r#"{"kind":"Status","reason":"NotFound","details":{"name":"x","kind":"ipleases"}}"#;
        assert!(matches!(judged(true, 404, missing), Ok(Said::Missing)));
        let other = missing.replace("ipleases", "pods");
        for body in ["404 page not found\n", "", "{}", &other] {
            let error = judged(false, 404, body).unwrap_err();
            assert!(error.to_string().contains("kubectl apply -f deploy/berth.yaml"), "{error}");
        }
    }

    #[test]
    fn the_server_says_how_long_to_wait() {
        let error = judged(true, 429, r#"{"details":{"retryAfterSeconds":3}}"#).unwrap_err();
        let StoreError::Unavailable { retry_after, .. } = error else { panic!("{error}") };
        assert_eq!(retry_after, Some(Duration::from_secs(3)));
    }
}
