//! The ring of events: taking out what waits, and waiting for more.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use rustix::event::{PollFd, PollFlags};

use crate::error::Error;
use crate::event::{Raw, read};

const EVENTS: &str = "EVENTS";

/// Number of events that one turn takes, so that a flood cannot hold the caller.
const BATCH: usize = 512;

/// See the module's head.
pub(crate) struct Ring {
    map: RingBuf<MapData>,
    /// Events taken out during a wait for other ones.
    kept: VecDeque<Raw>,
    /// Events of another version or kind.
    unread: u64,
    /// True if the last turn ended before the ring was empty.
    more: bool,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("kept", &self.kept.len())
            .field("unread", &self.unread)
            .finish_non_exhaustive()
    }
}

impl Ring {
    pub(crate) fn open(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let map = ebpf.take_map(EVENTS).ok_or(Error::Missing(EVENTS))?;
        let map = RingBuf::try_from(map).map_err(Error::open(EVENTS))?;
        Ok(Self { map, kept: VecDeque::new(), unread: 0, more: false })
    }

    /// All that waits, in order.
    pub(crate) fn drain(&mut self) -> Vec<Raw> {
        let mut events: Vec<Raw> = self.kept.drain(..).collect();
        self.take(&mut |raw| events.push(raw));
        events
    }

    /// Waits until an event is `wanted` or time is up; others are kept for [`Self::drain`].
    pub(crate) fn wait_for<T>(
        &mut self,
        patience: Duration,
        mut wanted: impl FnMut(&Raw) -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + patience;
        let mut found = None;
        loop {
            let mut others = Vec::new();
            self.take(&mut |raw| match wanted(&raw) {
                Some(answer) => found = found.take().or(Some(answer)),
                None => others.push(raw),
            });
            self.kept.extend(others);
            let left = end.saturating_duration_since(Instant::now());
            if found.is_some() || left.is_zero() {
                return found;
            }
            let timeout = rustix::time::Timespec::try_from(left).ok();
            let mut fds = [PollFd::new(&self.map, PollFlags::IN)];
            // An interrupted wait is only a shorter one.
            let _ = rustix::event::poll(&mut fds, timeout.as_ref());
        }
    }

    /// Number of events of another version or kind.
    pub(crate) fn unread(&self) -> u64 {
        self.unread
    }

    /// True if events are kept that do not make the descriptor readable.
    pub(crate) fn has_kept(&self) -> bool {
        self.more || !self.kept.is_empty()
    }

    fn take(&mut self, each: &mut dyn FnMut(Raw)) {
        self.more = false;
        for _ in 0..BATCH {
            let Some(item) = self.map.next() else { return };
            match read(&item) {
                Some(raw) => each(raw),
                None => self.unread += 1,
            }
        }
        self.more = true;
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}
