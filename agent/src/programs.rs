//! The agent's use of the eBPF programs: started on another thread, fed with the ledger's journal, read for
//! hints, proved periodically, and replaced by the next attach mode when they fail.
//!
//! All map operations take a few microseconds and run on the main loop, so that the link of a bind is
//! followed before it is read back. Slower work (loading, changing the mode) runs on a thread that owns the
//! programs for that time. Left out: decisions. Invariant: the desired state of the programs is kept here, so
//! that they can come and go; a node on which none can be loaded loses time, not correctness.

mod following;
mod guarding;
mod report;
mod watching;

use std::time::Duration;

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::config::Config;
use berth_ipam::identity::TxnId;
use berth_ipam::ledger::Ledger;
use berth_ipam::ledger::entry::Entry;
use berth_ipam::ledger::io::{
    HeardOnWire, Input, JournalWrite, KernelHint, Note, NoteKind, Observation, Source,
};
use berth_ipam::ledger::view::View;
use berth_ipam::mac::Mac;
use berth_ipam::time::Time;
use berth_probes::pins::Pins;
use berth_probes::{Allowed, Options, ProbeEvent, Probes, Readable, Verdict};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::clock;
use crate::committer::chain;
use following::{Followed, Following};
use guarding::Guarding;
use watching::Watching;

/// The rung is proved again this often.
const PROVE: Duration = Duration::from_mins(1);
/// After every rung was lost, all are tried again this often.
const TRY_AGAIN: Duration = Duration::from_mins(10);
/// Interval of the checks of a running proof; otherwise segments and ends are checked, less often.
const TURN_PROVING: Duration = Duration::from_millis(5);
const TURN: Duration = Duration::from_millis(500);

/// Result of work on another thread.
type Aside = oneshot::Receiver<Result<Box<Probes>, String>>;

/// Place of the programs.
#[derive(Debug)]
enum State {
    /// Unused, for this reason.
    Off(String),
    /// On a thread that loads or changes them.
    Aside(Aside),
    /// On the main loop.
    Here(Box<Probes>, Readable),
}

/// See the module's head.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent thing that is to be told")]
pub struct Programs {
    options: Option<Options>,
    state: State,
    following: Following,
    watching: Watching,
    guarding: Guarding,
    /// Time of the last periodic turn.
    turned_at: Instant,
    /// Time of the last proof of the attach mode.
    proved_at: Time,
    /// Time of the last attempt of a proof, or of all modes.
    tried_at: Time,
    /// Reason why the last proof failed; the second failure in a row counts.
    doubt: Option<String>,
    /// The attach mode before it was abandoned.
    left: Option<String>,
    /// A refusal of the maps was reported.
    told_full: bool,
    /// Reported number of attachments that the programs do not follow.
    told_refused: usize,
    /// Events were lost, and that is not reported yet.
    lost: bool,
    /// The same for claims seen by the programs.
    missed: bool,
    /// The programs have just come: everything should be read once.
    fresh: bool,
}

impl Programs {
    /// Starts loading on a thread. Without an object, or if no attach mode is wanted, there are none.
    pub fn start(options: Option<Options>) -> Self {
        let state = match &options {
            Some(Options { allowed: Allowed::None, .. }) => State::Off("switched off by --rung none".to_owned()),
            None => State::Off(
                "this agent was built without its eBPF programs; `cargo xtask dist` builds it with them, and \
                 --ebpf-object names a file with them"
                    .to_owned(),
            ),
            Some(options) => {
                let options = options.clone();
                aside(move || Probes::start(&options).map_err(|error| chain(&error)))
            }
        };
        if let (State::Off(_), Some(Options { bpffs: Some(bpffs), .. })) = (&state, &options)
            && let Err(error) = Pins::remove_all(bpffs)
        {
            // Otherwise the programs of an earlier agent would continue to run without a reader.
            tracing::warn!(%error, "remove what an earlier agent pinned");
        }
        if let State::Off(why) = &state {
            tracing::info!(why, "runs without eBPF: netlink, reads and the parent's list of MACs stand in");
        }
        Self {
            options,
            state,
            following: Following::default(),
            watching: Watching::default(),
            guarding: Guarding::default(),
            turned_at: Instant::now(),
            proved_at: clock::now(),
            tried_at: clock::now(),
            doubt: None,
            left: None,
            told_full: false,
            told_refused: 0,
            lost: false,
            missed: false,
            fresh: false,
        }
    }

