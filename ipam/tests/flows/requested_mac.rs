//! MACs that ADDs ask for: none that is something else's on the segment, and the same pod waits for its
//! predecessor's end.

use super::*;
use berth_ipam::attachment::PodRef;
use berth_ipam::record::LeaseRecord;
use berth_ipam::time::Time;
use rig::{listed, record};

const ASKED: Mac = Mac([2, 0, 0, 0, 0, 0x55]);
const OTHER: Mac = Mac([2, 0, 0, 0, 0, 0x66]);

fn gateway() -> IpAddr {
    address(1)
}

fn declared(count: u8) -> Config {
    let mut config = config(count);
    config.pools.values_mut().next().unwrap().gateway = Some(gateway());
    config
}

fn with_mac(pod: u64, mac: Mac) -> LeaseRequest {
    LeaseRequest { mac: Some(mac), ..request(pod) }
}

/// The next pod of the same name, in another container.
fn successor(of: u64, pod: u64, mac: Mac) -> LeaseRequest {
    let name = request(of).pod.unwrap().name;
    let next = PodRef { namespace: "d".into(), name, uid: Some(format!("u{pod}")) };
    LeaseRequest { pod: Some(next), ..with_mac(pod, mac) }
}

/// An ADD with a MAC, as far as its grant.
fn granted(rig: &mut Rig, pod: u64, mac: Mac) {
    rig.warm();
    rig.ask(pod, with_mac(pod, mac));
    rig.answer_probes(&[]);
    rig.answer_probes(&[]);
    assert!(rig.granted(pod).is_some(), "{:?}", rig.reply(pod));
}

fn refusal(rig: &Rig, pod: u64) -> String {
    match rig.reply(pod) {
        Some(Err(error @ LedgerError::MacRefused { .. })) => error.to_string(),
        other => panic!("{pod}: {other:?}"),
    }
}

fn heard(mac: Mac, address: IpAddr) -> Input {
    let wire = Wire { parent: "eth1".parse().unwrap(), vlan: None };
    Input::Heard(HeardOnWire { wire, address, mac, outgoing: false, at: Time::from_millis(1_000) })
}

#[test]
fn a_mac_that_nothing_has_is_given_after_a_question_for_the_gateway() {
    let mut rig = Rig::new(declared(4));
    rig.warm();
    rig.ask(1, with_mac(1, ASKED));
    assert!(rig.reply(1).is_none() && rig.asked().any(|address| address == gateway()));
    rig.answer_probes_as(&[gateway()], OTHER);
    assert!(rig.granted(1).is_some(), "{:?}", rig.reply(1));
    assert_eq!(rig.entry(1).mac, Some(ASKED));
}

#[test]
fn the_gateways_mac_is_refused_whether_it_answers_or_was_heard() {
    let mut rig = Rig::new(declared(4));
    rig.warm();
    rig.ask(1, with_mac(1, ASKED));
    rig.answer_probes_as(&[gateway()], ASKED);
    assert!(refusal(&rig, 1).contains("the gateway 10.0.0.1"), "{}", refusal(&rig, 1));
    // Silent now, but it spoke for the gateway last.
    rig.ask(2, with_mac(2, ASKED));
    rig.answer_probes(&[]);
    assert!(refusal(&rig, 2).contains("the gateway 10.0.0.1"));

    let mut rig = Rig::new(declared(4));
    rig.step(heard(ASKED, gateway()));
    rig.ask(1, with_mac(1, ASKED));
    rig.answer_probes(&[]);
    assert!(refusal(&rig, 1).contains("the gateway"));
    // Another router took over.
    rig.step(heard(OTHER, gateway()));
    granted(&mut rig, 2, ASKED);
}

#[test]
fn the_mac_of_a_gateway_of_another_network_on_the_segment_is_refused() {
    let mut config = declared(4);
    let far = Pool { gateway: Some(address(2)), ..config.pools.values().next().unwrap().clone() };
    config.pools.values_mut().next().unwrap().gateway = None;
    config.pools.insert("far".parse().unwrap(), far);
    let mut rig = Rig::new(config);
    rig.ask(1, with_mac(1, ASKED));
    rig.answer_probes_as(&[address(2)], ASKED);
    assert!(refusal(&rig, 1).contains("10.0.0.2"));
}

