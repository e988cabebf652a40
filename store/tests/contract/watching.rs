//! The watch of a cluster's leases: no change is left out, under all faults of the connection.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_store::kubernetes::{LeaseEvent, Watch};
use berth_store::{LeaseStore as _, StoreError};
use proptest::prelude::*;
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::common::record;
use crate::fake::{Fake, Fault};
use crate::faults::store_of;

async fn next(watch: &mut Watch) -> LeaseEvent {
    timeout(Duration::from_mins(5), watch.next()).await.unwrap().unwrap()
}

/// One word per event.
fn word(event: &LeaseEvent) -> String {
    match event {
        LeaseEvent::Restarted { rows, unreadable } => {
            format!("restarted {} {}", rows.len(), unreadable.len())
        }
        LeaseEvent::Applied(row) => format!("applied {} {}", row.record.address, row.record.txn),
        LeaseEvent::Unreadable(bad) => format!("unreadable {}", bad.object),
        LeaseEvent::Deleted { object, key, .. } => format!("deleted {object} {}", key.is_some()),
    }
}

#[tokio::test(start_paused = true)]
async fn changes_come_in_their_order_and_what_cannot_be_read_comes_by_name() {
    let fake = Fake::default();
    let store = store_of(&fake);
    let made = store.create(&record("192.0.2.1", "a")).await.unwrap();
    let mut watch = store.watch();
    assert_eq!(word(&next(&mut watch).await), "restarted 1 0");
    store.replace(&record("192.0.2.1", "b"), &made).await.unwrap();
    fake.put("default.192.0.2.9", &json!({"x": 1}));
    fake.put("by-hand", &json!(null));
    fake.remove("default.192.0.2.9");
    fake.remove("by-hand");
    fake.remove("default.192.0.2.1");
    for expected in [
        "applied 192.0.2.1 b",
        "unreadable default.192.0.2.9",
        "unreadable by-hand",
        "deleted default.192.0.2.9 true",
        "deleted by-hand false",
        "deleted default.192.0.2.1 true",
    ] {
        assert_eq!(word(&next(&mut watch).await), expected);
    }
    assert_eq!(fake.count("LIST"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_watch_goes_on_from_where_it_was() {
    let fake = Fake::default();
    let store = store_of(&fake);
    let mut watch = store.watch();
    next(&mut watch).await;
    store.create(&record("192.0.2.1", "a")).await.unwrap();
    assert_eq!(word(&next(&mut watch).await), "applied 192.0.2.1 a");
    for busy in [false, true] {
        fake.drop_watches();
        if busy {
            fake.fail("WATCH", Fault::Busy(2));
        }
        fake.put("default.192.0.2.2", &serde_json::to_value(spec("192.0.2.2")).unwrap());
        assert_eq!(word(&next(&mut watch).await), "applied 192.0.2.2 t");
        fake.remove("default.192.0.2.2");
        assert_eq!(word(&next(&mut watch).await), "deleted default.192.0.2.2 true");
    }
    assert_eq!(fake.count("LIST"), 1, "nothing was lost, so nothing is listed again");
    assert!(watch.trouble().is_none());
}

/// An API server ends all watches of a kind when its definition changes. The definition also changes the form
/// of objects, without an event.
#[tokio::test(start_paused = true)]
async fn what_could_not_be_read_may_be_readable_after_a_dropped_watch_so_all_is_listed_again() {
    for listed in [true, false] {
        let fake = Fake::default();
        let store = store_of(&fake);
        let damage = || fake.put("default.192.0.2.9", &json!({"x": 1}));
        if listed {
            damage();
        }
        let mut watch = store.watch();
        assert_eq!(word(&next(&mut watch).await), format!("restarted 0 {}", u8::from(listed)));
        if !listed {
            damage();
            assert_eq!(word(&next(&mut watch).await), "unreadable default.192.0.2.9");
        }
        settle().await;
        fake.redefine("default.192.0.2.9", &json!(spec("192.0.2.9")));
        fake.drop_watches();
        assert_eq!(word(&next(&mut watch).await), "restarted 1 0");
        settle().await;
        fake.drop_watches();
        fake.remove("default.192.0.2.9");
        assert_eq!(word(&next(&mut watch).await), "deleted default.192.0.2.9 true");
        assert_eq!(fake.count("LIST"), 2, "all can be read, so nothing is listed again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_away_may_have_gone_back_so_all_is_listed_again() {
    for fault in [Fault::Refused, Fault::Answer(503), Fault::Silent, Fault::Broken] {
        let fake = Fake::default();
        let store = store_of(&fake);
        for address in 1..=3 {
            fake.put(&format!("default.192.0.2.{address}"), &json!(spec(&format!("192.0.2.{address}"))));
        }
        let mut watch = store.watch();
        assert_eq!(word(&next(&mut watch).await), "restarted 3 0");
        settle().await;
        fake.fail("WATCH", fault);
        fake.drop_watches();
        // An older copy, in which the clock is soon where it was: only a list shows what differs.
        fake.go_back(1);
        fake.remove("default.192.0.2.1");
        fake.remove("default.192.0.2.2");
        fake.put("default.192.0.2.9", &json!(spec("192.0.2.9")));
        assert_eq!(word(&next(&mut watch).await), "restarted 2 0", "{fault:?}");
    }
}

fn spec(address: &str) -> berth_api::types::IPLeaseSpec {
    (&record(address, "t")).into()
}

#[tokio::test(start_paused = true)]
async fn a_bookmark_moves_the_moment_so_that_history_may_be_forgotten() {
    let fake = Fake::default();
    let store = store_of(&fake);
    let mut watch = store.watch();
    next(&mut watch).await;
    settle().await;
    fake.forget();
    fake.bookmark();
    settle().await;
    fake.drop_watches();
    store.create(&record("192.0.2.1", "a")).await.unwrap();
    assert_eq!(word(&next(&mut watch).await), "applied 192.0.2.1 a");
    assert_eq!(fake.count("LIST"), 1);
}

/// Lets the task of the watch run without time passing.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Cause of the loss of the position.
type Loss = fn(&Fake);

#[tokio::test(start_paused = true)]
async fn a_forgotten_moment_a_restored_storage_and_nonsense_are_answered_by_a_new_list() {
    let lost: [(&str, Loss); 5] = [
        ("410 on the stream", |fake| {
            fake.forget();
            fake.drop_watches();
        }),
        ("410 as the status", |fake| {
            fake.fail("WATCH", Fault::Answer(410));
            fake.drop_watches();
        }),
        ("an older copy", |fake| {
            fake.go_back(1);
            fake.drop_watches();
        }),
        ("no event", |fake| fake.say("<html>\n")),
        ("an unknown event", |fake| fake.say("{\"type\":\"SURPRISE\",\"object\":{}}\n")),
    ];
    for (what, lose) in lost {
        let fake = Fake::default();
        let store = store_of(&fake);
        for address in 1..=3 {
            store.create(&record(&format!("192.0.2.{address}"), "a")).await.unwrap();
        }
        let mut watch = store.watch();
        assert_eq!(word(&next(&mut watch).await), "restarted 3 0");
        settle().await;
        let begun = Instant::now();
        lose(&fake);
        assert_eq!(word(&next(&mut watch).await), "restarted 3 0", "{what}");
        assert!(begun.elapsed() <= Duration::from_secs(6), "{what}: {:?}", begun.elapsed());
        assert!(
            !fake.requests().iter().any(|line| line.starts_with("LIST") && line.contains("resourceVersion"))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_in_pieces_is_one_event_and_a_cut_one_is_none() {
    let fake = Fake::default();
    let store = store_of(&fake);
    let mut watch = store.watch();
    next(&mut watch).await;
    settle().await;
    let object = json!({
        "metadata": {"name": "default.192.0.2.1", "uid": "u", "resourceVersion": "0"}, "spec": spec("192.0.2.1"),
    });
    let line = json!({"type": "ADDED", "object": object}).to_string() + "\n";
    for piece in line.as_bytes().chunks(7) {
        fake.say(std::str::from_utf8(piece).unwrap());
        settle().await;
    }
    assert_eq!(word(&next(&mut watch).await), "applied 192.0.2.1 t");
    fake.say(&line[..40]);
    fake.drop_watches();
    store.create(&record("192.0.2.3", "c")).await.unwrap();
    assert_eq!(word(&next(&mut watch).await), "applied 192.0.2.3 c");
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_is_given_up_and_trouble_is_told() {
    let fake = Fake::default();
    let store = store_of(&fake);
    let mut watch = store.watch();
    next(&mut watch).await;
    settle().await;
    assert_eq!(fake.count("WATCH"), 1);
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(fake.count("WATCH") >= 2, "no bookmark for 90 s");

    for _ in 0..4 {
        fake.fail("WATCH", Fault::Answer(403));
    }
    fake.drop_watches();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let trouble = watch.trouble().unwrap();
    assert!(matches!(trouble, StoreError::Forbidden { operation: "watch", .. }), "{trouble}");
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(watch.trouble().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_is_asked_at_a_bounded_pace_and_found_soon() {
    let fake = Fake::default();
    for _ in 0..1_000 {
        fake.fail("LIST", Fault::Refused);
    }
    let store = store_of(&fake);
    let mut watch = store.watch();
    tokio::time::sleep(Duration::from_mins(1)).await;
    let asked = fake.count("LIST");
    assert!((12..60).contains(&asked), "{asked} in a minute");
    assert!(timeout(Duration::from_millis(1), watch.next()).await.is_err());
    drop(watch);
    let asked = fake.count("LIST");
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(fake.count("LIST"), asked, "a dropped watch sends no request");
}

#[derive(Debug, Clone, Copy)]
enum Happening {
    Make(u8),
    Edit(u8),
    Remove(u8),
    Drop,
    Forget,
    Fail(Fault),
    Bookmark,
    Wait(u16),
}

fn happening() -> impl Strategy<Value = Happening> {
    let address = 1_u8..6;
    let fault = prop_oneof![
        Just(Fault::Refused),
        Just(Fault::Answer(410)),
        Just(Fault::Answer(500)),
        Just(Fault::Silent),
        Just(Fault::Foreign),
    ];
    prop_oneof![
        3 => address.clone().prop_map(Happening::Make),
        3 => address.clone().prop_map(Happening::Edit),
        3 => address.prop_map(Happening::Remove),
        1 => Just(Happening::Drop),
        1 => Just(Happening::Forget),
        1 => fault.prop_map(Happening::Fail),
        1 => Just(Happening::Bookmark),
        2 => (0_u16..3_000).prop_map(Happening::Wait),
    ]
}

async fn converges(happenings: Vec<Happening>) {
    let fake = Fake::default();
    let store = store_of(&fake);
    let mut watch = store.watch();
    let mut seen = BTreeMap::new();
    let name = |address: u8| format!("default.192.0.2.{address}");
    for (index, happening) in happenings.into_iter().enumerate() {
        match happening {
            Happening::Make(address) => {
                let _ = store.create(&record(&format!("192.0.2.{address}"), &format!("t{index}"))).await;
            }
            Happening::Edit(address) => {
                let next = record(&format!("192.0.2.{address}"), &format!("t{index}"));
                if let Ok(Some(row)) = store.get(&next.address_key()).await {
                    store.replace(&next, &row.version).await.unwrap();
                }
            }
            Happening::Remove(address) => fake.remove(&name(address)),
            Happening::Drop => fake.drop_watches(),
            Happening::Forget => fake.forget(),
            Happening::Fail(fault) => {
                fake.fail("WATCH", fault);
                fake.drop_watches();
            }
            Happening::Bookmark => fake.bookmark(),
            Happening::Wait(millis) => tokio::time::sleep(Duration::from_millis(millis.into())).await,
        }
    }
    // The final state is the one that a reader of the events has. A new list is the last event of a watch
    // that lost its position, so the loop waits for it.
    while let Ok(Some(event)) = timeout(Duration::from_mins(1), watch.next()).await {
        match event {
            LeaseEvent::Restarted { rows, .. } => {
                seen = rows.into_iter().map(|row| (row.record.address_key(), row)).collect();
            }
            LeaseEvent::Applied(row) => drop(seen.insert(row.record.address_key(), *row)),
            LeaseEvent::Deleted { key, .. } => drop(seen.remove(&key.unwrap())),
            LeaseEvent::Unreadable(bad) => panic!("{bad:?}"),
        }
    }
    let there: BTreeMap<_, _> =
        store.list().await.unwrap().into_iter().map(|row| (row.record.address_key(), row)).collect();
    assert_eq!(seen, there);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_reader_of_events_knows_in_the_end_what_is_there(
        happenings in prop::collection::vec(happening(), 1..40)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.unwrap().block_on(converges(happenings));
    }
}
