//! Every example line of docs/protocol.md is what this crate reads and writes.

use berth_protocol::spool::Entry;
use berth_protocol::{Answer, Call};

#[test]
fn every_example_parses_and_prints_the_same() {
    let text = include_str!("../../docs/protocol.md");
    let (mut calls, mut answers, mut entries) = (0, 0, 0);
    for line in text.lines().filter(|line| line.starts_with('{')) {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let again = if value.get("request").is_some() {
            calls += 1;
            serde_json::to_value(serde_json::from_str::<Call>(line).unwrap())
        } else if value.get("bootId").is_some() {
            entries += 1;
            serde_json::to_value(serde_json::from_str::<Entry>(line).unwrap())
        } else {
            answers += 1;
            serde_json::to_value(serde_json::from_str::<Answer>(line).unwrap())
        };
        assert_eq!(again.unwrap(), value, "{line}");
    }
    assert!(calls >= 13 && answers >= 7 && entries == 1, "{calls} {answers} {entries}");
}

#[test]
fn a_key_more_is_refused_in_every_request() {
    let text = include_str!("../../docs/protocol.md");
    let mut tried = 0;
    for line in text.lines().filter(|line| line.starts_with('{') && line.contains("\"request\"")) {
        let call: serde_json::Value = serde_json::from_str(line).unwrap();
        let Some(body) = call["request"].as_object().and_then(|request| request.values().next()) else {
            continue;
        };
        let mut more = call.clone();
        for body in more["request"].as_object_mut().unwrap().values_mut() {
            body["misspelt"] = 1.into();
        }
        let error = serde_json::from_value::<Call>(more).unwrap_err().to_string();
        assert!(error.contains("misspelt"), "{body:?}: {error}");
        tried += 1;
    }
    assert!(tried >= 8, "{tried}");
}
