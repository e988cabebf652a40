//! The store of a cluster under faults of the API server: each row of the table of responses, and a check
//! that no request is sent twice.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use berth_ipam::record::{AddressKey, LeaseRecord};
use berth_ipam::time::Time;
use berth_store::kubernetes::{Contact, KubernetesStore, Settings};
use berth_store::{LeaseStore as _, StoreError, Version};
use serde_json::json;

use crate::common::record;
use crate::fake::{Fake, Fault};

pub fn store_of(fake: &Fake) -> KubernetesStore {
    let settings = Settings { page: 2, ..Settings::default() };
    KubernetesStore::new(fake.client(), Contact::new(|| Time(1)), settings)
}

const NAME: &str = "default.192.0.2.7";

fn mine() -> LeaseRecord {
    record("192.0.2.7", "mine")
}

fn key() -> AddressKey {
    mine().address_key()
}

/// A write of each kind against a record that exists at `version`, or for a new one.
async fn write(store: &KubernetesStore, kind: &str, version: &Version) -> Result<(), StoreError> {
    match kind {
        "POST" => store.create(&mine()).await.map(drop),
        "PUT" => store.replace(&record("192.0.2.7", "next"), version).await.map(drop),
        _ => store.delete(&key(), version).await,
    }
}

/// A server on which a write of `kind` can succeed.
async fn ready(kind: &str) -> (Fake, KubernetesStore, Version) {
    let fake = Fake::default();
    let store = store_of(&fake);
    let none = Version { uid: "u".to_owned(), resource_version: "1".to_owned() };
    let version = if kind == "POST" { none } else { store.create(&mine()).await.unwrap() };
    (fake, store, version)
}

const WRITES: [&str; 3] = ["POST", "PUT", "DELETE"];

