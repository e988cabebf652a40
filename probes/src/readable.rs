//! Waiting in an event loop for the ring of events.
#![expect(unsafe_code, reason = "tokio takes descriptors of unknown kinds only by an unsafe call")]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor of the ring, registered with the runtime of the calling task.
#[derive(Debug)]
pub struct Readable(AsyncFd<OwnedFd>);

impl Readable {
    /// `ring` becomes readable when events wait.
    pub(crate) fn new(ring: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is owned by the value, stays open as long as that, and is always the same
        // one: it is unreachable from outside.
        let registered = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        registered.map(Self).map_err(|error| error.into_parts().1)
    }

    /// Waits until events are available. The woken task takes all of them; an event that arrives meanwhile
    /// wakes it again.
    pub async fn ready(&self) {
        // An error means that the runtime is ending.
        if let Ok(mut guard) = self.0.readable().await {
            guard.clear_ready();
        }
    }
}
