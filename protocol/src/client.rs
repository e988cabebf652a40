//! Blocking client of the agent's socket, for the plugin and for berthctl.
//!
//! A call is one request line and one response line, each with its own deadline. The client never retries. It
//! only classifies errors ([`CallError::is_absence`]); the caller decides how often and how long to retry.
//! Invariant: after any error but [`CallError::Refused`] the state of the connection is unknown, and every
//! further call on it fails.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::Serialize;

use crate::{Answer, Failure, LINE_BYTES_MAX, Outcome, Request, Response, VERSION};

/// Pause before the next connect to a socket with a full accept queue.
const QUEUE_PAUSE: Duration = Duration::from_millis(5);

/// A connection to the agent.
#[derive(Debug)]
pub struct Client {
    /// The socket's path, for messages.
    socket: String,
    stream: UnixStream,
    /// Bytes received after the last complete line.
    pending: Vec<u8>,
    last_id: u64,
    broken: bool,
}

/// Reason why a call brought no response.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No socket, no listener on it, or the agent closed the connection: it is down or being replaced.
    #[error("no agent is serving the socket {socket}")]
    Absent {
        /// The socket's path.
        socket: String,
        /// Error from the kernel.
        #[source]
        cause: std::io::Error,
    },
    /// The agent accepted the connection, but did not respond in time.
    #[error("the agent did not respond within {} ms", within.as_millis())]
    Silent {
        /// The deadline of the call.
        within: Duration,
    },
    /// The socket cannot be used: permission, a path that is too long.
    #[error("cannot connect to the agent's socket {}", socket.display())]
    Unusable {
        /// The socket's path.
        socket: PathBuf,
        /// Error from the kernel.
        #[source]
        cause: std::io::Error,
    },
    /// The agent understood the request and refused it.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// The response does not follow this protocol.
    #[error("malformed response from the agent: {why}")]
    Malformed {
        /// Description of the violation.
        why: String,
    },
    /// The request is longer than a line may be; nothing was sent.
    #[error("the request has {bytes} bytes; the limit of a line is {LINE_BYTES_MAX}")]
    TooLong {
        /// The line's length.
        bytes: usize,
    },
}

impl CallError {
    /// True if the agent is absent, as opposed to slow or refusing: the same request may succeed once it is
    /// back.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Absent { .. })
    }
}

/// [`crate::Call`] without owning the request, so that a retry needs no copy.
#[derive(Serialize)]
struct BorrowedCall<'a> {
    v: u32,
    id: u64,
    request: &'a Request,
}

impl Client {
    /// Connects to the agent's socket, waiting at most `within` for a place in its queue.
    pub fn connect(socket: &Path, within: Duration) -> Result<Self, CallError> {
        let deadline = Instant::now() + within;
        let unusable = |errno: Errno| CallError::Unusable { socket: socket.to_owned(), cause: errno.into() };
        let address = SocketAddrUnix::new(socket).map_err(unusable)?;
        loop {
            // Non-blocking, because a blocking connect waits without limit while the queue is full.
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
                .map_err(unusable)?;
            match rustix::net::connect(&fd, &address) {
                Ok(()) => return Self::over(UnixStream::from(fd), socket),
                Err(Errno::AGAIN | Errno::INTR) if Instant::now() < deadline => {
                    std::thread::sleep(QUEUE_PAUSE);
                }
                Err(Errno::AGAIN | Errno::INTR) => return Err(CallError::Silent { within }),
                Err(errno @ (Errno::NOENT | Errno::NOTDIR | Errno::CONNREFUSED | Errno::CONNRESET)) => {
                    return Err(CallError::Absent {
                        socket: socket.display().to_string(),
                        cause: errno.into(),
                    });
                }
                Err(errno) => return Err(unusable(errno)),
            }
        }
    }

    fn over(stream: UnixStream, socket: &Path) -> Result<Self, CallError> {
        stream
            .set_nonblocking(false)
            .map_err(|cause| CallError::Unusable { socket: socket.to_owned(), cause })?;
        let socket = socket.display().to_string();
        Ok(Self { socket, stream, pending: Vec::new(), last_id: 0, broken: false })
    }

