//! What was told and what is still to be told: one event for one reason and object, however often it
//! happens, and never more writes than the node's share.
//!
//! Pure. Nothing here is worth an address: what there is no room for is dropped, and counted.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_ipam::time::Time;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time as Date};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::words::{About, Report};

/// So many writes may be made at once.
const BURST: u32 = 25;
/// And then one in this time.
const REFILL: Duration = Duration::from_secs(5);
/// What happens again is written again this often at most.
const REPEAT: Duration = Duration::from_secs(30);
/// What did not happen again for so long is a new event when it does.
const FORGET: Duration = Duration::from_mins(10);
/// What could not be written for so long is not told any more.
const STALE: Duration = Duration::from_hours(1);
/// So many reasons and objects are kept in mind.
const SERIES_MAX: usize = 512;
/// What a failed write waits.
const AFTER_FAILURE: Duration = Duration::from_secs(10);
/// The part of an object's name that its events' names begin with.
const NAME_MAX: usize = 230;
/// Where events about nodes are.
const NODE_NAMESPACE: &str = "default";
/// Who tells.
const COMPONENT: &str = "berth-agent";

/// What makes two happenings one event.
pub type Key = (About, String);

/// See the module's head.
#[derive(Debug)]
pub struct Book {
    node: String,
    series: BTreeMap<Key, Series>,
    bucket: Bucket,
    named: u64,
    dropped: u64,
}

#[derive(Debug)]
struct Series {
    report: Report,
    /// The event's name.
    name: String,
    count: i32,
    first: Timestamp,
    last: Timestamp,
    /// When it happened last, by the node's own clock.
    heard: Time,
    /// Whether the event exists.
    exists: bool,
    /// When it is to be written; `None`: it is as it should be.
    due: Option<Time>,
}

/// A write.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// A new event.
    Create(Box<Event>),
    /// An event that happened again.
    Update {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What is merged into it.
        patch: Value,
    },
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is written.
    Done,
    /// The event is there already, from a former try whose answer was lost.
    Exists,
    /// The event is there no more.
    Gone,
    /// It will not be taken: its namespace ends, or the agent may not.
    Refused,
    /// It was not taken this time.
    Failed,
}

impl Book {
    /// Of a node that told nothing yet.
    pub fn new(node: impl Into<String>, now: Time) -> Self {
        let bucket = Bucket { tokens: BURST, since: now };
        Self { node: node.into(), series: BTreeMap::new(), bucket, named: 0, dropped: 0 }
    }

    /// Something happened. `wall` is only written down.
    pub fn hear(&mut self, now: Time, wall: Timestamp, report: Report) {
        self.forget(now);
        let key = (report.about.clone(), report.reason.clone());
        if let Some(series) = self.series.get_mut(&key) {
            series.count = series.count.saturating_add(1);
            (series.report, series.heard, series.last) = (report, now, wall);
            let wait = if series.exists { REPEAT } else { Duration::ZERO };
            series.due.get_or_insert(now + wait);
            return;
        }
        if self.series.len() >= SERIES_MAX && !self.make_room() {
            self.dropped += 1;
            return;
        }
        self.named += 1;
        let object = match &report.about {
            About::Node => &self.node,
            About::Pod { name, .. } => name,
        };
        let object = object.get(..NAME_MAX).unwrap_or(object).trim_end_matches(['-', '.']);
        // Unlike any former one's, also of a former agent on this node.
        let number = wall.as_nanosecond().wrapping_add(i128::from(self.named));
        let series = Series {
            name: format!("{object}.{number:x}"),
            report,
            count: 1,
            first: wall,
            last: wall,
            heard: now,
            exists: false,
            due: Some(now),
        };
        self.series.insert(key, series);
    }

    fn forget(&mut self, now: Time) {
        let before = self.series.len();
        self.series.retain(|_, series| series.due.is_none() || now.since(series.heard) < STALE);
        self.dropped += u64::try_from(before - self.series.len()).unwrap_or(0);
        self.series.retain(|_, series| series.due.is_some() || now.since(series.heard) < FORGET);
    }

