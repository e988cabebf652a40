//! Start of the programs, and their use by the agent.
//!
//! One object is loaded once; its programs are loaded one by one, so that a refused one does not affect
//! others. Everything here blocks for a moment (the canary for up to a second) and belongs on a separate
//! thread, or at the agent's start.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::maps::{MapData, PerCpuArray};
use aya::programs::kprobe::KProbeLink;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{Program, ProgramError};
use aya::{Btf, Ebpf, EbpfError, EbpfLoader};
use berth_ebpf_common::{ABSENT, Counter, KernelLayout};
use berth_ipam::name::IfName;

use crate::attachments::{Attachments, CANARY};
use crate::canary::{Canary, PATIENCE};
use crate::error::Error;
use crate::event::{ProbeEvent, told};
use crate::guard::{Guards, Seen};
use crate::kernel;
use crate::ladder::{Allowed, Refusal, Rung, Stage, chain};
use crate::log::{self, LogLevel, ProgramLog};
use crate::pins::{Lock, MAPS, Pins};
use crate::proof::{Proof, Verdict, verdict_of};
use crate::readable::Readable;
use crate::ring::Ring;
use crate::watch::{Known, Watches};
use crate::wire::{Seat, Seats};

const COUNTERS: &str = "COUNTERS";
const LAYOUT: &str = "LAYOUT_V1";
const MARK: &str = "PROBE_MARK";
const TASKS: (&str, &str) = ("task_exit_tp", "sched_process_exit");

/// Source of the object with the programs.
#[derive(Debug, Clone)]
pub enum Object {
    /// In a file.
    File(PathBuf),
    /// In the program itself.
    Embedded(&'static [u8]),
}

impl Object {
    fn bytes(&self) -> Result<Cow<'static, [u8]>, Error> {
        match self {
            Self::Embedded(bytes) => Ok(Cow::Borrowed(bytes)),
            Self::File(path) => std::fs::read(path)
                .map(Cow::Owned)
                .map_err(|cause| Error::ReadObject { path: path.clone(), cause }),
        }
    }
}

/// Options of the start.
#[derive(Debug, Clone)]
pub struct Options {
    /// The object that `cargo xtask build-ebpf` makes.
    pub object: Object,
    /// A folder in a BPF file system for pins; `None`: no pins.
    pub bpffs: Option<PathBuf>,
    /// Attach modes that may be tried.
    pub allowed: Allowed,
    /// Path of the kernel's BTF.
    pub types: PathBuf,
    /// Level of the programs' log; [`Probes::drain_log`] forwards it.
    pub log: LogLevel,
    /// Socket mark of frames that must reach the links under their parent; 0: none.
    pub mark: u32,
}

impl Options {
    /// All rungs, no pins, the running kernel, no log, no mark.
    pub fn new(object: Object) -> Self {
        let types = kernel::TYPES.into();
        Self { object, bpffs: None, allowed: Allowed::Any, types, log: LogLevel::Off, mark: 0 }
    }
}

/// The running programs and their maps. Dropping it detaches what is not pinned.
pub struct Probes {
    ebpf: Ebpf,
    ring: Ring,
    attachments: Attachments,
    watches: Watches,
    guards: Guards,
    counters: PerCpuArray<MapData, u64>,
    seats: Seats,
    rung: Option<Rung>,
    tasks: bool,
    held: Vec<(&'static str, Held)>,
    refusals: Vec<Refusal>,
    pins: Pins,
    log: Option<ProgramLog>,
    /// Losses of the ring at the last report.
    lost: u64,
    canaries: u64,
    proof: Option<Proof>,
    types: PathBuf,
    allowed: Allowed,
    /// Of the pins' folder.
    _lock: Option<Lock>,
}

/// Handle that keeps a program attached.
#[derive(Debug)]
#[expect(dead_code, reason = "held for what happens when it is dropped")]
enum Held {
    Link(FdLink),
    Breakpoint(KProbeLink),
    Pinned(PinnedLink),
}

impl std::fmt::Debug for Probes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Probes");
        shown.field("rung", &self.rung).field("pins", &self.pins).finish_non_exhaustive()
    }
}

