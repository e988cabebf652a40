//! Time at which an address became free, from the agent's `leases`, polled every millisecond (or less often).
//!
//! An agent that does not respond (killed, starting) proves nothing: only a response counts.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::cleanup;
use crate::client::{Client, Row};
use crate::error::Result;
use crate::lab::{Attachment, LEASES_INTERVAL};

/// History of one watched address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    container_id: String,
    /// Time of the first response with another holder or none.
    pub left: Option<Instant>,
    /// Time of the first response without it.
    pub free: Option<Instant>,
    /// The first reply in which it is its holder's.
    pub held: Option<Instant>,
    /// State and reason in the last reply that listed it.
    pub last: Option<(String, String)>,
}

/// Follows addresses from reply to reply.
#[derive(Debug)]
pub struct LeaseWatch {
    client: Client,
    fates: BTreeMap<IpAddr, Fate>,
    replies: u64,
    interval: Duration,
}

impl LeaseWatch {
    /// Follows nothing yet.
    pub fn new(client: Client) -> Self {
        Self { client, fates: BTreeMap::new(), replies: 0, interval: LEASES_INTERVAL }
    }

    /// Polls less often: with hundreds of leases the responses themselves keep an agent busy.
    #[must_use]
    pub fn every(self, interval: Duration) -> Self {
        Self { interval, ..self }
    }

    /// Follows the addresses of an attachment from now on.
    pub fn follow(&mut self, attachment: &Attachment) {
        for address in attachment.addresses() {
            let container_id = attachment.pod.container_id.clone();
            let fate = Fate { container_id, left: None, free: None, held: None, last: None };
            self.fates.insert(address, fate);
        }
    }

    /// Follows the addresses of several.
    pub fn follow_all<'a>(&mut self, attachments: impl IntoIterator<Item = &'a Attachment>) {
        for attachment in attachments {
            self.follow(attachment);
        }
    }

    /// History of an address; `None` if it is not followed.
    pub fn fate(&self, address: IpAddr) -> Option<&Fate> {
        self.fates.get(&address)
    }

    /// Time at which the last address of an attachment was first seen free; `None` while one is not.
    pub fn freed(&self, attachment: &Attachment) -> Option<Instant> {
        self.all(attachment, |fate| fate.free)
    }

    /// Time at which the last address of an attachment was first seen without its holder; `None` while one
    /// has it.
    pub fn left(&self, attachment: &Attachment) -> Option<Instant> {
        self.all(attachment, |fate| fate.left)
    }

    /// Time at which the last address of an attachment was first seen with its holder.
    pub fn held(&self, attachment: &Attachment) -> Option<Instant> {
        self.all(attachment, |fate| fate.held)
    }

    fn all(&self, attachment: &Attachment, when: impl Fn(&Fate) -> Option<Instant>) -> Option<Instant> {
        let times: Option<Vec<Instant>> =
            attachment.addresses().map(|address| when(self.fate(address)?)).collect();
        times?.into_iter().max()
    }

    /// Attachments that lost their addresses, with their history: for live ones, a list of offences.
    pub fn lost<'a>(&self, attachments: impl IntoIterator<Item = &'a Attachment>) -> Vec<String> {
        let mut offences = Vec::new();
        for attachment in attachments {
            for address in attachment.addresses() {
                let fate = self.fate(address);
                if fate.is_none_or(|fate| fate.left.is_some()) {
                    let last = fate.and_then(|fate| fate.last.as_ref());
                    let holder = &attachment.pod.container_id;
                    offences.push(format!("{address} of {holder} left it, last {last:?}"));
                }
            }
        }
        offences
    }

    /// Replies so far.
    pub fn replies(&self) -> u64 {
        self.replies
    }

    /// Polls once; true if there was a response.
    pub fn poll(&mut self) -> Result<bool> {
        cleanup::interrupted()?;
        let Ok(rows) = self.client.leases() else { return Ok(false) };
        let now = Instant::now();
        self.replies += 1;
        let rows: BTreeMap<IpAddr, &Row> = rows.iter().map(|row| (row.address, row)).collect();
        for (address, fate) in &mut self.fates {
            let row = rows.get(address);
            let held = row.is_some_and(|row| row.container_id.as_ref() == Some(&fate.container_id));
            if held {
                fate.held.get_or_insert(now);
            } else {
                fate.left.get_or_insert(now);
            }
            match row {
                Some(row) => fate.last = Some((row.state.clone(), row.reason.clone())),
                None => drop(fate.free.get_or_insert(now)),
            }
        }
        Ok(true)
    }

    /// Polls at its interval until `done`, or until `deadline`; true if it was done.
    pub fn until(&mut self, deadline: Instant, done: impl Fn(&Self) -> bool) -> Result<bool> {
        loop {
            let began = Instant::now();
            self.poll()?;
            if done(self) {
                return Ok(true);
            }
            if began > deadline {
                return Ok(false);
            }
            std::thread::sleep(self.interval.saturating_sub(began.elapsed()));
        }
    }

    /// Polls until all these addresses are free, at most `limit`; true if they are.
    pub fn all_free(&mut self, attachments: &[Attachment], limit: Duration) -> Result<bool> {
        self.until(Instant::now() + limit, |watch| attachments.iter().all(|a| watch.freed(a).is_some()))
    }

    /// Polls for `length`.
    pub fn look_for(&mut self, length: Duration) -> Result<()> {
        self.until(Instant::now() + length, |_| false).map(drop)
    }
}
