//! The whole program against a scripted agent: requests, output and exit codes.

#![expect(clippy::unwrap_used, reason = "a helper of a test may end the test")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// An agent that expects one request and answers it with the given outcomes.
struct FakeAgent {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    serving: JoinHandle<Value>,
}

impl FakeAgent {
    fn answering(outcomes: Vec<Value>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let serving = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            let call: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(call["v"], 1);
            for mut outcome in outcomes {
                outcome["v"] = json!(1);
                outcome["id"] = call["id"].clone();
                // The client may have seen enough.
                if writeln!(stream, "{outcome}").is_err() {
                    break;
                }
            }
            call["request"].clone()
        });
        Self { _dir: dir, socket, serving }
    }

    /// Runs berthctl against it; what it printed, and the request that it made.
    fn run(self, args: &[&str]) -> (Output, Value) {
        let output = berthctl(&self.socket, args);
        (output, self.serving.join().unwrap())
    }
}

fn berthctl(socket: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_berthctl")).arg("--socket").arg(socket).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn bound() -> Value {
    json!({
        "network": "lan", "cniNetwork": "lan", "pool": "lan-v4", "segment": "default", "address": "10.0.0.7",
        "state": "bound", "reason": "add", "node": "n1", "containerID": "0123456789abcdef", "ifname": "eth0",
        "pod": {"namespace": "web", "name": "shop-1", "uid": "u1"}, "mac": "b2:00:00:00:00:01",
        "netnsCookie": "18446744073709551615", "nsid": 77, "ifindex": 2, "generation": 3
    })
}

fn quarantined() -> Value {
    json!({
        "network": null, "cniNetwork": null, "pool": "lan-v4", "segment": "default", "address": "10.0.0.8",
        "state": "quarantined", "reason": "answers", "node": null, "containerID": null, "ifname": null,
        "pod": null, "mac": null, "netnsCookie": null, "nsid": null, "ifindex": null, "generation": null
    })
}

fn event(ago: u64, text: &str) -> Value {
    json!({"atMs": 61_000, "agoMs": ago, "kind": "verdict", "code": "netns-gone", "address": "10.0.0.7",
           "attachment": "lan/c1/eth0", "text": text})
}

#[test]
fn leases_as_json_are_the_documented_array() {
    let rows = json!([bound(), quarantined()]);
    let agent = FakeAgent::answering(vec![json!({"ok": {"leases": rows}})]);
    let (output, request) = agent.run(&["leases", "-o", "json"]);
    assert_eq!(request, "leases");
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), rows);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn leases_as_a_table_align() {
    let agent = FakeAgent::answering(vec![json!({"ok": {"leases": [bound(), quarantined()]}})]);
    let (output, _) = agent.run(&["leases"]);
    let expected = "\
ADDRESS   STATE        REASON   NETWORK  POOL    SEGMENT  NODE  POD         CONTAINER      IFNAME  MAC
10.0.0.7  bound        add      lan      lan-v4  default  n1    web/shop-1  0123456789abc  eth0    b2:00:00:00:00:01
10.0.0.8  quarantined  answers  -        lan-v4  default  -     -           -              -       -
";
    assert_eq!(text(&output.stdout), expected);
}

#[test]
fn pools_are_counted() {
    let row = json!({"pool": "lan-v6", "segment": "default", "subnet": "2001:db8::/64",
        "total": "18446744073709551615", "bound": 2, "suspect": 0, "held": 0, "retained": 0, "quarantined": 1,
        "free": "18446744073709551612", "waiting": 4});
    let answer = || vec![json!({"ok": {"pools": [row]}})];
    let (output, request) = FakeAgent::answering(answer()).run(&["pools"]);
    assert_eq!(request, "pools");
    let second = text(&output.stdout).lines().nth(1).unwrap();
    let cells: Vec<_> = second.split_whitespace().collect();
    assert_eq!(
        cells,
        [
            "lan-v6",
            "default",
            "2001:db8::/64",
            "18446744073709551615",
            "18446744073709551612",
            "2",
            "0",
            "0",
            "0",
            "1",
            "4"
        ]
    );
    let (output, _) = FakeAgent::answering(answer()).run(&["-o", "json", "pools"]);
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), json!([row]));
}

#[test]
fn explain_names_holder_time_and_history() {
    let wire = json!({"parent": "eth1", "vlan": 5, "heardInAgoMs": 1500, "heardOutAgoMs": null,
                      "speaker": "02:00:00:00:00:09", "hits": 7, "conflicts": 2});
    let found = json!({"address": "10.0.0.7", "lease": bound(), "sinceMs": 61_000, "endedBy": "its DEL",
                       "toDo": "wait for it", "wires": [wire],
                       "history": [event(1500, "its namespace is gone")]});
    let answer = || vec![json!({"ok": {"explain": found}})];
    let (output, request) = FakeAgent::answering(answer()).run(&["explain", "10.0.0.7"]);
    assert_eq!(request, json!({"explain": {"address": "10.0.0.7"}}));
    let shown = text(&output.stdout);
    assert!(shown.starts_with("10.0.0.7 is bound for 1m01s (add)\n"), "{shown}");
    for part in [
        "pod          web/shop-1\n",
        "container    0123456789abcdef\n",
        "cookie 18446744073709551615, nsid 77",
        "ended by     its DEL\n",
        "what to do   wait for it\n",
        "announced 7 times on eth1 VLAN 5: from outside 1.5 s ago, from this node never, 2 conflicts, \
         last other speaker 02:00:00:00:00:09\n",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    assert!(shown.contains("\n1.5 s  verdict  netns-gone  lan/c1/eth0  its namespace is gone\n"), "{shown}");
    let (output, _) = FakeAgent::answering(answer()).run(&["explain", "10.0.0.7", "--output", "json"]);
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), found);

    let free = json!({"address": "10.0.0.9", "lease": null, "sinceMs": null, "wires": [], "history": []});
    let agent = FakeAgent::answering(vec![json!({"ok": {"explain": free}})]);
    let (output, _) = agent.run(&["explain", "10.0.0.9"]);
    assert_eq!(
        text(&output.stdout),
        "10.0.0.9 is free\nnothing was observed of it since the agent started\n"
    );
}

