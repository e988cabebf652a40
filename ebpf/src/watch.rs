//! The watcher on the parent: keeps WATCH, reports only changes to user space, and on guarded segments drops
//! claims of other attachments' addresses.

use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use berth_ebpf_common::frame::{self, Claim, Frame, Meta, Other};
use berth_ebpf_common::{Counter, GuardKey, Kind, LAYOUT, Source, WatchKey, WireEvent, watch_flag};

use crate::maps::{GUARD, PASS, PROBE_MARK, WATCH, count, emit_wire, frozen};

/// Interval after which the same claimant is reported again.
const AGAIN_NS: u64 = 1_000_000_000;
/// Interval after which another claimant is reported: two conflicting stations must not fill the ring.
const CHANGE_NS: u64 = 100_000_000;

/// Frames that come in on the parent.
#[classifier]
pub fn arp_in(ctx: TcContext) -> i32 {
    let _ = look(&ctx, Source::Ingress);
    TC_ACT_UNSPEC
}

/// Frames that leave through the parent, those of its children included. On a guarded segment a frame that
/// claims another attachment's address is dropped.
#[classifier]
pub fn arp_out(ctx: TcContext) -> i32 {
    match look(&ctx, Source::Egress) {
        Ok((parent, claim)) if is_refused(&ctx, parent, &claim) => TC_ACT_SHOT,
        Err(Other::Asks) => {
            hand_back(&ctx);
            TC_ACT_UNSPEC
        }
        _ => TC_ACT_UNSPEC,
    }
}

/// Redirects a copy of a marked probe to the parent's ingress: macvlan delivers to the links under it only
/// frames received there.
///
/// The mark ends here. A pod could read it from its copy, and then have its own frames handed back. A frame
/// with a guessed mark is handed back too, but a probe claims nothing and so changes no neighbour table.
#[inline(always)]
fn hand_back(ctx: &TcContext) {
    let mark = frozen(&PROBE_MARK);
    // SAFETY: the context is valid while the program runs; the mark of a frame may be written.
    let parent = unsafe {
        let skb = ctx.skb.skb;
        if mark == 0 || (*skb).mark != mark {
            return;
        }
        (*skb).mark = 0;
        (*skb).ifindex
    };
    // The agent counts the copies that are received, so a refusal needs no report.
    let _ = ctx.clone_redirect(parent, u64::from(BPF_F_INGRESS));
}

/// A frame in the kernel's form: most devices remove the VLAN tag from the bytes.
struct Packet<'a>(&'a TcContext, Source);

impl Frame for Packet<'_> {
    #[inline(always)]
    fn meta(&self) -> Meta {
        // SAFETY: the context is valid while the program runs; these members are always there.
        let (protocol, present, tag) = unsafe {
            let skb = self.0.skb.skb;
            ((*skb).protocol as u16, (*skb).vlan_present, (*skb).vlan_tci)
        };
        // A pod's packet socket can set any protocol on its frames; a listener uses the bytes.
        let said = if matches!(self.1, Source::Egress) { ethertype(self.0) } else { None };
        Meta {
            protocol: u16::from_be(said.unwrap_or(protocol)),
            tag: if present == 0 { None } else { Some(tag as u16) },
        }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.load(at).ok()
    }
}

/// The `EtherType` in the frame's bytes, in the order of the wire; `None`: the header is not in line.
#[inline(always)]
fn ethertype(ctx: &TcContext) -> Option<u16> {
    let start = ctx.data();
    if start + frame::ETHERNET > ctx.data_end() {
        return None;
    }
    // SAFETY: the two bytes are before the end that was just compared with.
    Some(unsafe { ((start + frame::ETHERNET - 2) as *const u16).read_unaligned() })
}

#[inline(always)]
fn look(ctx: &TcContext, source: Source) -> Result<(u32, Claim), Other> {
    let claim = frame::read(&Packet(ctx, source)).inspect_err(|other| match other {
        Other::Nothing | Other::Asks => {}
        Other::Bad => count(Counter::BadFrame),
        Other::Nested => count(Counter::NestedTag),
    })?;
    count(Counter::Frames);
    // SAFETY: the context is valid while the program runs.
    let parent = unsafe { (*ctx.skb.skb).ifindex };
    heard(parent, &claim, source);
    Ok((parent, claim))
}

/// True if the segment is guarded and the sender may not claim the address. Counted, with the last one.
#[inline(always)]
fn is_refused(ctx: &TcContext, parent: u32, claim: &Claim) -> bool {
    let Some(guard) = GUARD.get_ptr_mut(&GuardKey { parent, vlan: claim.vlan, pad: 0 }) else { return false };
    if claim.is_link_local() {
        return false;
    }
    let Some(source) = frame::source(&Packet(ctx, Source::Egress)) else { return false };
    let key = WatchKey { parent, vlan: claim.vlan, family: claim.family, pad: 0, address: claim.address };
    // SAFETY: values of the maps. Two processors may count at the same time and lose one count; user space
    // may replace the values meanwhile, each as a whole.
    unsafe {
        let passes = match PASS.get(&key) {
            Some(pass) => pass.admits(source, claim.mac),
            None => (*guard).own == source && (*guard).own == claim.mac,
        };
        if !passes {
            (*guard).dropped = (*guard).dropped.wrapping_add(1);
            (*guard).at = bpf_ktime_get_boot_ns();
            (*guard).mac = source;
            (*guard).address = claim.address;
            (*guard).family = claim.family;
        }
        !passes
    }
}

#[inline(always)]
fn heard(parent: u32, claim: &Claim, source: Source) {
    let key = WatchKey { parent, vlan: claim.vlan, family: claim.family, pad: 0, address: claim.address };
    let Some(value) = WATCH.get_ptr_mut(&key) else {
        return count(Counter::Filtered);
    };
    // SAFETY: a value of the map. Two processors may count at the same time and lose one count; user space
    // may replace it meanwhile. Nothing here proves anything: it only triggers reads.
    unsafe {
        let now = bpf_ktime_get_boot_ns();
        match source {
            Source::Egress => (*value).out_seen = now,
            _ => (*value).in_seen = now,
        }
        (*value).hits = (*value).hits.wrapping_add(1);
        let bound = (*value).flags & watch_flag::BOUND != 0;
        if bound && (*value).mac == claim.mac {
            return;
        }
        if bound {
            (*value).conflicts = (*value).conflicts.wrapping_add(1);
        }
        let before = if bound { (*value).other } else { (*value).mac };
        let known = (*value).mac;
        let silent = now.wrapping_sub((*value).told);
        let due = if before == claim.mac { AGAIN_NS } else { CHANGE_NS };
        // A suppressed claimant is not remembered either: its next claim is a change again.
        if (*value).told != 0 && silent < due {
            return count(Counter::Filtered);
        }
        let event = WireEvent {
            version: LAYOUT,
            kind: (if bound { Kind::WireConflict } else { Kind::WireHeard }) as u8,
            source: source as u8,
            family: claim.family,
            parent,
            at_ns: now,
            vlan: claim.vlan,
            operation: claim.operation,
            mac: claim.mac,
            known,
            address: claim.address,
            id: (*value).id,
            hits: (*value).hits,
            conflicts: (*value).conflicts,
        };
        if emit_wire(event) {
            (*value).told = now;
            if bound {
                (*value).other = claim.mac;
            } else {
                (*value).mac = claim.mac;
            }
        }
    }
}
