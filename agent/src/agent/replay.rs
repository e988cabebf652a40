//! The main loop's part of the spool: entries are replayed, and ADDs wait for them (`crate::spooled`).

use berth_ipam::ledger::io::{Caller, Input};
use berth_protocol::{Failure, Response, spool};

use super::{Agent, answer};
use crate::server::ConnId;
use crate::spooled::{self, Parked};
use crate::{answers, committer};

impl Agent {
    /// DELs that plugins wrote down because no agent answered.
    pub(super) fn replay_spool(&mut self) {
        let listing = match spool::entries(&self.paths.state_dir) {
            Ok(listing) => listing,
            Err(error) => return tracing::warn!(error = committer::chain(&error), "read the spool"),
        };
        for (caller, entry) in self.spooled.fresh(listing) {
            let link = answers::removal(entry.release.link);
            self.step(Input::Release(Some(caller), entry.release.attachment, link, entry.release.txn));
        }
    }

    /// The ledger answered a replayed release.
    pub(super) fn replayed(&mut self, caller: Caller, outcome: &Result<Response, Failure>) {
        let (file, failed) = self.spooled.answered(caller, outcome.is_ok());
        if let Some(file) = file {
            self.hands.committer.send(committer::Order::ForgetSpooled(file));
        }
        let Err(failure) = outcome else { return };
        for Parked { caller, .. } in failed {
            self.hands
                .connections
                .send(ConnId(caller.conn), answer(caller.call, Err(spooled::refused(failure))));
        }
    }

    /// Continues ADDs of attachments that no longer have a release in the spool.
    pub(super) fn resume_parked(&mut self) {
        for Parked { caller, request, given } in self.spooled.ready() {
            if let Some(failure) = self.annotate(caller, request, given) {
                self.hands.connections.send(ConnId(caller.conn), answer(caller.call, Err(failure)));
            }
        }
    }
}
