//! The lease store of a cluster: one `IPLease` per address, in the Kubernetes API.
//!
//! Creation of a new object is the allocation; its deletion, with UID and resource version as preconditions,
//! is the release. Every read is live (no `resourceVersion=0`), so that no release is decided from a cache.
//! Neither this store nor the client of [`client`] retries: only the caller can decide whether it still needs
//! a write. [`Watch`] follows all leases for early notice; no address is freed because of it.
//!
//! Invariant: an object that this agent cannot read is never skipped. Its name locks its address, and it is
//! reported by name.

mod connect;
mod contact;
mod door;
mod judge;
mod object;
mod token;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use berth_api::types::IPLease;
use berth_ipam::record::{AddressKey, LeaseRecord, Version, Versioned};
use http::Method;
use kube::Client;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use crate::error::StoreError;
use crate::lease::LeaseStore;

pub use connect::client;
pub use contact::Contact;
use door::{BASE, Door, Fault};
use judge::{Asked, Said};
pub use object::Unreadable;
use object::{Object, Page};
pub use token::{TokenNode, token_node};
pub use watch::{LeaseEvent, Watch};

/// Maximum number of concurrent creates of one agent: in a burst, no agent crowds out others.
const CREATES: usize = 2;
/// Maximum number of concurrent deletes: a node that loses a hundred pods at once does not fill the server's
/// queues.
const DELETES: usize = 4;
/// A race that is lost so often in a row is the caller's to decide on.
const TRIES: usize = 3;
/// Maximum number of pages of a list: two million leases.
const PAGES_MAX: usize = 4_000;
/// Query parameters of writes: the field manager, and strict validation, so that a field that the definition
/// lacks is an error instead of being dropped.
const WRITING: &str = "?fieldManager=berth-agent&fieldValidation=Strict";

/// Settings of the requests to the API server.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Time limit of one request about one lease, including its response.
    pub deadline: Duration,
    /// Time limit of a page of a list. A busy server needs seconds for one, and repeats all of it for a
    /// client that gives up.
    pub list_deadline: Duration,
    /// Number of leases per page.
    pub page: u32,
    /// Duration of a watch on the server's side.
    pub watch_for: Duration,
    /// Maximum silence of a watch. API servers send a bookmark each minute.
    pub watch_silence: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            list_deadline: Duration::from_secs(30),
            page: 500,
            watch_for: Duration::from_secs(290),
            watch_silence: Duration::from_secs(90),
        }
    }
}

/// All leases of a cluster at one moment.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Those that could be read.
    pub rows: Vec<Versioned>,
    /// Those that could not.
    pub unreadable: Vec<Unreadable>,
    /// The moment, for a watch.
    pub(crate) resource_version: String,
}

/// Leases in the Kubernetes API. Clones share the connection and its limits.
#[derive(Clone)]
pub struct KubernetesStore {
    door: Arc<Door>,
    creates: Arc<Semaphore>,
    deletes: Arc<Semaphore>,
    settings: Settings,
}

impl KubernetesStore {
    /// A store over `client`, which should be built by [`client`]: a client that retries by itself repeats
    /// writes with an unknown outcome. Served requests are recorded in `contact`.
    pub fn new(client: Client, contact: Contact, settings: Settings) -> Self {
        let door = Arc::new(Door::new(client, settings.deadline, contact));
        let [creates, deletes] = [CREATES, DELETES].map(|turns| Arc::new(Semaphore::new(turns)));
        Self { door, creates, deletes, settings }
    }

    /// All leases, those that cannot be read by name. [`LeaseStore::list`] is an error if there are any
    /// of these.
    pub async fn listing(&self) -> Result<Listing, StoreError> {
        let asked = Asked { operation: "list", object: "all leases", writes: false };
        for _ in 0..TRIES {
            if let Some(listing) = self.pages(asked).await? {
                return Ok(listing);
            }
        }
        Err(asked.unavailable(None, Fault::Unsteady("the list expired while it was read, several times")))
    }

    /// Follows all leases from now on. Must be called inside a tokio runtime.
    pub fn watch(&self) -> Watch {
        Watch::start(self.clone())
    }

    /// `None` if the server forgot the moment of the first page before the last one was read.
    async fn pages(&self, asked: Asked<'_>) -> Result<Option<Listing>, StoreError> {
        let mut listing = Listing::default();
        let mut path = format!("{BASE}?limit={}", self.settings.page);
        let patience = self.settings.list_deadline;
        for _ in 0..PAGES_MAX {
            let answer = self.door.ask_within(patience, Method::GET, &path, Vec::new()).await;
            let page: Page = match asked.judge(answer)? {
                Said::Done(body) => decode(asked, &body)?,
                Said::Missing | Said::Conflict | Said::Expired => return Ok(None),
            };
            for object in page.items {
                match object.read() {
                    Ok(row) => listing.rows.push(row),
                    Err(unreadable) => listing.unreadable.push(*unreadable),
                }
            }
            listing.resource_version = page.metadata.resource_version;
            if page.metadata.more.is_empty() {
                return Ok(Some(listing));
            }
            path = format!("{BASE}?limit={}&continue={}", self.settings.page, escaped(&page.metadata.more));
        }
        Err(asked.unavailable(None, Fault::Unsteady("the list does not end")))
    }

    /// Reason why a write with a precondition was refused, by what is there now.
    async fn refused(&self, key: &AddressKey, expected: &Version) -> StoreError {
        match self.get(key).await {
            Ok(Some(current)) => {
                StoreError::Conflict { expected: expected.clone(), current: Box::new(current) }
            }
            Ok(None) => StoreError::Gone { key: key.clone() },
            Err(error) => error,
        }
    }

