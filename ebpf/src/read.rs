//! Reading members of kernel structures at offsets that user space found out.
//!
//! On the main rungs a read is a plain load: the verifier knows the type of the argument, checks
//! the offset against it, and the kernel makes a load from a bad pointer give zeros. Only kprobes,
//! whose arguments have no type, read by the helper.

use aya_ebpf::helpers::bpf_probe_read_kernel;

/// A way to read kernel memory.
pub trait Read {
    /// The `T` that lies `offset` bytes behind `base`; zeros where that cannot be read.
    ///
    /// # Safety
    ///
    /// `base` must come from the kernel, and `offset` from its type information.
    unsafe fn read<T: Copy + Default>(base: *const u8, offset: u32) -> T;
}

/// By a plain load of a typed argument.
pub struct Plain;

impl Read for Plain {
    #[inline(always)]
    unsafe fn read<T: Copy + Default>(base: *const u8, offset: u32) -> T {
        // SAFETY: as the trait demands; the verifier checks it again. Volatile, so that the
        // compiler neither splits nor joins loads: the verifier wants whole members.
        unsafe { base.add(offset as usize).cast::<T>().read_volatile() }
    }
}

/// By the helper, for arguments without a type.
pub struct Probe;

impl Read for Probe {
    #[inline(always)]
    unsafe fn read<T: Copy + Default>(base: *const u8, offset: u32) -> T {
        // SAFETY: the helper checks the address itself.
        unsafe { bpf_probe_read_kernel(base.add(offset as usize).cast::<T>()) }.unwrap_or_default()
    }
}

/// Whether the verifier's idea of the pointer and ours agree that there is something behind it.
#[inline(always)]
pub unsafe fn pointer<R: Read>(base: *const u8, offset: u32) -> Option<*const u8> {
    // SAFETY: as for `Read::read`. Pointers are read as pointers: through an integer the verifier
    // would forget their type.
    let pointer = unsafe { R::read::<Pointer>(base, offset) }.0;
    if pointer.is_null() { None } else { Some(pointer) }
}

/// A pointer with a default, which is null.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Pointer(*const u8);

impl Default for Pointer {
    fn default() -> Self {
        Self(core::ptr::null())
    }
}
