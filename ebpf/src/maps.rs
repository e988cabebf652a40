//! The maps, the counters, and the kernel's layout as user space wrote it.

use aya_ebpf::bindings::BPF_RB_AVAIL_DATA;
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, RingBuf};
use aya_ebpf::helpers::generated::bpf_ringbuf_query;
use aya_ebpf::macros::btf_map;
use aya_log_ebpf::warn;
use berth_ebpf_common::{
    ATTACHMENTS_MAX, AttachKey, AttachValue, Counter, DepartedValue, DeviceEvent, ExitSlot, GUARDS_MAX,
    GuardKey, GuardValue, KernelLayout, NetnsValue, PassValue, RING_BYTES, WATCHES_MAX, WatchKey, WatchValue,
    WireEvent,
};

/// Events for user space.
#[btf_map]
pub static EVENTS: RingBuf<DeviceEvent, { RING_BYTES as usize }> = RingBuf::new();

/// The links that user space follows.
#[btf_map]
pub static ATTACH: HashMap<AttachKey, AttachValue, { ATTACHMENTS_MAX as usize }> = HashMap::new();

/// Links that left their namespace, by the address of the device: followed until they are torn down, wherever
/// they went.
#[btf_map]
pub static DEPARTED: HashMap<u64, DepartedValue, { ATTACHMENTS_MAX as usize }> = HashMap::new();

/// The namespaces that they are in.
#[btf_map]
pub static NETNS: HashMap<u64, NetnsValue, { ATTACHMENTS_MAX as usize }> = HashMap::new();

/// Reported exits, per namespace.
#[btf_map]
pub static EXITS: Array<ExitSlot, { ATTACHMENTS_MAX as usize }> = Array::new();

/// Addresses that user space watches.
#[btf_map]
pub static WATCH: HashMap<WatchKey, WatchValue, { WATCHES_MAX as usize }> = HashMap::new();

/// The wires on which senders are held to their leases.
#[btf_map]
pub static GUARD: HashMap<GuardKey, GuardValue, { GUARDS_MAX as usize }> = HashMap::new();

/// Permitted claims on guarded segments.
#[btf_map]
pub static PASS: HashMap<WatchKey, PassValue, { WATCHES_MAX as usize }> = HashMap::new();

/// Values of each [`Counter`].
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { Counter::SLOTS as usize }> = PerCpuArray::new();

/// Replaced before loading, and frozen then: to the verifier these are constants. Its name carries
/// the version of all layouts, so that an object of another version is refused by name.
#[unsafe(no_mangle)]
pub static LAYOUT_V1: KernelLayout = KernelLayout {
    cleanup_net: 0,
    dev_ifindex: 0,
    dev_net: 0,
    dev_name: 0,
    dev_reg_state: 0,
    dev_ip_ptr: 0,
    in_dev_ifa_list: 0,
    ifa_local: 0,
    ifa_next: 0,
    net_inum: 0,
    net_cookie: 0,
    net_count: 0,
    qdisc_queue: 0,
    queue_dev: 0,
    task_nsproxy: 0,
    nsproxy_net: 0,
    task_pid: 0,
    work_func: 0,
    dev_flags: 0,
};

/// Mark of the agent's probes that must reach the links under the parent; 0: no frame is handed back.
/// Replaced and frozen like the layout.
#[unsafe(no_mangle)]
pub static PROBE_MARK: u32 = 0;

/// A field of [`LAYOUT_V1`].
macro_rules! layout {
    ($field:ident) => {
        $crate::maps::frozen(&$crate::maps::LAYOUT_V1.$field)
    };
}
pub(crate) use layout;

/// Value that user space wrote in place of this one. Volatile: the compiler must not assume the zeros.
#[inline(always)]
pub fn frozen<T: Copy>(field: &'static T) -> T {
    // SAFETY: a valid, aligned static without writers while programs run.
    unsafe { core::ptr::read_volatile(field) }
}

/// Adds one to a counter.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: this processor's own slot; programs are not moved to another while they run.
        unsafe { *value += 1 };
    }
}

/// Puts an event about a device, a namespace or a task into the ring; whether that worked.
#[inline(always)]
pub fn emit(event: DeviceEvent) -> bool {
    let entry = EVENTS.reserve_untyped::<DeviceEvent>(0);
    match entry {
        Some(mut entry) => {
            entry.write(event);
            entry.submit(0);
            count(Counter::Emitted);
            true
        }
        None => {
            count(Counter::RingFull);
            warn!((), "the ring is full: an event of kind {} is lost", event.kind);
            false
        }
    }
}

/// Share of the ring that events about frames may fill. Any station can send frames, but the ends of devices
/// must find room.
const WIRE_SHARE: u64 = RING_BYTES as u64 / 2;

/// Puts an event about a frame into the ring; whether that worked.
#[inline(always)]
pub fn emit_wire(event: WireEvent) -> bool {
    // SAFETY: a map, and a question that changes nothing.
    let waiting =
        unsafe { bpf_ringbuf_query((&raw const EVENTS).cast_mut().cast(), u64::from(BPF_RB_AVAIL_DATA)) };
    if waiting > WIRE_SHARE {
        count(Counter::WireHeld);
        return false;
    }
    let entry = EVENTS.reserve_untyped::<WireEvent>(0);
    match entry {
        Some(mut entry) => {
            entry.write(event);
            entry.submit(0);
            count(Counter::Emitted);
            true
        }
        None => {
            count(Counter::RingFull);
            false
        }
    }
}
