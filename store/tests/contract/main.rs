//! One suite for every lease store. An implementation passes all of it or is not one.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails like the test itself")]

#[path = "../common/mod.rs"]
mod common;
mod fake;
mod faults;
mod outcomes;
mod real;
mod watching;

use std::collections::{BTreeMap, BTreeSet};

use berth_ipam::record::{AddressKey, LeaseRecord};
use berth_store::embedded::EmbeddedStore;
use berth_store::memory::MemoryStore;
use berth_store::{LeaseStore, StoreError, Version, Versioned};
use common::record;
use proptest::prelude::*;
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Everything in the contract but its model and its races; `store` is empty.
async fn keeps_the_contract(store: &impl LeaseStore) {
    let (first, second) = (record("192.0.2.7", "one"), record("192.0.2.7", "two"));
    let key = first.address_key();
    assert_eq!(store.get(&key).await.unwrap(), None);
    assert_eq!(store.list().await.unwrap(), []);

    let made = store.create(&first).await.unwrap();
    let expected = Versioned { record: first.clone(), version: made.clone() };
    assert_eq!(store.get(&key).await.unwrap(), Some(expected.clone()));
    let refused = store.create(&second).await.unwrap_err();
    let StoreError::AlreadyExists { existing } = refused else { panic!("{refused}") };
    assert_eq!(*existing, expected, "the loser must see the transaction that won");

    // A hand-over keeps the record and changes its version; the old version is worth nothing then.
    let taken = store.replace(&second, &made).await.unwrap();
    assert_eq!(taken.uid, made.uid);
    assert_ne!(taken.resource_version, made.resource_version);
    for refused in
        [store.replace(&first, &made).await.unwrap_err(), store.delete(&key, &made).await.unwrap_err()]
    {
        let StoreError::Conflict { expected, current } = refused else { panic!("{refused}") };
        assert_eq!((expected, &current.record, &current.version), (made.clone(), &second, &taken));
    }

    store.delete(&key, &taken).await.unwrap();
    assert_eq!(store.get(&key).await.unwrap(), None);
    let gone = store.delete(&key, &taken).await.unwrap_err();
    assert!(matches!(gone, StoreError::Gone { key: ref of } if *of == key), "{gone}");
    let gone = store.replace(&first, &taken).await.unwrap_err();
    assert!(matches!(gone, StoreError::Gone { key: ref of } if *of == key), "{gone}");

    // ABA: the same record made again is another record.
    let again = store.create(&second).await.unwrap();
    assert_ne!(again.uid, taken.uid);
    let stale = store.delete(&key, &taken).await.unwrap_err();
    assert!(matches!(stale, StoreError::Conflict { .. }), "{stale}");

    // Segments and families do not meet.
    let mut elsewhere = record("192.0.2.7", "three");
    elsewhere.segment = "other".parse().unwrap();
    store.create(&elsewhere).await.unwrap();
    store.create(&record("2001:db8::7", "four")).await.unwrap();
    let keys: BTreeSet<_> = store.list().await.unwrap().iter().map(|row| row.record.address_key()).collect();
    assert_eq!(keys.len(), 3);
    for row in store.list().await.unwrap() {
        store.delete(&row.record.address_key(), &row.version).await.unwrap();
    }
    assert_eq!(store.list().await.unwrap(), []);
}

/// Two tasks create a record of one address, repeatedly; then two replace one.
async fn has_one_winner<S: LeaseStore + 'static>(store: std::sync::Arc<S>) {
    for round in 0..50 {
        let key = record("192.0.2.9", "x").address_key();
        let race = |who: &str| {
            let (store, record) = (store.clone(), record("192.0.2.9", &format!("{who}{round}")));
            tokio::spawn(async move { store.create(&record).await })
        };
        let (a, b) = (race("a"), race("b"));
        let results = [a.await.unwrap(), b.await.unwrap()];
        let won: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
        assert_eq!(won.len(), 1, "{results:?}");
        assert!(results.iter().any(|result| matches!(result, Err(StoreError::AlreadyExists { .. }))));

        let version = won[0].clone();
        let race = |who: &str| {
            let (store, version) = (store.clone(), version.clone());
            let record = record("192.0.2.9", &format!("{who}{round}"));
            tokio::spawn(async move { store.replace(&record, &version).await })
        };
        let (c, d) = (race("c"), race("d"));
        let results = [c.await.unwrap(), d.await.unwrap()];
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
        let now = store.get(&key).await.unwrap().unwrap();
        store.delete(&key, &now.version).await.unwrap();
    }
}

