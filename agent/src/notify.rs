//! Reports start, reload and end to a service manager (the datagrams of `sd_notify(3)`).
//!
//! Nothing depends on the manager: without `NOTIFY_SOCKET` every call does nothing, and a failure is only
//! logged.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::time::{ClockId, clock_gettime};

/// The variable in which the manager names its socket.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// State that is reported to the manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State<'a> {
    /// The agent serves.
    Ready,
    /// It reads its configuration again; [`State::Ready`] follows.
    Reloading,
    /// It is about to end.
    Stopping,
    /// A line for people, shown by `systemctl status`.
    Status(&'a str),
}

/// Reason why the report failed.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// The variable's value is not an address.
    #[error("{VARIABLE} is {value:?}: it must begin with `/` or `@`")]
    Address {
        /// The variable's value.
        value: OsString,
    },
    /// The datagram was not accepted.
    #[error("notify the service manager at {socket:?}")]
    Send {
        /// The variable's value.
        socket: OsString,
        /// Error from the kernel.
        #[source]
        cause: io::Error,
    },
}

/// The way to the service manager, if there is one.
#[derive(Debug, Clone, Default)]
pub struct Notifier {
    socket: Option<OsString>,
}

impl Notifier {
    /// Takes the manager's socket from the environment.
    pub fn from_env() -> Self {
        Self::new(std::env::var_os(VARIABLE))
    }

    /// With a socket in the variable's form: a path, or `@` and an abstract name.
    pub fn new(socket: Option<OsString>) -> Self {
        Self { socket: socket.filter(|socket| !socket.is_empty()) }
    }

    /// Sends one datagram; never waits for the manager.
    pub fn send(&self, state: &State<'_>) -> Result<(), NotifyError> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let address = address(socket)?;
        let sent = UnixDatagram::unbound().and_then(|datagram| {
            datagram.set_nonblocking(true)?;
            datagram.send_to_addr(message(state).as_bytes(), &address)
        });
        sent.map(|_| ()).map_err(|cause| NotifyError::Send { socket: socket.clone(), cause })
    }
}

fn address(socket: &OsStr) -> Result<SocketAddr, NotifyError> {
    let made = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(socket),
        _ => return Err(NotifyError::Address { value: socket.to_owned() }),
    };
    made.map_err(|cause| NotifyError::Send { socket: socket.to_owned(), cause })
}

fn message(state: &State<'_>) -> String {
    match state {
        State::Ready => "READY=1\n".to_owned(),
        State::Stopping => "STOPPING=1\n".to_owned(),
        State::Status(text) => format!("STATUS={}\n", text.replace('\n', " ")),
        // Type=notify-reload pairs this with the READY=1 that follows by this time.
        State::Reloading => {
            let now = clock_gettime(ClockId::Monotonic);
            let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
            format!("RELOADING=1\nMONOTONIC_USEC={micros}\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        manager.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_path_and_an_abstract_name_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("berth-test-{}-{}", std::process::id(), dir.path().display());
        let managers = [
            (UnixDatagram::bind(&path).unwrap(), path.clone().into_os_string()),
            (
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(),
                format!("@{name}").into(),
            ),
        ];
        for (manager, socket) in managers {
            let notifier = Notifier::new(Some(socket));
            notifier.send(&State::Ready).unwrap();
            assert_eq!(receive(&manager), "READY=1\n");
            notifier.send(&State::Status("two\nlines")).unwrap();
            assert_eq!(receive(&manager), "STATUS=two lines\n");
            notifier.send(&State::Reloading).unwrap();
            let text = receive(&manager);
            let micros = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            assert!(micros.trim_end().parse::<u64>().unwrap() > 0);
            notifier.send(&State::Stopping).unwrap();
            assert_eq!(receive(&manager), "STOPPING=1\n");
        }
    }

    #[test]
    fn nobody_listening_is_no_error_and_nonsense_is_one() {
        Notifier::new(None).send(&State::Ready).unwrap();
        Notifier::new(Some("".into())).send(&State::Ready).unwrap();
        let wrong = Notifier::new(Some("relative".into())).send(&State::Ready);
        assert!(matches!(wrong, Err(NotifyError::Address { .. })));
        let gone = Notifier::new(Some("/nonexistent/notify".into())).send(&State::Ready);
        assert!(matches!(gone, Err(NotifyError::Send { .. })));
    }
}
