//! The watcher's attachment to a device: one program for received frames, one for sent ones.
//!
//! By a tcx link if the kernel has them (6.6), which ends with this process or the device; otherwise by a
//! filter of clsact, which outlives the process and is found again by the program's name.

use std::collections::BTreeMap;

use aya::Ebpf;
use aya::programs::links::LinkOrder;
use aya::programs::tc::{
    NlOptions, SchedClassifierLinkId, TcAttachOptions, TcHandle, qdisc_add_clsact, qdisc_detach_program,
};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use berth_ipam::name::IfName;

use crate::error::Error;

/// The highest priority: an earlier program that consumes or drops a frame would hide it from ours. Other
/// programs are not affected, because ours always return "next".
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 1);

const ENDS: [(&str, TcAttachType); 2] =
    [("arp_in", TcAttachType::Ingress), ("arp_out", TcAttachType::Egress)];

/// Kind of the watcher's attachment to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seat {
    /// Attached by tcx links.
    Tcx,
    /// By filters of the clsact queueing discipline.
    Clsact,
}

impl std::fmt::Display for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// Links that keep the programs on one device.
type Links = Vec<(&'static str, SchedClassifierLinkId)>;

/// The devices that are watched.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    by_device: BTreeMap<IfName, (Seat, Links)>,
}

impl Seats {
    /// Puts the watcher on a device of the calling thread's namespace; once more after the device
    /// came back.
    pub(crate) fn take(&mut self, ebpf: &mut Ebpf, device: &IfName) -> Result<Seat, Error> {
        self.leave(ebpf, device);
        self.take_as(ebpf, device, Seat::Tcx).or_else(|_| self.take_as(ebpf, device, Seat::Clsact))
    }

    pub(crate) fn take_as(&mut self, ebpf: &mut Ebpf, device: &IfName, seat: Seat) -> Result<Seat, Error> {
        let failed = |cause| Error::Watch { device: device.clone(), cause: Box::new(cause) };
        if seat == Seat::Clsact {
            // It may exist already; otherwise the attach call fails and reports that.
            let _ = qdisc_add_clsact(device.as_str());
        }
        let mut links = Vec::new();
        for (name, end) in ENDS {
            let program = program(ebpf, name)?;
            match attach(program, device, end, name, seat) {
                Ok(link) => links.push((name, link)),
                Err(error) => {
                    detach(ebpf, links);
                    return Err(failed(error));
                }
            }
        }
        self.by_device.insert(device.clone(), (seat, links));
        Ok(seat)
    }

    /// Takes it off again. That the device is gone already is fine.
    pub(crate) fn leave(&mut self, ebpf: &mut Ebpf, device: &IfName) {
        if let Some((_, links)) = self.by_device.remove(device) {
            detach(ebpf, links);
        }
    }

    /// True if it is still attached, first in order. `None`: this kind of attachment does not report it.
    pub(crate) fn is_there(&self, ebpf: &Ebpf, device: &IfName) -> Option<bool> {
        let (Seat::Tcx, _) = self.by_device.get(device)? else { return None };
        let mut there = true;
        for (name, end) in ENDS {
            let own = ebpf.program(name)?.info().ok()?.id();
            let (_, programs) = SchedClassifier::query_tcx(device.as_str(), end).ok()?;
            there &= programs.first().is_some_and(|first| first.id() == own);
        }
        Some(there)
    }

    /// Loads the programs, so that sitting down takes no time.
    pub(crate) fn load(ebpf: &mut Ebpf) -> Result<(), Error> {
        for (name, _) in ENDS {
            // A refusal here is repeated, and reported, when a program is attached.
            let _ = program(ebpf, name)?.load();
        }
        Ok(())
    }

    /// Devices with an attached watcher, and its kind.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&IfName, Seat)> {
        self.by_device.iter().map(|(device, (seat, _))| (device, *seat))
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, Error> {
    let program = ebpf.program_mut(name).ok_or(Error::Missing(name))?;
    program.try_into().map_err(|_| Error::Missing(name))
}

fn attach(
    program: &mut SchedClassifier,
    device: &IfName,
    end: TcAttachType,
    name: &str,
    seat: Seat,
) -> Result<SchedClassifierLinkId, ProgramError> {
    match program.load() {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
        Err(error) => return Err(error),
    }
    let options = match seat {
        Seat::Tcx => TcAttachOptions::TcxOrder(LinkOrder::first()),
        Seat::Clsact => {
            // Remains of a previous agent; usually none.
            let _ = qdisc_detach_program(device.as_str(), end, name);
            TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, handle: HANDLE, classid: None })
        }
    };
    program.attach_with_options(device.as_str(), end, options)
}

fn detach(ebpf: &mut Ebpf, links: Links) {
    for (name, link) in links {
        // The device may be gone, and the place with it.
        if let Ok(program) = program(ebpf, name) {
            let _ = program.detach(link);
        }
    }
}
