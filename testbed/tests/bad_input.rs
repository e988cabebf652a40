//! Bad input, for each promise of Berth: a clear error with the right CNI code and advice, and no loss: a pod
//! attached before keeps its address throughout.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_testbed::cleanup;
use berth_testbed::client;
use berth_testbed::lab::{Attachment, Families, Lab, Options};
use berth_testbed::plugin::{Call, CniError, Outcome, Plugin};
use berth_testbed::skip;
use serde_json::{Value, json};

/// A second network with a parent that is on no node.
const ABSENT: &str = "apiVersion: berth.dev/v1alpha1\nkind: UnderlayNetwork\nmetadata:\n  name: absent\nspec:\n  \
    link:\n    type: macvlan\n    parent: nosuch0\n    mode: bridge\n  pools: [absent-v4]\n---\n\
    apiVersion: berth.dev/v1alpha1\nkind: IPPool\nmetadata:\n  name: absent-v4\nspec:\n  subnet: 10.78.0.0/24\n";

fn options() -> Option<Options> {
    Options::of_tests(1.0)
}

/// A failure that an operator can act on.
fn clear(outcome: &Outcome, code: u32, words: &[&str]) -> CniError {
    let failure = outcome.failure();
    assert!(failure.is_some(), "no error object: {outcome:?}");
    let failure = failure.unwrap_or(CniError { code: 0, msg: String::new(), details: String::new() });
    assert_eq!(failure.code, code, "{failure:?}");
    for word in words {
        assert!(failure.msg.contains(word) || failure.details.contains(word), "{word}: {failure:?}");
    }
    assert!(!failure.details.is_empty(), "it has no advice: {failure:?}");
    failure
}

/// The attachment is unchanged: recorded, and answering.
fn unharmed(lab: &Lab, attachment: &Attachment) {
    let rows = lab.leases();
    let own = |row: &client::Row| row.container_id.as_ref() == Some(&attachment.pod.container_id);
    let kept =
        rows.as_ref().is_ok_and(|rows| rows.iter().any(|row| own(row) && row.address == attachment.address));
    assert!(kept, "{attachment:?} not in {rows:?}");
    assert!(matches!(lab.answers(attachment.address), Ok(true)), "{attachment:?} does not answer");
}

/// No other attachments are recorded, and no other links exist.
fn only(lab: &Lab, attachments: &[&Attachment]) {
    let mut held: Vec<IpAddr> = lab.leases().unwrap_or_default().iter().map(|row| row.address).collect();
    held.sort();
    let mut expected: Vec<IpAddr> = attachments.iter().map(|a| a.address).collect();
    expected.sort();
    assert_eq!(held, expected);
    let links = lab.world.berth_links().unwrap_or_default();
    assert_eq!(links.len(), attachments.len(), "{links:?}");
}

#[test]
fn an_unknown_network_is_named() {
    let Some(options) = options() else { return };
    let lab = Lab::start(&options, 4, "").unwrap();
    let pod = lab.attach(&lab.world.pod().unwrap()).unwrap();
    let mut config = lab.config.clone();
    config["network"] = json!("nope");
    let outcome = lab.plugin.run(&Call::new("ADD", &config, &lab.world.pod().unwrap())).unwrap();
    clear(&outcome, 7, &["nope"]);
    only(&lab, &[&pod]);
    unharmed(&lab, &pod);
}

#[test]
fn an_exhausted_pool_says_who_holds_it_after_the_time_out() {
    let Some(options) = options() else { return };
    let lab = Lab::start(&options, 2, "  addTimeout: 1s\n").unwrap();
    let holders = lab.attach_many(2).unwrap();
    let outcome = lab.plugin.run(&lab.call("ADD", &lab.world.pod().unwrap())).unwrap();
    clear(&outcome, 11, &["lan-v4", "maxSurge: 0", &holders[0].pod.container_id]);
    assert!(
        outcome.took() >= Duration::from_secs(1) && outcome.took() < Duration::from_secs(10),
        "{outcome:?}"
    );
    only(&lab, &[&holders[0], &holders[1]]);
    unharmed(&lab, &holders[0]);
}

#[test]
fn a_missing_parent_is_named_and_other_networks_work() {
    let Some(options) = options() else { return };
    let mut lab = Lab::prepare(&options, 4, "", Families::V4).unwrap();
    lab.setup.write("config/absent.yaml", ABSENT).unwrap();
    lab.start_agent(None).unwrap();
    let pod = lab.attach(&lab.world.pod().unwrap()).unwrap();
    let mut config = lab.config.clone();
    config["network"] = json!("absent");
    let outcome = lab.plugin.run(&Call::new("ADD", &config, &lab.world.pod().unwrap())).unwrap();
    clear(&outcome, 7, &["nosuch0"]);
    only(&lab, &[&pod]);
    unharmed(&lab, &pod);
}