impl Probes {
    /// Loads the object, tries the attach modes in order, and proves the selected one. Having no usable mode
    /// is not an error: [`Self::rung`] is `None` then, and [`Self::refusals`] has the reasons.
    pub fn start(options: &Options) -> Result<Self, Error> {
        let object = options.object.bytes()?;
        let (layout, types) = read_kernel(&options.types)?;
        let (pins, lock) = Pins::prepare(options.bpffs.as_deref());
        let (mut ebpf, pins) = load(&object, &layout, &types, pins, options)?;
        let counters = ebpf.take_map(COUNTERS).ok_or(Error::Missing(COUNTERS))?;
        let mut probes = Self {
            ring: Ring::open(&mut ebpf)?,
            attachments: Attachments::open(&mut ebpf, layout.net_count != ABSENT)?,
            watches: Watches::open(&mut ebpf)?,
            guards: Guards::open(&mut ebpf)?,
            counters: PerCpuArray::try_from(counters).map_err(Error::open(COUNTERS))?,
            log: ProgramLog::open(&mut ebpf, options.log),
            ebpf,
            seats: Seats::default(),
            rung: None,
            tasks: false,
            held: Vec::new(),
            refusals: Vec::new(),
            pins,
            lost: 0,
            canaries: 0,
            proof: None,
            types: options.types.clone(),
            allowed: options.allowed,
            _lock: lock,
        };
        probes.lost = probes.lost_so_far()?;
        probes.climb(&options.allowed.rungs(), &types)?;
        Seats::load(&mut probes.ebpf)?;
        if options.allowed != Allowed::None {
            probes.follow_tasks(&types);
        }
        if let Err(error) = probes.pins.remove_older() {
            tracing::warn!(%error, "pins of older versions stay");
        }
        drop((types, object));
        crate::memory::give_back();
        Ok(probes)
    }

    fn climb(&mut self, rungs: &[Rung], types: &Btf) -> Result<(), Error> {
        for &rung in rungs {
            if !self.attach_rung(rung, types) {
                continue;
            }
            // Otherwise an earlier agent's programs would send the events.
            self.drop_earlier();
            match self.prove_rung(rung)? {
                Verdict::Proved => {
                    self.rung = Some(rung);
                    self.pin_links(types);
                    return Ok(());
                }
                Verdict::Refuted(reason) | Verdict::Unknown(reason) => self.leave(rung, reason),
            }
        }
        // Nothing of ours sees teardowns: then nothing of an earlier agent's shall either.
        self.drop_earlier();
        Ok(())
    }

    /// Detaches the programs of an attach mode that could not be proved.
    fn leave(&mut self, rung: Rung, reason: String) {
        self.release(rung);
        rung.programs().iter().for_each(|(program, ..)| self.pins.drop_link(program));
        let (program, target, _) = rung.programs()[0];
        self.refusals.push(Refusal { program, target, stage: Stage::Prove, errno: None, reason });
    }

    /// Detaches the programs of one attach mode, and no others.
    fn release(&mut self, rung: Rung) {
        let own = |program: &str| rung.programs().iter().any(|(name, ..)| *name == program);
        self.held.retain(|(program, _)| !own(program));
    }

    /// Leaves the rung in use, which was not proved for this reason, for the next allowed one that is:
    /// blocks for as long as a start.
    pub fn step_down(&mut self, reason: String) -> Result<(), Error> {
        let Some(rung) = self.rung.take() else { return Ok(()) };
        self.proof = None;
        self.leave(rung, reason);
        let lower: Vec<Rung> = self.allowed.rungs().into_iter().filter(|other| *other > rung).collect();
        self.climb_again(&lower)
    }

    /// Tries all allowed rungs once more, where none is in use: blocks for as long as a start.
    pub fn try_again(&mut self) -> Result<(), Error> {
        if self.rung.is_some() {
            return Ok(());
        }
        self.refusals.clear();
        self.climb_again(&self.allowed.rungs())
    }

    fn climb_again(&mut self, rungs: &[Rung]) -> Result<(), Error> {
        let (_, types) = read_kernel(&self.types)?;
        self.climb(rungs, &types)?;
        drop(types);
        crate::memory::give_back();
        Ok(())
    }

    /// Unlinks the programs of an earlier agent; those that this one holds stay.
    fn drop_earlier(&self) {
        let programs = Rung::ALL.into_iter().flat_map(|rung| rung.programs().iter().map(|(name, ..)| *name));
        for program in programs.chain([TASKS.0]) {
            let own =
                self.held.iter().any(|(held, link)| *held == program && matches!(link, Held::Pinned(_)));
            if !own {
                self.pins.drop_link(program);
            }
        }
    }