#[test]
fn a_proxys_mac_is_refused_by_declaration() {
    let mut config = declared(4);
    config.networks.values_mut().next().unwrap().proxy_macs = BTreeSet::from([ASKED]);
    let mut rig = Rig::new(config);
    rig.ask(1, with_mac(1, ASKED));
    assert!(refusal(&rig, 1).contains("network lan lists it in proxyMACs"));
}

#[test]
fn a_mac_of_berths_own_is_given_to_its_attachment_alone() {
    let mut rig = Rig::new(declared(4));
    for (pod, mac) in [(1, Mac::derive(&request(2).key, 0)), (3, Mac([0xb2, 1, 2, 3, 4, 5]))] {
        rig.ask(pod, with_mac(pod, mac));
        assert!(refusal(&rig, pod).contains("begin with b2"));
    }
    granted(&mut rig, 4, Mac::derive(&request(4).key, 3));
}

#[test]
fn a_neighbour_that_answers_now_keeps_its_mac() {
    let mut rig = Rig::new(declared(4));
    rig.warm();
    // Outside of the pool, and in it.
    for (pod, theirs) in [(1, address(99)), (2, address(13))] {
        rig.step(heard(ASKED, theirs));
        rig.ask(pod, with_mac(pod, ASKED));
        assert!(rig.asked().any(|asked| asked == theirs), "{theirs}");
        rig.answer_probes_as(&[theirs], ASKED);
        assert!(refusal(&rig, pod).contains(&theirs.to_string()), "{}", refusal(&rig, pod));
    }
    // It moved on: its former address is silent, or another station's.
    rig.ask(3, with_mac(3, ASKED));
    rig.answer_probes_as(&[address(13)], OTHER);
    rig.answer_probes_as(&[address(13)], OTHER);
    assert!(rig.granted(3).is_some(), "{:?}", rig.reply(3));
}

#[test]
fn a_wire_that_cannot_be_asked_gives_no_mac() {
    let mut rig = Rig::new(declared(4));
    rig.warm();
    rig.ask(1, with_mac(1, ASKED));
    rig.fail_probes("answers were lost");
    assert!(rig.reply(1).is_none(), "it is asked again: {:?}", rig.reply(1));
    rig.hearing(Hearing::Down("the parent is down".to_owned()));
    rig.pass(Duration::from_secs(110));
    assert!(matches!(rig.reply(1), Some(Err(LedgerError::Wire { .. }))), "{:?}", rig.reply(1));
}

#[test]
fn a_living_lease_of_another_workload_keeps_its_mac() {
    let mut rig = Rig::new(declared(4));
    granted(&mut rig, 1, ASKED);
    rig.ask(2, with_mac(2, ASKED));
    let text = refusal(&rig, 2);
    assert!(text.contains("pod d/p1") && text.contains("10.0.0.1"), "{text}");
    assert!(rig.ledger.entry(&request(2).key).is_none());
}

#[test]
fn of_two_that_ask_at_once_for_one_mac_one_gets_it() {
    let mut rig = Rig::new(declared(8));
    // Neither finds an address that is known to be silent: both ask the wire about the MAC, then about addresses.
    rig.ask(1, with_mac(1, ASKED));
    rig.ask(2, with_mac(2, ASKED));
    for _ in 0..4 {
        rig.answer_urgent();
    }
    assert!(rig.granted(1).is_some(), "{:?}", rig.reply(1));
    assert!(refusal(&rig, 2).contains("pod d/p1"));
}

#[test]
fn the_next_pod_of_the_same_name_waits_for_its_predecessors_end() {
    let mut rig = Rig::new(declared(4));
    granted(&mut rig, 1, ASKED);
    let theirs = rig.held_by(1);
    rig.step(heard(ASKED, theirs[0]));
    rig.ask(2, LeaseRequest { ips: theirs.clone(), ..successor(1, 2, ASKED) });
    // The predecessor answers for its own address: that is no stranger.
    rig.answer_probes_as(&theirs, ASKED);
    rig.observe(ALIVE, AddressFact::Absent);
    assert!(rig.reply(2).is_none(), "{:?}", rig.reply(2));
    rig.step(Input::Release(None, request(1).key, LinkRemoval::Gone, None));
    rig.observe(DEAD, AddressFact::Absent);
    for _ in 0..3 {
        rig.answer_probes(&[]);
        rig.observe(DEAD, AddressFact::Absent);
    }
    assert_eq!(rig.granted(2), Some(theirs));
    assert_eq!(rig.entry(2).mac, Some(ASKED));
}