#[test]
fn a_malformed_configuration_of_the_agent_is_refused_at_start_and_at_reload() {
    let Some(options) = options() else { return };
    let mut lab = Lab::prepare(&options, 4, "  colour: red\n", Families::V4).unwrap();
    let error = lab.start_agent(None).unwrap_err().chain();
    assert!(error.contains("colour") && error.contains("ended"), "{error}");
    let path = lab.setup.config().join("lan.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("  colour: red\n", "")).unwrap();
    lab.start_agent(None).unwrap();
    let pod = lab.attach(&lab.world.pod().unwrap()).unwrap();
    std::fs::write(&path, &text).unwrap();
    let agent = lab.agent().unwrap();
    agent.reload();
    let deadline = Instant::now() + Duration::from_secs(5);
    // The first start's failure is in the same log: only a refused edit is this one's.
    let refused = |log: &str| {
        log.lines()
            .any(|line| line.contains("the edited configuration is refused") && line.contains("colour"))
    };
    while !refused(&agent.log_end()) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(refused(&agent.log_end()), "{}", agent.log_end());
    let second = lab.attach(&lab.world.pod().unwrap()).unwrap();
    only(&lab, &[&pod, &second]);
    unharmed(&lab, &pod);
}

#[test]
fn a_malformed_configuration_of_the_plugin_is_refused() {
    let Some(options) = options() else { return };
    let lab = Lab::start(&options, 4, "").unwrap();
    let with = |key: &str, value: Value| {
        let mut config = lab.config.clone();
        config[key] = value;
        lab.plugin.run(&Call::new("ADD", &config, &lab.world.pod().unwrap())).unwrap()
    };
    clear(&with("network", json!(7)), 7, &["network", "7"]);
    clear(&with("addTimeout", json!("soon")), 7, &["addTimeout", "soon"]);
    clear(&with("cniVersion", json!("9.9.9")), 1, &["9.9.9"]);
    let add = || lab.call("ADD", &lab.world.pod().unwrap());
    clear(&lab.plugin.run(&add().garbage("\"x\"")).unwrap(), 7, &["object"]);
    for garbage in ["", "{\"cniVersion\":", "garbage", &"[".repeat(1 << 20)] {
        clear(&lab.plugin.run(&add().garbage(garbage)).unwrap(), 6, &[]);
    }
    only(&lab, &[]);
}

#[test]
fn a_corrupted_store_is_not_served_from_and_live_addresses_survive_it() {
    let Some(options) = options() else { return };
    let mut lab = Lab::start(&options, 4, "").unwrap();
    let pod = lab.attach(&lab.world.pod().unwrap()).unwrap();
    lab.stop_agent().unwrap();
    let store = lab.setup.state().join("store.redb");
    let mut bytes = std::fs::read(&store).unwrap();
    bytes.iter_mut().take(8192).for_each(|byte| *byte = 0xa5);
    std::fs::write(&store, &bytes).unwrap();
    let error = lab.start_agent(None).unwrap_err().chain();
    assert!(error.contains("store.redb") && error.contains("ended"), "it must name the file: {error}");
    assert_eq!(std::fs::read(&store).unwrap(), bytes, "the evidence stays as it was");
    // Advice of the error.
    std::fs::rename(&store, lab.world.folder().join("aside.redb")).unwrap();
    lab.start_agent(None).unwrap();
    unharmed(&lab, &pod);
    let second = lab.attach(&lab.world.pod().unwrap()).unwrap();
    assert_ne!(second.address, pod.address);
}

#[test]
fn a_full_disk_fails_the_add_and_loses_nothing() {
    let Some(options) = options() else { return };
    let mut lab = Lab::prepare(&options, 8, "", Families::V4).unwrap();
    cleanup::small_disk(&lab.setup.state(), 24 << 20).unwrap();
    lab.start_agent(None).unwrap();
    let pod = lab.attach(&lab.world.pod().unwrap()).unwrap();
    let filler = lab.setup.state().join("filler");
    fill(&filler);
    let mut refused = None;
    // Files may have some room inside; it is used up at last.
    for _ in 0..2000 {
        let sandbox = lab.world.pod().unwrap();
        let outcome = lab.plugin.run(&lab.call("ADD", &sandbox)).unwrap();
        if !outcome.succeeded() {
            refused = Some(outcome);
            break;
        }
        lab.plugin.run(&lab.call("DEL", &sandbox)).unwrap();
        lab.world.remove(&sandbox);
    }
    if let Some(outcome) = &refused {
        clear(outcome, 5, &["--state-dir"]);
    } else {
        skip::because("the files of the store have room for 2000 ADDs inside");
    }
    unharmed(&lab, &pod);
    std::fs::remove_file(&filler).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut again = lab.attach(&lab.world.pod().unwrap());
    while again.is_err() && Instant::now() < deadline {
        again = lab.attach(&lab.world.pod().unwrap());
    }
    let again = again.unwrap();
    unharmed(&lab, &pod);
    unharmed(&lab, &again);
}

/// Fills the disk that `path` is on, to the last block.
fn fill(path: &Path) {
    let file = std::fs::File::create(path);
    let mut chunk = 1 << 20;
    while let Ok(mut file) = file.as_ref()
        && chunk > 0
    {
        if file.write_all(&vec![0; chunk]).is_err() {
            chunk /= 2;
        }
    }
}

#[test]
fn without_a_socket_add_says_try_again_status_says_not_available_and_del_succeeds() {
    let Some(options) = options() else { return };
    let mut lab = Lab::start(&options, 4, "").unwrap();
    let pod = lab.attach(&lab.world.pod().unwrap()).unwrap();
    lab.kill_agent();
    std::fs::remove_file(lab.setup.socket()).unwrap();
    let sandbox = lab.world.pod().unwrap();
    let adding = lab.plugin.start(&lab.call("ADD", &sandbox)).unwrap();
    let deleted = lab.detach(&pod.pod).unwrap();
    assert!(deleted.succeeded() && deleted.stdout.is_empty(), "{deleted:?}");
    let mut config = lab.config.clone();
    config["cniVersion"] = json!("1.1.0");
    // No sign of life for long: with one that is fresh, STATUS has nothing to complain of yet.
    std::fs::remove_file(lab.setup.state().join("alive")).unwrap();
    clear(&lab.plugin.run(&Call::bare("STATUS", &config)).unwrap(), 50, &[]);
    let outcome = adding.finish(Duration::from_mins(1)).unwrap();
    let socket = lab.setup.socket();
    clear(&outcome, 11, &[&socket.to_string_lossy()]);
    assert!(lab.world.berth_links().unwrap().is_empty());
    lab.start_agent(None).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while !lab.leases().unwrap().is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    only(&lab, &[]);
}

#[test]
fn garbage_and_oversized_requests_are_refused_and_the_rest_goes_on() {
    let Some(options) = options() else { return };
    let lab = Lab::start(&options, 4, "").unwrap();
    let pod = lab.attach(&lab.world.pod().unwrap()).unwrap();
    let send = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(lab.setup.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        // The agent may close the connection before it has read all.
        let _ = stream.write_all(bytes);
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()["error"].clone()
    };
    let mut oversized = vec![b'x'; 1 << 20];
    oversized.push(b'\n');
    for bad in
        [&b"garbage\n"[..], b"\xff\xfe\x00\n", b"{\"v\":1,\"id\":1,\"request\":\"dance\"}\n", &oversized]
    {
        let error = send(bad);
        assert_eq!(error["code"], 6, "{error}");
        assert!(!error["details"].as_str().unwrap_or_default().is_empty(), "{error}");
    }
    let second = lab.attach(&lab.world.pod().unwrap()).unwrap();
    only(&lab, &[&pod, &second]);
    unharmed(&lab, &pod);
}

#[test]
fn ten_thousand_connections_end_and_service_goes_on() {
    let Some(options) = options() else { return };
    let lab = Lab::start(&options, 4, "").unwrap();
    let pod = lab.attach(&lab.world.pod().unwrap()).unwrap();
    let crowd = client::crowd(&lab.setup.socket(), 10_000).unwrap();
    let last = crowd.last().unwrap();
    last.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut line = String::new();
    BufReader::new(last).read_line(&mut line).unwrap();
    let refusal: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(refusal["error"]["code"], 11, "{refusal}");
    drop(crowd);
    let second = lab.attach(&lab.world.pod().unwrap()).unwrap();
    only(&lab, &[&pod, &second]);
    unharmed(&lab, &pod);
}

#[test]
fn a_path_that_is_no_namespace_is_refused() {
    let Some(options) = options() else { return };
    let lab = Lab::start(&options, 4, "").unwrap();
    let pod = lab.attach(&lab.world.pod().unwrap()).unwrap();
    let file = lab.world.folder().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [file.as_path(), Path::new("/proc/self/ns/mnt"), Path::new("/nonexistent/netns")] {
        let sandbox = lab.world.pod().unwrap();
        let call = lab.call("ADD", &sandbox).variable("CNI_NETNS", &path.to_string_lossy());
        clear(&lab.plugin.run(&call).unwrap(), 4, &[&path.to_string_lossy()]);
        // The same path in a DEL is not an error.
        let call = lab.call("DEL", &sandbox).variable("CNI_NETNS", &path.to_string_lossy());
        lab.plugin.run(&call).unwrap().expect_success().unwrap();
    }
    only(&lab, &[&pod]);
    unharmed(&lab, &pod);
}

#[test]
fn the_plugin_runs_only_if_it_is_there() {
    let plugin =
        Plugin { binary: PathBuf::from("/nonexistent/berth"), node: PathBuf::from("/proc/self/ns/net") };
    let error = plugin.run(&Call::bare("VERSION", &json!({}))).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/berth") && error.contains("BERTH_BIN_DIR"), "{error}");
}
