//! Reloading of declarations on a separate thread: with a thousand networks it takes seconds.
//!
//! One reload runs at a time; a signal that comes meanwhile causes one more after it.

use std::path::Path;

use berth_api::ApiError;
use berth_ipam::config::Config;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use crate::startup;

/// Result of a reload.
pub type Read = Result<Result<Config, ApiError>, JoinError>;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Reload {
    running: Option<JoinHandle<Result<Config, ApiError>>>,
    again: bool,
}

impl Reload {
    /// Starts a reload, now or after the running one.
    pub fn begin(&mut self, path: &Path) {
        if self.running.is_some() {
            self.again = true;
            return;
        }
        let path = path.to_owned();
        self.running = Some(spawn_blocking(move || startup::declarations(&path)));
    }

    /// The end of the reading that is under way; never, if none is. Nothing is lost if the caller stops waiting.
    pub async fn read(&mut self) -> Read {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let read = running.await;
        self.running = None;
        read
    }

    /// True if a signal came during the last reload, so that one more must follow.
    pub fn take_again(&mut self) -> bool {
        std::mem::take(&mut self.again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn signals_during_a_reading_cause_one_more() {
        let mut reload = Reload::default();
        let nothing = Path::new("/nonexistent/berth.yaml");
        for _ in 0..5 {
            reload.begin(nothing);
        }
        assert!(reload.read().await.unwrap().is_err());
        assert!(reload.take_again() && !reload.take_again());
        let quiet = tokio::time::timeout(std::time::Duration::from_millis(1), reload.read()).await;
        assert!(quiet.is_err(), "nothing is being read");
    }
}
