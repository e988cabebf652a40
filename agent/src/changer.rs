//! Changes of the kernel that take their time: a thread that removes links by namespace number.
//!
//! Deleting one macvlan takes 15 to 35 ms in the kernel; the observer's reads must not wait for it.
//! Nothing is removed that does not show itself as the attachment's, in a namespace that is proved to be its.

use std::sync::mpsc::{Receiver, Sender, channel};

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::identity::Nsid;
use berth_ipam::ledger::io::{Input, RemoveResult};
use berth_ipam::ledger::sight::{Where, may_be_removed};
use berth_ipam::mac::Mac;
use berth_underlay::facts::LinkFacts;
use berth_underlay::finder::{Finder, Numbered};
use berth_underlay::read::{LinkRead, Reader};
use berth_underlay::search::Options;
use tokio::sync::mpsc::UnboundedSender;

use crate::committer::chain;
use crate::observer::ObserverError;
use crate::shown;

/// Removal of a link.
#[derive(Debug)]
pub struct Removal {
    /// Attachment of the link.
    pub key: AttachmentKey,
    /// Namespace of the link.
    pub netns: Where,
    /// Index of the link; `None`: the link that is marked as the attachment's.
    pub ifindex: Option<u32>,
    /// The MACs that it may have.
    pub macs: Vec<Mac>,
}

/// The handle of the thread.
#[derive(Debug, Clone)]
pub struct Changer {
    orders: Sender<Removal>,
}

impl Changer {
    /// Starts the thread in the calling thread's namespace; `inputs` gets [`Input::LinkRemoved`].
    pub fn start(inputs: UnboundedSender<Input>) -> Result<Self, ObserverError> {
        let mut reader = Reader::new().map_err(ObserverError::Netlink)?;
        let mut finder = Finder::new(Options::default());
        let (orders, inbox): (_, Receiver<Removal>) = channel();
        std::thread::Builder::new()
            .name("changer".to_owned())
            .spawn(move || {
                while let Ok(removal) = inbox.recv() {
                    let result = remove(&mut reader, &mut finder, &removal);
                    if inputs.send(Input::LinkRemoved(removal.key, result)).is_err() {
                        return;
                    }
                }
            })
            .map_err(ObserverError::Thread)?;
        Ok(Self { orders })
    }

    /// Hands a removal to the thread.
    pub fn send(&self, removal: Removal) {
        if self.orders.send(removal).is_err() {
            tracing::error!("the changer's thread has ended");
        }
    }
}

fn remove(reader: &mut Reader, finder: &mut Finder, removal: &Removal) -> RemoveResult {
    match &removal.netns {
        Where::Number(nsid) => remove_in(reader, *nsid, removal),
        Where::Proved(netns) => match finder.of_number(reader, netns) {
            // Held while the link is removed, so that the number stays the namespace's.
            Numbered::Own(held) => remove_in(reader, held.nsid, removal),
            Numbered::Another => RemoveResult::NotThere,
            Numbered::Unnamed => {
                in_dead_namespace(reader, netns.nsid, "no path leads to the namespace of its number")
            }
        },
        Where::Sought(_) | Where::Nowhere => RemoveResult::NotThere,
    }
}

fn remove_in(reader: &mut Reader, at: Nsid, removal: &Removal) -> RemoveResult {
    let macs: &[Mac] = if removal.ifindex.is_some() { &removal.macs } else { &[] };
    let is_own =
        |link: &LinkFacts| may_be_removed(&removal.key, macs, &shown::of(Some(at), link, &removal.key));
    let index = match removal.ifindex {
        Some(index) => index,
        None => match reader.links(Some(at)) {
            Ok(links) => match links.iter().find(|link| is_own(link)) {
                Some(link) => link.ifindex,
                None => return RemoveResult::NotThere,
            },
            Err(unknown) => return in_dead_namespace(reader, at, &unknown.to_string()),
        },
    };
    let link = match reader.link(Some(at), index) {
        LinkRead::Found(link) => link,
        LinkRead::NoDevice | LinkRead::NoNamespace => return RemoveResult::NotThere,
        LinkRead::Unknown(unknown) => return RemoveResult::Failed(unknown.to_string()),
    };
    let Some(mac) = link.mac.filter(|_| is_own(&link)) else { return RemoveResult::NotThere };
    match reader.delete_link(at, index, mac) {
        Ok(true) => RemoveResult::Removed,
        Ok(false) => RemoveResult::NotThere,
        Err(error) => RemoveResult::Failed(chain(&error)),
    }
}

fn in_dead_namespace(reader: &mut Reader, at: Nsid, why: &str) -> RemoveResult {
    match reader.link(Some(at), 1) {
        LinkRead::NoNamespace => RemoveResult::NotThere,
        _ => RemoveResult::Failed(why.to_owned()),
    }
}
