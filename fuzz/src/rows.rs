//! JSON that plugin and agent write for each other, and for themselves: lines on the socket, files of the
//! spool, the sign of life, rows of journal and store.
//!
//! Each comes from the same program and is parsed as untrusted input. A parsed value survives a write and a
//! second parse, and a ledger that finds arbitrary rows at its start continues. Left out: the database's own
//! pages, which redb checks by sums.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use berth_ipam::config::{Config, LinkSpec, MacvlanMode, Network, Pool};
use berth_ipam::identity::{BootId, MachineId};
use berth_ipam::interval::{IntervalSet, to_bits};
use berth_ipam::ledger::entry::{Entry, Quarantined};
use berth_ipam::ledger::io::{Input, Loaded};
use berth_ipam::ledger::{Identity, Ledger};
use berth_ipam::record::{LeaseRecord, Versioned};
use berth_ipam::time::Time;
use berth_protocol::alive::Alive;
use berth_protocol::request::Release;
use berth_protocol::{Answer, Call, alias, spool};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Number of times that the ledger is woken when it requests that.
const WAKES: usize = 8;

/// A line either way, an entry of the spool, a sign of life, a link's alias: by the first byte.
pub fn message(input: &[u8]) {
    let Some((&kind, bytes)) = input.split_first() else { return };
    match kind % 5 {
        0 => drop(same_again::<Call>(bytes)),
        1 => drop(same_again::<Answer>(bytes)),
        2 => {
            if let Some(entry) = same_again::<spool::Entry>(bytes) {
                let Release { attachment, role, txn, .. } = &entry.release;
                let name = spool::file_name(attachment, *role, txn.as_ref());
                let length = if txn.is_some() { 54 } else { 37 };
                assert!(name.len() == length && name.ends_with(".json"));
            }
        }
        3 => drop(same_again::<Alive>(bytes)),
        _ => {
            let text = String::from_utf8_lossy(bytes);
            let Some((key, cookie)) = alias::parse(&text) else { return };
            assert!(alias::cookie_of(&text, &key).is_none_or(|found| found == cookie));
            let written = alias::write(&key, cookie);
            assert_eq!(alias::cookie_of(&written, &key), Some(cookie), "{written}");
        }
    }
}

/// Rows of journal and store, one per line, after a letter that selects the type; then a ledger that loads
/// them.
pub fn record(input: &[u8]) {
    let mut loaded = Loaded { hears_all: true, ..Loaded::default() };
    for line in input.split(|byte| *byte == b'\n').take(32) {
        let Some((&kind, row)) = line.split_first() else { continue };
        match kind {
            b'E' => loaded.entries.extend(same_again::<Entry>(row)),
            b'Q' => loaded.quarantine.extend(same_again::<Quarantined>(row)),
            b'R' => loaded.records.extend(same_again::<LeaseRecord>(row)),
            b'V' => loaded.records.extend(same_again::<Versioned>(row).map(|versioned| versioned.record)),
            _ => {}
        }
    }
    if !(loaded.entries.is_empty() && loaded.quarantine.is_empty() && loaded.records.is_empty()) {
        starts(loaded);
    }
}

fn starts(loaded: Loaded) {
    let (Some(me), Some(config)) = (me(), config()) else { return };
    for entry in &loaded.entries {
        assert_eq!(entry.records(&me.node).len(), entry.held.len());
    }
    let mut ledger = Ledger::new(me, config);
    let mut now = Time::from_millis(1_000);
    ledger.step(now, Input::Loaded(Box::new(loaded)));
    for _ in 0..WAKES {
        let Some(next) = ledger.deadline() else { break };
        now = next.max(now);
        ledger.step(now, Input::Tick);
    }
}

fn me() -> Option<Identity> {
    let (boot_id, machine_id) = (BootId("boot".to_owned()), MachineId("m1".to_owned()));
    Some(Identity { node: "n1".parse().ok()?, boot_id, machine_id })
}

/// A network with ten addresses, as the seeds' rows have it.
fn config() -> Option<Config> {
    let mut members = IntervalSet::new();
    let bits = |text: &str| text.parse().ok().map(to_bits);
    members.insert(bits("10.0.0.10")?, bits("10.0.0.19")?);
    let (segment, subnet) = ("default".parse().ok()?, "10.0.0.0/24".parse().ok()?);
    let pool = Pool {
        segment,
        subnet,
        members,
        gateway: None,
        routes: Vec::new(),
        disabled: false,
        access: berth_ipam::access::Access::default(),
    };
    let network = Network {
        declared: 0,
        link: LinkSpec::Macvlan { parent: "eth1".parse().ok()?, mode: MacvlanMode::Bridge, mtu: None },
        pools: vec!["p".parse().ok()?],
        accept_ra: false,
        add_timeout: Duration::from_secs(110),
        settle: Duration::from_secs(2),
        leaked_after: None,
        proxy_macs: BTreeSet::new(),
        source_guard: None,
    };
    Some(Config {
        networks: BTreeMap::from([("lan".parse().ok()?, network)]),
        pools: BTreeMap::from([("p".parse().ok()?, pool)]),
    })
}

/// The parsed value, if the bytes are valid: written again as one line and parsed, it is equal.
fn same_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(bytes).ok()?;
    let written = match serde_json::to_string(&value) {
        Ok(written) => written,
        Err(error) => panic!("{error}: {value:?}"),
    };
    assert!(!written.contains('\n'), "one line: {written}");
    match serde_json::from_str::<T>(&written) {
        Ok(again) => assert_eq!(again, value, "{written}"),
        Err(error) => panic!("{error}: {written}"),
    }
    Some(value)
}