#[test]
fn events_end_when_the_agent_says_so() {
    let answers = || {
        vec![
            json!({"ok": {"event": event(5, "one")}}),
            json!({"ok": {"event": event(0, "two\u{1b}[2J")}}),
            json!({"ok": "done"}),
        ]
    };
    let (output, request) = FakeAgent::answering(answers()).run(&["events"]);
    assert_eq!(request, json!({"events": {"follow": false}}));
    assert_eq!(output.status.code(), Some(0));
    let lines: Vec<_> = text(&output.stdout).lines().collect();
    assert_eq!(lines[0], "      61.000  verdict      10.0.0.7         netns-gone  one [lan/c1/eth0]");
    assert!(!lines[1].contains('\u{1b}'), "{lines:?}");
    let (output, _) = FakeAgent::answering(answers()).run(&["events", "-o", "json"]);
    let rows: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows, [event(5, "one"), event(0, "two\u{1b}[2J")]);
}

#[test]
fn followed_events_appear_at_once_and_the_agents_end_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_berthctl"))
        .args(["events", "--follow", "--socket"])
        .arg(&socket)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let mut line = String::new();
    BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains(r#"{"events":{"follow":true}}"#), "{line}");
    writeln!(stream, "{}", json!({"v": 1, "id": 1, "ok": {"event": event(0, "now")}})).unwrap();
    // Read while the agent still serves: nothing waits in a buffer.
    let mut shown = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut shown).unwrap();
    assert!(shown.contains("netns-gone  now"), "{shown}");
    drop(stream);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
}

#[test]
fn release_prints_what_was_done_and_a_refusal_exits_with_1() {
    let agent =
        FakeAgent::answering(vec![json!({"ok": {"released": {"summary": "10.0.0.7 is quarantined"}}})]);
    let (output, request) = agent.run(&["release", "10.0.0.7", "--force"]);
    assert_eq!(request, json!({"adminRelease": {"address": "10.0.0.7", "force": true}}));
    assert_eq!((text(&output.stdout), output.status.code()), ("10.0.0.7 is quarantined\n", Some(0)));

    let refusal = json!({"error": {"code": 100, "msg": "10.0.0.7 is alive", "details": "its MAC is in the FDB of eth1"}});
    let (output, request) = FakeAgent::answering(vec![refusal]).run(&["release", "10.0.0.7"]);
    assert_eq!(request, json!({"adminRelease": {"address": "10.0.0.7", "force": false}}));
    assert_eq!(text(&output.stderr), "berthctl: 10.0.0.7 is alive: its MAC is in the FDB of eth1\n");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
}

#[test]
fn doctor_exits_with_1_when_something_needs_a_hand() {
    for (healthy, code) in [(true, 0), (false, 1)] {
        let found = json!({"healthy": healthy, "checks": [
            {"what": "rung.netlink", "ok": true, "needsAHand": false, "text": "active"},
            {"what": "rung.ebpf", "ok": false, "needsAHand": false, "text": "not built"},
            {"what": "store", "ok": healthy, "needsAHand": !healthy, "text": "redb"},
        ]});
        let answer = || vec![json!({"ok": {"doctor": found}})];
        let (output, request) = FakeAgent::answering(answer()).run(&["doctor"]);
        assert_eq!((request, output.status.code()), (json!("doctor"), Some(code)));
        let shown = text(&output.stdout);
        assert!(shown.contains("note  rung.ebpf     not built\n"), "{shown}");
        assert_eq!(shown.contains("FAIL  store"), !healthy, "{shown}");
        let (output, request) =
            FakeAgent::answering(answer()).run(&["doctor", "underlay", "eth1", "-o", "json"]);
        assert_eq!(
            (request, output.status.code()),
            (json!({"doctorUnderlay": {"parent": "eth1"}}), Some(code))
        );
        assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), found);
    }
}

#[test]
fn wrong_usage_exits_with_2_and_no_agent_with_3() {
    let nowhere = Path::new("/nonexistent/agent.sock");
    for args in [
        &["explain", "10.0.0.300"][..],
        &["explain", "10.0.0.0/24"],
        &["lease"],
        &[],
        &["doctor", "underlay", "a/b"],
        &["leases", "-o", "xml"],
    ] {
        let output = berthctl(nowhere, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output.stderr));
    }
    let output = berthctl(nowhere, &["leases"]);
    assert_eq!(output.status.code(), Some(3));
    let said = text(&output.stderr);
    assert!(said.contains("/nonexistent/agent.sock") && said.contains("--socket"), "{said}");
}

#[test]
fn an_answer_to_another_question_is_an_error() {
    let (output, _) = FakeAgent::answering(vec![json!({"ok": "done"})]).run(&["leases"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("of the same release"));
    let (output, _) = FakeAgent::answering(vec![json!({"novel": 1})]).run(&["leases"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let rows: Vec<Value> = (0..5000).map(|_| bound()).collect();
    let agent = FakeAgent::answering(vec![json!({"ok": {"leases": rows}})]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_berthctl"))
        .arg("--socket")
        .arg(&agent.socket)
        .arg("leases")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let start = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    assert!(start.elapsed() < Duration::from_secs(20));
    agent.serving.join().unwrap();
}
