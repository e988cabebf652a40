//! Fields to and from the bytes of a layout, in the machine's own order, without `unsafe`.

/// Declares a `#[repr(C)]` layout, asserts its size, and adds `to_bytes` and `from_bytes`.
macro_rules! layout {
    (
        $(#[$meta:meta])*
        pub struct $name:ident[$size:literal] { $($(#[$field_meta:meta])* $field:ident: $kind:ty,)* }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[repr(C)]
        pub struct $name { $($(#[$field_meta])* pub $field: $kind,)* }

        const _: () = assert!(size_of::<$name>() == $size, "the size is part of the contract");
        const _: () = assert!(0 $(+ size_of::<$kind>())* == $size, "no padding without a writer");

        impl $name {
            /// Its size in bytes.
            pub const SIZE: usize = $size;

            /// Its bytes, as the kernel side reads and writes them.
            pub fn to_bytes(self) -> [u8; $size] {
                let mut bytes = [0; $size];
                let mut at = 0;
                $(
                    $crate::bytes::Field::put(self.$field, &mut bytes[at..at + size_of::<$kind>()]);
                    at += size_of::<$kind>();
                )*
                debug_assert!(at == $size);
                bytes
            }

            /// From its bytes.
            pub fn from_bytes(bytes: &[u8; $size]) -> Self {
                let mut rest = &bytes[..];
                Self { $($field: $crate::bytes::Field::take(&mut rest),)* }
            }
        }
    };
}
pub(crate) use layout;

/// One field of a layout. The input is never too short: sizes are asserted at the definition of a layout.
pub trait Field: Sized {
    /// Takes it off the front.
    fn take(rest: &mut &[u8]) -> Self;
    /// Fills exactly its own bytes.
    fn put(self, own: &mut [u8]);
}

macro_rules! number {
    ($($kind:ty),*) => {$(
        impl Field for $kind {
            fn take(rest: &mut &[u8]) -> Self {
                let mut bytes = [0; size_of::<Self>()];
                bytes.copy_from_slice(&rest[..size_of::<Self>()]);
                *rest = &rest[size_of::<Self>()..];
                Self::from_ne_bytes(bytes)
            }
            fn put(self, own: &mut [u8]) {
                own.copy_from_slice(&self.to_ne_bytes());
            }
        }
    )*};
}
number!(u8, u16, u32, u64);

impl<T: Field + Copy + Default, const N: usize> Field for [T; N] {
    fn take(rest: &mut &[u8]) -> Self {
        let mut all = [T::default(); N];
        for one in &mut all {
            *one = T::take(rest);
        }
        all
    }
    fn put(self, own: &mut [u8]) {
        for (one, bytes) in self.into_iter().zip(own.chunks_exact_mut(size_of::<T>())) {
            one.put(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    layout! {
        /// For the test.
        pub struct Mixed[16] { a: u8, b: [u8; 3], c: u32, d: [u32; 2], }
    }

    #[test]
    fn bytes_and_back_and_every_field_in_its_place() {
        let mixed = Mixed { a: 1, b: [2, 3, 4], c: 5, d: [6, 7] };
        let bytes = mixed.to_bytes();
        assert_eq!(bytes.len(), Mixed::SIZE);
        assert_eq!(Mixed::from_bytes(&bytes), mixed);
        assert_eq!(bytes[..4], [1, 2, 3, 4]);
        assert_eq!(bytes[8..12], 6_u32.to_ne_bytes());
    }
}
