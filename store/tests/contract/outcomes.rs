//! The promise of every store, under random faults: an error other than "unknown" changed nothing, and a
//! success is in the store.

use berth_store::kubernetes::KubernetesStore;
use berth_store::{LeaseStore as _, StoreError, Version, Versioned};
use proptest::prelude::*;

use crate::common::record;
use crate::fake::{Fake, Fault};
use crate::faults::store_of;

#[derive(Debug, Clone, Copy)]
enum Write {
    Create,
    Replace,
    Delete,
}

#[derive(Debug, Clone)]
struct Step {
    write: Write,
    address: u8,
    /// An older version than the newest that was seen.
    stale: bool,
    /// Faults of the write, and of a read after it.
    faults: (Option<Fault>, Option<Fault>),
}

fn fault() -> impl Strategy<Value = Option<Fault>> {
    let code = prop::sample::select(vec![400, 401, 403, 404, 408, 409, 410, 422, 429, 500, 502, 503, 504]);
    prop_oneof![
        4 => Just(None),
        2 => code.clone().prop_map(|code| Some(Fault::Answer(code))),
        // Only the statuses that a server may send after it applied a write: with others it would lie.
        2 => prop::sample::select(vec![408, 500, 502, 503, 504]).prop_map(|code| Some(Fault::AnswerAfter(code))),
        2 => prop::sample::select(vec![
            Fault::Busy(1), Fault::Silent, Fault::SilentAfter, Fault::Broken, Fault::BrokenAfter,
            Fault::Refused, Fault::Foreign,
        ]).prop_map(Some),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let write = prop_oneof![Just(Write::Create), Just(Write::Replace), Just(Write::Delete)];
    (write, 1_u8..3, any::<bool>(), (fault(), fault())).prop_map(|(write, address, stale, faults)| Step {
        write,
        address,
        stale,
        faults,
    })
}

async fn there(store: &KubernetesStore, address: u8) -> Option<Versioned> {
    store.get(&record(&format!("192.0.2.{address}"), "x").address_key()).await.unwrap()
}

async fn tells_the_truth(steps: Vec<Step>) {
    let fake = Fake::default();
    let store = store_of(&fake);
    let mut seen: Vec<Version> = vec![Version { uid: "uid-0".to_owned(), resource_version: "0".to_owned() }];
    for (index, Step { write, address, stale, faults }) in steps.into_iter().enumerate() {
        let wanted = record(&format!("192.0.2.{address}"), &format!("t{index}"));
        let before = there(&store, address).await;
        let version = match (&before, stale) {
            (Some(row), false) => row.version.clone(),
            _ => seen[index % seen.len()].clone(),
        };
        let kind = match write {
            Write::Create => "POST",
            Write::Replace => "PUT",
            Write::Delete => "DELETE",
        };
        faults.0.into_iter().for_each(|fault| fake.fail(kind, fault));
        faults.1.into_iter().for_each(|fault| fake.fail("GET", fault));
        let result = match write {
            Write::Create => store.create(&wanted).await.map(Some),
            Write::Replace => store.replace(&wanted, &version).await.map(Some),
            Write::Delete => store.delete(&wanted.address_key(), &version).await.map(|()| None),
        };
        fake.calm();
        let after = there(&store, address).await;
        match result {
            Ok(version) => {
                assert_eq!(after, version.map(|version| Versioned { version, record: wanted }));
            }
            Err(StoreError::OutcomeUnknown { .. }) => {}
            Err(error) => assert_eq!(after, before, "{error}"),
        }
        seen.extend(after.map(|row| row.version));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_error_that_is_not_unknown_changed_nothing(steps in prop::collection::vec(step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.unwrap().block_on(tells_the_truth(steps));
    }
}
