//! The end of a device: one body, three places in the kernel where it can be seen.
//!
//! A followed device that leaves its namespace is followed on by its address in the kernel. Its teardown, anywhere,
//! passes here with that address; so does the teardown of a later device at the same address, which proves the same.

use aya_ebpf::macros::{btf_tracepoint, fentry, kprobe};
use aya_ebpf::programs::{BtfTracePointContext, FEntryContext, ProbeContext};
use aya_log_ebpf::debug;
use berth_ebpf_common::{AttachKey, AttachValue, Counter, DepartedValue, DeviceEvent, Kind, Source};

use crate::maps::{ATTACH, DEPARTED, count, emit, layout};
use crate::netns::Identity;
use crate::read::{Plain, Probe, Read, pointer};

/// `NETREG_REGISTERED`. A device that moves to another namespace passes here like this, and down.
const REGISTERED: u8 = 1;
/// `NETREG_UNREGISTERING` of the kernel.
const UNREGISTERING: u8 = 2;
/// `IFF_UP`. A device that stays where it is and gets another queueing discipline is up, as a rule.
const UP: u32 = 1;

#[inline(always)]
unsafe fn down<R: Read>(dev: *const u8, source: Source) {
    // SAFETY: `dev` is a device, by the caller; offsets are of its members.
    unsafe {
        let kind = match R::read::<u8>(dev, layout!(dev_reg_state)) {
            UNREGISTERING => Kind::DeviceDown,
            REGISTERED if R::read::<u32>(dev, layout!(dev_flags)) & UP == 0 => Kind::DeviceLeaving,
            _ => return,
        };
        if kind == Kind::DeviceDown {
            count(Counter::Devices);
        }
        let Some(net) = pointer::<R>(dev, layout!(dev_net)) else { return };
        let identity = Identity::of::<R>(net);
        let ifindex: u32 = R::read(dev, layout!(dev_ifindex));
        let key = AttachKey { netns: identity.key(), ifindex, pad: 0 };
        let mut event = identity.event(kind, source);
        event.ifindex = ifindex;
        let at = dev as u64;
        // Copied immediately; user space alone inserts.
        let id = match ATTACH.get(&key).copied() {
            Some(AttachValue { id }) if kind == Kind::DeviceLeaving => {
                let left = DepartedValue { netns: key.netns, ifindex, pad: 0, id };
                // Without room its end is not reported; reads and searches cover that.
                let _ = DEPARTED.insert(&at, &left, 0);
                id
            }
            Some(AttachValue { id }) => id,
            None => return departed_down(kind, at, event),
        };
        event.id = id;
        let name: [u64; 2] = [R::read(dev, layout!(dev_name)), R::read(dev, layout!(dev_name) + 8)];
        event.name = core::mem::transmute::<[u64; 2], [u8; 16]>(name);
        event.ipv4 = addresses::<R>(dev);
        // Deleted with the event, so that one device is reported once for all of its queues, and no later
        // device with its index is taken for it. Kept if the ring is full, for the next call.
        if emit(event) {
            let _ = ATTACH.remove(&key);
            if kind == Kind::DeviceDown {
                // Its queueing discipline was replaced once while it was down.
                let _ = DEPARTED.remove(&at);
            }
            debug!((), "device {} of namespace {} ends: attachment {}", ifindex, key.netns, id);
        }
    }
}

/// A device that left a followed place is torn down: reported once, with the place that it left.
#[inline(always)]
unsafe fn departed_down(kind: Kind, at: u64, event: DeviceEvent) {
    // SAFETY: copied immediately; only this program inserts, before the device left.
    let left = unsafe { DEPARTED.get(&at) }.copied();
    let Some(DepartedValue { netns, ifindex, id, .. }) = left.filter(|_| kind == Kind::DeviceDown) else {
        return count(Counter::Filtered);
    };
    // If cookies are assigned late, the place is named by its inode, and no cookie is reported.
    let cookie = if event.cookie == 0 { 0 } else { netns };
    if emit(DeviceEvent { kind: Kind::DepartedDown as u8, cookie, ifindex, id, ..event }) {
        let _ = DEPARTED.remove(&at);
        debug!((), "device {} that left namespace {} ends: attachment {}", ifindex, netns, id);
    }
}

/// The first two IPv4 addresses; they are still there at this point.
#[inline(always)]
unsafe fn addresses<R: Read>(dev: *const u8) -> [[u8; 4]; 2] {
    let mut found = [[0; 4]; 2];
    // SAFETY: a chain of typed pointers, each checked.
    unsafe {
        let Some(list) = pointer::<R>(dev, layout!(dev_ip_ptr)) else { return found };
        let Some(first) = pointer::<R>(list, layout!(in_dev_ifa_list)) else { return found };
        found[0] = R::read::<u32>(first, layout!(ifa_local)).to_ne_bytes();
        let Some(second) = pointer::<R>(first, layout!(ifa_next)) else { return found };
        found[1] = R::read::<u32>(second, layout!(ifa_local)).to_ne_bytes();
    }
    found
}

/// A device is being torn down. Once for each, of any kind, even one that never was up.
#[fentry(function = "dev_shutdown")]
pub fn dev_down_fe(ctx: FEntryContext) -> i32 {
    // SAFETY: the function's only argument.
    unsafe { down::<Plain>(ctx.arg(0), Source::Fentry) };
    0
}

/// The same, where entries of functions cannot be used: once for each queue of a device that was up.
#[btf_tracepoint(function = "qdisc_destroy")]
pub fn dev_down_tp(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint's argument is a `struct Qdisc`.
    unsafe {
        if let Some(queue) = pointer::<Plain>(ctx.arg(0), layout!(qdisc_queue))
            && let Some(dev) = pointer::<Plain>(queue, layout!(queue_dev))
        {
            down::<Plain>(dev, Source::TpBtf);
        }
    }
    0
}

/// The same, by a breakpoint.
#[kprobe(function = "dev_shutdown")]
pub fn dev_down_kp(ctx: ProbeContext) -> u32 {
    if let Some(dev) = ctx.arg::<*const u8>(0) {
        // SAFETY: the function's only argument.
        unsafe { down::<Probe>(dev, Source::Kprobe) };
    }
    0
}

const _: () = assert!(size_of::<DeviceEvent>() == 64);
