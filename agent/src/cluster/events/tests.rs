use berth_ipam::ledger::io::NoteKind;
use http::Method;

use super::*;
use crate::cluster::script::{CLOCKS, Fault, Script};

const POD_EVENTS: &str = "/api/v1/namespaces/shop/events";

fn note(kind: NoteKind, code: &'static str) -> Note {
    Note {
        kind,
        code,
        addresses: vec!["192.0.2.7".parse().unwrap()],
        segment: None,
        key: None,
        text: "why".to_owned(),
    }
}

fn pod(name: &str) -> PodRef {
    PodRef { namespace: "shop".to_owned(), name: name.to_owned(), uid: None }
}

fn start(script: &Script) -> Recorder {
    let (recorder, inbox) = recorder();
    tokio::spawn(run(script.client(), "n1".parse().unwrap(), inbox, CLOCKS));
    recorder
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_warning_is_one_event_with_a_count() {
    let script = Script::default();
    let recorder = start(&script);
    for _ in 0..5 {
        recorder.tell(&note(NoteKind::Warning, "second-holder"), Some(&pod("web-0")), true);
        pass(1).await;
    }
    pass(60).await;
    let events = script.below(POD_EVENTS);
    assert_eq!(events.len(), 1);
    assert_eq!((&events[0]["count"], &events[0]["message"]), (&5.into(), &"192.0.2.7: why".into()));
    assert_eq!(script.log().len(), 2, "one create, one update");
}

#[tokio::test(start_paused = true)]
async fn a_normal_day_asks_nothing_of_the_api_server() {
    let script = Script::default();
    let recorder = start(&script);
    for code in ["reserved", "bound", "released", "handed-over", "held"] {
        recorder.tell(&note(NoteKind::Action, code), Some(&pod("web-0")), true);
    }
    recorder.tell(&note(NoteKind::Verdict, "netns-gone"), Some(&pod("web-0")), true);
    pass(600).await;
    assert!(script.log().is_empty(), "{:?}", script.log());
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again_and_a_lost_answer_makes_no_second_event() {
    let script = Script::default();
    let recorder = start(&script);
    for fault in [Fault::Code(500), Fault::Code(429), Fault::Unreachable, Fault::LostReply, Fault::Hang] {
        script.faults(move |method, _| (*method == Method::POST).then_some(fault));
        recorder.tell(&note(NoteKind::Warning, "storage-refused"), None, false);
        pass(60).await;
    }
    script.faults(|_, _| None);
    pass(60).await;
    let events = script.below("/api/v1/namespaces/default/events");
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["count"], 5);
    let posts = script.log().iter().filter(|(_, what)| what.starts_with("POST")).count();
    assert!(posts < 60, "{posts}: calmly");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_expired_is_made_again_and_a_namespace_that_ends_is_left() {
    let script = Script::default();
    let recorder = start(&script);
    recorder.tell(&note(NoteKind::Warning, "second-holder"), Some(&pod("web-0")), true);
    pass(1).await;
    let name = script.below(POD_EVENTS)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    script.delete(&format!("{POD_EVENTS}/{name}"));
    recorder.tell(&note(NoteKind::Warning, "second-holder"), Some(&pod("web-0")), true);
    pass(60).await;
    assert_eq!(script.below(POD_EVENTS)[0]["count"], 2);

    script.faults(|_, _| Some(Fault::Code(403)));
    let before = script.log().len();
    recorder.tell(&note(NoteKind::Warning, "second-holder"), Some(&pod("web-1")), true);
    pass(600).await;
    assert_eq!(script.log().len() - before, 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_task_that_is_stuck() {
    let script = Script::default();
    script.faults(|_, _| Some(Fault::Hang));
    let recorder = start(&script);
    for number in 0..2000 {
        recorder.tell(&note(NoteKind::Warning, "second-holder"), Some(&pod(&format!("web-{number}"))), true);
    }
    assert_eq!(recorder.dropped.load(Ordering::Relaxed), 2000 - WAITING as u64);
}
