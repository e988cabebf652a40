//! One request to the API server: bounded in time, with a classified failure.
//!
//! Invariant: nothing here retries. A write with a lost response may have been applied or not, and only its
//! sender can find out.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use berth_ipam::time::Time;
use kube::core::Status;

use crate::committer::chain;

/// Time limit of a response.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// Maximum length of an API server's message that is passed on.
const WORDS_MAX: usize = 400;
/// Interval at which a lasting failure is logged.
const AGAIN: Duration = Duration::from_mins(1);

/// Reason why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The response did not come in time.
    #[error("the API server did not answer within {} s", DEADLINE.as_secs())]
    Late,
    /// The API server answered that it will not.
    #[error("the API server answers {}: {}", .0.code, words(.0))]
    Refused(Box<Status>),
    /// The server was not reached, or its response is invalid.
    #[error("reach the API server")]
    Unreached(#[source] Box<dyn Error + Send + Sync>),
}

/// Waits for a request, but not for ever.
pub async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, RequestError> {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(answer) => answer.map_err(RequestError::from),
        Err(_) => Err(RequestError::Late),
    }
}

impl From<kube::Error> for RequestError {
    /// The causes alone: kube's own text repeats them.
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused(status),
            kube::Error::Service(cause) => Self::Unreached(cause),
            kube::Error::HyperError(cause) => Self::Unreached(cause.into()),
            error => Self::Unreached(error.into()),
        }
    }
}

fn words(status: &Status) -> &str {
    &status.message[..status.message.floor_char_boundary(WORDS_MAX)]
}

impl RequestError {
    fn refusal(&self) -> Option<&Status> {
        match self {
            Self::Refused(status) => Some(status),
            Self::Late | Self::Unreached(_) => None,
        }
    }

    /// The object differs from the request's precondition: another client wrote or created it.
    pub fn is_conflict(&self) -> bool {
        self.refusal().is_some_and(|status| status.is_conflict() || status.is_already_exists())
    }

    /// The object does not exist.
    pub fn is_absent(&self) -> bool {
        self.refusal().is_some_and(Status::is_not_found)
    }

    /// A retry will not help without a change: the request is forbidden, or invalid.
    pub fn is_refused(&self) -> bool {
        self.refusal().is_some_and(|status| (400..500).contains(&status.code) && status.code != 429)
    }
}

/// Logs what fails again and again, but not every time.
#[derive(Debug, Default)]
pub struct Complaint {
    said: BTreeMap<&'static str, Time>,
}

impl Complaint {
    /// Records the failure of `what`.
    pub fn about(&mut self, now: Time, what: &'static str, error: &RequestError) {
        if self.is_due(now, what) {
            self.said.insert(what, now);
            tracing::warn!(error = chain(error), "{what}");
        }
    }

    fn is_due(&self, now: Time, what: &str) -> bool {
        self.said.get(what).is_none_or(|at| now.since(*at) >= AGAIN)
    }

    /// Records that nothing fails.
    pub fn over(&mut self) {
        for what in std::mem::take(&mut self.said).into_keys() {
            tracing::info!("{what}: it works again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, reason: &str, message: &str) -> RequestError {
        kube::Error::Api(Status::failure(message, reason).with_code(code).boxed()).into()
    }

    #[test]
    fn what_a_failure_means() {
        for (code, reason, expected) in [
            (409, "Conflict", [true, false, true]),
            (409, "AlreadyExists", [true, false, true]),
            (404, "NotFound", [false, true, true]),
            (403, "Forbidden", [false, false, true]),
            (401, "Unauthorized", [false, false, true]),
            (429, "TooManyRequests", [false, false, false]),
            (500, "InternalError", [false, false, false]),
            (503, "", [false, false, false]),
        ] {
            let error = status(code, reason, "why");
            assert_eq!(
                [error.is_conflict(), error.is_absent(), error.is_refused()],
                expected,
                "{code} {reason}"
            );
        }
        assert!(!RequestError::Late.is_refused());
    }

    #[test]
    fn nothing_is_said_twice() {
        let error = status(403, "Forbidden", "leases is forbidden");
        assert_eq!(chain(&error), "the API server answers 403: leases is forbidden");
        let error = RequestError::from(kube::Error::Service("connection refused".into()));
        assert_eq!(chain(&error), "reach the API server: connection refused");
        assert!(chain(&status(500, "", &"ä".repeat(1000))).len() < WORDS_MAX + 50);
    }

    #[test]
    fn what_lasts_is_logged_once_a_minute() {
        let mut complaint = Complaint::default();
        let said: Vec<_> = (0..130)
            .filter(|second| {
                let now = Time::from_millis(second * 1000);
                let due = complaint.is_due(now, "renew");
                complaint.about(now, "renew", &RequestError::Late);
                due
            })
            .collect();
        assert_eq!(said, [0, 60, 120]);
        assert!(complaint.is_due(Time::from_millis(130_000), "read"), "another failure is news");
    }
}
