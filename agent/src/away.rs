//! A remote store: a task that runs store writes concurrently, those about one address in their order.
//!
//! It never retries and never gives up: every order is answered, however late, because the store bounds each
//! request's time. It takes no decisions.

use std::collections::{BTreeSet, VecDeque};

use berth_ipam::ledger::io::{CommitResult, Input, Step, StoreNews, StoreWrite};
use berth_ipam::record::AddressKey;
use berth_store::LeaseStore;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::committer::chain;
use crate::writer::Writer;

/// Maximum number of orders in progress.
const AT_ONCE: usize = 64;
/// Maximum number of these that only delete: no caller waits for a delete, and a node that loses a hundred
/// pods at once must not delay its new ones.
const DELETES: usize = 4;

/// Orders to the task.
#[derive(Debug)]
pub enum Order {
    /// The store writes of a commit with a written journal; answered by [`Input::Committed`].
    Write {
        /// Repeated in the result.
        op: u64,
        /// For fault points.
        step: Step,
        /// One by one, up to the first that is not done.
        writes: Vec<StoreWrite>,
    },
    /// A live read; answered by [`StoreNews::Looked`] or [`StoreNews::LookFailed`].
    LookUp(AddressKey),
}

impl Order {
    fn only_deletes(&self) -> bool {
        let Self::Write { writes, .. } = self else { return false };
        writes.iter().all(|write| matches!(write, StoreWrite::Delete { .. }))
    }

    fn addresses(&self) -> Vec<AddressKey> {
        match self {
            Self::Write { writes, .. } => writes.iter().map(StoreWrite::address_key).collect(),
            Self::LookUp(key) => vec![key.clone()],
        }
    }
}

/// Runs until the orders end or the receiver of the results is gone.
pub async fn run<S: LeaseStore>(
    writer: &Writer<S>,
    mut orders: UnboundedReceiver<Order>,
    inputs: &UnboundedSender<Input>,
) {
    let mut waiting: VecDeque<Order> = VecDeque::new();
    let mut busy: BTreeSet<AddressKey> = BTreeSet::new();
    let mut deletes = 0;
    let mut under_way = FuturesUnordered::new();
    loop {
        while under_way.len() < AT_ONCE {
            let Some(order) = next(&mut waiting, &busy, deletes < DELETES) else { break };
            let (addresses, deletes_only) = (order.addresses(), order.only_deletes());
            busy.extend(addresses.iter().cloned());
            deletes += usize::from(deletes_only);
            under_way.push(async move { (addresses, deletes_only, carry_out(writer, order).await) });
        }
        tokio::select! {
            Some((addresses, deletes_only, answer)) = under_way.next(), if !under_way.is_empty() => {
                deletes -= usize::from(deletes_only);
                for address in &addresses {
                    busy.remove(address);
                }
                if inputs.send(answer).is_err() {
                    return;
                }
            }
            order = orders.recv() => match order {
                Some(order) => waiting.push_back(order),
                None => return,
            },
        }
    }
}

/// The first order that shares no address with another one, running or before it; `deletes`: also one that
/// only deletes.
fn next(waiting: &mut VecDeque<Order>, busy: &BTreeSet<AddressKey>, deletes: bool) -> Option<Order> {
    let mut before = BTreeSet::new();
    let index = waiting.iter().position(|order| {
        let addresses = order.addresses();
        let free = addresses.iter().all(|address| !busy.contains(address) && !before.contains(address));
        before.extend(addresses);
        free && (deletes || !order.only_deletes())
    })?;
    waiting.remove(index)
}

async fn carry_out<S: LeaseStore>(writer: &Writer<S>, order: Order) -> Input {
    match order {
        Order::Write { op, step, writes } => {
            let result: CommitResult = writer.store_all(step, writes).await;
            Input::Committed(op, result)
        }
        Order::LookUp(key) => Input::Store(match writer.read(&key).await {
            Ok(found) => StoreNews::Looked(key, found.map(Box::new)),
            Err(error) => {
                tracing::warn!(error = chain(&error), address = %key.address, "read a record that looks odd");
                StoreNews::LookFailed(key)
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use berth_ipam::identity::TxnId;

    use super::*;

    fn key(last: u8) -> AddressKey {
        let address = std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, last));
        AddressKey { segment: "default".parse().unwrap(), address }
    }

    #[test]
    fn orders_about_one_address_keep_their_order_and_others_pass() {
        let mut waiting: VecDeque<_> = [1, 1, 2].into_iter().map(|last| Order::LookUp(key(last))).collect();
        let busy = BTreeSet::from([key(1)]);
        let first = next(&mut waiting, &busy, true);
        assert_eq!(first.map(|order| order.addresses()), Some(vec![key(2)]));
        assert!(next(&mut waiting, &busy, true).is_none(), "both wait for the one under way");
        assert_eq!(
            next(&mut waiting, &BTreeSet::new(), true).map(|order| order.addresses()),
            Some(vec![key(1)])
        );
        assert_eq!(waiting.len(), 1);
    }

    #[test]
    fn deletes_let_others_pass_when_enough_are_under_way() {
        let delete = |last| Order::Write {
            op: u64::from(last),
            step: Step::Other,
            writes: vec![StoreWrite::Delete { address: key(last), of: TxnId("t".to_owned()) }],
        };
        let mut waiting =
            VecDeque::from([delete(1), delete(2), Order::LookUp(key(2)), Order::LookUp(key(3))]);
        let free = BTreeSet::new();
        let addresses = |order: Option<Order>| order.map(|order| order.addresses());
        assert_eq!(
            addresses(next(&mut waiting, &free, false)),
            Some(vec![key(3)]),
            "2 is in its turn behind a delete"
        );
        assert!(next(&mut waiting, &free, false).is_none());
        assert_eq!(addresses(next(&mut waiting, &free, true)), Some(vec![key(1)]));
    }
}
