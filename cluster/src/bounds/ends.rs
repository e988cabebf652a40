//! Time at which an address became free for other nodes: the end of its record in a watch of the API server,
//! that is, the record's deletion or its next holder.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_testbed::cleanup;
use futures_util::TryStreamExt as _;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api as Kind, Client, ResourceExt as _};

use crate::api::Api;
use crate::cluster::Cluster;
use crate::control::User;
use crate::error::{Error, Result};

/// Interval of checks while a caller waits.
const LOOK: Duration = Duration::from_micros(500);

#[derive(Debug, Default)]
struct State {
    /// Container of each record.
    holders: BTreeMap<String, String>,
    /// Number of records of each container.
    count: BTreeMap<String, usize>,
    /// Time at which it last lost a record.
    ended: BTreeMap<String, Instant>,
    failed: Option<String>,
}

impl State {
    fn holds(&mut self, record: String, container: String) {
        *self.count.entry(container.clone()).or_default() += 1;
        if let Some(former) = self.holders.insert(record, container) {
            self.less(&former);
        }
    }

    fn gone(&mut self, record: &str) {
        if let Some(former) = self.holders.remove(record) {
            self.less(&former);
        }
    }

    fn less(&mut self, container: &str) {
        if let Some(count) = self.count.get_mut(container) {
            *count = count.saturating_sub(1);
        }
        self.ended.insert(container.to_owned(), Instant::now());
    }
}

/// The watch; it ends when it is dropped.
pub struct Ends {
    state: Arc<Mutex<State>>,
    _api: Api,
}

impl Ends {
    /// Starts the watch.
    pub fn watch(cluster: &Cluster) -> Result<Self> {
        let api = cluster.control.api_of(&User::Admin)?;
        let state = Arc::default();
        let task = follow(api.client(), Arc::clone(&state));
        // It ends with its thread.
        drop(api.spawn(task));
        Ok(Self { state, _api: api })
    }

    /// Number of records of a container.
    pub fn count(&self, container: &str) -> usize {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.count.get(container).copied().unwrap_or(0)
    }

    /// Waits until a container that had records has none; returns the time of that event.
    pub fn wait(&self, container: &str, within: Duration) -> Result<Instant> {
        let deadline = Instant::now() + within;
        loop {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.count.get(container) == Some(&0)
                && let Some(at) = state.ended.get(container)
            {
                return Ok(*at);
            }
            if let Some(why) = &state.failed {
                return Err(Error::Usage(format!("watch the records: {why}")));
            }
            drop(state);
            cleanup::interrupted()?;
            if Instant::now() > deadline {
                return Err(Error::Timeout {
                    what: format!("the end of the records of {container}"),
                    within,
                });
            }
            std::thread::sleep(LOOK);
        }
    }
}

async fn follow(client: Client, state: Arc<Mutex<State>>) {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("berth.dev", "v1alpha1", "IPLease"));
    let records: Kind<DynamicObject> =
        Kind::all_with(client, &ApiResource { plural: "ipleases".to_owned(), ..kind });
    let mut events = Box::pin(watcher(records, watcher::Config::default()));
    loop {
        let event = events.try_next().await;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(Some(Event::InitApply(record) | Event::Apply(record))) => {
                let container = record.data["spec"]["containerID"].as_str().unwrap_or_default().to_owned();
                state.holds(record.name_any(), container);
            }
            Ok(Some(Event::Delete(record))) => state.gone(&record.name_any()),
            Ok(Some(Event::Init | Event::InitDone)) => {}
            // A new list would falsify the times.
            Ok(None) => return state.failed = Some("it ended".to_owned()),
            Err(error) => return state.failed = Some(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_free_of_records_when_the_last_is_gone_or_anothers() {
        let mut state = State::default();
        let hold =
            |state: &mut State, record: &str, who: &str| state.holds(record.to_owned(), who.to_owned());
        hold(&mut state, "v4", "a");
        hold(&mut state, "v6", "a");
        hold(&mut state, "v6", "a");
        assert_eq!((state.count["a"], state.holders.len()), (2, 2));
        hold(&mut state, "v4", "b");
        state.gone("v6");
        state.gone("v6");
        assert_eq!((state.count["a"], state.count["b"]), (0, 1));
    }
}
