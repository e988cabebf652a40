//! Records as objects of a cluster: nothing is lost, and what Berth never writes is refused by name.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails like the test itself")]

use berth_api::types::{IPLease, IPLeaseSpec};
use berth_api::{ApiError, lease};
use berth_ipam::attachment::{AttachmentKey, PodRef, Role};
use berth_ipam::identity::{BootId, MachineId, NetnsCookie, NetnsIdentity, Nsid, TxnId};
use berth_ipam::mac::Mac;
use berth_ipam::record::LeaseRecord;
use proptest::prelude::*;
use serde_json::{Value, json};

fn record(address: &str) -> LeaseRecord {
    LeaseRecord {
        segment: "rack-7".parse().unwrap(),
        address: address.parse().unwrap(),
        pool: "lan".parse().unwrap(),
        key: AttachmentKey {
            network: "lan".parse().unwrap(),
            container_id: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        },
        cni_network: "lan".parse().unwrap(),
        role: Role::Main,
        node: "node-1".parse().unwrap(),
        boot_id: BootId("5e1f".to_owned()),
        machine_id: MachineId("3ac7".to_owned()),
        pod: Some(PodRef { namespace: "shop".into(), name: "web-0".into(), uid: Some("u-1".into()) }),
        netns: NetnsIdentity {
            cookie: NetnsCookie(u64::MAX),
            inode: u64::MAX,
            nsid: Nsid(1_234_567),
            nsid_is_random: true,
        },
        place: Some(NetnsCookie(1)),
        txn: TxnId("0123456789abcdef0123456789abcdef".to_owned()),
        mac: Some("b2:00:5e:00:53:01".parse().unwrap()),
        generation: u64::MAX,
    }
}

fn lease_of(address: &str) -> IPLease {
    IPLease::from(&record(address))
}

#[test]
fn the_object_is_the_record_in_the_words_of_the_store() {
    let lease = lease_of("192.0.2.7");
    assert_eq!(lease.metadata.name.as_deref(), Some("rack-7.192.0.2.7"));
    let (spec, mut stored) =
        (serde_json::to_value(&lease.spec).unwrap(), serde_json::to_value(record("192.0.2.7")).unwrap());
    // The numbers of 64 bits are text in a cluster.
    stored["generation"] = json!(u64::MAX.to_string());
    stored["netns"]["inode"] = json!(u64::MAX.to_string());
    // It has the number that it belongs to.
    let place = stored.as_object_mut().unwrap().shift_remove("place").unwrap();
    stored["netns"]["agentCookie"] = place;
    // An API's keys write ID in capitals.
    let stored =
        stored.to_string().replace("\"bootId\"", "\"bootID\"").replace("\"machineId\"", "\"machineID\"");
    assert_eq!(spec.to_string(), stored);
}

#[test]
fn the_rules_let_pass_what_berth_writes() {
    for address in ["192.0.2.7", "0.0.0.0", "2001:db8::7", "fd00:1:2:3:4:5:6:7", "fe80::1"] {
        lease_of(address).validate_cel().unwrap();
        let mut bare = lease_of(address);
        (bare.spec.pod, bare.spec.mac) = (None, None);
        bare.validate_cel().unwrap();
    }
}

/// An edit of a lease.
type Edit = fn(&mut IPLease);

fn rename(lease: &mut IPLease, name: &str) {
    lease.metadata.name = Some(name.to_owned());
}