#[derive(Debug, Clone)]
enum Step {
    Create(u8),
    /// With the newest version that the caller has seen, or an older one of the same address.
    Replace(u8, bool),
    Delete(u8, bool),
    Get(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let address = 1_u8..4;
    prop_oneof![
        address.clone().prop_map(Step::Create),
        (address.clone(), any::<bool>()).prop_map(|(address, stale)| Step::Replace(address, stale)),
        (address.clone(), any::<bool>()).prop_map(|(address, stale)| Step::Delete(address, stale)),
        address.prop_map(Step::Get),
    ]
}

/// The simplest model of a store.
#[derive(Default)]
struct Model {
    records: BTreeMap<AddressKey, (LeaseRecord, Version)>,
    /// All versions ever seen of an address, newest last.
    seen: BTreeMap<AddressKey, Vec<Version>>,
}

impl Model {
    fn version(&self, key: &AddressKey, stale: bool) -> Version {
        let never = Version { uid: "never".to_owned(), resource_version: "never".to_owned() };
        let seen = self.seen.get(key).map_or(&[][..], Vec::as_slice);
        let pick = if stale { seen.first() } else { seen.last() };
        pick.cloned().unwrap_or(never)
    }

    fn saw(&mut self, key: &AddressKey, version: &Version) {
        let all = self.seen.values().flatten();
        assert!(!all.into_iter().any(|old| old.resource_version == version.resource_version));
        self.seen.entry(key.clone()).or_default().push(version.clone());
    }
}

async fn follows_the_model(store: &impl LeaseStore, steps: Vec<Step>) {
    let mut model = Model::default();
    for (index, step) in steps.into_iter().enumerate() {
        let of = |address: u8| record(&format!("192.0.2.{address}"), &format!("t{index}"));
        match step {
            Step::Create(address) => {
                let (record, key) = (of(address), of(address).address_key());
                match (store.create(&record).await, model.records.get(&key)) {
                    (Ok(version), None) => {
                        model.saw(&key, &version);
                        model.records.insert(key, (record, version));
                    }
                    (Err(StoreError::AlreadyExists { existing }), Some((record, version))) => {
                        assert_eq!((&existing.record, &existing.version), (record, version));
                    }
                    other => panic!("{other:?}"),
                }
            }
            Step::Replace(address, stale) => {
                let (record, key) = (of(address), of(address).address_key());
                let version = model.version(&key, stale);
                match (store.replace(&record, &version).await, model.records.get(&key)) {
                    (Ok(next), Some((_, current))) if *current == version => {
                        model.saw(&key, &next);
                        model.records.insert(key, (record, next));
                    }
                    (Err(StoreError::Conflict { .. }), Some((_, current))) if *current != version => {}
                    (Err(StoreError::Gone { .. }), None) => {}
                    other => panic!("{other:?}"),
                }
            }
            Step::Delete(address, stale) => {
                let key = of(address).address_key();
                let version = model.version(&key, stale);
                match (store.delete(&key, &version).await, model.records.get(&key)) {
                    (Ok(()), Some((_, current))) if *current == version => {
                        model.records.remove(&key);
                    }
                    (Err(StoreError::Conflict { .. }), Some((_, current))) if *current != version => {}
                    (Err(StoreError::Gone { .. }), None) => {}
                    other => panic!("{other:?}"),
                }
            }
            Step::Get(address) => {
                let key = of(address).address_key();
                let found = store.get(&key).await.unwrap().map(|row| (row.record, row.version));
                assert_eq!(found.as_ref(), model.records.get(&key));
            }
        }
    }
    let listed: BTreeMap<_, _> = (store.list().await.unwrap().into_iter())
        .map(|row| (row.record.address_key(), (row.record, row.version)))
        .collect();
    assert_eq!(listed, model.records);
}

#[test]
fn memory_keeps_the_contract() {
    let runtime = runtime();
    runtime.block_on(keeps_the_contract(&MemoryStore::new()));
    runtime.block_on(has_one_winner(std::sync::Arc::new(MemoryStore::new())));
}

#[test]
fn embedded_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&folder.path().join("store.redb")).unwrap();
    let runtime = runtime();
    runtime.block_on(keeps_the_contract(&store));
    runtime.block_on(has_one_winner(std::sync::Arc::new(store)));
}

#[test]
fn kubernetes_keeps_the_contract() {
    let runtime = runtime();
    let _inside = runtime.enter();
    runtime.block_on(keeps_the_contract(&faults::store_of(&fake::Fake::default())));
    runtime.block_on(has_one_winner(std::sync::Arc::new(faults::store_of(&fake::Fake::default()))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_follows_the_model(steps in prop::collection::vec(step(), 1..60)) {
        runtime().block_on(follows_the_model(&MemoryStore::new(), steps));
    }

    #[test]
    fn embedded_follows_the_model(steps in prop::collection::vec(step(), 1..40)) {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&folder.path().join("store.redb")).unwrap();
        runtime().block_on(follows_the_model(&store, steps));
    }

    #[test]
    fn kubernetes_follows_the_model(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = runtime();
        let _inside = runtime.enter();
        runtime.block_on(follows_the_model(&faults::store_of(&fake::Fake::default()), steps));
    }
}
