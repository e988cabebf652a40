//! The attachments that the programs follow: content of the maps ATTACH, DEPARTED, NETNS and EXITS.
//!
//! User space alone inserts, except into DEPARTED: there a program enters the links that leave. A program
//! deletes an entry with the event that it sends, so a missing entry is not an error, and following an
//! attachment twice is harmless. Invariant: a namespace is in NETNS as long as a followed attachment is in
//! it. Slots of EXITS are assigned in turn, so that a program with an old one writes into an unused slot.

use std::collections::{BTreeMap, BTreeSet};

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError};
use berth_ebpf_common::{ATTACHMENTS_MAX, AttachKey, AttachValue, DepartedValue, ExitSlot, NetnsValue};
use berth_ipam::attachment::AttachmentKey;
use berth_ipam::identity::NetnsIdentity;

use crate::canary::Canary;
use crate::error::Error;
use crate::event::Names;
use crate::slots::Slots;

const ATTACH: &str = "ATTACH";
const DEPARTED: &str = "DEPARTED";
const NETNS: &str = "NETNS";
const EXITS: &str = "EXITS";

/// Numbers with this bit are of canaries.
pub(crate) const CANARY: u64 = 1 << 63;

/// See the module's head.
pub struct Attachments {
    attach: HashMap<MapData, [u8; AttachKey::SIZE], [u8; AttachValue::SIZE]>,
    departed: HashMap<MapData, u64, [u8; DepartedValue::SIZE]>,
    netns: HashMap<MapData, u64, [u8; NetnsValue::SIZE]>,
    exits: Array<MapData, [u8; ExitSlot::SIZE]>,
    followed: BTreeMap<u64, Followed>,
    spaces: BTreeMap<u64, Space>,
    /// Entries that an earlier agent left in pinned maps, and that are not followed again yet.
    left: Left,
    slots: Slots,
    /// True if the programs have the offset of this kernel's user count of a namespace.
    knows_endings: bool,
}

#[derive(Debug)]
struct Followed {
    /// `None`: a canary.
    key: Option<AttachmentKey>,
    netns: u64,
    ifindex: Option<u32>,
}

#[derive(Debug)]
struct Space {
    slot: u32,
    members: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct Left {
    links: BTreeSet<[u8; AttachKey::SIZE]>,
    spaces: BTreeMap<u64, u32>,
}

/// Key of a namespace in maps: its cookie, or its inode if the kernel assigns the cookie late.
pub(crate) fn netns_key(cookie: u64, inode: u64) -> u64 {
    if cookie == 0 { inode } else { cookie }
}

/// An attachment's number in maps: the same in every run, so that events of an earlier one are
/// understood. Two attachments with one number would get each other's hints, which costs reads.
pub(crate) fn number(key: &AttachmentKey) -> u64 {
    // FNV-1a, 64 bits.
    let text = key.to_string();
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash & !CANARY).max(1)
}

impl std::fmt::Debug for Attachments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attachments").field("followed", &self.followed).finish_non_exhaustive()
    }
}

impl Attachments {
    pub(crate) fn open(ebpf: &mut Ebpf, knows_endings: bool) -> Result<Self, Error> {
        let mut take = |name| ebpf.take_map(name).ok_or(Error::Missing(name));
        let attach = HashMap::try_from(take(ATTACH)?).map_err(Error::open(ATTACH))?;
        let departed = HashMap::try_from(take(DEPARTED)?).map_err(Error::open(DEPARTED))?;
        let netns: HashMap<_, u64, [u8; NetnsValue::SIZE]> =
            HashMap::try_from(take(NETNS)?).map_err(Error::open(NETNS))?;
        let exits = Array::try_from(take(EXITS)?).map_err(Error::open(EXITS))?;
        let mut left = Left::default();
        for key in attach.keys() {
            left.links.insert(key.map_err(Error::using("list", ATTACH))?);
        }
        for entry in &netns {
            let (key, value) = entry.map_err(Error::using("list", NETNS))?;
            left.spaces.insert(key, NetnsValue::from_bytes(&value).slot);
        }
        let slots = Slots::new(ATTACHMENTS_MAX, left.spaces.values().copied());
        Ok(Self {
            attach,
            departed,
            netns,
            exits,
            followed: BTreeMap::new(),
            spaces: BTreeMap::new(),
            left,
            slots,
            knows_endings,
        })
    }

