//! The agent's Unix socket: accepts root, splits lines, passes calls to the main loop.
//!
//! The server takes no decisions. Each connection is one task; its requests go to the main loop as
//! [`ServerEvent`], and the responses of the main loop come back through [`Connections`]. Invariant: for each
//! connection the main loop sees `Opened` first, then its calls in their order, and `Closed` exactly once and
//! last, as soon as the client has disconnected, because the ADD of a plugin that is gone must be undone at
//! once.

mod connections;
mod line;
mod socket;
#[cfg(test)]
mod tests;

use std::io::{self, ErrorKind, Write};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use berth_ipam::limit::{Limiter, Word};
use berth_protocol::{Answer, Failure, Outcome, Request, VERSION};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

pub use connections::{ConnId, Connections};
pub use socket::{BoundSocket, ServerError, raise_descriptor_limit};

use crate::clock;
use connections::Outbox;
use line::{Next, Reader};

/// Maximum number of concurrent connections; further ones are refused with code 11.
pub const CONNECTIONS_MAX: usize = 1024;

/// The CNI error code for "try again later".
pub const CODE_TRY_AGAIN: u32 = 11;

/// The CNI error code for what cannot be decoded.
pub const CODE_UNDECODABLE: u32 = 6;

/// The CNI error code that Berth uses for what the system or its permissions refuse.
pub const CODE_NOT_ALLOWED: u32 = 5;

/// Time that a refused client has to read the reason.
const GOODBYE: Duration = Duration::from_secs(1);

/// Pause of the listener when descriptors or memory have run out.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// The same error is logged again after this long, with the number of times that it came meanwhile.
const ERROR_AGAIN: Duration = Duration::from_secs(10);

/// Event on the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "most events are calls, and few wait at once")]
pub enum ServerEvent {
    /// A client connected.
    Opened {
        /// ID of the connection.
        conn: ConnId,
    },
    /// Request of a client.
    Call {
        /// ID of the connection.
        conn: ConnId,
        /// Repeated in the [`Answer`].
        id: u64,
        /// Content of the request.
        request: Request,
    },
    /// The client disconnected, or was refused. No more events of this connection follow.
    Closed {
        /// ID of the connection.
        conn: ConnId,
    },
}

/// Serves `socket` until the receiver of `events` is gone. Run it as a separate task; ending that task stops
/// accepting and leaves open connections alone.
///
/// `most` is the maximum number of concurrent connections, usually [`CONNECTIONS_MAX`].
pub async fn serve(
    socket: &BoundSocket,
    most: usize,
    events: mpsc::Sender<ServerEvent>,
    connections: Connections,
) -> Result<(), ServerError> {
    let listener = socket.listener()?;
    let places = Arc::new(Semaphore::new(most));
    let mut next = ConnId(0);
    let mut errors = Limiter::new(1, ERROR_AGAIN);
    loop {
        let stream = tokio::select! {
            () = events.closed() => return Ok(()),
            stream = accept(&listener, &mut errors) => stream,
        };
        let Some(stream) = stream else { continue };
        if let Some(failure) = refuse_stranger(&stream) {
            turn_away(stream, failure);
            continue;
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            turn_away(stream, full(most));
            continue;
        };
        next = ConnId(next.0 + 1);
        let outbox = connections.open(next);
        tokio::spawn(converse(next, stream, outbox, events.clone(), connections.clone(), place));
    }
}

/// The next connection; `None` after an error that concerns one connection, or a pause for one
/// that concerns all.
async fn accept(listener: &UnixListener, errors: &mut Limiter<ErrorKind, io::Error>) -> Option<UnixStream> {
    match listener.accept().await {
        Ok((stream, _)) => Some(stream),
        Err(error) => {
            if let Some(Word { word: error, held_back }) = errors.admit(clock::now(), error.kind(), error) {
                tracing::warn!(%error, held_back, "accept a connection");
            }
            // Without a pause a lack of descriptors would spin on the one that cannot be accepted.
            tokio::time::sleep(EXHAUSTED_PAUSE).await;
            None
        }
    }
}

