use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;

const GAP: Duration = Duration::from_secs(20);

fn at(seconds: u64) -> Time {
    Time::from_millis(seconds * 1000)
}

fn beat(node: &str, version: u32, pools: &str) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(format!("{PREFIX}{node}")),
            resource_version: Some(version.to_string()),
            annotations: Some(BTreeMap::from([(counts::POOLS.to_owned(), pools.to_owned())])),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec { lease_duration_seconds: Some(10), ..LeaseSpec::default() }),
    }
}

fn picture(total: u128, records: u64) -> Picture {
    Picture {
        pools: BTreeMap::from([("lan".parse().unwrap(), Declared { generation: 3, total })]),
        records: Some(BTreeMap::from([("lan".parse().unwrap(), records)])),
    }
}

fn numbers(tally: &mut Tally, second: u64, picture: &Picture) -> Option<[i64; 7]> {
    let due = tally.due(at(second), picture);
    let (name, status) = due.into_iter().next()?;
    tally.written(at(second), name, Some(status.clone()));
    assert_eq!(status.observed_generation, Some(3));
    let IPPoolStatus { total, bound, suspect, held, retained, quarantined, free, .. } = status;
    Some([total, bound, suspect, held, retained, quarantined, free].map(Option::unwrap))
}

#[test]
fn what_adds_up_to_what() {
    let two = [
        beat("a", 1, r#"{"lan":{"bound":3,"suspect":1,"held":1,"quarantined":2},"other":{"suspect":9}}"#),
        beat("b", 1, r#"{"lan":{"bound":1,"suspect":1,"held":0,"quarantined":1}}"#),
    ];
    let absurd = [beat("a", 1, r#"{"lan":{"suspect":18446744073709551615,"held":9,"quarantined":99}}"#)];
    let foreign = [Lease {
        metadata: ObjectMeta { name: Some("kube-scheduler".to_owned()), ..two[0].metadata.clone() },
        spec: None,
    }];
    for (what, beats, total, records, expected) in [
        ("two nodes", &two[..], 20, 8, [20, 5, 2, 1, 0, 3, 9]),
        ("nobody but records", &[], 20, 8, [20, 8, 0, 0, 0, 0, 12]),
        ("a node that says what cannot be", &absurd, 20, 8, [20, 0, 8, 0, 0, 12, 0]),
        ("more records than the edited pool has addresses", &two, 4, 8, [4, 5, 2, 1, 0, 0, 0]),
        ("another's lease", &foreign, 20, 8, [20, 8, 0, 0, 0, 0, 12]),
        ("an IPv6 subnet", &[], 1 << 64, 8, [i64::MAX, 8, 0, 0, 0, 0, i64::MAX]),
    ] {
        let mut tally = Tally::default();
        tally.heard(at(0), at(0), GAP, beats);
        assert_eq!(numbers(&mut tally, 0, &picture(total, records)), Some(expected), "{what}");
    }
}

#[test]
fn nothing_is_counted_before_everything_is_known() {
    let mut tally = Tally::default();
    let whole = picture(10, 1);
    assert_eq!(tally.due(at(0), &whole), [], "no heartbeats were listed");
    tally.heard(at(0), at(0), GAP, &[]);
    assert_eq!(tally.due(at(0), &Picture { records: None, ..whole.clone() }), []);
    assert_eq!(tally.due(at(0), &whole).len(), 1);
}

#[test]
fn the_pace_is_calm() {
    let mut tally = Tally::default();
    tally.heard(at(0), at(0), GAP, &[]);
    let mut bound = |second, records| numbers(&mut tally, second, &picture(10, records)).map(|all| all[1]);
    assert_eq!(bound(0, 1), Some(1));
    assert_eq!([bound(5, 2), bound(9, 3)], [None, None], "ten seconds are not over");
    assert_eq!(bound(10, 3), Some(3));
    assert_eq!([bound(20, 3), bound(300, 3)], [None, None], "nothing changed");
    assert_eq!(bound(610, 3), Some(3), "in case the pool is another one by now");
    // A failed write is tried again, but not at once.
    let name: PoolName = "lan".parse().unwrap();
    tally.written(at(700), name.clone(), None);
    assert_eq!(tally.due(at(705), &picture(10, 3)), []);
    assert_eq!(tally.due(at(710), &picture(10, 3)).len(), 1);
    // A pool that is gone, and comes again.
    tally.written(at(710), name, None);
    assert_eq!(tally.due(at(711), &Picture { records: Some(BTreeMap::new()), ..Picture::default() }), []);
    assert_eq!(tally.due(at(712), &picture(10, 3)).len(), 1);
}

#[test]
fn the_addresses_of_a_silent_node_are_bound() {
    let mut tally = Tally::default();
    let says = r#"{"lan":{"bound":1,"suspect":2,"held":1,"quarantined":1}}"#;
    let mut at_second = |second: u64, version| {
        tally.heard(at(second), at(second), GAP, &[beat("a", version, says)]);
        numbers(&mut tally, second, &picture(10, 4))
    };
    assert_eq!(at_second(0, 1), Some([10, 1, 2, 1, 0, 1, 5]));
    assert_eq!(at_second(10, 1), Some([10, 4, 0, 0, 0, 0, 6]));
    assert_eq!(at_second(20, 2), Some([10, 1, 2, 1, 0, 1, 5]), "it is back");
}

#[test]
fn a_picture_is_kept_up_by_single_records() {
    let lan: PoolName = "lan".parse().unwrap();
    let mut picture = Picture::default();
    picture.add(&lan);
    assert_eq!(picture.records, None, "a list comes first");
    picture.list([]);
    picture.add(&lan);
    picture.add(&lan);
    picture.remove(&lan);
    picture.remove(&"other".parse().unwrap());
    assert_eq!(picture.records.unwrap(), BTreeMap::from([(lan, 1)]));
}
