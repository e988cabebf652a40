//! Which links of a container are the attachment's own, and their removal.

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::identity::NetnsCookie;
use berth_ipam::name::IfName;
use berth_protocol::alias;
use berth_underlay::facts::LinkFacts;

use crate::errors::chain;
use crate::world::World;

/// What came of looking for own links in order to remove them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// There were some, and they were seen gone.
    Removed,
    /// There is none here.
    NoneHere,
    /// The container could not be read, or a link could not be removed.
    Failed,
}

/// Whether Berth made this link for this attachment. The MAC says so wherever the link is; the alias
/// only in the namespace for which it was written (a passthru child has its parent's MAC).
pub fn is_own(link: &LinkFacts, key: &AttachmentKey, cookie: NetnsCookie) -> bool {
    link.mac.is_some_and(|mac| mac.belongs_to(key))
        || link.alias.as_deref().and_then(|text| alias::cookie_of(text, key)) == Some(cookie)
}

/// Removes every own link of the container, and one under a temporary name if such a name is given:
/// a link whose creation was interrupted has no alias yet.
pub fn remove_own(
    world: &mut impl World,
    key: &AttachmentKey,
    cookie: NetnsCookie,
    temporary: Option<&IfName>,
) -> Removal {
    let links = match world.links() {
        Ok(links) => links,
        Err(unknown) => {
            world.note(&format!("the container's links cannot be read: {unknown}"));
            return Removal::Failed;
        }
    };
    let named = |link: &LinkFacts| temporary.is_some_and(|name| link.name == name.as_str());
    let mut removal = Removal::NoneHere;
    for link in links.iter().filter(|link| is_own(link, key, cookie) || named(link)) {
        match world.delete_link(link.ifindex) {
            Ok(()) if removal == Removal::NoneHere => removal = Removal::Removed,
            Ok(()) => {}
            Err(error) => {
                world.note(&format!("the link {} was not removed: {}", link.name, chain(&error)));
                removal = Removal::Failed;
            }
        }
    }
    removal
}
