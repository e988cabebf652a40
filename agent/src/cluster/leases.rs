//! The records of all nodes, as the watch shows them.
//!
//! They come late, and nothing is released because of them. An object that cannot be read is an address
//! in use: its name, which is only a lock, says which.

use std::net::{IpAddr, Ipv6Addr};

use berth_api::{IPLease, lease};
use berth_ipam::ledger::io::{Input, StoreNews};
use berth_ipam::record::{AddressKey, LeaseRecord};
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc::UnboundedSender;

use super::follow::{News, follow};
use crate::committer::chain;

/// Follows all records.
pub async fn run(client: Client, inputs: UnboundedSender<Input>) {
    let all = Api::<DynamicObject>::all_with(client, &ApiResource::erase::<IPLease>(&()));
    follow(all, watcher::Config::default(), |news| {
        told(news).into_iter().all(|news| inputs.send(Input::Store(news)).is_ok())
    })
    .await;
}

/// What the ledger is told of news of the watch.
fn told(news: News<DynamicObject>) -> Vec<StoreNews> {
    match news {
        News::All(objects) => {
            let (mut records, mut unreadable) = (Vec::new(), Vec::new());
            for object in objects {
                match read(object) {
                    Ok(record) => records.push(record),
                    Err(key) => unreadable.extend(key),
                }
            }
            vec![StoreNews::Listed { records, unreadable }]
        }
        News::Changed(object) => match read(object) {
            Ok(record) => vec![StoreNews::Recorded(Box::new(record))],
            Err(key) => key.into_iter().map(StoreNews::Unreadable).collect(),
        },
        News::Gone(object) => {
            let key = address_of(&object.name_any());
            match read(object) {
                Ok(record) => vec![StoreNews::Erased(Box::new(record))],
                Err(_) => key.into_iter().map(StoreNews::UnreadableErased).collect(),
            }
        }
        News::Failed(why) => {
            tracing::warn!(error = why, "watch the IPLeases");
            Vec::new()
        }
    }
}

/// The record, or the address that the name of an unreadable one locks.
fn read(object: DynamicObject) -> Result<LeaseRecord, Option<AddressKey>> {
    let name = object.name_any();
    let spec = object.data.get("spec").cloned().unwrap_or_default();
    lease::read(&name, spec).map_err(|error| {
        let text = "an IPLease cannot be read, and its address counts as in use; delete it if nobody uses it";
        tracing::error!(error = chain(&error), "{text}");
        address_of(&name)
    })
}

/// The address in the name of a record (see [`AddressKey::record_name`]).
fn address_of(name: &str) -> Option<AddressKey> {
    let (segment, address) = name.split_once('.')?;
    let address = match address.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) => IpAddr::V6(address.replace('-', ":").parse::<Ipv6Addr>().ok()?),
    };
    Some(AddressKey { segment: segment.parse().ok()?, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_record_locks_the_address_of_its_name() {
        for address in ["10.0.0.7", "fd00::7"] {
            let key = AddressKey { segment: "default".parse().unwrap(), address: address.parse().unwrap() };
            assert_eq!(address_of(&key.record_name()), Some(key.clone()));
            let object = DynamicObject::new(&key.record_name(), &ApiResource::erase::<IPLease>(&()))
                .data(serde_json::json!({"spec": {"from": "another version"}}));
            let news = told(News::Changed(object));
            assert!(matches!(&news[..], [StoreNews::Unreadable(of)] if *of == key), "{news:?}");
        }
        assert_eq!(address_of("nonsense"), None);
    }
}