#[test]
fn an_edit_that_makes_a_lease_lie_is_refused() {
    let edits: [(&str, &str, Edit); 14] = [
        ("192.0.2.7", "name must be", |lease| rename(lease, "rack-7.192.0.2.8")),
        ("192.0.2.7", "name must be", |lease| rename(lease, "rack-8.192.0.2.7")),
        ("192.0.2.7", "name must be", |lease| rename(lease, "192.0.2.7")),
        ("2001:db8::7", "name must be", |lease| rename(lease, "rack-7.2001-db8--7")),
        ("2001:db8::7", "name must be", |lease| {
            rename(lease, "rack-7.2001-0db8-0000-0000-0000-0000-0000-0008");
        }),
        ("2001:db8::7", "name must be", |lease| {
            rename(lease, "rack-8.2001-0db8-0000-0000-0000-0000-0000-0007");
        }),
        ("2001:db8::7", "name must be", |lease| {
            rename(lease, "rack-7.2001-0db8-0000-0000-0000-0000-0000-000g");
        }),
        ("2001:db8::7", "name must be", |lease| rename(lease, "rack-7.192.0.2.7")),
        ("192.0.2.7", "IP address", |lease| lease.spec.address = "192.0.2.7/24".into()),
        ("192.0.2.7", "DNS label", |lease| lease.spec.segment = "rack.7".into()),
        ("192.0.2.7", "six hexadecimal", |lease| lease.spec.mac = Some("b2-00-5e-00-53-01".into())),
        ("192.0.2.7", "decimal digits", |lease| lease.spec.netns.cookie = "0x7".into()),
        ("192.0.2.7", "decimal digits", |lease| lease.spec.netns.inode = "-1".into()),
        ("192.0.2.7", "decimal digits", |lease| lease.spec.generation = "1.5".into()),
    ];
    for (address, words, edit) in edits {
        let mut lease = lease_of(address);
        edit(&mut lease);
        let refused = lease.validate_cel().unwrap_err();
        assert!(refused.to_string().contains(words), "{:?}: {refused}", lease.metadata.name);
        assert!(
            LeaseRecord::try_from(lease).is_err(),
            "what the rules refuse, reading refuses, too: {words}"
        );
    }
}

#[test]
fn address_and_segment_stay_and_the_owner_may_change() {
    let old = lease_of("2001:db8::7");
    let mut other = old.clone();
    other.spec.container_id = "c2".into();
    other.spec.generation = "2".into();
    assert!(other.validate_cel_update(&old).is_ok());
    // The same address in another notation, so that only the rule of an update can refuse it.
    other.spec.address = "2001:db8:0::7".into();
    let refused = other.validate_cel_update(&old).unwrap_err().to_string();
    assert!(refused.contains("address cannot be changed"), "{refused}");
}

#[test]
fn node_changes_only_from_and_to_retained() {
    let old = lease_of("192.0.2.7");
    let with_node = |node: Option<&str>| {
        let mut lease = old.clone();
        lease.spec.node = node.map(str::to_owned);
        lease
    };
    for (from, to, lawful) in [
        (Some("node-1"), Some("node-1"), true),
        (Some("node-1"), None, true),
        (None, Some("node-2"), true),
        (None, None, true),
        (Some("node-1"), Some("node-2"), false),
        (Some("node-1"), Some("NODE-1"), false),
    ] {
        let judged = with_node(to).validate_cel_update(&with_node(from));
        assert_eq!(judged.is_ok(), lawful, "{from:?} to {to:?}: {judged:?}");
        if let Err(refused) = judged {
            assert!(refused.to_string().contains("node cannot be changed"), "{refused}");
        }
    }
    // A hand-over on one node: another attachment, the same node.
    let mut heir = with_node(Some("node-1"));
    (heir.spec.container_id, heir.spec.txn) = ("c2".into(), "fedcba98".into());
    heir.validate_cel_update(&old).unwrap();
    let error = LeaseRecord::try_from(with_node(None)).unwrap_err();
    assert!(matches!(&error, ApiError::LeaseRetained { .. }), "{error}");
    assert!(error.to_string().contains("rack-7.192.0.2.7"), "{error}");
}

#[test]
fn what_cannot_be_read_is_named_with_object_and_key() {
    let spec = || serde_json::to_value(lease_of("192.0.2.7").spec).unwrap();
    let with = |pointer: &str, value: Value| {
        let mut spec = spec();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        spec.pointer_mut(parent).unwrap()[key] = value;
        lease::read("rack-7.192.0.2.7", &spec.to_string()).unwrap_err()
    };
    let error = with("/netns/cookie", json!(7));
    assert!(matches!(&error, ApiError::LeaseShape { key, .. } if key == "spec.netns.cookie"), "{error}");
    let error = with("/fromTheFuture", json!(true));
    assert!(matches!(&error, ApiError::LeaseShape { key, .. } if key == "spec.fromTheFuture"), "{error}");
    let error = with("/role", json!("spectator"));
    assert!(matches!(&error, ApiError::LeaseShape { key, .. } if key == "spec.role"), "{error}");
    let error = with("/generation", json!("18446744073709551616"));
    assert!(matches!(&error, ApiError::LeaseValue { key: "generation", .. }), "{error}");
    assert!(error.to_string().starts_with("IPLease rack-7.192.0.2.7: key spec.generation"), "{error}");
    let error = with("/mac", json!("x".repeat(1_000_000)));
    assert!(error.to_string().len() < 600, "{}", error.to_string().len());
    let error = with("/address", json!("192.0.2.8"));
    let ApiError::LeaseName { expected, .. } = error else { panic!("{error}") };
    assert_eq!(expected, "rack-7.192.0.2.8");
    assert!(matches!(lease::read("x", "null"), Err(ApiError::LeaseShape { .. })));
}