fn refuse_stranger(stream: &UnixStream) -> Option<Failure> {
    let who = match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 => return None,
        Ok(peer) => format!("uid {}", peer.uid()),
        Err(error) => format!("a client whose credentials cannot be read ({error})"),
    };
    Some(Failure {
        code: CODE_NOT_ALLOWED,
        msg: format!("{who} may not talk to the agent"),
        details: "run the command as root".to_owned(),
    })
}

fn full(most: usize) -> Failure {
    Failure {
        code: CODE_TRY_AGAIN,
        msg: format!("the agent serves {most} connections already"),
        details: "try again; if this lasts, look for clients that do not hang up".to_owned(),
    }
}

/// Reports the reason and closes the connection, without a task and without waiting for the client.
fn turn_away(stream: UnixStream, failure: Failure) {
    let line = encode(&refusal(0, failure));
    // A client that is gone already, or reads nothing, needs no reason.
    let _ = stream.into_std().and_then(|stream| (&stream).write(&line));
}

fn refusal(id: u64, failure: Failure) -> Answer {
    Answer { v: VERSION, id, outcome: Outcome::Error(failure) }
}

/// The line of a response, including its newline.
fn encode(answer: &Answer) -> Vec<u8> {
    let mut line = serde_json::to_vec(answer).unwrap_or_else(|error| {
        tracing::error!(%error, "encode an answer");
        format!(
            r#"{{"v":{VERSION},"id":{},"error":{{"code":999,"msg":"the agent cannot encode its answer"}}}}"#,
            answer.id
        )
        .into_bytes()
    });
    line.push(b'\n');
    line
}

/// Reason for the end of a connection.
enum End {
    /// The client hung up, reads nothing, or the main loop is done with it.
    Over,
    /// Its input cannot be served; the client gets the error.
    Refused(Box<Answer>),
}

async fn converse(
    conn: ConnId,
    stream: UnixStream,
    outbox: Outbox,
    events: mpsc::Sender<ServerEvent>,
    connections: Connections,
    place: OwnedSemaphorePermit,
) {
    let (reader, writer) = stream.into_split();
    let Outbox { answers, hang_up } = outbox;
    let mut writing = pin!(write_answers(writer, answers));
    if events.send(ServerEvent::Opened { conn }).await.is_ok() {
        let end = tokio::select! {
            end = read_calls(conn, reader, &events) => end,
            () = &mut writing => End::Over,
            () = hang_up.notified() => End::Over,
        };
        if let End::Refused(answer) = end {
            connections.send(conn, *answer);
            connections.finish(conn);
            let _ = tokio::time::timeout(GOODBYE, writing).await;
        }
    }
    connections.finish(conn);
    // The slot is free before the main loop gets the event, so that it may count on it.
    drop(place);
    let _ = events.send(ServerEvent::Closed { conn }).await;
}

async fn read_calls(conn: ConnId, reader: OwnedReadHalf, events: &mpsc::Sender<ServerEvent>) -> End {
    let mut reader = Reader::new(reader);
    loop {
        match reader.next().await {
            Next::Call(call) => {
                let event = ServerEvent::Call { conn, id: call.id, request: call.request };
                if events.send(event).await.is_err() {
                    return End::Over;
                }
            }
            Next::HungUp => return End::Over,
            Next::Unusable { id, failure } => return End::Refused(Box::new(refusal(id, failure))),
        }
    }
}

/// Writes the responses of the main loop, one write per message; ends when the main loop is done with the
/// connection or the client is gone.
async fn write_answers(mut writer: OwnedWriteHalf, mut answers: mpsc::Receiver<Answer>) {
    while let Some(answer) = answers.recv().await {
        if writer.write_all(&encode(&answer)).await.is_err() {
            return;
        }
    }
}
