//! Changes of links, addresses and routes, through rtnetlink.
//!
//! A [`Changer`] acts in the namespace in which its socket was opened. None of its messages can name another
//! one, except the target of a new link. A change counts as done only after an explicit acknowledgement of
//! the kernel. rtnetlink's own calls also report success after their connection has failed, because they take
//! the end of the replies for an acknowledgement.

mod address;
mod link;
mod route;

use std::time::Duration;

use futures_util::StreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket as RawSocket, TokioSocket};

pub use link::{LinkChange, MacvlanSpec, VlanSpec};

use crate::error::{Error, KernelError, Refusal, Unknown};
use crate::netns::{NetnsFile, run_in};
use crate::reply;
use crate::syscall;

/// Time limit of a change. Deleting a link takes 15 to 35 ms, and far longer behind other changes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Flags of a request that creates something and fails if it is there.
const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// A socket for changes, not yet in use. It may be opened on one thread and started on another.
#[derive(Debug)]
pub struct RouteSocket(RawSocket);

impl RouteSocket {
    /// Opens one in the calling thread's namespace.
    pub fn open() -> Result<Self, Error> {
        let open = || {
            let mut raw = RawSocket::new(NETLINK_ROUTE)?;
            raw.bind_auto()?;
            raw.set_ext_ack(true)?;
            raw.set_cap_ack(true)?;
            raw.set_non_blocking(true)?;
            Ok(raw)
        };
        open().map(Self).map_err(Error::OpenSocket)
    }

    /// Opens one inside a namespace. It keeps that namespace alive: for one call only.
    pub fn inside(netns: &NetnsFile) -> Result<Self, Error> {
        run_in(netns, Self::open)?
    }
}

/// Makes changes in one namespace.
#[derive(Debug)]
pub struct Changer {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Changer {
    /// Puts a socket to work on the current tokio runtime, which needs I/O and time enabled.
    pub fn start(socket: RouteSocket) -> Result<Self, Error> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let (mut connection, handle, _) =
            rtnetlink::from_socket::<TokioSocket>(syscall::into_tokio(socket.0));
        connection.set_forward_ack(true);
        Ok(Self { handle, connection: runtime.spawn(connection) })
    }

    /// Sends one change and waits for the acknowledgement of the kernel.
    async fn send(&self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Refusal> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let lost = || Unknown("the connection to the kernel ended before its answer".to_owned());
        let answer = async {
            let mut handle = self.handle.clone();
            let mut replies = handle.request(request).map_err(|_| lost())?;
            while let Some(reply) = replies.next().await {
                if let NetlinkPayload::Error(error) = reply.payload {
                    let Some(code) = error.code else { return Ok(()) };
                    let body = [&code.get().to_ne_bytes()[..], &error.header].concat();
                    let message = reply::error_text(reply.header.flags, &body);
                    return Err(KernelError { errno: code.get().saturating_neg(), message }.into());
                }
            }
            Err(lost().into())
        };
        tokio::time::timeout(PATIENCE, answer)
            .await
            .unwrap_or_else(|_| Err(Unknown(format!("the kernel did not answer within {PATIENCE:?}")).into()))
    }
}

impl Drop for Changer {
    /// Ends the connection; its socket keeps a namespace alive. The runtime does this when it runs next; a
    /// runtime that is not entered again must be dropped.
    fn drop(&mut self) {
        self.connection.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    /// The planted fault: rtnetlink itself calls this a success.
    #[test]
    fn a_dead_connection_is_no_success() {
        runtime().block_on(async {
            let changer = Changer::start(RouteSocket::open().unwrap()).unwrap();
            changer.connection.abort();
            tokio::task::yield_now().await;
            let message = rtnetlink::LinkUnspec::new_with_index(i32::MAX.unsigned_abs()).up().build();
            let answer = changer.send(RouteNetlinkMessage::SetLink(message), 0).await;
            assert!(matches!(answer, Err(Refusal::Unknown(_))), "{answer:?}");
        });
    }

    #[test]
    fn a_refusal_keeps_its_number() {
        runtime().block_on(async {
            let changer = Changer::start(RouteSocket::open().unwrap()).unwrap();
            let message = rtnetlink::LinkUnspec::new_with_index(i32::MAX.unsigned_abs()).up().build();
            let answer = changer.send(RouteNetlinkMessage::SetLink(message), 0).await;
            assert!(answer.as_ref().is_err_and(|refusal| refusal.is(libc::ENODEV)), "{answer:?}");
        });
    }
}
