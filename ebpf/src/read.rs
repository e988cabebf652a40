//! Reads of kernel members at offsets that user space determined.
//!
//! In the preferred attach modes a read is a plain load: the verifier has the type of the argument and checks
//! the offset against it, and the kernel makes a load from a bad pointer return zeros. Only kprobes, with
//! untyped arguments, use the helper.

use aya_ebpf::helpers::bpf_probe_read_kernel;

/// A way to read kernel memory.
pub trait Read {
    /// The `T` at `offset` bytes after `base`; zeros if it cannot be read.
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
        // SAFETY: as the trait requires; the verifier checks it again. Volatile, so that the compiler neither
        // splits nor joins loads: the verifier requires whole members.
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

/// The pointer at an offset, or `None` for null, in a form that the verifier accepts.
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