    async fn post(&self, asked: Asked<'_>, body: Vec<u8>) -> Result<Said, StoreError> {
        // Never closed; if it were, the limit would go, not the write.
        let _turn = self.creates.acquire().await.ok();
        asked.judge(self.door.ask(Method::POST, &format!("{BASE}{WRITING}"), body).await)
    }
}

impl LeaseStore for KubernetesStore {
    async fn list(&self) -> Result<Vec<Versioned>, StoreError> {
        let mut listing = self.listing().await?;
        let others = listing.unreadable.len().saturating_sub(1);
        match listing.unreadable.pop() {
            Some(Unreadable { object, cause, .. }) => Err(StoreError::Unreadable { object, others, cause }),
            None => Ok(listing.rows),
        }
    }

    async fn get(&self, key: &AddressKey) -> Result<Option<Versioned>, StoreError> {
        let name = key.record_name();
        let asked = Asked { operation: "get", object: &name, writes: false };
        match asked.judge(self.door.ask(Method::GET, &format!("{BASE}/{name}"), Vec::new()).await)? {
            Said::Done(body) => {
                let object: Object = decode(asked, &body)?;
                let unreadable = |found: Box<Unreadable>| StoreError::Unreadable {
                    object: found.object,
                    others: 0,
                    cause: found.cause,
                };
                Ok(Some(object.read().map_err(unreadable)?))
            }
            Said::Missing => Ok(None),
            Said::Conflict | Said::Expired => {
                Err(asked.unavailable(None, Fault::Unsteady("a read was answered like a write")))
            }
        }
    }

    async fn create(&self, record: &LeaseRecord) -> Result<Version, StoreError> {
        let key = record.address_key();
        let name = key.record_name();
        let asked = Asked { operation: "create", object: &name, writes: true };
        let body = encode(&key, &IPLease::from(record))?;
        for _ in 0..TRIES {
            match self.post(asked, body.clone()).await? {
                Said::Done(body) => return stored(asked, &body),
                Said::Conflict | Said::Missing | Said::Expired => {}
            }
            // The write was refused, so a second attempt cannot apply it twice, if the other record has gone
            // in the meantime.
            if let Some(existing) = self.get(&key).await? {
                return Err(StoreError::AlreadyExists { existing: Box::new(existing) });
            }
        }
        Err(asked.unavailable(None, Fault::Unsteady("the record was there and was gone, several times")))
    }

    async fn replace(&self, record: &LeaseRecord, version: &Version) -> Result<Version, StoreError> {
        let key = record.address_key();
        if !is_of_a_cluster(version) {
            return Err(self.refused(&key, version).await);
        }
        let name = key.record_name();
        let asked = Asked { operation: "replace", object: &name, writes: true };
        let mut lease = IPLease::from(record);
        lease.metadata.uid = Some(version.uid.clone());
        lease.metadata.resource_version = Some(version.resource_version.clone());
        let (path, body) = (format!("{BASE}/{name}{WRITING}"), encode(&key, &lease)?);
        match asked.judge(self.door.ask(Method::PUT, &path, body).await)? {
            Said::Done(body) => stored(asked, &body),
            Said::Missing => Err(StoreError::Gone { key }),
            Said::Conflict | Said::Expired => Err(self.refused(&key, version).await),
        }
    }

    async fn delete(&self, key: &AddressKey, version: &Version) -> Result<(), StoreError> {
        if !is_of_a_cluster(version) {
            return Err(self.refused(key, version).await);
        }
        let name = key.record_name();
        let asked = Asked { operation: "delete", object: &name, writes: true };
        let options = serde_json::json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": version.uid, "resourceVersion": version.resource_version},
            "propagationPolicy": "Background",
        });
        let body = encode(key, &options)?;
        let outcome = {
            // As with creates; the refusal's cause is read afterwards.
            let _turn = self.deletes.acquire().await.ok();
            self.door.ask(Method::DELETE, &format!("{BASE}/{name}"), body).await
        };
        match asked.judge(outcome)? {
            Said::Done(body) => gone(asked, &body),
            Said::Missing => Err(StoreError::Gone { key: key.clone() }),
            Said::Conflict | Said::Expired => Err(self.refused(key, version).await),
        }
    }
}

/// True if an API server can have issued this version. With another one it answers 400 or 500, where the
/// contract requires a conflict.
fn is_of_a_cluster(version: &Version) -> bool {
    let text = &version.resource_version;
    !version.uid.is_empty() && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn encode(key: &AddressKey, value: &impl serde::Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|cause| StoreError::Encode { key: key.clone(), cause: Arc::new(cause) })
}

fn decode<T: DeserializeOwned>(asked: Asked<'_>, body: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(body).map_err(|cause| asked.unknown(Fault::Foreign(cause)))
}

/// The version that a write made.
fn stored(asked: Asked<'_>, body: &[u8]) -> Result<Version, StoreError> {
    let object: Object = decode(asked, body)?;
    let version = object.version();
    if is_of_a_cluster(&version) && object.metadata.name == asked.object {
        Ok(version)
    } else {
        Err(asked.unknown(Fault::Unsteady("the answer to a write names no version")))
    }
}

/// A delete has happened when the object is gone: one with finalizers is only marked.
fn gone(asked: Asked<'_>, body: &[u8]) -> Result<(), StoreError> {
    let object: Object = decode(asked, body)?;
    let finalizers = object.metadata.finalizers;
    if object.metadata.deletion_timestamp.is_some() && !finalizers.is_empty() {
        return Err(StoreError::Finalizers { object: asked.object.to_owned(), finalizers });
    }
    Ok(())
}

/// A text as a value in a query.
fn escaped(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}
