//! One request to the API server: bounded in time, and what its failure means for who asked.
//!
//! Invariant: nothing here asks twice. A write whose answer is lost may have been carried out or not, and
//! only who sent it knows how to find out.

use std::time::Duration;

use kube::core::Status;

/// So long an answer is waited for.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No answer came in time.
    #[error("the API server did not answer within {} s", DEADLINE.as_secs())]
    Late,
    /// The API server refused, or was not reached.
    #[error("ask the API server")]
    Failed(#[source] kube::Error),
}

/// Waits for a request, but not for ever.
pub async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, RequestError> {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(answer) => answer.map_err(RequestError::Failed),
        Err(_) => Err(RequestError::Late),
    }
}

impl RequestError {
    /// What the API server answered, if it did.
    fn refusal(&self) -> Option<&Status> {
        match self {
            Self::Failed(kube::Error::Api(status)) => Some(status),
            Self::Late | Self::Failed(_) => None,
        }
    }

    /// The object is not as the request says that it is: somebody else wrote it, or made it.
    pub fn is_conflict(&self) -> bool {
        self.refusal().is_some_and(|status| status.is_conflict() || status.is_already_exists())
    }

    /// There is no such object.
    pub fn is_absent(&self) -> bool {
        self.refusal().is_some_and(Status::is_not_found)
    }

    /// Asking again will not help before somebody does something: it is forbidden, or not understood.
    pub fn is_refused(&self) -> bool {
        self.refusal().is_some_and(|status| (400..500).contains(&status.code) && status.code != 429)
    }
}