#[tokio::test(start_paused = true)]
async fn a_write_that_may_have_been_applied_has_an_unknown_outcome_and_is_not_repeated() {
    let unsure = [
        Fault::AnswerAfter(500),
        Fault::AnswerAfter(503),
        Fault::AnswerAfter(504),
        Fault::SilentAfter,
        Fault::BrokenAfter,
        Fault::Answer(500),
        Fault::Answer(504),
        Fault::Silent,
        Fault::Broken,
        Fault::Foreign,
    ];
    for kind in WRITES {
        for fault in unsure {
            let (fake, store, version) = ready(kind).await;
            let (already, begun) = (fake.count(kind), tokio::time::Instant::now());
            fake.fail(kind, fault);
            let error = write(&store, kind, &version).await.unwrap_err();
            assert!(matches!(error, StoreError::OutcomeUnknown { .. }), "{kind} {fault:?}: {error}");
            assert!(error.source().is_some(), "{kind} {fault:?}: says why");
            assert!(begun.elapsed() <= Duration::from_secs(5), "{kind} {fault:?}: {:?}", begun.elapsed());
            assert_eq!(fake.count(kind), already + 1, "{kind} {fault:?}");
            // A live read settles it.
            let txn = store.get(&key()).await.unwrap().map(|row| row.record.txn.0);
            let applied = matches!(fault, Fault::AnswerAfter(_) | Fault::SilentAfter | Fault::BrokenAfter);
            let expected = match (kind, applied) {
                ("POST", true) | ("PUT" | "DELETE", false) => Some("mine"),
                ("PUT", true) => Some("next"),
                _ => None,
            };
            assert_eq!(txn.as_deref(), expected, "{kind} {fault:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_was_turned_away_changed_nothing_and_says_what_to_do() {
    let rows = [
        (Fault::Answer(401), "ServiceAccount"),
        (Fault::Answer(403), "ClusterRoleBinding"),
        (Fault::Answer(422), "older or newer than this agent"),
        (Fault::Answer(400), "older or newer than this agent"),
        (Fault::Answer(413), "older or newer than this agent"),
        (Fault::Busy(3), "try again"),
        (Fault::Refused, "try again"),
    ];
    for kind in WRITES {
        for (fault, advice) in rows {
            let (fake, store, version) = ready(kind).await;
            let before = fake.requests().len();
            fake.fail(kind, fault);
            let error = write(&store, kind, &version).await.unwrap_err();
            assert!(error.to_string().contains(advice), "{kind} {fault:?}: {error}");
            let wait = matches!(fault, Fault::Busy(_)).then_some(Duration::from_secs(3));
            assert_eq!(error.retry_after(), wait, "{kind} {fault:?}");
            assert_eq!(fake.requests().len(), before + 1, "{kind} {fault:?}");
            // The same call works afterwards.
            write(&store, kind, &version).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_definition_nothing_is_known_of_any_address() {
    let (fake, store, version) = ready("PUT").await;
    fake.set_unknown_kind(true);
    let mut errors = vec![
        store.get(&key()).await.map(drop).unwrap_err(),
        store.list().await.map(drop).unwrap_err(),
        store.listing().await.map(drop).unwrap_err(),
    ];
    for kind in WRITES {
        errors.push(write(&store, kind, &version).await.unwrap_err());
    }
    for error in errors {
        assert!(matches!(error, StoreError::NoDefinition { .. }), "{error}");
        assert!(error.to_string().contains("kubectl apply -f deploy/berth.yaml"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_proves_nothing() {
    let faults = [
        Fault::Answer(500),
        Fault::Answer(504),
        Fault::Busy(1),
        Fault::Silent,
        Fault::Broken,
        Fault::Refused,
        Fault::Foreign,
    ];
    for fault in faults {
        let (fake, store, _) = ready("PUT").await;
        fake.fail("GET", fault);
        let error = store.get(&key()).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{fault:?}: {error}");
        fake.fail("LIST", fault);
        let error = store.list().await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{fault:?}: {error}");
    }
}

#[tokio::test]
async fn the_loser_of_a_race_sees_the_winner_or_its_own_lost_reply() {
    let (fake, store, _) = ready("POST").await;
    fake.fail("POST", Fault::BrokenAfter);
    assert!(store.create(&mine()).await.is_err());
    let StoreError::AlreadyExists { existing } = store.create(&mine()).await.unwrap_err() else { panic!() };
    assert_eq!(existing.record, mine(), "it names the caller's own transaction");

    // Refused, and the winner is gone when it is read: then the address is free.
    fake.remove(NAME);
    fake.fail("POST", Fault::Answer(409));
    store.create(&mine()).await.unwrap();
    assert_eq!(fake.count("POST"), 4);

    // Refused, by an unknown component: nothing was changed, and the error means that.
    fake.remove(NAME);
    fake.fail("POST", Fault::Answer(409));
    fake.fail("GET", Fault::Broken);
    let error = store.create(&mine()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { operation: "get", .. }), "{error}");
    for _ in 0..3 {
        fake.fail("POST", Fault::Answer(409));
    }
    let error = store.create(&mine()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { operation: "create", .. }), "{error}");
}

#[tokio::test]
async fn a_record_that_was_edited_or_made_again_is_a_conflict() {
    for kind in ["PUT", "DELETE"] {
        let (fake, store, version) = ready(kind).await;
        fake.edit(NAME, |object| object["metadata"]["annotations"] = json!({"by": "hand"}));
        let error = write(&store, kind, &version).await.unwrap_err();
        let StoreError::Conflict { current, .. } = error else { panic!("{error}") };
        write(&store, kind, &current.version).await.unwrap();

        let (fake, store, version) = ready(kind).await;
        fake.remove(NAME);
        let error = write(&store, kind, &version).await.unwrap_err();
        assert!(matches!(error, StoreError::Gone { .. }), "{error}");
        store.create(&mine()).await.unwrap();
        let error = write(&store, kind, &version).await.unwrap_err();
        assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_named_and_never_skipped() {
    let fake = Fake::default();
    let store = store_of(&fake);
    for address in 1..=5 {
        store.create(&record(&format!("192.0.2.{address}"), "t")).await.unwrap();
    }
    fake.edit("default.192.0.2.2", |object| object["spec"]["fromTheFuture"] = json!(true));
    fake.put("default.192.0.2.7", &json!({"segment": "default", "address": "192.0.2.8"}));
    fake.put("by-hand", &json!(null));

    let listing = store.listing().await.unwrap();
    assert_eq!(listing.rows.len(), 4);
    let bad: Vec<_> = listing.unreadable.iter().map(|bad| (bad.object.as_str(), bad.key.is_some())).collect();
    assert_eq!(bad, [("by-hand", false), ("default.192.0.2.2", true), ("default.192.0.2.7", true)]);
    let error = store.list().await.unwrap_err();
    assert!(matches!(error, StoreError::Unreadable { others: 2, .. }), "{error}");

    // Its name is the lock: the address is neither free nor held by a known attachment.
    let error = store.get(&key()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unreadable { object, .. } if object == NAME), "{error}");
    let error = store.create(&mine()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unreadable { object, .. } if object == NAME), "{error}");
}

#[tokio::test]
async fn a_list_comes_in_pages_of_one_moment() {
    let fake = Fake::default();
    let store = store_of(&fake);
    for address in 1..=5 {
        store.create(&record(&format!("192.0.2.{address}"), "t")).await.unwrap();
    }
    assert_eq!(store.list().await.unwrap().len(), 5);
    assert_eq!(fake.count("LIST"), 3);
    assert!(!fake.requests().iter().any(|line| line.contains("resourceVersion")), "every read is live");

    // The moment is forgotten between two pages: from the beginning.
    fake.fail("LIST", Fault::Answer(410));
    assert_eq!(store.list().await.unwrap().len(), 5);
    for _ in 0..3 {
        fake.fail("LIST", Fault::Answer(410));
    }
    let error = store.list().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn a_marked_record_is_not_gone() {
    let (fake, store, _) = ready("DELETE").await;
    fake.edit(NAME, |object| object["metadata"]["finalizers"] = json!(["example.com/keep"]));
    let version = store.get(&key()).await.unwrap().unwrap().version;
    let error = store.delete(&key(), &version).await.unwrap_err();
    assert!(matches!(error, StoreError::Finalizers { .. }), "{error}");
    assert!(error.to_string().contains("example.com/keep") && error.to_string().contains("kubectl patch"));
    assert!(store.get(&key()).await.unwrap().is_some());
}

#[tokio::test]
async fn two_creates_and_four_deletes_are_on_their_way_at_a_time() {
    let fake = Fake::default();
    let store = Arc::new(store_of(&fake));
    let tasks: Vec<_> = (1..=20)
        .map(|address| {
            let (store, record) = (store.clone(), record(&format!("192.0.2.{address}"), "t"));
            tokio::spawn(async move { store.create(&record).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let rows = store.list().await.unwrap();
    let tasks: Vec<_> = rows
        .into_iter()
        .map(|row| {
            let store = store.clone();
            tokio::spawn(async move { store.delete(&row.record.address_key(), &row.version).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(fake.most(), (2, 4));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_create_begins_when_its_turn_comes() {
    let fake = Fake::default();
    let store = Arc::new(store_of(&fake));
    for _ in 0..2 {
        fake.fail("POST", Fault::Silent);
    }
    let task = |address: u8| {
        let (store, record) = (store.clone(), record(&format!("192.0.2.{address}"), "t"));
        tokio::spawn(async move { store.create(&record).await })
    };
    let (first, second) = (task(1), task(2));
    tokio::task::yield_now().await;
    let third = task(3);
    assert!(first.await.unwrap().is_err() && second.await.unwrap().is_err());
    third.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn only_what_the_server_served_is_contact() {
    let fake = Fake::default();
    let contact = Contact::new(|| Time(7));
    let store = KubernetesStore::new(fake.client(), contact.clone(), Settings::default());
    for fault in [Fault::Answer(500), Fault::Answer(403), Fault::Busy(1), Fault::Silent, Fault::Refused] {
        fake.fail("GET", fault);
        assert!(store.get(&key()).await.is_err());
        assert_eq!(contact.last(), None, "{fault:?}");
    }
    // A 404 is a served request, too.
    assert_eq!(store.get(&key()).await.unwrap(), None);
    assert_eq!(contact.last(), Some(Time(7)));
}

#[tokio::test]
async fn writes_say_whose_they_are_and_refuse_to_lose_a_field() {
    let (fake, store, version) = ready("PUT").await;
    write(&store, "PUT", &version).await.unwrap();
    for line in fake.requests() {
        assert!(line.contains("fieldManager=berth-agent&fieldValidation=Strict"), "{line}");
        assert!(line.contains("timeout=4500ms"), "the server knows the deadline: {line}");
    }
}

#[tokio::test]
async fn a_list_has_more_time_than_a_read() {
    let fake = Fake::default();
    let store = store_of(&fake);
    store.listing().await.unwrap();
    store.get(&key()).await.unwrap();
    let asked = fake.requests();
    let [list, read] = asked.as_slice() else { panic!("{asked:?}") };
    assert!(list.contains("timeout=27000ms") && read.contains("timeout=4500ms"), "{asked:?}");
}
