use std::collections::BTreeSet;
use std::time::Duration;

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::config::{Config, LinkSpec, MacvlanMode, Network, Pool};
use berth_ipam::identity::{BootId, MachineId, NetnsCookie, NetnsIdentity, Nsid, TxnId};
use berth_ipam::interval::IntervalSet;
use berth_ipam::ledger::Identity;
use berth_ipam::ledger::entry::{Entry, Held, Phase};
use berth_ipam::ledger::io::{Input, Loaded};
use berth_ipam::time::Time;

use super::*;

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn network(vlan: Option<u16>, guard: Option<BTreeSet<IpAddr>>) -> Network {
    let parent = "eth1".parse().unwrap();
    Network {
        declared: 0,
        link: match vlan {
            None => LinkSpec::Macvlan { parent, mode: MacvlanMode::Bridge, mtu: None },
            Some(id) => LinkSpec::Vlan { parent, id, exclusive: false, mtu: None },
        },
        pools: vec!["p".parse().unwrap()],
        accept_ra: false,
        add_timeout: Duration::from_secs(1),
        settle: Duration::from_secs(2),
        leaked_after: None,
        proxy_macs: BTreeSet::new(),
        source_guard: guard,
    }
}

fn entry(network: &str, last: u8, role: Role, phase: Phase, mac: Option<Mac>) -> Entry {
    Entry {
        departure: None,
        moved: None,
        place: None,
        key: AttachmentKey {
            network: network.parse().unwrap(),
            container_id: format!("c{last}").parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        },
        cni_network: "lan".parse().unwrap(),
        role,
        txn: TxnId(format!("t{last}")),
        phase,
        netns: NetnsIdentity { cookie: NetnsCookie(1), inode: 1, nsid: Nsid(5), nsid_is_random: true },
        at: Nsid(5),
        ifindex: mac.map(|_| 3),
        mac,
        pod: None,
        held: vec![Held {
            pool: "p".parse().unwrap(),
            segment: "default".parse().unwrap(),
            address: address(last),
            generation: 1,
        }],
        fdb_parent: None,
        settle: Duration::from_secs(2),
        leaked_after: None,
        del_seen: false,
        inhabited: false,
        exposed: false,
        boot_id: BootId("boot".into()),
        machine_id: MachineId("m1".into()),
    }
}

fn ledger(networks: Vec<(&str, Network)>, entries: Vec<Entry>) -> Ledger {
    let pool = Pool {
        segment: "default".parse().unwrap(),
        subnet: "10.0.0.0/8".parse().unwrap(),
        members: IntervalSet::new(),
        gateway: None,
        routes: Vec::new(),
        disabled: false,
        access: berth_ipam::access::Access::default(),
    };
    let config = Config {
        networks: networks.into_iter().map(|(name, network)| (name.parse().unwrap(), network)).collect(),
        pools: BTreeMap::from([("p".parse().unwrap(), pool)]),
    };
    let me = Identity {
        node: "n1".parse().unwrap(),
        boot_id: BootId("boot".into()),
        machine_id: MachineId("m1".into()),
    };
    let mut ledger = Ledger::new(me, config);
    ledger.step(Time::from_millis(1), Input::Loaded(Box::new(Loaded { entries, ..Loaded::default() })));
    ledger
}

const M: Mac = Mac([0xb2, 0, 0, 0, 0, 1]);

#[test]
fn nothing_is_wanted_without_a_declared_guard() {
    let entries = vec![entry("lan", 1, Role::Main, Phase::Done, Some(M))];
    assert!(wanted(&ledger(vec![("lan", network(None, None))], entries)).is_empty());
}

#[test]
fn leases_pass_with_their_mac_and_what_is_not_known_passes() {
    let entries = vec![
        entry("lan", 1, Role::Main, Phase::Done, Some(M)),
        entry("lan", 2, Role::Main, Phase::Reserved, None),
        entry("lan", 3, Role::Delegate, Phase::Done, None),
        entry("gone", 4, Role::Main, Phase::Done, Some(M)),
        entry("other", 5, Role::Main, Phase::Done, Some(M)),
    ];
    let guarded = network(None, Some(BTreeSet::from([address(1), address(9)])));
    let networks = vec![("lan", guarded), ("other", network(Some(7), None))];
    let wanted = wanted(&ledger(networks, entries));
    let passes: Vec<_> = wanted.into_iter().collect();
    assert_eq!(passes.len(), 1, "one wire is guarded");
    assert_eq!(passes[0].0, Wire { parent: "eth1".parse().unwrap(), vlan: None });
    let expected = [
        // Allowed for any, though it is leased, too.
        (address(1), None),
        (address(3), None),
        // Of a network that is not declared any longer: it may be on this wire.
        (address(4), Some(M)),
        (address(9), None),
    ];
    assert_eq!(passes[0].1, BTreeMap::from(expected));
}
