use super::*;

fn at(seconds: u64) -> Time {
    Time::from_millis(seconds * 1000)
}

fn date(seconds: u64) -> Timestamp {
    Timestamp::from_second(i64::try_from(seconds).unwrap()).unwrap()
}

fn pod(number: usize) -> About {
    About::Pod { namespace: "shop".to_owned(), name: format!("web-{number}"), uid: Some("u1".to_owned()) }
}

fn report(about: About, reason: &str, text: &str) -> Report {
    Report { about, reason: reason.to_owned(), warning: true, text: text.to_owned() }
}

fn book() -> Book {
    Book::new("n1", at(0))
}

fn hear(book: &mut Book, second: u64, report: Report) {
    book.hear(at(second), date(second), report);
}

/// Writes all that is due at that second; what was written.
fn flush(book: &mut Book, second: u64) -> Vec<Write> {
    let mut writes = Vec::new();
    while let Some((key, write)) = book.next(at(second)) {
        writes.push(write);
        book.written(at(second), &key, Outcome::Done);
    }
    writes
}

#[test]
fn an_event_as_a_cluster_wants_it() {
    let mut book = book();
    hear(&mut book, 7, report(pod(0), "SecondHolder", "why"));
    let writes = flush(&mut book, 7);
    let [Write::Create(event)] = writes.as_slice() else { panic!("{writes:?}") };
    let event = serde_json::to_value(event).unwrap();
    assert_eq!(event["metadata"]["namespace"], "shop");
    assert!(event["metadata"]["name"].as_str().unwrap().starts_with("web-0."));
    assert_eq!(
        event["involvedObject"],
        json!({"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "web-0", "uid": "u1"})
    );
    assert_eq!(
        (&event["type"], &event["reason"], &event["message"]),
        (&json!("Warning"), &json!("SecondHolder"), &json!("why"))
    );
    assert_eq!((&event["count"], &event["firstTimestamp"]), (&json!(1), &json!("1970-01-01T00:00:07Z")));
    assert_eq!(
        (&event["reportingComponent"], &event["source"]["host"]),
        (&json!("berth-agent"), &json!("n1"))
    );

    hear(&mut book, 8, report(About::Node, "StorageRefused", "why"));
    let writes = flush(&mut book, 8);
    let [Write::Create(event)] = writes.as_slice() else { panic!("{writes:?}") };
    assert_eq!(
        event.metadata.namespace.as_deref(),
        Some("default"),
        "an API server takes no other for nodes"
    );
    assert_eq!(event.involved_object.uid.as_deref(), Some("n1"));
}

#[test]
fn what_happens_again_is_the_same_event() {
    let mut book = book();
    hear(&mut book, 0, report(pod(0), "SecondHolder", "first"));
    flush(&mut book, 0);
    for second in 1..=20 {
        hear(&mut book, second, report(pod(0), "SecondHolder", "again"));
        assert_eq!(flush(&mut book, second), [], "half a minute apart");
    }
    let writes = flush(&mut book, 31);
    let [Write::Update { namespace, patch, .. }] = writes.as_slice() else { panic!("{writes:?}") };
    assert_eq!(namespace, "shop");
    assert_eq!(*patch, json!({"count": 21, "lastTimestamp": "1970-01-01T00:00:20Z", "message": "again"}));
    // Another reason, another pod: other events. Then the same one, later.
    hear(&mut book, 32, report(pod(0), "RecordEdited", "x"));
    hear(&mut book, 32, report(pod(1), "SecondHolder", "x"));
    assert_eq!(flush(&mut book, 32).len(), 2);
    hear(&mut book, 700, report(pod(0), "SecondHolder", "x"));
    assert!(matches!(flush(&mut book, 700).as_slice(), [Write::Create(_)]));
}

#[test]
fn a_node_has_its_share_and_no_more() {
    let mut book = book();
    for number in 0..100 {
        hear(&mut book, 1, report(pod(number), "SecondHolder", "x"));
    }
    assert_eq!(flush(&mut book, 1).len(), 25);
    let in_a_minute: usize = (2..=61).map(|second| flush(&mut book, second).len()).sum();
    assert_eq!(in_a_minute, 12);
    assert!(book.wake().unwrap() > at(61));
    let rest: usize = (62..=1000).map(|second| flush(&mut book, second).len()).sum();
    assert_eq!((rest, book.dropped(), book.wake()), (63, 0, None), "late, but told");
}

#[test]
fn what_there_is_no_room_for_is_dropped_and_counted() {
    let mut book = book();
    for number in 0..SERIES_MAX + 10 {
        hear(&mut book, 1, report(pod(number), "SecondHolder", "x"));
    }
    assert_eq!((book.series.len(), book.dropped()), (SERIES_MAX, 10));
    // What is written makes room.
    flush(&mut book, 1);
    hear(&mut book, 2, report(pod(9999), "SecondHolder", "x"));
    assert_eq!((book.series.len(), book.dropped()), (SERIES_MAX, 10));
    // An event that waited for an hour is dropped.
    hear(&mut book, 4000, report(About::Node, "StorageRefused", "x"));
    assert_eq!(book.series.len(), 1);
    assert_eq!(book.dropped(), 10 + 488);
}

#[test]
fn each_outcome_has_its_consequence() {
    let again = |outcome, exists: bool| {
        let mut book = book();
        hear(&mut book, 0, report(pod(0), "SecondHolder", "x"));
        let second = if exists {
            flush(&mut book, 0);
            hear(&mut book, 1, report(pod(0), "SecondHolder", "x"));
            31
        } else {
            0
        };
        let (key, _) = book.next(at(second)).unwrap();
        book.written(at(second), &key, outcome);
        (book.wake().map(|at| at.0 / 1_000_000_000 - second), book.dropped())
    };
    for (outcome, exists, expected) in [
        (Outcome::Done, false, (None, 0)),
        (Outcome::Done, true, (None, 0)),
        (Outcome::Exists, false, (None, 0)),
        (Outcome::Exists, true, (Some(30), 0)),
        (Outcome::Failed, false, (Some(10), 0)),
        (Outcome::Failed, true, (Some(10), 0)),
        (Outcome::Gone, true, (Some(0), 0)),
        (Outcome::Gone, false, (None, 1)),
        (Outcome::Refused, false, (None, 1)),
        (Outcome::Refused, true, (None, 1)),
    ] {
        assert_eq!(again(outcome, exists), expected, "{outcome:?}, exists: {exists}");
    }
}

#[test]
fn names_differ_and_fit() {
    let mut book = book();
    let long = About::Pod { namespace: "shop".to_owned(), name: format!("{}.x", "p".repeat(229)), uid: None };
    hear(&mut book, 1, report(long.clone(), "A", "x"));
    hear(&mut book, 1, report(long, "B", "x"));
    let names: std::collections::BTreeSet<_> =
        book.series.values().map(|series| series.name.clone()).collect();
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|name| name.len() <= 253 && !name.contains("..")), "{names:?}");
}
