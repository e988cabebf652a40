//! Selection of the attachment's own links in a container, and their removal.

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::identity::NetnsCookie;
use berth_ipam::name::IfName;
use berth_protocol::alias;
use berth_underlay::facts::LinkFacts;

use crate::errors::chain;
use crate::world::World;

/// Outcome of the removal of own links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// There were some, and they were seen gone.
    Removed,
    /// The namespace has no own link.
    NoneHere,
    /// The container could not be read, or a link could not be removed.
    Failed,
}

/// True if Berth created this link for this attachment. The MAC proves it wherever the link is; the alias
/// only in the namespace for which it was written (a passthru child has its parent's MAC).
pub fn is_own(link: &LinkFacts, key: &AttachmentKey, cookie: NetnsCookie) -> bool {
    link.mac.is_some_and(|mac| mac.belongs_to(key))
        || link.alias.as_deref().and_then(|text| alias::cookie_of(text, key)) == Some(cookie)
}

/// Removes every own link of the container: the end of the attachment, not of one ADD.
pub fn remove_own(world: &mut impl World, key: &AttachmentKey, cookie: NetnsCookie) -> Removal {
    remove(world, |link| is_own(link, key, cookie))
}

/// Removes what one ADD made: the link with its temporary name, or, once that was read back, its index. Links of
/// the same attachment that another ADD made stay.
pub fn remove_made(world: &mut impl World, made: &Made) -> Removal {
    remove(world, |link| link.name == made.temporary.as_str() || Some(link.ifindex) == made.ifindex)
}

/// The link that one ADD makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Its name at first, which names the transaction.
    pub temporary: IfName,
    /// Its index, once it was read back.
    pub ifindex: Option<u32>,
}

fn remove(world: &mut impl World, which: impl Fn(&LinkFacts) -> bool) -> Removal {
    let links = match world.links() {
        Ok(links) => links,
        Err(unknown) => {
            world.note(&format!("cannot read the container's links: {unknown}"));
            return Removal::Failed;
        }
    };
    let mut removal = Removal::NoneHere;
    for link in links.iter().filter(|link| which(link)) {
        match world.delete_link(link.ifindex) {
            Ok(()) if removal == Removal::NoneHere => removal = Removal::Removed,
            Ok(()) => {}
            Err(error) => {
                world.note(&format!("cannot remove the link {}: {}", link.name, chain(&error)));
                removal = Removal::Failed;
            }
        }
    }
    removal
}
