//! Where the running kernel keeps what the programs read. User space finds that out from the
//! kernel's own type information and writes it into the object before loading it, so one object
//! serves every kernel and the verifier sees constants.

use crate::bytes::layout;

/// In place of an offset: this kernel has no such member. Only for those that are called optional.
pub const ABSENT: u32 = u32::MAX;

layout! {
    /// Byte offsets in kernel structures, and one address.
    pub struct KernelLayout[80] {
        /// The address of `cleanup_net`; 0: not known, then no [`crate::Kind::NetnsHint`] comes.
        cleanup_net: u64,
        /// `net_device.ifindex` (4 bytes).
        dev_ifindex: u32,
        /// `net_device.nd_net.net` (pointer).
        dev_net: u32,
        /// `net_device.name` (16 bytes).
        dev_name: u32,
        /// `net_device.reg_state` (1 byte).
        dev_reg_state: u32,
        /// `net_device.ip_ptr` (pointer).
        dev_ip_ptr: u32,
        /// `in_device.ifa_list` (pointer).
        in_dev_ifa_list: u32,
        /// `in_ifaddr.ifa_local` (4 bytes).
        ifa_local: u32,
        /// `in_ifaddr.ifa_next` (pointer).
        ifa_next: u32,
        /// `net.ns.inum` (4 bytes).
        net_inum: u32,
        /// `net.net_cookie` (8 bytes).
        net_cookie: u32,
        /// The count of the namespace's users (4 bytes); optional.
        net_count: u32,
        /// `Qdisc.dev_queue` (pointer).
        qdisc_queue: u32,
        /// `netdev_queue.dev` (pointer).
        queue_dev: u32,
        /// `task_struct.nsproxy` (pointer).
        task_nsproxy: u32,
        /// `nsproxy.net_ns` (pointer).
        nsproxy_net: u32,
        /// `task_struct.pid` (4 bytes).
        task_pid: u32,
        /// `work_struct.func` (pointer).
        work_func: u32,
        /// `net_device.flags` (4 bytes).
        dev_flags: u32,
    }
}