    /// Follows an attachment: its namespace, and its link if the index is known. Call it again when the index
    /// becomes known, and after an event if the link still exists.
    pub fn follow(
        &mut self,
        key: &AttachmentKey,
        netns: &NetnsIdentity,
        ifindex: Option<u32>,
    ) -> Result<(), Error> {
        let netns = netns_key(netns.cookie.0, netns.inode);
        self.put(number(key), Followed { key: Some(key.clone()), netns, ifindex })
    }

    /// Stops following it. Returns true if no program saw the end of its link: if that link is gone, the
    /// programs miss events.
    pub fn forget(&mut self, key: &AttachmentKey) -> Result<bool, Error> {
        let id = number(key);
        self.forget_departed(|of| of == id)?;
        self.take(id)
    }

    /// Links of these numbers that left their namespace are not followed on.
    fn forget_departed(&mut self, over: impl Fn(u64) -> bool) -> Result<(), Error> {
        let mut stale = Vec::new();
        for entry in &self.departed {
            let (at, value) = entry.map_err(Error::using("list", DEPARTED))?;
            stale.extend(over(DepartedValue::from_bytes(&value).id).then_some(at));
        }
        for at in stale {
            gone(self.departed.remove(&at)).map_err(Error::using("delete from", DEPARTED))?;
        }
        Ok(())
    }

    /// Removes the entries of an earlier agent that this one does not follow: call it after all attachments
    /// of the journal are followed.
    pub fn settle(&mut self) -> Result<(), Error> {
        let followed: BTreeSet<u64> = self.followed.keys().copied().collect();
        self.forget_departed(|id| !followed.contains(&id))?;
        let left = std::mem::take(&mut self.left);
        for key in &left.links {
            gone(self.attach.remove(key)).map_err(Error::using("delete from", ATTACH))?;
        }
        for (key, slot) in &left.spaces {
            self.slots.give_back(*slot);
            gone(self.netns.remove(key)).map_err(Error::using("delete from", NETNS))?;
        }
        Ok(())
    }

    /// Requests an event for the next exit of a task in the attachment's namespace. Call it *before* the
    /// tasks are read, so that an exit in between is not missed.
    pub fn rearm(&mut self, key: &AttachmentKey) -> Result<(), Error> {
        let space = self.followed.get(&number(key)).and_then(|followed| self.spaces.get(&followed.netns));
        match space.map(|space| space.slot) {
            Some(slot) => self.clear(slot),
            None => Ok(()),
        }
    }

    /// Number of attachments followed.
    pub fn len(&self) -> usize {
        self.followed.len()
    }

    /// True if none is followed.
    pub fn is_empty(&self) -> bool {
        self.followed.is_empty()
    }

    pub(crate) fn follow_canary(&mut self, canary: &Canary) -> Result<(), Error> {
        let identity = &canary.identity;
        let netns = netns_key(identity.cookie.0, identity.inode);
        self.put(canary.number | CANARY, Followed { key: None, netns, ifindex: Some(identity.ifindex) })
    }

    pub(crate) fn forget_canary(&mut self, number: u64) -> Result<(), Error> {
        self.take(number | CANARY).map(drop)
    }

    fn put(&mut self, id: u64, followed: Followed) -> Result<(), Error> {
        let moved = |old: &Followed| (old.netns, old.ifindex) != (followed.netns, followed.ifindex);
        if self.followed.get(&id).is_some_and(moved) {
            self.take(id)?;
        }
        self.enter(followed.netns, id)?;
        if let Some(ifindex) = followed.ifindex {
            let key = AttachKey { netns: followed.netns, ifindex, pad: 0 }.to_bytes();
            let value = AttachValue { id }.to_bytes();
            if let Err(error) = self.attach.insert(key, value, 0) {
                self.leave(followed.netns, id)?;
                return Err(full(error, ATTACH));
            }
            self.left.links.remove(&key);
        }
        self.followed.insert(id, followed);
        Ok(())
    }

