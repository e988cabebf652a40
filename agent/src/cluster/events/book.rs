//! Reported and pending events: one event for one reason and object, with a count, and never more writes than
//! the node's share.
//!
//! Pure. Events are expendable: those without room are dropped, and counted.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_ipam::time::Time;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time as Date};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::words::{About, Report};

/// Maximum number of writes at once.
const BURST: u32 = 25;
/// And then one in this time.
const REFILL: Duration = Duration::from_secs(5);
/// Interval at which a repeated event is written again.
const REPEAT: Duration = Duration::from_secs(30);
/// Time without a repetition after which the next one is a new event.
const FORGET: Duration = Duration::from_mins(10);
/// Time after which a pending event is dropped.
const STALE: Duration = Duration::from_hours(1);
/// Maximum number of reasons and objects in memory.
const SERIES_MAX: usize = 512;
/// Delay after a failed write.
const AFTER_FAILURE: Duration = Duration::from_secs(10);
/// Maximum length of the object's name in the names of its events.
const NAME_MAX: usize = 230;
/// Namespace of events about nodes.
const NODE_NAMESPACE: &str = "default";
/// Reporting component of the events.
const COMPONENT: &str = "berth-agent";

/// Key that combines occurrences into one event.
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
    /// Last occurrence, by the node's own clock.
    heard: Time,
    /// True if the event exists.
    exists: bool,
    /// Time at which it must be written; `None`: it is up to date.
    due: Option<Time>,
}

/// A write to the API server.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// A new event.
    Create(Box<Event>),
    /// An event that happened again.
    Update {
        /// Namespace of the event.
        namespace: String,
        /// Name of the event.
        name: String,
        /// Content to merge into it.
        patch: Value,
    },
}

/// Outcome of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is written.
    Done,
    /// The event already exists, from an earlier attempt with a lost response.
    Exists,
    /// The event is there no more.
    Gone,
    /// It will not be taken: its namespace ends, or the agent may not.
    Refused,
    /// It was not taken this time.
    Failed,
}

impl Book {
    /// State of a node without events.
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
        // Different from all earlier ones, also of a previous agent on this node.
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
        // An occurrence during the write makes the event due again.
        series.due = None;
        let write = if series.exists { series.update() } else { series.create(&self.node) };
        Some((key, write))
    }

    /// Time of the next possible write.
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
                // It has the count of that time.
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

    /// Total number of dropped occurrences.
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
            // By its name: a query for a node's events finds it so.
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