#[test]
fn an_address_of_a_third_pod_is_not_handed_on_while_the_predecessor_has_the_mac() {
    let mut rig = Rig::new(declared(2));
    granted(&mut rig, 1, ASKED);
    rig.bound(7);
    rig.ask(2, successor(1, 2, ASKED));
    rig.answer_probes(&[]);
    rig.step(Input::Release(None, request(7).key, LinkRemoval::Gone, None));
    rig.observe_of(7, DEAD, AddressFact::Absent);
    rig.answer_probes(&[]);
    rig.observe_of(7, DEAD, AddressFact::Absent);
    assert!(rig.reply(2).is_none(), "{:?}", rig.reply(2));
    rig.step(Input::Release(None, request(1).key, LinkRemoval::Gone, None));
    rig.observe(DEAD, AddressFact::Absent);
    rig.answer_probes(&[]);
    assert!(rig.granted(2).is_some(), "{:?}", rig.reply(2));
}

#[test]
fn a_predecessor_that_does_not_end_in_time_is_named() {
    let mut rig = Rig::new(declared(4));
    granted(&mut rig, 1, ASKED);
    rig.ask(2, successor(1, 2, ASKED));
    for _ in 0..120 {
        rig.answer_probes(&[]);
        rig.observe(ALIVE, AddressFact::Absent);
        rig.pass(Duration::from_secs(1));
    }
    match rig.reply(2) {
        Some(Err(error @ LedgerError::MacInUse { .. })) => {
            let text = error.to_string();
            assert!(text.contains("pod d/p1") && text.contains(&ASKED.to_string()), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

fn abroad(pod: u64, mac: Mac) -> LeaseRecord {
    LeaseRecord { node: "n2".parse().unwrap(), mac: Some(mac), ..record(pod, address(12)) }
}

#[test]
fn the_same_holds_for_leases_of_other_nodes() {
    let mut rig = Rig::shared(declared(4));
    rig.step(Input::Store(listed(vec![abroad(1, ASKED)])));
    rig.warm();
    rig.ask(2, with_mac(2, ASKED));
    let text = refusal(&rig, 2);
    assert!(text.contains("d/p1 on node n2") && text.contains("10.0.0.12"), "{text}");
    rig.ask(3, successor(1, 3, ASKED));
    rig.answer_probes(&[]);
    assert!(rig.reply(3).is_none(), "{:?}", rig.reply(3));
    rig.step(Input::Store(StoreNews::Erased(Box::new(abroad(1, ASKED)))));
    for _ in 0..6 {
        rig.pass(Duration::from_secs(1));
        rig.answer_probes(&[]);
    }
    assert!(rig.granted(3).is_some(), "{:?}", rig.reply(3));
}

#[test]
fn an_interface_that_another_plugin_made_has_its_mac_already() {
    let mut rig = Rig::new(declared(4));
    rig.warm();
    rig.ask(1, LeaseRequest { role: Role::Chained, ..with_mac(1, Mac([0xb2, 9, 9, 9, 9, 9])) });
    assert!(rig.granted(1).is_some(), "{:?}", rig.reply(1));
}

#[test]
fn a_flood_of_macs_neither_grows_nor_hides_the_gateway() {
    let mut rig = Rig::new(declared(4));
    rig.step(heard(ASKED, gateway()));
    for number in 0..20_000_u32 {
        let [_, a, b, c] = number.to_be_bytes();
        rig.step(heard(Mac([2, 1, 0, a, b, c]), address(200)));
    }
    rig.ask(1, with_mac(1, ASKED));
    rig.answer_probes(&[]);
    assert!(refusal(&rig, 1).contains("the gateway"));
}