    /// Source in the programs' hints.
    fn source(&self) -> Option<Source> {
        match &self.state {
            State::Here(probes, _) => {
                Some(Source::Program(probes.rung().map_or("ebpf", |rung| rung.as_str())))
            }
            _ => None,
        }
    }

    /// Waits until [`Self::turn`] has something to do.
    pub async fn ready(&mut self) {
        match &mut self.state {
            State::Off(_) if self.left.is_none() => std::future::pending().await,
            State::Off(_) => tokio::time::sleep_until(self.turned_at + TRY_AGAIN).await,
            State::Aside(result) => {
                let outcome = result.await;
                self.come_back(outcome.unwrap_or_else(|_| Err("the loading thread ended".to_owned())));
            }
            State::Here(probes, readable) => {
                if probes.has_kept() {
                    return;
                }
                // A point in time, not a duration: a wait here is interrupted often.
                let turn = next_turn(self.turned_at, probes);
                tokio::select! {
                    () = readable.ready() => {}
                    () = tokio::time::sleep_until(turn) => {}
                }
            }
        }
    }

    /// The programs are available (again): their maps get the desired state.
    fn come_back(&mut self, outcome: Result<Box<Probes>, String>) {
        let probes = match outcome {
            Ok(probes) => probes,
            Err(why) => {
                tracing::warn!(
                    why,
                    "runs without eBPF: netlink, reads and the parent's list of MACs stand in"
                );
                self.state = State::Off(why);
                return;
            }
        };
        for refusal in probes.refusals() {
            tracing::info!(%refusal, "a program is not used");
        }
        let rung = probes.rung().map_or("none", |rung| rung.as_str());
        tracing::info!(rung, tasks = probes.sees_tasks(), pins = ?probes.pins(), "the eBPF programs run");
        let readable = probes.readable();
        self.state = match readable {
            Ok(readable) => State::Here(probes, readable),
            Err(error) => State::Off(format!("wait for the programs' events: {error}")),
        };
        self.proved_at = clock::now();
        self.tried_at = self.proved_at;
        self.doubt = None;
        self.fresh = true;
        // The maps of the guard are new; the next sync fills them.
        self.guarding = Guarding::default();
        // At once: other parts need the list of watched segments too.
        self.turned_at = Instant::now().checked_sub(TURN).unwrap_or_else(Instant::now);
        self.refresh();
    }

    /// Writes everything that is followed and watched into the maps, and removes the rest.
    fn refresh(&mut self) {
        let State::Here(probes, _) = &mut self.state else { return };
        let seated = self.watching.take_seats(probes, clock::now());
        let full = self.following.refresh(probes).and(self.watching.refresh(probes)).and(seated);
        if let Err(error) = full {
            complain(&mut self.told_full, &error);
        }
    }

