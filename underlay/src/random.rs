//! Random bytes from the kernel, for names and MACs that must be unique.

use crate::error::Error;

/// Four bytes of it.
pub fn bytes() -> Result<[u8; 4], Error> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(Error::Random)?;
    Ok(bytes)
}
