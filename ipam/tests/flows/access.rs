//! Pools that select namespaces, and addresses that are reserved: nothing is given to a pod that does not match, by
//! whichever way an address comes to an ADD.

use super::*;
use berth_ipam::access::{Access, Labels, Owner, Reservation, Selector, Standing, Tenant};
use berth_ipam::attachment::PodRef;

fn team(value: &str) -> Labels {
    Labels::from([("team".to_owned(), value.to_owned())])
}

/// A pool for namespaces of team a.
fn selecting(count: u8) -> Config {
    let mut config = config(count);
    config.pools.values_mut().next().unwrap().access = Access {
        selector: Some(Selector { labels: team("a"), requirements: Vec::new() }),
        ..Access::default()
    };
    config
}

/// A pool with 10.0.0.10 reserved.
fn reserving(count: u8, namespace: &str, of: Tenant) -> Config {
    let mut config = config(count);
    let mut addresses = IntervalSet::new();
    addresses.insert(to_bits(address(10)), to_bits(address(10)));
    let one = Reservation { addresses, namespace: namespace.to_owned(), of };
    config.pools.values_mut().next().unwrap().access =
        Access { reservations: vec![one], ..Access::default() };
    config
}

fn of_team(pod: u64, value: &str) -> LeaseRequest {
    LeaseRequest { standing: Standing { labels: Some(team(value)), owner: None }, ..request(pod) }
}

fn in_namespace(pod: u64, namespace: &str) -> LeaseRequest {
    let named = PodRef { namespace: namespace.into(), ..request(pod).pod.unwrap() };
    LeaseRequest { pod: Some(named), ..request(pod) }
}

fn error(rig: &Rig, pod: u64) -> String {
    match rig.reply(pod) {
        Some(Err(error)) => error.to_string(),
        other => panic!("{pod}: {other:?}"),
    }
}

fn served(rig: &mut Rig, pod: u64, request: LeaseRequest) -> Vec<IpAddr> {
    rig.warm();
    rig.ask(pod, request);
    rig.answer_probes(&[]);
    rig.granted(pod).unwrap_or_else(|| panic!("{pod}: {:?}", rig.reply(pod)))
}

#[test]
fn a_namespace_that_is_not_selected_gets_no_address_and_is_told_why() {
    let mut rig = Rig::new(selecting(4));
    served(&mut rig, 1, of_team(1, "a"));
    rig.ask(2, of_team(2, "b"));
    assert!(error(&rig, 2).contains("does not select namespace d"), "{}", error(&rig, 2));
    let named = LeaseRequest { ips: vec![address(12)], ..of_team(3, "b") };
    rig.ask(3, named);
    assert!(error(&rig, 3).contains("does not select namespace d"), "{}", error(&rig, 3));
}

#[test]
fn labels_that_are_not_known_select_nothing() {
    let mut rig = Rig::new(selecting(4));
    rig.warm();
    rig.ask(1, request(1));
    assert!(error(&rig, 1).contains("labels of namespace d are not known"), "{}", error(&rig, 1));
    rig.ask(2, LeaseRequest { pod: None, ..of_team(2, "a") });
    assert!(error(&rig, 2).contains("named none"), "{}", error(&rig, 2));
    let needs = rig.ledger.needs(&request(1).key.network);
    assert!(needs.labels && !needs.owner);
}

#[test]
fn a_pool_that_refuses_hides_neither_one_that_admits_nor_the_wait_for_it() {
    let mut config = selecting(2);
    let members = |first: u8, last: u8| {
        let mut members = IntervalSet::new();
        members.insert(to_bits(address(first)), to_bits(address(last)));
        members
    };
    let open = Pool {
        members: members(20, 20),
        access: Access::default(),
        ..config.pools.values().next().unwrap().clone()
    };
    config.pools.insert("q".parse().unwrap(), open);
    config.networks.values_mut().next().unwrap().pools.push("q".parse().unwrap());
    let mut rig = Rig::new(config);
    assert_eq!(served(&mut rig, 1, of_team(1, "b")), [address(20)]);
    rig.ask(2, of_team(2, "b"));
    rig.answer_probes(&[]);
    assert!(rig.reply(2).is_none(), "it waits for the pool that admits it: {:?}", rig.reply(2));
}