fn any_record() -> impl Strategy<Value = LeaseRecord> {
    let name = "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,40}";
    let names = (name, name, name, name, name, "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", "[^/:\\s\\x00.]{1,3}");
    let netns = (any::<u64>(), any::<u64>(), any::<i32>(), any::<bool>());
    let pod = prop::option::of((".{0,40}", ".{0,40}", prop::option::of(".{0,40}")));
    let role = prop_oneof![Just(Role::Main), Just(Role::Chained), Just(Role::Delegate)];
    let rest = (any::<std::net::IpAddr>(), prop::option::of(any::<[u8; 6]>()), any::<u64>(), ".{0,40}");
    (names, netns, pod, role, rest).prop_map(|(names, netns, pod, role, rest)| LeaseRecord {
        segment: names.5.parse().unwrap(),
        address: rest.0,
        pool: names.0.parse().unwrap(),
        key: AttachmentKey {
            network: names.1.parse().unwrap(),
            container_id: names.2.parse().unwrap(),
            ifname: names.6.parse().unwrap(),
        },
        cni_network: names.3.parse().unwrap(),
        role,
        node: names.4.parse().unwrap(),
        boot_id: BootId(rest.3.clone()),
        machine_id: MachineId(rest.3.clone()),
        pod: pod.map(|(namespace, name, uid)| PodRef { namespace, name, uid }),
        netns: NetnsIdentity {
            cookie: NetnsCookie(netns.0),
            inode: netns.1,
            nsid: Nsid(netns.2),
            nsid_is_random: netns.3,
        },
        place: netns.3.then_some(NetnsCookie(netns.1)),
        txn: TxnId(rest.3),
        mac: rest.1.map(Mac),
        generation: rest.2,
    })
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(|number| Value::from(number.to_string())),
        any::<std::net::IpAddr>().prop_map(|address| Value::from(address.to_string())),
        ".{0,30}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let name = prop_oneof!["cookie|inode|nsid|nsidIsRandom|namespace|name|uid", ".{0,5}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(name, inner, 0..5).prop_map(Value::from_iter),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost(record in any_record()) {
        let lease = IPLease::from(&record);
        let (name, spec) = (lease.metadata.name.clone().unwrap(), serde_json::to_value(&lease.spec).unwrap());
        prop_assert_eq!(&lease::read(&name, &spec.to_string()).unwrap(), &record);
        let again: IPLeaseSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        prop_assert_eq!(&again, &lease.spec);
        prop_assert_eq!(LeaseRecord::try_from(lease).unwrap(), record);
    }

    /// Arbitrary edits of a record: reading succeeds or fails with an error that names the object, and a
    /// record that was read round-trips.
    #[test]
    fn no_edit_makes_reading_fail_otherwise_than_by_name(
        record in any_record(),
        name in prop::option::of(".{0,60}"),
        key in 0_usize..17,
        value in any_value(),
    ) {
        let lease = IPLease::from(&record);
        let name = name.unwrap_or_else(|| lease.metadata.name.clone().unwrap());
        let mut spec = serde_json::to_value(&lease.spec).unwrap();
        let keys: Vec<String> = spec.as_object().unwrap().keys().cloned().collect();
        match keys.get(key) {
            Some(key) => spec[key] = value,
            None => spec = value,
        }
        match lease::read(&name, &spec.to_string()) {
            Ok(record) => {
                let again = IPLease::from(&record);
                prop_assert_eq!(again.metadata.name.as_deref(), Some(name.as_str()));
                prop_assert_eq!(LeaseRecord::try_from(again).unwrap(), record);
            }
            Err(error) => prop_assert!(error.to_string().starts_with(&format!("IPLease {name}: ")), "{error}"),
        }
    }
}
