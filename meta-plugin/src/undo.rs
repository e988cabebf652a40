//! The undo of an ADD, as data: each step is registered before its change, so that a change of unknown
//! outcome is undone too. Every step is harmless if there is nothing to undo.
//!
//! Invariant: a step undoes only changes of its own ADD. Another ADD of the same attachment, earlier or
//! concurrent, keeps its link, its addresses and its lease.

use std::time::Duration;

use berth_ipam::attachment::{AttachmentKey, Role};
use berth_ipam::identity::TxnId;
use berth_ipam::name::NetworkName;
use berth_protocol::Request;
use berth_protocol::request::{Check, LinkRemoval, Release};
use ipnetwork::IpNetwork;

use crate::delegate::Ipam;
use crate::errors::chain;
use crate::links::{Made, Removal, remove_made};
use crate::release;
use crate::session;
use crate::world::World;

/// Time limit for the agent to report whether another ADD has the attachment.
const PATIENCE: Duration = Duration::from_secs(1);

/// One step back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Release the lease under the ADD's transaction.
    Release,
    /// Have the other IPAM release its addresses. It identifies the attachment, not the ADD, so this step is
    /// skipped while another ADD has the attachment.
    Delegate(Ipam),
    /// Remove the link, whether it still has its temporary name or not.
    RemoveLink(Made),
    /// Remove the addresses from a link that this ADD did not create.
    RemoveAddresses {
        /// Interface index of the link.
        ifindex: u32,
        /// The addresses that it did not have before.
        addresses: Vec<IpNetwork>,
    },
}

/// The ADD that is undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whose {
    /// Key of the attachment.
    pub key: AttachmentKey,
    /// The CNI network name.
    pub cni_network: NetworkName,
    /// Role of the ADD.
    pub role: Role,
    /// Transaction of the ADD.
    pub txn: TxnId,
}

/// True if the agent has a lease for the attachment. This ADD's own was released before.
fn is_recorded(world: &mut impl World, key: &AttachmentKey) -> bool {
    let check = Request::Check(Check { attachment: key.clone() });
    session::ask_once(world, "check the reservation", &check, PATIENCE).is_ok()
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

    /// Takes note of the index of the link that the last step removes.
    pub fn made(&mut self, ifindex: u32) {
        if let Some(Step::RemoveLink(made)) = self.0.last_mut() {
            made.ifindex = Some(ifindex);
        }
    }

    /// The link that the last step removes.
    pub fn last_made(&self) -> Option<Made> {
        match self.0.last() {
            Some(Step::RemoveLink(made)) => Some(made.clone()),
            _ => None,
        }
    }

    /// The steps in the order in which they are taken back.
    pub fn in_order(&self) -> impl Iterator<Item = &Step> {
        self.0.iter().rev()
    }

    /// Undoes all steps. A failed step is logged, and the release then leaves the link to the agent, which
    /// frees the address only after the link is gone.
    pub fn run(self, world: &mut impl World, whose: &Whose) {
        let mut link = if whose.role == Role::Delegate { LinkRemoval::NotMine } else { LinkRemoval::Gone };
        for step in self.in_order() {
            match step {
                Step::RemoveLink(made) => {
                    if remove_made(world, made) == Removal::Failed {
                        link = LinkRemoval::Unreachable;
                    }
                }
                Step::RemoveAddresses { ifindex, addresses } => {
                    if let Err(error) = world.remove_addresses(*ifindex, addresses) {
                        world.note(&format!("cannot remove the addresses: {}", chain(&error)));
                        link = LinkRemoval::Unreachable;
                    }
                }
                Step::Delegate(_) if is_recorded(world, &whose.key) => {
                    world.note("the other IPAM keeps its addresses: another ADD has the attachment");
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
