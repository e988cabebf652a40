//! Offsets of kernel members that the programs read. User space reads them from the kernel's own type
//! information and writes them into the object before loading it. One object therefore serves every kernel,
//! and the verifier sees constants.

use crate::bytes::layout;

/// Value in place of an offset: this kernel has no such member. Only for members marked as optional.
pub const ABSENT: u32 = u32::MAX;

layout! {
    /// Byte offsets in kernel structures, and one address.
    pub struct KernelLayout[80] {
        /// The address of `cleanup_net`; 0: unknown, and then no [`crate::Kind::NetnsHint`] is sent.
        cleanup_net: u64,
        /// `net_device.ifindex` (4 bytes).
        dev_ifindex: u32,
        /// Pointer member `net_device.nd_net.net`.
        dev_net: u32,
        /// `net_device.name` (16 bytes).
        dev_name: u32,
        /// `net_device.reg_state` (1 byte).
        dev_reg_state: u32,
        /// Pointer member `net_device.ip_ptr`.
        dev_ip_ptr: u32,
        /// Pointer member `in_device.ifa_list`.
        in_dev_ifa_list: u32,
        /// `in_ifaddr.ifa_local` (4 bytes).
        ifa_local: u32,
        /// Pointer member `in_ifaddr.ifa_next`.
        ifa_next: u32,
        /// `net.ns.inum` (4 bytes).
        net_inum: u32,
        /// `net.net_cookie` (8 bytes).
        net_cookie: u32,
        /// The count of the namespace's users (4 bytes); optional.
        net_count: u32,
        /// Pointer member `Qdisc.dev_queue`.
        qdisc_queue: u32,
        /// Pointer member `netdev_queue.dev`.
        queue_dev: u32,
        /// Pointer member `task_struct.nsproxy`.
        task_nsproxy: u32,
        /// Pointer member `nsproxy.net_ns`.
        nsproxy_net: u32,
        /// `task_struct.pid` (4 bytes).
        task_pid: u32,
        /// Pointer member `work_struct.func`.
        work_func: u32,
        /// `net_device.flags` (4 bytes).
        dev_flags: u32,
    }
}
