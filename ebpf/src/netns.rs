//! Namespaces: their identity, their end, and tasks that leave them by exiting.

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_boot_ns};
use aya_ebpf::macros::{btf_tracepoint, fentry, kprobe};
use aya_ebpf::programs::{BtfTracePointContext, FEntryContext, ProbeContext};
use aya_log_ebpf::{debug, trace};
use berth_ebpf_common::{ABSENT, Counter, DeviceEvent, Kind, LAYOUT, NetnsValue, Source, flag};

use crate::maps::{EXITS, NETNS, count, emit, layout};
use crate::read::{Plain, Probe, Read, pointer};

/// Identity of a namespace.
#[derive(Clone, Copy)]
pub struct Identity {
    /// 0 on kernels that assign it late.
    pub cookie: u64,
    /// Unique among the living.
    pub inode: u32,
    /// Bits of [`flag`].
    pub flags: u8,
}

impl Identity {
    /// Of a `struct net`.
    #[inline(always)]
    pub unsafe fn of<R: Read>(net: *const u8) -> Self {
        let mut flags = 0;
        let count = layout!(net_count);
        // SAFETY: `net` is one, and the offsets are of its members.
        unsafe {
            if count != ABSENT && R::read::<u32>(net, count) == 0 {
                flags = flag::NETNS_DYING;
            }
            Self { cookie: R::read(net, layout!(net_cookie)), inode: R::read(net, layout!(net_inum)), flags }
        }
    }

    /// The form used in keys of maps.
    #[inline(always)]
    pub fn key(self) -> u64 {
        if self.cookie == 0 { u64::from(self.inode) } else { self.cookie }
    }

    /// An event about the namespace; the caller adds its own fields.
    #[inline(always)]
    pub fn event(self, kind: Kind, source: Source) -> DeviceEvent {
        DeviceEvent {
            version: LAYOUT,
            kind: kind as u8,
            source: source as u8,
            flags: self.flags,
            ifindex: 0,
            // SAFETY: helpers without arguments.
            at_ns: unsafe { bpf_ktime_get_boot_ns() },
            cookie: self.cookie,
            id: 0,
            inode: self.inode,
            // SAFETY: as above.
            cpu: unsafe { bpf_get_smp_processor_id() },
            name: [0; 16],
            ipv4: [[0; 4]; 2],
        }
    }
}

#[inline(always)]
unsafe fn ended<R: Read>(net: *const u8, source: Source) {
    count(Counter::Namespaces);
    // SAFETY: `net` is the function's argument.
    let identity = unsafe { Identity::of::<R>(net) };
    let key = identity.key();
    // SAFETY: the value is copied immediately; user space alone inserts.
    let Some(NetnsValue { id, .. }) = (unsafe { NETNS.get(&key) }).copied() else {
        return count(Counter::Filtered);
    };
    if emit(DeviceEvent { id, ..identity.event(Kind::NetnsEnd, source) }) {
        let _ = NETNS.remove(&key);
        debug!((), "namespace {} ended: number {}", key, id);
    }
}

/// A namespace ended; its devices are gone.
#[fentry(function = "rtnetlink_net_exit")]
pub fn net_end_fe(ctx: FEntryContext) -> i32 {
    // SAFETY: the function's only argument.
    unsafe { ended::<Plain>(ctx.arg(0), Source::Fentry) };
    0
}

/// The same, where entries of functions cannot be used.
#[kprobe(function = "rtnetlink_net_exit")]
pub fn net_end_kp(ctx: ProbeContext) -> u32 {
    if let Some(net) = ctx.arg::<*const u8>(0) {
        // SAFETY: the function's only argument.
        unsafe { ended::<Probe>(net, Source::Kprobe) };
    }
    0
}

/// Some namespaces are about to be torn down. Without an identity, so only a hint.
#[btf_tracepoint(function = "workqueue_execute_start")]
pub fn net_hint_tp(ctx: BtfTracePointContext) -> i32 {
    let wanted = layout!(cleanup_net);
    // SAFETY: the tracepoint's argument is a `struct work_struct`.
    let function: u64 = unsafe { Plain::read(ctx.arg(0), layout!(work_func)) };
    if wanted != 0 && function == wanted {
        count(Counter::Namespaces);
        let nobody = Identity { cookie: 0, inode: 0, flags: 0 };
        emit(nobody.event(Kind::NetnsHint, Source::TpBtf));
    }
    0
}

/// A task exits. Reported once for each namespace until user space has read the tasks: a pod that starts and
/// ends processes all day must not fill the ring, and the last exit must not be missed.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn task_exit_tp(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint's argument is a `struct task_struct`, still with its namespaces.
    unsafe { task_exit(ctx.arg(0)) };
    0
}

#[inline(always)]
unsafe fn task_exit(task: *const u8) {
    count(Counter::Tasks);
    // SAFETY: by the caller, and by the chain of typed pointers.
    let (identity, pid) = unsafe {
        let Some(proxy) = pointer::<Plain>(task, layout!(task_nsproxy)) else { return };
        let Some(net) = pointer::<Plain>(proxy, layout!(nsproxy_net)) else { return };
        (Identity::of::<Plain>(net), Plain::read::<u32>(task, layout!(task_pid)))
    };
    // SAFETY: the value is copied immediately.
    let Some(NetnsValue { id, slot, .. }) = (unsafe { NETNS.get(&identity.key()) }).copied() else {
        return count(Counter::Filtered);
    };
    let Some(slot) = EXITS.get_ptr_mut(slot) else { return };
    // SAFETY: a slot of an array never moves. A lost count is harmless, and user space reads the event of a
    // flag that it clears at the same time after clearing.
    unsafe {
        (*slot).exits += 1;
        if (*slot).told != 0 {
            return count(Counter::Filtered);
        }
        (*slot).told = 1;
        let event = DeviceEvent { id, ifindex: pid, ..identity.event(Kind::TaskExit, Source::TpBtf) };
        if emit(event) {
            trace!((), "task {} of namespace {} exits: number {}", pid, identity.key(), id);
        } else {
            (*slot).told = 0;
        }
    }
}