#[test]
fn an_address_of_a_selected_namespace_is_not_handed_to_another() {
    let mut rig = Rig::new(selecting(1));
    let given = served(&mut rig, 1, of_team(1, "a"));
    rig.ask(2, of_team(2, "b"));
    rig.ask(3, of_team(3, "a"));
    rig.step(Input::Release(None, request(1).key, LinkRemoval::Gone, None));
    rig.observe(DEAD, AddressFact::Absent);
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(3), Some(given));
    assert!(error(&rig, 2).contains("does not select"));
}

#[test]
fn a_reserved_address_goes_to_its_pod_first_and_to_no_other() {
    let mut rig = Rig::new(reserving(2, "d", Tenant::Pod("p9".to_owned())));
    assert_eq!(served(&mut rig, 1, request(1)), [address(11)]);
    rig.ask(2, LeaseRequest { ips: vec![address(10)], ..request(2) });
    assert!(error(&rig, 2).contains("reserved for pod d/p9"), "{}", error(&rig, 2));
    // The same name in another namespace: an address of one namespace is not got by a name in another.
    let named = PodRef { name: "p9".into(), ..in_namespace(3, "evil").pod.unwrap() };
    rig.ask(3, LeaseRequest { ips: vec![address(10)], pod: Some(named), ..request(3) });
    assert!(error(&rig, 3).contains("reserved for pod d/p9"), "{}", error(&rig, 3));
    // The last address is free, and reserved: who may not have it waits, and is told.
    rig.ask(4, LeaseRequest { add_timeout: Some(Duration::from_secs(2)), ..request(4) });
    rig.answer_probes(&[]);
    rig.pass(Duration::from_secs(3));
    assert!(error(&rig, 4).contains("10.0.0.10 reserved for pod d/p9"), "{}", error(&rig, 4));
    assert_eq!(served(&mut rig, 9, request(9)), [address(10)]);
}

#[test]
fn of_many_free_addresses_a_pod_gets_its_reserved_one() {
    for pod in 20..30 {
        let mut rig = Rig::new(reserving(40, "d", Tenant::Pod(format!("p{pod}"))));
        assert_eq!(served(&mut rig, pod, request(pod)), [address(10)]);
    }
}

#[test]
fn a_reserved_address_that_its_pod_leaves_is_not_inherited_by_who_waits_for_it() {
    let mut rig = Rig::new(reserving(1, "d", Tenant::Any));
    served(&mut rig, 1, request(1));
    rig.ask(2, in_namespace(2, "evil"));
    rig.ask(3, request(3));
    rig.step(Input::Release(None, request(1).key, LinkRemoval::Gone, None));
    rig.observe(DEAD, AddressFact::Absent);
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(3), Some(vec![address(10)]));
    assert!(rig.reply(2).is_none(), "{:?}", rig.reply(2));
}

#[test]
fn a_held_address_that_is_reserved_meanwhile_goes_to_no_other_namespace() {
    let mut rig = Rig::shared(config(1));
    rig.step(Input::Pods(PodNews::Listed(BTreeSet::from(["u1".to_owned()]))));
    rig.bound(1);
    rig.step(Input::Declared(Box::new(reserving(1, "d", Tenant::Pod("p1".to_owned())))));
    rig.step(Input::Release(None, request(1).key, LinkRemoval::Gone, None));
    rig.observe(DEAD, AddressFact::Absent);
    assert_eq!(rig.entry(1).phase, Phase::Held);
    rig.ask(2, in_namespace(2, "evil"));
    rig.answer_probes(&[]);
    rig.pass(Duration::from_secs(61));
    rig.observe(DEAD, AddressFact::Absent);
    rig.answer_probes(&[]);
    assert!(rig.reply(2).is_none(), "{:?}", rig.reply(2));
}

#[test]
fn a_reservation_by_owner_asks_for_the_owner_and_follows_it() {
    let owner = Owner { kind: "StatefulSet".to_owned(), name: "db".to_owned() };
    let mut rig = Rig::new(reserving(2, "d", Tenant::Owner(owner.clone())));
    assert!(rig.ledger.needs(&request(1).key.network).owner);
    let asks = |pod: u64, owner: Option<Owner>| LeaseRequest {
        standing: Standing { labels: None, owner },
        ..request(pod)
    };
    assert_eq!(served(&mut rig, 1, asks(1, None)), [address(11)]);
    assert_eq!(served(&mut rig, 2, asks(2, Some(owner))), [address(10)]);
}