    /// True if the programs have just become available: then everything should be read once, because ends
    /// before that are not reported.
    pub fn has_news(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    /// Takes over the ledger's state after its start.
    pub fn adopt(&mut self, ledger: &Ledger) {
        let entries: Vec<&Entry> = ledger
            .leases()
            .into_iter()
            .filter_map(|view| match view {
                View::Held { slot, .. } => Some(&slot.entry),
                View::Shut(_) | View::Occupied(_) => None,
            })
            .collect();
        for entry in entries {
            self.follow(ledger, entry);
        }
        self.tidy(ledger);
    }

    /// Applies the ledger's journal writes: they define what is followed and watched.
    pub fn journaled(&mut self, ledger: &Ledger, writes: &[JournalWrite]) {
        for write in writes {
            match write {
                JournalWrite::Put(entry) => self.follow(ledger, entry),
                JournalWrite::Remove(key) => self.ended(key),
                JournalWrite::Quarantine(shut) => {
                    let wires = watching::wires_of(ledger, &shut.pool);
                    self.watch(wires.into_iter().map(|wire| (wire, shut.key.address)), None);
                }
                // It stays watched for any claimant until the next tidying.
                JournalWrite::Unquarantine(_) => {}
            }
        }
        self.guard(ledger);
    }

    /// Applies the permitted claims of pods from the ledger's present state.
    pub fn guard(&mut self, ledger: &Ledger) {
        if let State::Here(probes, _) = &mut self.state {
            self.guarding.sync(probes, &self.watching, ledger);
        }
    }

    fn follow(&mut self, ledger: &Ledger, entry: &Entry) {
        let config = ledger.config();
        let here = ledger.is_of_this_boot(entry);
        let followed = Followed::of(entry);
        let followed = if here { followed } else { followed.without_link() };
        // A program that reported a link's end has stopped following it. Later writes about the attachment
        // (its release, a DEL) must not make it follow again.
        if let State::Here(probes, _) = &mut self.state
            && here
            && !self.following.has(&entry.key, &followed)
            && let Err(error) = self.following.put(probes, &entry.key, &followed)
        {
            complain(&mut self.told_full, &error);
        }
        let wire = config.networks.get(&entry.key.network).map(|network| network.link.wire());
        let holder = entry.mac.map(|mac| (entry.key.clone(), mac));
        let spoken: Vec<_> = wire
            .into_iter()
            .flat_map(|wire| entry.addresses().into_iter().map(move |a| (wire.clone(), a)))
            .collect();
        self.following.set(entry.key.clone(), followed, spoken.clone());
        self.watch(spoken, holder.as_ref());
    }

    /// A bind names its link: it is followed before that link is read back, so that its end is seen by one of
    /// the two.
    pub fn binding(&mut self, entry: &Entry, txn: &TxnId, ifindex: u32) {
        if entry.txn != *txn || !entry.phase.is_open() {
            return; // It will be refused, and what is followed stays.
        }
        let State::Here(probes, _) = &mut self.state else { return };
        let followed = Followed::of(entry).with_link(ifindex);
        if let Err(error) = self.following.put(probes, &entry.key, &followed) {
            complain(&mut self.told_full, &error);
        }
    }

    fn ended(&mut self, key: &AttachmentKey) {
        let spoken = self.following.end(key, clock::now());
        // A claim of a free address by any station is reported, its previous holder included.
        self.watch(spoken, None);
    }

    /// These addresses are about to be probed.
    pub fn asking(
        &mut self,
        config: &Config,
        device: &berth_ipam::name::IfName,
        addresses: &[std::net::IpAddr],
    ) {
        let network =
            config.networks.values().find(|network| network.link.wire_device().as_ref() == Some(device));
        let Some(wire) = network.map(|network| network.link.wire()) else { return };
        let new = addresses.iter().map(|address| (wire.clone(), *address));
        let new: Vec<_> = new.filter(|place| !self.watching.has(place)).collect();
        self.watch(new, None);
    }

    fn watch(
        &mut self,
        places: impl IntoIterator<Item = watching::Place>,
        holder: Option<&(AttachmentKey, Mac)>,
    ) {
        for place in places {
            self.watching.want(place.clone(), holder.cloned());
            if let State::Here(probes, _) = &mut self.state
                && let Err(error) = self.watching.put(probes, &[place])
            {
                complain(&mut self.told_full, &error);
            }
        }
    }

    /// Derives the watched addresses from the ledger again: after an edit, and periodically.
    pub fn tidy(&mut self, ledger: &Ledger) {
        let changed = self.watching.rebuild(ledger);
        if let State::Here(probes, _) = &mut self.state
            && let Err(error) = self.watching.put(probes, &changed)
        {
            complain(&mut self.told_full, &error);
        }
        self.guard(ledger);
    }

    /// Requests reports of exits in these namespaces again. Call it before their tasks are read.
    pub fn rearm(&mut self, inodes: &std::collections::BTreeSet<u64>) {
        let State::Here(probes, _) = &mut self.state else { return };
        for key in self.following.inside(inodes) {
            if let Err(error) = probes.rearm(key) {
                tracing::warn!(error = chain(&error), "ask for the next exit of a task");
            }
        }
    }

    /// A link that was read as there is followed again, if an event had ended that.
    pub fn observed(&mut self, seen: &[Observation]) {
        let State::Here(probes, _) = &mut self.state else { return };
        if let Err(error) = self.following.observed(probes, seen) {
            complain(&mut self.told_full, &error);
        }
    }

    /// Events of the programs, as inputs of the ledger, in order.
    pub fn drain(&mut self) -> Vec<Input> {
        let Some(by) = self.source() else { return Vec::new() };
        let State::Here(probes, _) = &mut self.state else { return Vec::new() };
        let events = match probes.drain() {
            Ok(events) => events,
            Err(error) => {
                tracing::warn!(error = chain(&error), "read the programs' events");
                self.lost = true;
                self.missed = true;
                return Vec::new();
            }
        };
        events.into_iter().filter_map(|event| self.input(by, event)).collect()
    }

    /// True if statements on watched segments may have been lost since the last call.
    pub fn has_missed(&mut self) -> bool {
        std::mem::take(&mut self.missed)
    }

    /// Consequence of lost events, at most once a turn: a storm of losses must not cause a storm of full
    /// reads.
    pub fn overrun(&mut self) -> Option<Input> {
        let by = self.source().filter(|_| std::mem::take(&mut self.lost))?;
        self.refresh();
        Some(Input::Kernel(by, KernelHint::Overrun))
    }

    /// A packet socket received this: the program on that segment should have seen it too.
    pub fn confirm(&mut self, heard: &HeardOnWire) {
        if let State::Here(probes, _) = &mut self.state {
            self.watching.confirm(probes, clock::now(), heard);
        }
    }

    fn input(&mut self, by: Source, event: ProbeEvent) -> Option<Input> {
        let hint = match event {
            ProbeEvent::DeviceDown { key, cookie, ifindex, namespace_ends, .. } => {
                let key = key.filter(|key| self.following.is(key, cookie, ifindex))?;
                self.following.told(&key);
                KernelHint::LinkTornDown(key, namespace_ends != Some(false))
            }
            ProbeEvent::DeviceLeaving { key, .. } => {
                let key = key?;
                self.following.told(&key);
                KernelHint::LinkLeaving(key)
            }
            ProbeEvent::DepartedDown { key, cookie, ifindex, .. } => {
                KernelHint::DepartedTornDown(key.filter(|key| self.following.is(key, cookie, ifindex))?)
            }
            ProbeEvent::NamespaceEnd { keys, .. } => KernelHint::NamespaceEnded(keys),
            ProbeEvent::NamespacesEnding { .. } => KernelHint::NamespacesEnding,
            ProbeEvent::TaskExit { keys, pid, .. } => {
                KernelHint::TaskExits(keys, i32::try_from(pid).unwrap_or(0))
            }
            ProbeEvent::Wire(heard) => {
                let wire = self.watching.wire_of(heard.parent, heard.vlan)?;
                let outgoing = heard.is_outgoing();
                return Some(Input::Heard(HeardOnWire {
                    wire,
                    address: heard.address,
                    mac: heard.mac,
                    outgoing,
                    at: heard.seen.at,
                }));
            }
            ProbeEvent::Lost(_) => {
                self.lost = true;
                self.missed = true;
                self.following.lost(clock::now());
                return None;
            }
        };
        Some(Input::Kernel(by, hint))
    }

    /// True if it is time for [`Self::turn`].
    pub fn is_turn_due(&self) -> bool {
        match &self.state {
            State::Here(probes, _) => next_turn(self.turned_at, probes) <= Instant::now(),
            _ => true,
        }
    }

    /// The periodic work: proofs, segments, ends that no program saw. `is_there` reads whether the link
    /// exists. Returns the notes to report.
    pub fn turn(&mut self, now: Time, is_there: impl FnMut(&Followed) -> bool) -> Vec<Note> {
        let mut notes = Vec::new();
        self.turned_at = Instant::now();
        let State::Here(probes, _) = &mut self.state else {
            self.try_again(now);
            return notes;
        };
        probes.drain_log();
        let missed = self.following.missed(probes, now, is_there);
        for (key, addresses) in missed {
            let text = "a link is gone, and no program in the kernel told of it: the rung is proved again"
                .to_owned();
            notes.push(Note {
                kind: NoteKind::Warning,
                code: "sources-disagree",
                addresses,
                segment: None,
                key: Some(key),
                text,
            });
            self.tried_at = Time(0);
        }
        self.following.try_refused(probes);
        let refused = self.following.refused().map(|(count, key, why)| (count, key.clone(), why.to_owned()));
        let count = refused.as_ref().map_or(0, |(count, ..)| *count);
        if count > std::mem::replace(&mut self.told_refused, count)
            && let Some((_, key, why)) = refused
        {
            notes.push(Note {
                kind: NoteKind::Warning,
                code: "not-followed",
                addresses: Vec::new(),
                segment: None,
                text: unfollowed(count, &key, &why),
                key: Some(key),
            });
        }
        if let Err(error) = self.watching.take_seats(probes, now) {
            complain(&mut self.told_full, &error);
        }
        notes.extend(self.prove(now));
        notes
    }

    /// The rung is doubted: proved again at the next turn.
    pub fn doubted(&mut self) {
        self.tried_at = Time(0);
    }

    fn prove(&mut self, now: Time) -> Option<Note> {
        let State::Here(probes, _) = &mut self.state else { return None };
        let Some(rung) = probes.rung() else {
            self.try_again(now);
            return None;
        };
        if now.since(self.tried_at) >= PROVE && !probes.is_proving() {
            self.tried_at = now;
            if let Err(why) = probes.begin_proof() {
                tracing::warn!(why, "begin to prove the rung again");
            }
        }
        let why = match probes.proved() {
            Ok(None) => return None,
            Ok(Some(Verdict::Proved)) => {
                self.proved_at = now;
                self.doubt = None;
                return None;
            }
            Ok(Some(Verdict::Unknown(why))) => {
                tracing::info!(why, "the rung could be neither proved nor refuted");
                return None;
            }
            Ok(Some(Verdict::Refuted(why))) => why,
            Err(error) => chain(&error),
        };
        // A machine that was stopped for a second proves nothing: try once more.
        if self.doubt.replace(why.clone()).is_none() {
            self.tried_at = Time(0);
            return None;
        }
        self.left = Some(rung.as_str().to_owned());
        self.tried_at = now;
        let text = format!("{rung} was refuted twice ({why}): the next rung is tried");
        self.aside(move |probes| probes.step_down(why));
        Some(Note {
            kind: NoteKind::Warning,
            code: "rung-lost",
            addresses: Vec::new(),
            segment: None,
            key: None,
            text,
        })
    }

    /// Has a thread change the programs, which are away for that long.
    fn aside(&mut self, work: impl FnOnce(&mut Probes) -> Result<(), berth_probes::Error> + Send + 'static) {
        let before = std::mem::replace(&mut self.state, State::Off(String::new()));
        self.state = match before {
            State::Here(mut probes, _) => aside(move || {
                work(&mut probes).map_err(|error| chain(&error))?;
                Ok(*probes)
            }),
            other => other,
        };
    }

    /// After every rung was lost all are tried again, at a calm pace.
    fn try_again(&mut self, now: Time) {
        if self.left.is_none() || now.since(self.tried_at) < TRY_AGAIN {
            return;
        }
        self.tried_at = now;
        match (&self.state, self.options.clone()) {
            (State::Here(..), _) => self.aside(Probes::try_again),
            (State::Off(_), Some(options)) => {
                self.state = aside(move || Probes::start(&options).map_err(|error| chain(&error)));
            }
            _ => {}
        }
    }

    /// Segments to which the watcher is attached.
    pub fn watched_parents(&self) -> Vec<berth_ipam::name::IfName> {
        match &self.state {
            State::Here(..) => self.watching.seated(),
            _ => Vec::new(),
        }
    }
}

fn next_turn(turned_at: Instant, probes: &Probes) -> Instant {
    turned_at + if probes.is_proving() { TURN_PROVING } else { TURN }
}

fn aside(work: impl FnOnce() -> Result<Probes, String> + Send + 'static) -> State {
    let (tell, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name("programs".to_owned()).spawn(move || {
        // Without a receiver the agent is ending.
        let _ = tell.send(work().map(Box::new));
    });
    match thread {
        Ok(_) => State::Aside(result),
        Err(error) => State::Off(format!("start a thread: {error}")),
    }
}

/// Description of the attachments that the maps refused.
fn unfollowed(count: usize, first: &AttachmentKey, why: &str) -> String {
    format!(
        "{count} attachments are not followed by the programs, {first} among them: {why}; netlink and the regular \
         reads watch them"
    )
}

/// A map that is full, or cannot be written, costs hints only; that is reported once.
fn complain(told: &mut bool, error: &berth_probes::Error) {
    if !std::mem::replace(told, true) {
        tracing::warn!(
            error = chain(error),
            "an eBPF map refuses entries; reads stand in for what is missing"
        );
    }
}