    /// Forgets what happened longest ago of all that is written.
    fn make_room(&mut self) -> bool {
        let written = self.series.iter().filter(|(_, series)| series.due.is_none());
        let oldest = written.min_by_key(|(_, series)| series.heard).map(|(key, _)| key.clone());
        oldest.is_some_and(|key| self.series.remove(&key).is_some())
    }

    /// The next write, if one is due and the node's share allows it.
    pub fn next(&mut self, now: Time) -> Option<(Key, Write)> {
        let (key, _) = self.first().filter(|(_, due)| *due <= now)?;
        if !self.bucket.take(now) {
            return None;
        }
        let series = self.series.get_mut(&key)?;
        // What happens while it is written is due anew.
        series.due = None;
        let write = if series.exists { series.update() } else { series.create(&self.node) };
        Some((key, write))
    }

    /// When there may be a next write.
    pub fn wake(&self) -> Option<Time> {
        let (_, due) = self.first()?;
        Some(due.max(self.bucket.next()))
    }

    fn first(&self) -> Option<(Key, Time)> {
        let waiting = self.series.iter().filter_map(|(key, series)| Some((key, series.due?)));
        waiting.min_by_key(|(_, due)| *due).map(|(key, due)| (key.clone(), due))
    }

    /// A write is over.
    pub fn written(&mut self, now: Time, key: &Key, outcome: Outcome) {
        let Some(series) = self.series.get_mut(key) else { return };
        match outcome {
            Outcome::Done => series.exists = true,
            Outcome::Exists => {
                series.exists = true;
                // It says how often it had happened by then.
                series.due = (series.count > 1).then(|| now + REPEAT);
            }
            Outcome::Failed => series.due = Some(now + AFTER_FAILURE),
            // Events live for an hour only, by default.
            Outcome::Gone if series.exists => (series.exists, series.due) = (false, Some(now)),
            Outcome::Gone | Outcome::Refused => {
                self.series.remove(key);
                self.dropped += 1;
            }
        }
    }

    /// How many happenings were not told, ever.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Series {
    fn namespace(&self) -> &str {
        match &self.report.about {
            About::Node => NODE_NAMESPACE,
            About::Pod { namespace, .. } => namespace,
        }
    }

    fn create(&self, node: &str) -> Write {
        let object = match self.report.about.clone() {
            // By its name: so it is found by who asks for a node's events.
            About::Node => ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                uid: Some(node.to_owned()),
                ..ObjectReference::default()
            },
            About::Pod { namespace, name, uid } => ObjectReference {
                kind: Some("Pod".to_owned()),
                namespace: Some(namespace),
                name: Some(name),
                uid,
                ..ObjectReference::default()
            },
        };
        let kind = if self.report.warning { "Warning" } else { "Normal" };
        let source = EventSource { component: Some(COMPONENT.to_owned()), host: Some(node.to_owned()) };
        Write::Create(Box::new(Event {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace().to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference { api_version: Some("v1".to_owned()), ..object },
            type_: Some(kind.to_owned()),
            reason: Some(self.report.reason.clone()),
            message: Some(self.report.text.clone()),
            count: Some(self.count),
            first_timestamp: Some(Date(self.first)),
            last_timestamp: Some(Date(self.last)),
            reporting_component: source.component.clone(),
            reporting_instance: source.host.clone(),
            source: Some(source),
            ..Event::default()
        }))
    }

    fn update(&self) -> Write {
        Write::Update {
            namespace: self.namespace().to_owned(),
            name: self.name.clone(),
            patch: json!({
                "count": self.count,
                "lastTimestamp": Date(self.last),
                "message": self.report.text,
            }),
        }
    }
}

/// The node's share of writes.
#[derive(Debug)]
struct Bucket {
    tokens: u32,
    /// From when on the next one comes.
    since: Time,
}

impl Bucket {
    fn take(&mut self, now: Time) -> bool {
        let came = u32::try_from(now.since(self.since).as_nanos() / REFILL.as_nanos()).unwrap_or(u32::MAX);
        if self.tokens.saturating_add(came) >= BURST {
            (self.tokens, self.since) = (BURST, now);
        } else {
            self.tokens += came;
            self.since = self.since + REFILL * came;
        }
        let has = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        has
    }

    fn next(&self) -> Time {
        if self.tokens > 0 { self.since } else { self.since + REFILL }
    }
}

#[cfg(test)]
mod tests;
