//! The records of all nodes from the watch, in the ledger's types.
//!
//! They come late, and nothing is released because of them. An unreadable object is an address in use: its
//! name, which is the lock, identifies the address.

use std::collections::BTreeMap;

use berth_ipam::ledger::io::{Input, StoreNews};
use berth_ipam::name::PoolName;
use berth_ipam::record::AddressKey;
use berth_store::Versioned;
use berth_store::kubernetes::{KubernetesStore, LeaseEvent, Unreadable};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use super::steward::tally::Picture;
use crate::committer::chain;

/// Follows all records; their number in each pool goes into the picture.
pub async fn run(store: KubernetesStore, inputs: UnboundedSender<Input>, picture: &watch::Sender<Picture>) {
    let mut watch = store.watch();
    let mut census = Census::default();
    while let Some(event) = watch.next().await {
        census.take(&event);
        picture.send_modify(|picture| picture.records = Some(census.sums.clone()));
        if let Some(news) = told(event)
            && inputs.send(Input::Store(news)).is_err()
        {
            return;
        }
    }
}

/// Number of records of each pool.
#[derive(Debug, Default)]
struct Census {
    pools: BTreeMap<AddressKey, PoolName>,
    sums: BTreeMap<PoolName, u64>,
}

impl Census {
    fn take(&mut self, event: &LeaseEvent) {
        match event {
            LeaseEvent::Restarted { rows, .. } => {
                *self = Self::default();
                for row in rows {
                    self.add(row);
                }
            }
            LeaseEvent::Applied(row) => self.add(row),
            LeaseEvent::Deleted { key: Some(key), .. } => self.remove(key),
            LeaseEvent::Unreadable(_) | LeaseEvent::Deleted { key: None, .. } => {}
        }
    }

    fn add(&mut self, row: &Versioned) {
        let (key, pool) = (row.record.address_key(), &row.record.pool);
        self.remove(&key);
        *self.sums.entry(pool.clone()).or_default() += 1;
        self.pools.insert(key, pool.clone());
    }

    fn remove(&mut self, key: &AddressKey) {
        let sum = self.pools.remove(key).and_then(|pool| self.sums.get_mut(&pool));
        if let Some(sum) = sum {
            *sum -= 1;
        }
    }
}

fn told(event: LeaseEvent) -> Option<StoreNews> {
    Some(match event {
        LeaseEvent::Restarted { rows, unreadable } => StoreNews::Listed {
            records: rows.into_iter().map(|row| row.record).collect(),
            unreadable: unreadable
                .into_iter()
                .filter_map(|object| {
                    complain(&object);
                    object.key
                })
                .collect(),
        },
        LeaseEvent::Applied(row) => StoreNews::Recorded(Box::new(row.record)),
        LeaseEvent::Unreadable(object) => {
            complain(&object);
            StoreNews::Unreadable(object.key?)
        }
        LeaseEvent::Deleted { record: Some(record), .. } => StoreNews::Erased(record),
        LeaseEvent::Deleted { record: None, key, .. } => StoreNews::UnreadableErased(key?),
    })
}

fn complain(object: &Unreadable) {
    let Unreadable { object, cause, .. } = object;
    tracing::error!(
        object,
        error = chain(&**cause),
        "an IPLease cannot be read; its address counts as in use"
    );
}
