//! Conversion of the ledger's state and replies into the protocol's types.

use berth_ipam::access::Standing;
use berth_ipam::config::{LinkSpec, MacvlanMode};
use berth_ipam::ledger::Ledger;
use berth_ipam::ledger::io::{Grant, LeaseRequest, PoolCount, Reply, State};
use berth_ipam::ledger::view::View;
use berth_ipam::mac::Mac;
use berth_ipam::name::PoolName;
use berth_ipam::record::AddressKey;
use berth_protocol::Response;
use berth_protocol::request::{Lease, LinkRemoval};
use berth_protocol::response::{BoundLink, Granted, LeaseGrant, LeaseRow, LeaseState, LinkPlan, PoolRow};

/// A lease request as the ledger takes it.
pub fn request(lease: Lease) -> LeaseRequest {
    LeaseRequest {
        txn: lease.txn,
        key: lease.attachment,
        cni_network: lease.cni_network,
        role: lease.role,
        netns: lease.netns,
        pod: lease.pod,
        ips: lease.ips,
        adopt: lease.adopt,
        mac: lease.mac,
        add_timeout: lease.add_timeout_ms.map(std::time::Duration::from_millis),
        standing: Standing::default(),
    }
}

/// The plugin's report about the link, in the ledger's type.
pub const fn removal(link: LinkRemoval) -> berth_ipam::ledger::io::LinkRemoval {
    match link {
        LinkRemoval::Gone => berth_ipam::ledger::io::LinkRemoval::Gone,
        LinkRemoval::Unreachable => berth_ipam::ledger::io::LinkRemoval::Unreachable,
        LinkRemoval::NotMine => berth_ipam::ledger::io::LinkRemoval::NotMine,
    }
}

/// A reply in the protocol's types.
pub fn reply(reply: Reply) -> Response {
    match reply {
        Reply::Grant(grant) => Response::Lease(lease_grant(*grant)),
        Reply::Done => Response::Done,
        Reply::Released(summary) => Response::Released { summary },
    }
}

fn lease_grant(grant: Grant) -> LeaseGrant {
    let mtu = grant.link.mtu();
    let device = grant.link.device();
    let link = match grant.link {
        LinkSpec::Macvlan { parent, mode, .. } => LinkPlan::Macvlan { parent, mode },
        LinkSpec::Vlan { parent, id, exclusive: true, .. } => LinkPlan::Vlan { parent, id },
        LinkSpec::Vlan { .. } => LinkPlan::Macvlan { parent: device, mode: MacvlanMode::Bridge },
    };
    let addresses = grant.addresses.into_iter().map(|(address, gateway)| Granted { address, gateway });
    LeaseGrant {
        link,
        mtu,
        addresses: addresses.collect(),
        routes: grant.routes,
        accept_ra: grant.accept_ra,
        bound: grant.bound.map(|(ifindex, mac)| BoundLink { ifindex, mac }),
    }
}

/// Every address that is not free.
pub fn leases(ledger: &Ledger) -> Vec<LeaseRow> {
    ledger.leases().iter().map(|view| lease(ledger, view)).collect()
}

/// One address that is not free.
pub fn lease(ledger: &Ledger, view: &View<'_>) -> LeaseRow {
    match view {
        View::Held { slot, held, state } => {
            let entry = &slot.entry;
            LeaseRow {
                network: Some(entry.key.network.clone()),
                cni_network: Some(entry.cni_network.clone()),
                pool: Some(held.pool.clone()),
                segment: held.segment.clone(),
                address: held.address,
                state: match state {
                    State::Reserved => LeaseState::Reserved,
                    State::Bound => LeaseState::Bound,
                    State::Suspect => LeaseState::Suspect,
                    State::Held => LeaseState::Held,
                    State::Quarantined => LeaseState::Quarantined,
                },
                reason: slot.live.reason.code().to_owned(),
                node: Some(ledger.node().clone()),
                container_id: Some(entry.key.container_id.clone()),
                ifname: Some(entry.key.ifname.clone()),
                pod: entry.pod.clone(),
                mac: entry.mac,
                netns_cookie: Some(entry.netns.cookie),
                nsid: Some(entry.at.0),
                ifindex: entry.ifindex,
                generation: Some(held.generation),
            }
        }
        View::Occupied(occupant) => LeaseRow {
            reason: "occupied".to_owned(),
            ifname: occupant.name.parse().ok(),
            nsid: occupant.place.at.map(|at| at.0),
            ifindex: Some(occupant.place.ifindex),
            ..free(&occupant.key, &occupant.pool, occupant.mac)
        },
        View::Shut(shut) => LeaseRow {
            reason: shut.reason.clone(),
            ..free(&shut.key, &shut.pool, shut.macs.first().copied())
        },
    }
}

/// Row of an address without a holder that is not assignable.
fn free(key: &AddressKey, pool: &PoolName, mac: Option<Mac>) -> LeaseRow {
    LeaseRow {
        network: None,
        cni_network: None,
        pool: Some(pool.clone()),
        segment: key.segment.clone(),
        address: key.address,
        state: LeaseState::Quarantined,
        reason: String::new(),
        node: None,
        container_id: None,
        ifname: None,
        pod: None,
        mac,
        netns_cookie: None,
        nsid: None,
        ifindex: None,
        generation: None,
    }
}

/// The pools with their counts.
pub fn pools(ledger: &Ledger) -> Vec<PoolRow> {
    ledger.pool_counts().into_iter().map(pool).collect()
}

fn pool(count: PoolCount) -> PoolRow {
    PoolRow {
        pool: count.pool,
        segment: count.segment,
        subnet: count.subnet,
        total: count.total.to_string(),
        bound: count.bound + count.abroad,
        suspect: count.suspect,
        held: count.held,
        retained: 0,
        quarantined: count.quarantined,
        free: count.free.to_string(),
        waiting: count.waiting,
    }
}
