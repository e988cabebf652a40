//! Output of a watch on its way through a proxy: delayed as the switches say, in its order.
//!
//! A task reads, a bounded channel holds, the body passes on. When the channel is full the API server has to
//! wait, as with any slow client.

use std::convert::Infallible;

use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame};
use kube::client::Body;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::faults::{Faults, Refusal, Streams};
use super::request::Asked;

/// Maximum number of pieces of one watch that are held.
const HELD: usize = 4096;

/// A watch that is passed on.
struct Passing {
    /// Each piece, with the moment at which the API server sent it.
    pieces: mpsc::Receiver<(Instant, Bytes)>,
    switches: watch::Receiver<Streams>,
    epoch: u64,
    faults: Faults,
    asked: Asked,
    /// The output so far ends with a complete event.
    whole: bool,
    over: bool,
}

/// The delayed output of a watch.
pub(super) fn held(
    body: Body,
    asked: Asked,
    faults: &Faults,
) -> impl hyper::body::Body<Data = Bytes, Error = Infallible> + Send + 'static {
    let (sender, pieces) = mpsc::channel(HELD);
    tokio::spawn(read(body, sender));
    let switches = faults.streams();
    let epoch = switches.borrow().epoch;
    let faults = faults.clone();
    let passing = Passing { pieces, switches, epoch, faults, asked, whole: true, over: false };
    StreamBody::new(stream::unfold(passing, |mut passing| async move {
        let piece = passing.next().await?;
        Some((Ok(Frame::data(piece)), passing))
    }))
}

/// Reads until the API server ends it, or the receiver is gone.
async fn read(mut body: Body, sender: mpsc::Sender<(Instant, Bytes)>) {
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = sender.closed() => return,
        };
        // A watch that broke off ends for its client, too.
        let Some(Ok(frame)) = frame else { return };
        if let Ok(data) = frame.into_data()
            && sender.send((Instant::now(), data)).await.is_err()
        {
            return;
        }
    }
}

impl Passing {
    /// The next piece, when its time has come.
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        let (sent, piece) = loop {
            if self.whole && self.switches.borrow_and_update().epoch != self.epoch {
                return Some(self.expire());
            }
            tokio::select! {
                piece = self.pieces.recv() => break piece?,
                changed = self.switches.changed() => changed.ok()?,
            }
        };
        let mut late = false;
        loop {
            let due = sent + self.switches.borrow_and_update().lag;
            if due <= Instant::now() {
                break;
            }
            late = true;
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                changed = self.switches.changed() => changed.ok()?,
            }
        }
        if late {
            self.faults.was_late();
        }
        self.whole = piece.ends_with(b"\n");
        Some(piece)
    }

    /// The event with which an API server ends a watch at a compacted resource version.
    fn expire(&mut self) -> Bytes {
        self.over = true;
        self.faults.has_expired();
        let status = Refusal::Expired.status(&self.asked);
        Bytes::from(format!("{{\"type\":\"ERROR\",\"object\":{status}}}\n"))
    }
}
