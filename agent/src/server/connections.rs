//! The open connections, so that the main loop can answer by number.
//!
//! Sending never waits: a client that does not read its responses is disconnected, so that it cannot block
//! the main loop.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_protocol::Answer;
use tokio::sync::{Notify, mpsc};

/// Maximum number of responses that wait for one client to read.
const ANSWERS_WAITING_MAX: usize = 256;

/// One connection; numbers are never used again in one run of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The way back to the clients. Clones share one table.
#[derive(Debug, Clone, Default)]
pub struct Connections {
    table: Arc<Mutex<HashMap<ConnId, Inbox>>>,
}

/// The main loop's end of a connection.
#[derive(Debug)]
struct Inbox {
    answers: mpsc::Sender<Answer>,
    hang_up: Arc<Notify>,
}

/// The connection task's end.
#[derive(Debug)]
pub(super) struct Outbox {
    /// Responses to write.
    pub(super) answers: mpsc::Receiver<Answer>,
    /// Notified when the connection must end although the client does not read.
    pub(super) hang_up: Arc<Notify>,
}

impl Connections {
    /// Table without connections.
    pub fn new() -> Self {
        Self::default()
    }

    /// Queues a response. False if the connection is gone, or is closed now because its client has left too
    /// many responses unread.
    pub fn send(&self, conn: ConnId, answer: Answer) -> bool {
        let mut table = self.table();
        let Some(inbox) = table.get(&conn) else { return false };
        match inbox.answers.try_send(answer) {
            Ok(()) => true,
            Err(error) => {
                if matches!(error, mpsc::error::TrySendError::Full(_)) {
                    tracing::warn!(%conn, waiting = ANSWERS_WAITING_MAX, "hang up on a client that does not read");
                }
                inbox.hang_up.notify_one();
                table.remove(&conn);
                false
            }
        }
    }

    /// Hangs up once the client has been sent what is queued. Nothing if it is gone already.
    pub fn finish(&self, conn: ConnId) {
        self.table().remove(&conn);
    }

    /// Number of open connections.
    pub fn len(&self) -> usize {
        self.table().len()
    }

    /// True if none is open.
    pub fn is_empty(&self) -> bool {
        self.table().is_empty()
    }

    pub(super) fn open(&self, conn: ConnId) -> Outbox {
        let (sender, answers) = mpsc::channel(ANSWERS_WAITING_MAX);
        let hang_up = Arc::new(Notify::new());
        self.table().insert(conn, Inbox { answers: sender, hang_up: Arc::clone(&hang_up) });
        Outbox { answers, hang_up }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<ConnId, Inbox>> {
        // Every change of the table is one call, so a panic elsewhere leaves it whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
