//! Changes of the kernel that take their time: a thread that removes links by namespace number.
//!
//! Deleting one macvlan takes 15 to 35 ms in the kernel; the observer's reads must not wait for it.
//! Nothing is removed whose MAC is not one of those that the ledger named.

use std::sync::mpsc::{Receiver, Sender, channel};

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::identity::Nsid;
use berth_ipam::ledger::io::{Input, RemoveResult};
use berth_ipam::mac::Mac;
use berth_underlay::read::{LinkRead, Reader};
use tokio::sync::mpsc::UnboundedSender;

use crate::committer::chain;
use crate::observer::ObserverError;

/// A link to be removed.
#[derive(Debug)]
pub struct Removal {
    /// Whose.
    pub key: AttachmentKey,
    /// Where.
    pub at: Nsid,
    /// Which; `None`: the one with one of `macs`.
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
        let (orders, inbox): (_, Receiver<Removal>) = channel();
        std::thread::Builder::new()
            .name("changer".to_owned())
            .spawn(move || {
                while let Ok(removal) = inbox.recv() {
                    let result = remove(&mut reader, &removal);
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

fn remove(reader: &mut Reader, removal: &Removal) -> RemoveResult {
    let index = match removal.ifindex {
        Some(index) => index,
        None => match reader.links(Some(removal.at)) {
            Ok(links) => {
                let mine = |mac: Option<Mac>| mac.is_some_and(|mac| removal.macs.contains(&mac));
                match links.iter().find(|link| mine(link.mac)) {
                    Some(link) => link.ifindex,
                    None => return RemoveResult::NotThere,
                }
            }
            Err(unknown) => return in_dead_namespace(reader, removal.at, &unknown.to_string()),
        },
    };
    let mac = match reader.link(Some(removal.at), index) {
        LinkRead::Found(facts) => facts.mac,
        LinkRead::NoDevice | LinkRead::NoNamespace => return RemoveResult::NotThere,
        LinkRead::Unknown(unknown) => return RemoveResult::Failed(unknown.to_string()),
    };
    let Some(mac) = mac.filter(|mac| removal.macs.contains(mac)) else {
        return RemoveResult::NotThere;
    };
    match reader.delete_link(removal.at, index, mac) {
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
