//! Berth's records in the API, read without Berth's code, and compared with the sandboxes on the nodes. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Deserialize;

use crate::error::{Error, Result};

/// Path of the records in the API.
pub const PATH: &str = "/apis/berth.dev/v1alpha1/ipleases";

/// One of them, as far as tests look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Name of the record.
    pub name: String,
    /// Address in question.
    pub address: IpAddr,
    /// Container ID of its holder.
    pub container: String,
    /// Its holder's node.
    pub node: String,
    /// Its holder's pod, as the runtime called it.
    pub uid: Option<String>,
}

#[derive(Deserialize)]
struct List {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Name,
    spec: Spec,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

#[derive(Deserialize)]
struct Spec {
    address: IpAddr,
    #[serde(rename = "containerID")]
    container: String,
    node: String,
    pod: Option<Pod>,
}

#[derive(Deserialize)]
struct Pod {
    uid: Option<String>,
}

/// Reads a list of them.
pub fn read(text: &str) -> Result<Vec<Record>> {
    let list: List =
        serde_json::from_str(text).map_err(|error| Error::Usage(format!("a list of ipleases: {error}")))?;
    let record = |item: Item| Record {
        name: item.metadata.name,
        address: item.spec.address,
        container: item.spec.container,
        node: item.spec.node,
        uid: item.spec.pod.and_then(|pod| pod.uid),
    };
    Ok(list.items.into_iter().map(record).collect())
}

/// Differences between records and the addresses of living sandboxes, as text.
pub fn compare(records: &[Record], living: &[(String, Vec<IpAddr>)]) -> Vec<String> {
    let written: BTreeSet<(IpAddr, &str)> =
        records.iter().map(|record| (record.address, record.container.as_str())).collect();
    let lived: BTreeSet<(IpAddr, &str)> = living
        .iter()
        .flat_map(|(container, addresses)| addresses.iter().map(|address| (*address, container.as_str())))
        .collect();
    let stale =
        written.difference(&lived).map(|(address, holder)| format!("{address} of {holder}, which is gone"));
    let missing =
        lived.difference(&written).map(|(address, holder)| format!("{address} of {holder}, unrecorded"));
    stale.chain(missing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_needs_the_record_of_its_holder_and_no_other() {
        let text = r#"{"kind": "IPLeaseList", "items": [
            {"metadata": {"name": "lan.a"}, "spec": {"address": "10.0.0.7", "containerID": "c1", "node": "n1",
             "pod": {"namespace": "d", "name": "p", "uid": "u"}}},
            {"metadata": {"name": "lan.b"}, "spec": {"address": "10.0.0.8", "containerID": "c2", "node": "n1"}}]}"#;
        let records = read(text).unwrap();
        assert_eq!((records[0].uid.as_deref(), records[1].uid.as_deref()), (Some("u"), None));
        let of = |container: &str, last: u8| (container.to_owned(), vec![IpAddr::from([10, 0, 0, last])]);
        assert!(compare(&records, &[of("c1", 7), of("c2", 8)]).is_empty());
        let wrong = compare(&records, &[of("c1", 7), of("c2", 9)]);
        assert_eq!(wrong, ["10.0.0.8 of c2, which is gone", "10.0.0.9 of c2, unrecorded"]);
    }
}
