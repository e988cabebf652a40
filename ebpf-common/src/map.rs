//! Keys and values of the maps, as `bpftool map dump` shows them.

use crate::bytes::layout;

layout! {
    /// Key of ATTACH: one link. The namespace is identified by its cookie, or, if the kernel assigns cookies
    /// late (below 5.14) and it is 0, by its inode, which no living namespace shares.
    pub struct AttachKey[16] {
        /// Cookie, or inode.
        netns: u64,
        /// The link's index there.
        ifindex: u32,
        /// Padding, always zero.
        pad: u32,
    }
}

layout! {
    /// Value of ATTACH. The program deletes the entry with the event it sends, so that no later
    /// namespace with the same inode can meet it.
    pub struct AttachValue[8] {
        /// User space's number for the attachment; comes back in the event.
        id: u64,
    }
}

layout! {
    /// Value of DEPARTED; the key is the address of the device in the kernel, 8 bytes. A device that is torn
    /// down at that address proves the end of the one that left: it is that one, or that one was freed before.
    pub struct DepartedValue[24] {
        /// The namespace that it left, as in [`AttachKey`].
        netns: u64,
        /// Its index there.
        ifindex: u32,
        /// Padding, always zero.
        pad: u32,
        /// User space's number for the attachment; comes back in the event.
        id: u64,
    }
}

layout! {
    /// Value of NETNS; the key is the namespace as in [`AttachKey`], 8 bytes.
    pub struct NetnsValue[16] {
        /// User space's number for the namespace; comes back in the event.
        id: u64,
        /// Slot of this namespace in EXITS.
        slot: u32,
        /// Padding, always zero.
        pad: u32,
    }
}

layout! {
    /// Value of EXITS, an array. Kept apart from NETNS because a slot never moves: user space may
    /// clear it while a program sets it.
    pub struct ExitSlot[16] {
        /// Not 0: an exit was reported, and further ones are not reported before user space clears this.
        told: u64,
        /// Number of tasks that exited in the namespace.
        exits: u64,
    }
}

layout! {
    /// Key of WATCH: one address on one wire.
    pub struct WatchKey[24] {
        /// The index of the device that is watched.
        parent: u32,
        /// The VLAN id on it; 0: untagged.
        vlan: u16,
        /// 4 or 6.
        family: u8,
        /// Padding, always zero.
        pad: u8,
        /// The address; an IPv4 one is in the first four bytes, then zeros.
        address: [u8; 16],
    }
}

/// Bits of [`WatchValue::flags`].
pub mod watch_flag {
    /// The address has a holder here: `mac`. Without it `mac` is the last claimant.
    pub const BOUND: u16 = 1;
}

layout! {
    /// Value of WATCH. Times are `CLOCK_BOOTTIME` in nanoseconds; 0: never.
    pub struct WatchValue[56] {
        /// User space's number; comes back in events.
        id: u64,
        /// Time of the last claim in a received frame.
        in_seen: u64,
        /// Time of the last claim in a sent frame.
        out_seen: u64,
        /// Time of the last event to user space.
        told: u64,
        /// MAC of the holder, or of the last claimant.
        mac: [u8; 6],
        /// Bits of [`watch_flag`].
        flags: u16,
        /// Last other claimant of an address with a holder.
        other: [u8; 6],
        /// Padding, always zero.
        pad: u16,
        /// Number of claims.
        hits: u32,
        /// Number of claims by others than the holder.
        conflicts: u32,
    }
}

layout! {
    /// Key of GUARD: one wire on which senders are held to their leases.
    pub struct GuardKey[8] {
        /// The index of the device.
        parent: u32,
        /// The VLAN id on it; 0: untagged.
        vlan: u16,
        /// Padding, always zero.
        pad: u16,
    }
}

layout! {
    /// Value of GUARD.
    pub struct GuardValue[48] {
        /// Frames that were dropped.
        dropped: u64,
        /// Time at which the last one was, by `CLOCK_BOOTTIME` in nanoseconds; 0: never.
        at: u64,
        /// The device's own MAC, which may claim addresses without a lease.
        own: [u8; 6],
        /// The source of the last frame that was dropped.
        mac: [u8; 6],
        /// The claimed address, as in [`WatchKey`].
        address: [u8; 16],
        /// 4 or 6.
        family: u8,
        /// Padding, always zero.
        pad: u8,
        /// Padding, always zero.
        more: u16,
    }
}

layout! {
    /// Value of PASS, with the key of WATCH: the MAC that may claim an address on a guarded segment.
    pub struct PassValue[8] {
        /// The only MAC that may; all zeros: any.
        mac: [u8; 6],
        /// Padding, always zero.
        pad: u16,
    }
}

impl PassValue {
    /// True if a frame from `source` with a message for `holder` may claim the address.
    #[inline]
    pub fn admits(&self, source: [u8; 6], holder: [u8; 6]) -> bool {
        self.mac == [0; 6] || (self.mac == source && self.mac == holder)
    }
}

/// Index into COUNTERS, an array of 8 bytes each, per processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Counter {
    /// Devices that were torn down, followed or not.
    Devices = 0,
    /// Namespaces that ended, followed or not.
    Namespaces = 1,
    /// Tasks that exited, anywhere.
    Tasks = 2,
    /// ARP and neighbour frames that were read.
    Frames = 3,
    /// Events put into the ring.
    Emitted = 4,
    /// Events of unfollowed objects, or already reported.
    Filtered = 5,
    /// Events lost because the ring was full: read everything again.
    RingFull = 6,
    /// Frames that a host would have to discard.
    BadFrame = 7,
    /// Frames with one VLAN tag inside another.
    NestedTag = 8,
    /// Events about frames that were held back because the ring was half full.
    WireHeld = 9,
}

impl Counter {
    /// All counters, in the order of their indices, with the name of each.
    pub const ALL: [(Self, &'static str); 10] = [
        (Self::Devices, "devices"),
        (Self::Namespaces, "namespaces"),
        (Self::Tasks, "tasks"),
        (Self::Frames, "frames"),
        (Self::Emitted, "emitted"),
        (Self::Filtered, "filtered"),
        (Self::RingFull, "ring_full"),
        (Self::BadFrame, "bad_frame"),
        (Self::NestedTag, "nested_tag"),
        (Self::WireHeld, "wire_held"),
    ];

    /// Number of slots of COUNTERS; some are spare.
    pub const SLOTS: u32 = 16;
}
