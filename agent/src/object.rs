//! The programs for the kernel that were built with this agent, if any.
//!
//! Only the bytes, without interpretation. They are aligned as an object file's tables require, because the
//! loader reads them in place.

/// Alignment of a table of 64-bit words.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/berth.o")));

/// The embedded object; `None` in an agent that was built without one.
pub fn embedded() -> Option<&'static [u8]> {
    Some(&OBJECT.0).filter(|bytes| !bytes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_embedded_is_an_aligned_object_for_the_bpf_machine() {
        assert_eq!(OBJECT.0.as_ptr().align_offset(8), 0);
        // A build without the object is a build that must work, too.
        if let Some(bytes) = embedded() {
            assert_eq!((&bytes[..4], &bytes[18..20]), (&b"\x7fELF"[..], &[247, 0][..]));
        }
    }
}
