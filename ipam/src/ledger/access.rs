//! Access of an ADD to pools and their addresses, as declared.

use std::net::IpAddr;

use super::Ledger;
use super::io::{LeaseRequest, LedgerError};
use crate::access::Needs;
use crate::config::Pool;
use crate::interval::Family;
use crate::name::{NetworkName, PoolName};

/// Reserved addresses that are looked at for one request. A declaration has no more.
const OWN_MAX: usize = 1024;

/// Reason why a pool gives a request nothing.
pub(super) fn refusal(name: &PoolName, pool: &Pool, request: &LeaseRequest) -> Option<LedgerError> {
    let why = pool.access.admits(request.pod.as_ref(), &request.standing).err()?;
    Some(LedgerError::NotAdmitted { pool: name.clone(), why })
}

/// Reason why a pool keeps one address from a request.
pub(super) fn reserved(pool: &Pool, address: IpAddr, request: &LeaseRequest) -> Option<LedgerError> {
    let kept = pool.access.kept_from(address, request.pod.as_ref(), &request.standing)?;
    Some(LedgerError::NotGivable { address, why: format!("it is reserved for {kept}") })
}

/// Addresses that are reserved for a request, in their order.
pub(super) fn own(pool: &Pool, request: &LeaseRequest) -> Vec<IpAddr> {
    let family = Family::of(pool.subnet.ip());
    let own = pool.access.reserved_for(request.pod.as_ref(), &request.standing);
    own.flat_map(|one| one.addresses.addresses(family)).take(OWN_MAX).collect()
}

impl Ledger {
    /// Parts of a pod's standing that must be known before an ADD of it in that network is served.
    pub fn needs(&self, network: &NetworkName) -> Needs {
        let pools = self.config.networks.get(network).into_iter().flat_map(|network| &network.pools);
        let needs = pools.filter_map(|name| Some(self.config.pools.get(name)?.access.needs()));
        needs.fold(Needs::default(), |all, one| Needs {
            labels: all.labels || one.labels,
            owner: all.owner || one.owner,
        })
    }

    /// Free addresses of pools that are reserved for others than a request, in words; at most as many as an error names.
    pub(super) fn kept_from(&self, request: &LeaseRequest, pools: &[PoolName]) -> Vec<String> {
        let found =
            pools.iter().filter_map(|name| Some((self.config.pools.get(name)?, self.pools.get(name)?)));
        let kept = found.flat_map(|(pool, state)| {
            let family = Family::of(pool.subnet.ip());
            let all = pool.access.reservations.iter().flat_map(move |one| one.addresses.addresses(family));
            all.take(OWN_MAX).filter(|address| state.free.is_free(*address)).filter_map(|address| {
                let one = pool.access.kept_from(address, request.pod.as_ref(), &request.standing)?;
                Some(format!("{address} reserved for {one}"))
            })
        });
        kept.take(super::line::HOLDERS_NAMED).collect()
    }

    /// True if a pool may give an address to a request.
    pub(super) fn may_have(&self, pool: &PoolName, address: IpAddr, request: &LeaseRequest) -> bool {
        self.config.pools.get(pool).is_some_and(|found| {
            refusal(pool, found, request).is_none() && reserved(found, address, request).is_none()
        })
    }
}