    /// Sends a request and waits at most `within` for the response.
    pub fn call(&mut self, request: &Request, within: Duration) -> Result<Response, CallError> {
        self.send(request, within)?;
        self.next(Some(within))
    }

    /// Sends a request that is answered through [`Self::next`], as `events` is.
    pub fn send(&mut self, request: &Request, within: Duration) -> Result<(), CallError> {
        self.refuse_if_broken()?;
        let call = BorrowedCall { v: VERSION, id: self.last_id + 1, request };
        let mut line =
            serde_json::to_vec(&call).map_err(|error| CallError::Malformed { why: error.to_string() })?;
        line.push(b'\n');
        if line.len() > LINE_BYTES_MAX {
            return Err(CallError::TooLong { bytes: line.len() });
        }
        self.last_id += 1;
        let sent = self
            .stream
            .set_write_timeout(Some(at_least_a_little(within)))
            .and_then(|()| self.stream.write_all(&line));
        sent.map_err(|cause| self.broke(cause, within))
    }

    /// The next response to the last request; waits at most `within`, or without limit.
    pub fn next(&mut self, within: Option<Duration>) -> Result<Response, CallError> {
        self.refuse_if_broken()?;
        let deadline = within.map(|within| Instant::now() + within);
        loop {
            let line = self.line(deadline, within.unwrap_or_default())?;
            let answer: Answer = serde_json::from_slice(&line).map_err(|error| {
                self.broken = true;
                CallError::Malformed { why: error.to_string() }
            })?;
            if answer.v != VERSION {
                self.broken = true;
                let why = format!("it has version {}, this program supports version {VERSION}", answer.v);
                return Err(CallError::Malformed { why });
            }
            // A response to an earlier call, which was given up, is skipped.
            if answer.id == self.last_id || answer.id == 0 {
                return match answer.outcome {
                    Outcome::Ok(response) => Ok(response),
                    Outcome::Error(failure) => Err(failure.into()),
                };
            }
        }
    }

    fn line(&mut self, deadline: Option<Instant>, within: Duration) -> Result<Vec<u8>, CallError> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.pending[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.pending.split_off(searched + end + 1);
                return Ok(std::mem::replace(&mut self.pending, rest));
            }
            searched = self.pending.len();
            let left = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => {
                    self.broken = true;
                    return Err(CallError::Silent { within });
                }
                left => left,
            };
            let mut chunk = [0; 8192];
            let read = self.stream.set_read_timeout(left).and_then(|()| self.stream.read(&mut chunk));
            match read {
                Ok(0) => return Err(self.broke(ErrorKind::UnexpectedEof.into(), within)),
                Ok(count) => self.pending.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broke(error, within)),
            }
        }
    }

    fn broke(&mut self, cause: std::io::Error, within: Duration) -> CallError {
        self.broken = true;
        match cause.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => CallError::Silent { within },
            _ => self.absent(cause),
        }
    }

    fn refuse_if_broken(&self) -> Result<(), CallError> {
        if self.broken { Err(self.absent(ErrorKind::NotConnected.into())) } else { Ok(()) }
    }

    fn absent(&self, cause: std::io::Error) -> CallError {
        CallError::Absent { socket: self.socket.clone(), cause }
    }
}

