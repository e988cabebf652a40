//! `IPLease`: the record of one address as an object of a cluster.
//!
//! The same fields as the core's [`LeaseRecord`], as bounded text: 64-bit numbers are written as decimal
//! text, because an API server keeps 63 bits. The conversions lose nothing. A stored object may have been
//! written manually or by a newer Berth: [`read`] accepts an object only as a whole, and otherwise names the
//! object, the key and the value.
//!
//! Invariant: an object that [`read`] accepts has the name derived from its segment and address, so that one
//! address has one object.

use berth_ipam::attachment::{AttachmentKey, PodRef, Role};
use berth_ipam::identity::{BootId, MachineId, NetnsCookie, NetnsIdentity, Nsid, TxnId};
use berth_ipam::record::LeaseRecord;
use kube::core::ObjectMeta;

use crate::error::{ApiError, LeaseFault};
use crate::types::{IPLease, IPLeaseSpec, LeaseNetns, LeasePod, LeaseRole};

impl From<&LeaseRecord> for IPLease {
    fn from(record: &LeaseRecord) -> Self {
        Self {
            metadata: ObjectMeta { name: Some(record.address_key().record_name()), ..ObjectMeta::default() },
            spec: record.into(),
        }
    }
}

impl From<&LeaseRecord> for IPLeaseSpec {
    fn from(record: &LeaseRecord) -> Self {
        Self {
            segment: record.segment.to_string(),
            address: record.address.to_string(),
            pool: record.pool.to_string(),
            network: record.key.network.to_string(),
            container_id: record.key.container_id.to_string(),
            ifname: record.key.ifname.to_string(),
            cni_network: record.cni_network.to_string(),
            role: record.role.into(),
            node: Some(record.node.to_string()),
            boot_id: record.boot_id.0.clone(),
            machine_id: record.machine_id.0.clone(),
            pod: record.pod.as_ref().map(|pod| LeasePod {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
            }),
            netns: LeaseNetns {
                cookie: record.netns.cookie.to_string(),
                inode: record.netns.inode.to_string(),
                nsid: record.netns.nsid.0,
                nsid_is_random: record.netns.nsid_is_random,
                agent_cookie: record.place.map(|cookie| cookie.to_string()),
            },
            txn: record.txn.0.clone(),
            mac: record.mac.map(|mac| mac.to_string()),
            generation: record.generation.to_string(),
        }
    }
}

impl From<Role> for LeaseRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Main => Self::Main,
            Role::Chained => Self::Chained,
            Role::Delegate => Self::Delegate,
        }
    }
}

impl From<LeaseRole> for Role {
    fn from(role: LeaseRole) -> Self {
        match role {
            LeaseRole::Main => Self::Main,
            LeaseRole::Chained => Self::Chained,
            LeaseRole::Delegate => Self::Delegate,
        }
    }
}

impl TryFrom<IPLease> for LeaseRecord {
    type Error = ApiError;

    fn try_from(lease: IPLease) -> Result<Self, ApiError> {
        convert(&lease.metadata.name.unwrap_or_default(), lease.spec)
    }
}

/// The record in `spec`, a JSON text, of the `IPLease` that is called `object`.
pub fn read(object: &str, spec: &str) -> Result<LeaseRecord, ApiError> {
    // Every agent reads every lease, and nearly all are valid: the wrong key is determined afterwards.
    let spec = serde_json::from_str(spec).or_else(|_| located(object, spec))?;
    convert(object, spec)
}

/// The same, with the place in the error.
fn located(object: &str, spec: &str) -> Result<IPLeaseSpec, ApiError> {
    let mut text = serde_json::Deserializer::from_str(spec);
    serde_path_to_error::deserialize(&mut text).map_err(|error| {
        let key = match error.path().to_string().as_str() {
            "." => "spec".to_owned(),
            path => format!("spec.{path}"),
        };
        ApiError::LeaseShape { object: object.to_owned(), key, cause: error.into_inner() }
    })
}

fn convert(object: &str, spec: IPLeaseSpec) -> Result<LeaseRecord, ApiError> {
    let of = Of(object);
    let record = LeaseRecord {
        segment: of.parsed("segment", &spec.segment)?,
        address: of.parsed("address", &spec.address)?,
        pool: of.parsed("pool", &spec.pool)?,
        key: AttachmentKey {
            network: of.parsed("network", &spec.network)?,
            container_id: of.parsed("containerID", &spec.container_id)?,
            ifname: of.parsed("ifname", &spec.ifname)?,
        },
        cni_network: of.parsed("cniNetwork", &spec.cni_network)?,
        role: spec.role.into(),
        node: of.parsed(
            "node",
            &spec.node.ok_or_else(|| ApiError::LeaseRetained { object: object.to_owned() })?,
        )?,
        boot_id: BootId(spec.boot_id),
        machine_id: MachineId(spec.machine_id),
        pod: spec.pod.map(|pod| PodRef { namespace: pod.namespace, name: pod.name, uid: pod.uid }),
        netns: NetnsIdentity {
            cookie: NetnsCookie(of.parsed("netns.cookie", &spec.netns.cookie)?),
            inode: of.parsed("netns.inode", &spec.netns.inode)?,
            nsid: Nsid(spec.netns.nsid),
            nsid_is_random: spec.netns.nsid_is_random,
        },
        place: spec
            .netns
            .agent_cookie
            .map(|text| of.parsed("netns.agentCookie", &text).map(NetnsCookie))
            .transpose()?,
        txn: TxnId(spec.txn),
        mac: spec.mac.map(|text| of.parsed("mac", &text)).transpose()?,
        generation: of.parsed("generation", &spec.generation)?,
    };
    let expected = record.address_key().record_name();
    if object == expected {
        Ok(record)
    } else {
        Err(ApiError::LeaseName { object: object.to_owned(), expected })
    }
}

/// Number of characters of a value shown in an error, so that a large value does not make a large error.
const VALUE_SHOWN: usize = 300;

/// The object that errors name.
struct Of<'a>(&'a str);

impl Of<'_> {
    fn parsed<T>(&self, key: &'static str, text: &str) -> Result<T, ApiError>
    where
        T: std::str::FromStr,
        T::Err: Into<LeaseFault>,
    {
        text.parse().map_err(|cause: T::Err| ApiError::LeaseValue {
            object: self.0.to_owned(),
            key,
            value: text.chars().take(VALUE_SHOWN).collect(),
            cause: cause.into(),
        })
    }
}