    /// True if all programs without which the rung is worth nothing are in their places.
    fn attach_rung(&mut self, rung: Rung, types: &Btf) -> bool {
        for &(program, target, needed) in rung.programs() {
            match put(&mut self.ebpf, types, program, target) {
                Ok(link) => self.held.push((program, link)),
                Err(refusal) => {
                    self.refusals.push(refusal);
                    if needed {
                        self.release(rung);
                        return false;
                    }
                }
            }
        }
        true
    }

    fn follow_tasks(&mut self, types: &Btf) {
        let (program, target) = TASKS;
        match put(&mut self.ebpf, types, program, target) {
            Ok(link) => {
                self.held.push((program, link));
                self.pin_links(types);
                self.tasks = true;
            }
            Err(refusal) => self.refusals.push(refusal),
        }
    }

    /// Hands links over to the BPF file system, where that works.
    fn pin_links(&mut self, types: &Btf) {
        for (program, held) in std::mem::take(&mut self.held) {
            let Held::Link(link) = held else {
                self.held.push((program, held));
                continue;
            };
            if self.pins.folder().is_none() {
                self.held.push((program, Held::Link(link)));
                continue;
            }
            match self.pins.pin_link(program, link) {
                Ok(Some(pinned)) => self.held.push((program, Held::Pinned(pinned))),
                Ok(None) => {}
                Err(reason) => {
                    // The link ended with the failed pin: attach the program again without one.
                    self.pins = Pins::None(format!("pin the link of {program}: {reason}"));
                    let target = target_of(program);
                    match put(&mut self.ebpf, types, program, target) {
                        Ok(link) => self.held.push((program, link)),
                        Err(refusal) => self.refusals.push(refusal),
                    }
                }
            }
        }
    }

    /// Proves again that the programs see ends, with a separate device. Takes up to some seconds.
    pub fn prove(&mut self) -> Result<Verdict, Error> {
        match self.rung {
            Some(rung) => self.prove_rung(rung),
            None => Ok(Verdict::Unknown("no rung is in use".to_owned())),
        }
    }

    fn prove_rung(&mut self, rung: Rung) -> Result<Verdict, Error> {
        let canary = match Canary::hatch(self.next_canary()) {
            Ok(canary) => canary,
            Err(reason) => return Ok(Verdict::Unknown(format!("no canary: {reason}"))),
        };
        self.attachments.follow_canary(&canary)?;
        canary.release();
        let mut heard = self.ring.wait_for(PATIENCE, |raw| canary.verdict(rung, raw));
        let mut gone = None;
        if heard.is_none() {
            // Deleting a device waits for concurrent changes; after that the event has another second.
            gone = Some(canary.wait_for_end());
            heard = self.ring.wait_for(PATIENCE, |raw| canary.verdict(rung, raw));
        }
        self.attachments.forget_canary(canary.number)?;
        Ok(verdict_of(heard, gone.unwrap_or(Ok(()))))
    }

    fn next_canary(&mut self) -> u64 {
        self.canaries += 1;
        u64::from(std::process::id()) << 20 | (self.canaries & 0xf_ffff)
    }

    /// Starts a proof in the background, unless one is running: [`Self::proved`] reports its end.
    pub fn begin_proof(&mut self) -> Result<(), String> {
        if let (Some(rung), None) = (self.rung, &self.proof) {
            let number = self.next_canary();
            self.proof = Some(Proof::begin(rung, number)?);
        }
        Ok(())
    }

    /// True if a proof is running: then [`Self::proved`] must be called every few milliseconds.
    pub fn is_proving(&self) -> bool {
        self.proof.is_some()
    }

    /// Verdict of the running proof, once; `None`: none yet. Call it after [`Self::drain`].
    pub fn proved(&mut self) -> Result<Option<Verdict>, Error> {
        let Some(proof) = &mut self.proof else { return Ok(None) };
        let verdict = proof.advance(&mut self.attachments)?;
        if verdict.is_some() {
            self.proof = None;
        }
        Ok(verdict)
    }

    /// Attach mode that observes teardowns; `None`: no mode does.
    pub fn rung(&self) -> Option<Rung> {
        self.rung
    }

    /// True if exits of tasks are seen.
    pub fn sees_tasks(&self) -> bool {
        self.tasks
    }

    /// Every program that is not used, and why.
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// Place of the pins, or the reason for having none.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The attachments that are followed.
    pub fn attachments(&mut self) -> &mut Attachments {
        &mut self.attachments
    }