/// The standard library refuses a time-out of zero.
fn at_least_a_little(within: Duration) -> Duration {
    within.max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    const SOON: Duration = Duration::from_millis(500);

    /// Serves one connection with `answers`, one per request line; then closes it.
    fn serve(answers: &'static [&'static str], linger: Duration) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            for answer in answers {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                (&stream).write_all(answer.as_bytes()).unwrap();
            }
            thread::sleep(linger);
        });
        (dir, path)
    }

    #[test]
    fn an_answer_and_a_refusal_arrive_on_one_connection() {
        let (_dir, path) = serve(
            &[
                "{\"v\":1,\"id\":1,\"ok\":{\"status\":{\"ready\":true,\"reasons\":[]}}}\n",
                "{\"v\":1,\"id\":2,\"error\":{\"code\":11,\"msg\":\"no address is free\",\"details\":\"wait\"}}\n",
            ],
            Duration::ZERO,
        );
        let mut client = Client::connect(&path, SOON).unwrap();
        assert!(
            matches!(client.call(&Request::Status { network: None }, SOON), Ok(Response::Status(status)) if status.ready)
        );
        let refused = client.call(&Request::Status { network: None }, SOON).unwrap_err();
        assert!(matches!(&refused, CallError::Refused(failure) if failure.code == 11), "{refused:?}");
        assert!(!refused.is_absence());
    }

    #[test]
    fn no_socket_and_a_dead_socket_and_a_hang_up_are_absence() {
        let dir = tempfile::tempdir().unwrap();
        let none = dir.path().join("none.sock");
        assert!(Client::connect(&none, SOON).unwrap_err().is_absence());

        let stale = dir.path().join("stale.sock");
        drop(UnixListener::bind(&stale).unwrap());
        assert!(Client::connect(&stale, SOON).unwrap_err().is_absence());

        let (_dir, path) = serve(&["{\"v\":1,\"id\":1,"], Duration::ZERO);
        let mut client = Client::connect(&path, SOON).unwrap();
        let hung_up = client.call(&Request::Status { network: None }, SOON).unwrap_err();
        assert!(hung_up.is_absence() && hung_up.to_string().contains("agent.sock"), "{hung_up}");
        assert!(
            client.call(&Request::Status { network: None }, SOON).unwrap_err().is_absence(),
            "a broken client stays broken"
        );
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let (_dir, path) = serve(&[""], Duration::from_secs(3));
        let mut client = Client::connect(&path, SOON).unwrap();
        let start = Instant::now();
        let silent = client.call(&Request::Status { network: None }, Duration::from_millis(60)).unwrap_err();
        assert!(matches!(silent, CallError::Silent { .. }), "{silent:?}");
        assert!((Duration::from_millis(50)..Duration::from_millis(600)).contains(&start.elapsed()));
    }

    #[test]
    fn a_full_queue_is_silence_not_a_hang() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let mut held = Vec::new();
        let error = loop {
            match Client::connect(&path, Duration::from_millis(30)) {
                Ok(client) => held.push(client),
                Err(error) => break error,
            }
            assert!(held.len() < 10);
        };
        assert!(matches!(error, CallError::Silent { .. }), "{error:?}");
    }

    #[test]
    fn another_version_and_garbage_are_named() {
        for (answer, word) in
            [("{\"v\":2,\"id\":1,\"ok\":\"done\"}\n", "version 2"), ("hello\n", "expected value")]
        {
            let answers: &'static [&'static str] = Box::leak(Box::new([answer]));
            let (_dir, path) = serve(answers, Duration::ZERO);
            let mut client = Client::connect(&path, SOON).unwrap();
            let error = client.call(&Request::Status { network: None }, SOON).unwrap_err();
            assert!(
                matches!(error, CallError::Malformed { .. }) && error.to_string().contains(word),
                "{error}"
            );
        }
    }

    #[test]
    fn a_stale_answer_is_passed_over() {
        let (_dir, path) = serve(
            &[
                "{\"v\":1,\"id\":7,\"ok\":\"done\"}\n{\"v\":1,\"id\":1,\"ok\":{\"status\":{\"ready\":false,\"reasons\":[]}}}\n",
            ],
            Duration::ZERO,
        );
        let mut client = Client::connect(&path, SOON).unwrap();
        assert!(matches!(client.call(&Request::Status { network: None }, SOON), Ok(Response::Status(_))));
    }

    #[test]
    fn an_oversized_request_is_not_sent() {
        let (_dir, path) = serve(&[], Duration::from_millis(100));
        let mut client = Client::connect(&path, SOON).unwrap();
        let request: Request = serde_json::from_value(serde_json::json!({"lease": {
            "txn": "x".repeat(LINE_BYTES_MAX), "attachment": {"network": "lan", "containerID": "c", "ifname": "eth0"},
            "cniNetwork": "lan", "role": "main", "netns": {"cookie": "1", "inode": 2, "nsid": 3, "nsidIsRandom": true}
        }}))
        .unwrap();
        assert!(matches!(client.call(&request, SOON), Err(CallError::TooLong { .. })));
    }
}