    /// Removes an attachment; returns true if its entry still existed.
    fn take(&mut self, id: u64) -> Result<bool, Error> {
        let Some(followed) = self.followed.remove(&id) else { return Ok(false) };
        let mut unseen = false;
        if let Some(ifindex) = followed.ifindex {
            let key = AttachKey { netns: followed.netns, ifindex, pad: 0 }.to_bytes();
            // Another attachment may have the same place now: then the entry belongs to it.
            let value = AttachValue { id }.to_bytes();
            if self.attach.get(&key, 0).is_ok_and(|found| found == value) {
                unseen = true;
                gone(self.attach.remove(&key)).map_err(Error::using("delete from", ATTACH))?;
            }
        }
        self.leave(followed.netns, id)?;
        Ok(unseen)
    }

    fn enter(&mut self, netns: u64, id: u64) -> Result<(), Error> {
        if let Some(space) = self.spaces.get_mut(&netns) {
            space.members.insert(id);
            let value = NetnsValue { id: netns, slot: space.slot, pad: 0 }.to_bytes();
            return self.netns.insert(netns, value, 0).map_err(|error| full(error, NETNS));
        }
        let slot = match self.left.spaces.remove(&netns) {
            // Its slot is kept: an exit that was reported and not yet read stays reported.
            Some(slot) if self.slots.is_used(slot) => slot,
            _ => self.slots.take().ok_or(Error::Full { name: EXITS, capacity: ATTACHMENTS_MAX })?,
        };
        let value = NetnsValue { id: netns, slot, pad: 0 }.to_bytes();
        let cleared = self.clear(slot);
        let inserted =
            cleared.and_then(|()| self.netns.insert(netns, value, 0).map_err(|error| full(error, NETNS)));
        if let Err(error) = inserted {
            self.slots.give_back(slot);
            return Err(error);
        }
        self.spaces.insert(netns, Space { slot, members: BTreeSet::from([id]) });
        Ok(())
    }

    fn leave(&mut self, netns: u64, id: u64) -> Result<(), Error> {
        let Some(space) = self.spaces.get_mut(&netns) else { return Ok(()) };
        space.members.remove(&id);
        if space.members.is_empty() {
            self.slots.give_back(space.slot);
            self.spaces.remove(&netns);
            gone(self.netns.remove(&netns)).map_err(Error::using("delete from", NETNS))?;
        }
        Ok(())
    }

    fn clear(&mut self, slot: u32) -> Result<(), Error> {
        self.exits.set(slot, ExitSlot::default().to_bytes(), 0).map_err(Error::using("write to", EXITS))
    }
}

impl Names for Attachments {
    fn attachment(&self, id: u64) -> Option<AttachmentKey> {
        self.followed.get(&id)?.key.clone()
    }

    fn inside(&self, netns: u64) -> Vec<AttachmentKey> {
        let members = self.spaces.get(&netns).map(|space| &space.members);
        members.into_iter().flatten().filter_map(|id| self.attachment(*id)).collect()
    }

    fn knows_endings(&self) -> bool {
        self.knows_endings
    }
}

/// A program may have deleted the entry first.
pub(crate) fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn full(error: MapError, name: &'static str) -> Error {
    const E2BIG: i32 = 7;
    match &error {
        MapError::SyscallError(call) if call.io_error.raw_os_error() == Some(E2BIG) => {
            Error::Full { name, capacity: ATTACHMENTS_MAX }
        }
        _ => Error::UseMap { operation: "write to", name, cause: Box::new(error) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_same_in_every_run_and_never_a_canarys() {
        let key = |id: &str| AttachmentKey {
            network: "net".parse().unwrap(),
            container_id: id.parse().unwrap(),
            ifname: "net1".parse().unwrap(),
        };
        assert_eq!(number(&key("a")), number(&key("a")));
        assert_ne!(number(&key("a")), number(&key("b")));
        assert_eq!(number(&key("a")) & CANARY, 0);
    }

    #[test]
    fn a_namespace_without_a_cookie_is_named_by_its_inode() {
        assert_eq!(netns_key(7, 4_026_532_000), 7);
        assert_eq!(netns_key(0, 4_026_532_000), 4_026_532_000);
    }
}
