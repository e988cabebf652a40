//! The contract of a lease store, and the one function that decides the result of a write.
//!
//! An implementation serialises writes to one address and applies the result of [`decide`]. It never retries
//! a write, because only the caller can decide whether it still needs it.

use std::future::Future;

use berth_ipam::record::{AddressKey, LeaseRecord, Version, Versioned};

use crate::error::StoreError;

/// Holders of addresses: one record per address of a segment.
///
/// The futures are cancel-safe in one sense only: a write may or may not happen after its future is dropped.
/// Every error but [`StoreError::OutcomeUnknown`] means that the call changed nothing.
pub trait LeaseStore: Send + Sync {
    /// All records, in no particular order; an error rather than a short list.
    fn list(&self) -> impl Future<Output = Result<Vec<Versioned>, StoreError>> + Send;

    /// The record of one address; `None` if it has none.
    fn get(&self, key: &AddressKey) -> impl Future<Output = Result<Option<Versioned>, StoreError>> + Send;

    /// Creates the record if its address has none, otherwise [`StoreError::AlreadyExists`] with the existing
    /// one.
    fn create(&self, record: &LeaseRecord) -> impl Future<Output = Result<Version, StoreError>> + Send;

    /// Replaces the record of the same address in one write: the address changes its owner without being free
    /// in between. [`StoreError::Conflict`] if the record is no longer at `version`, [`StoreError::Gone`] if
    /// it does not exist.
    fn replace(
        &self,
        record: &LeaseRecord,
        version: &Version,
    ) -> impl Future<Output = Result<Version, StoreError>> + Send;

    /// Deletes the record: the address is free. [`StoreError::Conflict`] if it is no longer at `version`,
    /// [`StoreError::Gone`] if it does not exist.
    fn delete(
        &self,
        key: &AddressKey,
        version: &Version,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// One write, as the implementations in this crate carry it out.
#[derive(Debug, Clone)]
pub(crate) enum Write {
    Create(LeaseRecord),
    Replace(LeaseRecord, Version),
    Delete(AddressKey, Version),
}

impl Write {
    pub(crate) fn address_key(&self) -> AddressKey {
        match self {
            Self::Create(record) | Self::Replace(record, _) => record.address_key(),
            Self::Delete(key, _) => key.clone(),
        }
    }

    pub(crate) fn operation(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Replace(..) => "replace",
            Self::Delete(..) => "delete",
        }
    }
}

/// Record of the address after `write`, given the present one; `None`: no record. `stamp` names this write
/// and has never been used before.
pub(crate) fn decide(
    write: Write,
    current: Option<Versioned>,
    stamp: &str,
) -> Result<Option<Versioned>, StoreError> {
    match (write, current) {
        (Write::Create(_), Some(existing)) => Err(StoreError::AlreadyExists { existing: Box::new(existing) }),
        (Write::Create(record), None) => {
            let version = Version { uid: stamp.to_owned(), resource_version: stamp.to_owned() };
            Ok(Some(Versioned { version, record }))
        }
        (Write::Replace(_, expected) | Write::Delete(_, expected), Some(current))
            if current.version != expected =>
        {
            Err(StoreError::Conflict { expected, current: Box::new(current) })
        }
        (Write::Replace(record, expected), Some(_)) => {
            let version = Version { uid: expected.uid, resource_version: stamp.to_owned() };
            Ok(Some(Versioned { version, record }))
        }
        (Write::Delete(..), Some(_)) => Ok(None),
        (Write::Replace(record, _), None) => Err(StoreError::Gone { key: record.address_key() }),
        (Write::Delete(key, _), None) => Err(StoreError::Gone { key }),
    }
}