    /// The addresses that are watched.
    pub fn watches(&mut self) -> &mut Watches {
        &mut self.watches
    }

    /// The wires on which senders are held to their leases.
    pub fn guards(&mut self) -> &mut Guards {
        &mut self.guards
    }

    /// Wrapper of [`Guards::seen`].
    pub fn guard_seen(&self, wire: crate::watch::Wire) -> Result<Option<Seen>, Error> {
        self.guards.seen(wire)
    }

    /// Wrapper of [`Watches::known`].
    pub fn watched(
        &self,
        wire: crate::watch::Wire,
        address: std::net::IpAddr,
    ) -> Result<Option<Known>, Error> {
        self.watches.known(wire, address)
    }

    /// Wrapper of [`Attachments::rearm`].
    pub fn rearm(&mut self, key: &berth_ipam::attachment::AttachmentKey) -> Result<(), Error> {
        self.attachments.rearm(key)
    }

    /// Puts the watcher on a device of the calling thread's namespace; again after the device came back.
    pub fn watch_wire(&mut self, device: &IfName) -> Result<Seat, Error> {
        self.seats.take(&mut self.ebpf, device)
    }

    /// The same, by a given kind of attachment.
    pub fn watch_wire_as(&mut self, device: &IfName, seat: Seat) -> Result<Seat, Error> {
        self.seats.leave(&mut self.ebpf, device);
        self.seats.take_as(&mut self.ebpf, device, seat)
    }

    /// Detaches the watcher from a device.
    pub fn unwatch_wire(&mut self, device: &IfName) {
        self.seats.leave(&mut self.ebpf, device);
    }

    /// The devices that are watched.
    pub fn wires(&self) -> Vec<(&IfName, Seat)> {
        self.seats.all().collect()
    }

    /// For an event loop of tokio: wakes when events wait.
    pub fn readable(&self) -> io::Result<Readable> {
        self.as_fd().try_clone_to_owned().and_then(Readable::new)
    }

    /// The events that wait, in order, without waiting for more: some hundreds at a time, with
    /// [`Self::has_kept`] for the rest. Attachments should be followed
    /// before the first call: pinned rings hold what happened while no agent ran.
    pub fn drain(&mut self) -> Result<Vec<ProbeEvent>, Error> {
        let mut events = Vec::new();
        for raw in self.ring.drain() {
            if let Some(proof) = &mut self.proof {
                proof.hear(&raw);
            }
            let is_canary = matches!(raw, crate::event::Raw::Device(_, _, event) if event.id & CANARY != 0);
            if !is_canary {
                events.extend(told(&raw, &self.attachments));
            }
        }
        let lost = self.lost_so_far()?;
        if lost > self.lost {
            events.push(ProbeEvent::Lost(lost - self.lost));
        }
        self.lost = lost;
        Ok(events)
    }

    /// True if [`Self::drain`] has events that do not make the descriptor readable: events that arrived
    /// during the wait for the canary, or that the last turn left.
    pub fn has_kept(&self) -> bool {
        self.ring.has_kept()
    }

    /// True if the watcher is still attached to a device, first in order; `None`: unknown.
    pub fn is_watching(&self, device: &IfName) -> Option<bool> {
        self.seats.is_there(&self.ebpf, device)
    }

    /// Forwards the programs' log lines to `tracing` under the target [`log::TARGET`], without waiting for
    /// more. Returns the number of lines, including those above [`log::LINES_MAX`] a second, which are only
    /// counted; 0 while the log is off.
    pub fn drain_log(&mut self) -> u64 {
        self.log.as_mut().map_or(0, ProgramLog::drain)
    }

    /// A descriptor that becomes readable when [`Self::drain_log`] has something to do; `None`:
    /// the log is off. Drain first, then wait.
    pub fn log_fd(&self) -> Option<BorrowedFd<'_>> {
        self.log.as_ref().map(AsFd::as_fd)
    }

    /// The programs' counters, over all processors; with "unread", events that this program could
    /// not understand.
    pub fn counters(&self) -> Result<BTreeMap<&'static str, u64>, Error> {
        let mut all = BTreeMap::from([("unread", self.ring.unread())]);
        for (counter, name) in Counter::ALL {
            all.insert(name, self.counter(counter)?);
        }
        Ok(all)
    }

    fn lost_so_far(&self) -> Result<u64, Error> {
        Ok(self.counter(Counter::RingFull)? + self.counter(Counter::WireHeld)?)
    }

    fn counter(&self, counter: Counter) -> Result<u64, Error> {
        let values = self.counters.get(&(counter as u32), 0).map_err(Error::using("read", COUNTERS))?;
        Ok(values.iter().sum())
    }
}

