//! The records of all nodes, as the watch shows them, in the ledger's words.
//!
//! They come late, and nothing is released because of them. An object that cannot be read is an address
//! in use: its name, which is only a lock, says which.

use berth_ipam::ledger::io::{Input, StoreNews};
use berth_store::kubernetes::{KubernetesStore, LeaseEvent, Unreadable};
use tokio::sync::mpsc::UnboundedSender;

use crate::committer::chain;

/// Follows all records.
pub async fn run(store: KubernetesStore, inputs: UnboundedSender<Input>) {
    let mut watch = store.watch();
    while let Some(event) = watch.next().await {
        if let Some(news) = told(event)
            && inputs.send(Input::Store(news)).is_err()
        {
            return;
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
