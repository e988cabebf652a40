//! Work in a namespace, for the crates that build larger worlds from the parts of this one.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::netlink::Netlink;
pub use crate::sys::netns::{cookie, inside};

/// Assigns nsids to the namespaces `of` in the namespace at `node`.
pub fn number<'a>(node: &Path, of: impl IntoIterator<Item = (&'a Path, i32)>) -> io::Result<()> {
    let mut netlink = inside(node, Netlink::open)?;
    of.into_iter().try_for_each(|(path, nsid)| netlink.number(&File::open(path)?, nsid))
}

/// The index of the link `name` in the namespace at `path`.
pub fn ifindex(path: &Path, name: &str) -> io::Result<i32> {
    let links = inside(path, || Netlink::open()?.links(None))?;
    let link = links.into_iter().find(|link| link.name == name).ok_or(io::ErrorKind::NotFound)?;
    Ok(link.ifindex)
}
