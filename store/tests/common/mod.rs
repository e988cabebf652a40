//! Records for tests.

use berth_ipam::attachment::{AttachmentKey, Role};
use berth_ipam::identity::{BootId, MachineId, NetnsCookie, NetnsIdentity, Nsid, TxnId};
use berth_ipam::record::LeaseRecord;

/// The record of `address` that transaction `txn` makes.
pub fn record(address: &str, txn: &str) -> LeaseRecord {
    LeaseRecord {
        segment: "default".parse().unwrap(),
        address: address.parse().unwrap(),
        pool: "lan".parse().unwrap(),
        key: AttachmentKey {
            network: "lan".parse().unwrap(),
            container_id: format!("c-{txn}").parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        },
        cni_network: "lan".parse().unwrap(),
        role: Role::Main,
        node: "node-1".parse().unwrap(),
        boot_id: BootId("5e1f".to_owned()),
        machine_id: MachineId("3ac7".to_owned()),
        pod: None,
        netns: NetnsIdentity {
            cookie: NetnsCookie(u64::MAX),
            inode: 4_026_532_281,
            nsid: Nsid(1_234_567),
            nsid_is_random: true,
        },
        place: Some(NetnsCookie(1)),
        txn: TxnId(txn.to_owned()),
        mac: Some("b2:00:5e:00:53:01".parse().unwrap()),
        generation: 1,
    }
}
