//! The undo of an ADD, as data: each step is pushed before the change that it undoes, so that a
//! change of unknown outcome is undone too. Every step is harmless if there is nothing to undo.

use berth_ipam::attachment::{AttachmentKey, Role};
use berth_ipam::identity::{NetnsCookie, TxnId};
use berth_ipam::name::{IfName, NetworkName};
use berth_protocol::request::{LinkRemoval, Release};
use ipnetwork::IpNetwork;

use crate::delegate::Ipam;
use crate::errors::chain;
use crate::links::{Removal, remove_own};
use crate::release;
use crate::world::World;

/// One step back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Give the lease back under the ADD's transaction.
    Release,
    /// Have the other IPAM take back what it gave.
    Delegate(Ipam),
    /// Remove the link, whether it still has its temporary name or not.
    RemoveLink {
        /// The temporary name.
        temporary: IfName,
    },
    /// Take the addresses off a link that another plugin made.
    RemoveAddresses {
        /// The link.
        ifindex: u32,
        /// The addresses.
        addresses: Vec<IpNetwork>,
    },
}

/// Whose ADD is undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whose {
    /// The attachment.
    pub key: AttachmentKey,
    /// The CNI network name.
    pub cni_network: NetworkName,
    /// The role.
    pub role: Role,
    /// The transaction.
    pub txn: TxnId,
    /// The container's cookie.
    pub cookie: NetnsCookie,
}

/// The steps back, oldest first.
#[derive(Debug, Default)]
pub struct Undo(Vec<Step>);

impl Undo {
    /// Notes the step that undoes what comes next.
    pub fn push(&mut self, step: Step) {
        self.0.push(step);
    }

    /// Forgets the last step: what it would undo did not happen.
    pub fn pop(&mut self) {
        self.0.pop();
    }

    /// The steps in the order in which they are taken back.
    pub fn in_order(&self) -> impl Iterator<Item = &Step> {
        self.0.iter().rev()
    }

    /// Takes all steps back. A step that fails is noted, and the release then says that the agent
    /// must see to the link: it frees the address only once it is gone.
    pub fn run(self, world: &mut impl World, whose: &Whose) {
        let mut link = if whose.role == Role::Delegate { LinkRemoval::NotMine } else { LinkRemoval::Gone };
        for step in self.in_order() {
            match step {
                Step::RemoveLink { temporary } => {
                    if remove_own(world, &whose.key, whose.cookie, Some(temporary)) == Removal::Failed {
                        link = LinkRemoval::Unreachable;
                    }
                }
                Step::RemoveAddresses { ifindex, addresses } => {
                    if let Err(error) = world.remove_addresses(*ifindex, addresses) {
                        world.note(&format!("the addresses were not removed: {}", chain(&error)));
                        link = LinkRemoval::Unreachable;
                    }
                }
                Step::Delegate(ipam) => {
                    if let Err(error) = ipam.del(world) {
                        world.note(&chain(&error));
                    }
                }
                Step::Release => {
                    let release = Release {
                        attachment: whose.key.clone(),
                        cni_network: whose.cni_network.clone(),
                        role: whose.role,
                        link,
                        txn: Some(whose.txn.clone()),
                    };
                    if let Err(error) = release::hand_over(world, release) {
                        world.note(&chain(&error));
                    }
                }
            }
        }
    }
}