impl AsFd for Probes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// Reads the offsets of the members, and the kernel's BTF in aya's form.
fn read_kernel(path: &Path) -> Result<(KernelLayout, Btf), Error> {
    let targets: Vec<&str> = Rung::ALL
        .into_iter()
        .flat_map(|rung| rung.programs().iter().map(|(_, target, _)| *target))
        .chain([TASKS.1])
        .collect();
    let kernel = kernel::read(path, &targets)?;
    let types = Btf::parse(&kernel.hollow, aya::Endianness::default())
        .map_err(|error| Error::Load(Box::new(EbpfError::BtfError(error))))?;
    Ok((kernel.layout, types))
}

fn target_of(program: &str) -> &'static str {
    let all = Rung::ALL.into_iter().flat_map(|rung| rung.programs().iter());
    all.filter(|(name, ..)| *name == program).map(|(_, target, _)| *target).next().unwrap_or(TASKS.1)
}

/// Loads the object and creates its maps, pinned if possible.
fn load(
    object: &[u8],
    layout: &KernelLayout,
    types: &Btf,
    pins: Pins,
    options: &Options,
) -> Result<(Ebpf, Pins), Error> {
    let bytes = layout.to_bytes();
    let Options { log: level, mark, .. } = options;
    let number = level.number();
    let load = |pins: &Pins| {
        let mut loader = EbpfLoader::new();
        loader.btf(Some(types)).override_global(LAYOUT, &bytes[..], true);
        loader.override_global(log::LEVEL, &number, false);
        loader.override_global(MARK, mark, true);
        if *level == LogLevel::Off {
            // The map has no writer, and the kernel accepts no ring below a page.
            let page = u32::try_from(rustix::param::page_size()).unwrap_or(u32::MAX);
            loader.map_max_entries(log::MAP, page);
        }
        if let Some(folder) = pins.folder() {
            for shape in MAPS {
                loader.map_pin_path(shape.0, folder.join(shape.0));
            }
        }
        loader.load(object)
    };
    let first = match load(&pins) {
        Ok(ebpf) => return Ok((ebpf, pins)),
        Err(error) => error,
    };
    if pins.folder().is_none() {
        return Err(refused(first));
    }
    let reason = format!("make pinned maps: {}", chain(&first));
    load(&Pins::None(String::new())).map(|ebpf| (ebpf, Pins::None(reason))).map_err(refused)
}

fn refused(error: EbpfError) -> Error {
    match &error {
        EbpfError::ParseError(parse) => Error::OtherVersion { what: chain(parse) },
        _ => Error::Load(Box::new(error)),
    }
}

/// Loads a program and puts it in its place.
fn put(ebpf: &mut Ebpf, types: &Btf, name: &'static str, target: &'static str) -> Result<Held, Refusal> {
    let refuse = |stage| move |error: ProgramError| Refusal::of(name, target, stage, &error);
    let program = ebpf.program_mut(name).ok_or_else(|| Refusal {
        program: name,
        target,
        stage: Stage::Load,
        errno: None,
        reason: "the object has no such program".to_owned(),
    })?;
    let loaded = |result| match result {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        other => other,
    };
    match program {
        Program::FEntry(program) => {
            loaded(program.load(target, types)).map_err(refuse(Stage::Load))?;
            let link = program.attach().and_then(|id| program.take_link(id));
            Ok(Held::Link(link.map_err(refuse(Stage::Attach))?.into()))
        }
        Program::BtfTracePoint(program) => {
            loaded(program.load(target, types)).map_err(refuse(Stage::Load))?;
            let link = program.attach().and_then(|id| program.take_link(id));
            Ok(Held::Link(link.map_err(refuse(Stage::Attach))?.into()))
        }
        Program::KProbe(program) => {
            loaded(program.load()).map_err(refuse(Stage::Load))?;
            let link = program.attach(target, 0).and_then(|id| program.take_link(id));
            Ok(Held::Breakpoint(link.map_err(refuse(Stage::Attach))?))
        }
        _ => Err(refuse(Stage::Load)(ProgramError::UnexpectedProgramType)),
    }
}
