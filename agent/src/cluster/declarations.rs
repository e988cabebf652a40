//! The declared networks and pools, as the API server has them.
//!
//! One object that cannot be used does not keep the others from being: a network with its pools is
//! taken or left out as one, and what is left out is said with its reason. The API server checks the
//! same rules, so that happens only where objects do not fit together.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_api::{ApiError, Declared, IPPool, Place, UnderlayNetwork};
use berth_ipam::config::Config;
use berth_ipam::ledger::io::Input;
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use super::follow::{News, follow};
use super::steward::tally::Picture;
use crate::committer::chain;

/// Edits that come together are taken over together.
const TOGETHER: Duration = Duration::from_millis(50);

/// What is declared, by name; `None`: not read yet.
type Objects = Option<BTreeMap<String, DynamicObject>>;

#[derive(Debug, Default)]
struct Found {
    networks: Objects,
    pools: Objects,
}

/// What could not be used of it, and why; for `doctor`.
pub type Refused = Arc<Mutex<BTreeMap<String, String>>>;

/// Follows both kinds, and hands on what they come to.
pub async fn run(
    client: Client,
    inputs: UnboundedSender<Input>,
    refused: Refused,
    picture: &watch::Sender<Picture>,
) {
    let found = Mutex::new(Found::default());
    let (touched, changes) = watch::channel(());
    let networks = follow(all::<UnderlayNetwork>(&client), watcher::Config::default(), |news| {
        take(&mut lock(&found).networks, news, "UnderlayNetworks");
        touched.send(()).is_ok()
    });
    let pools = follow(all::<IPPool>(&client), watcher::Config::default(), |news| {
        take(&mut lock(&found).pools, news, "IPPools");
        touched.send(()).is_ok()
    });
    tokio::join!(networks, pools, tell(&found, changes, &inputs, &refused, picture));
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Unparsed, so that one object that this version cannot read does not hide the others.
fn all<K: Resource<DynamicType = ()>>(client: &Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &ApiResource::erase::<K>(&()))
}

fn take(of: &mut Objects, news: News<DynamicObject>, what: &str) {
    match news {
        News::All(all) => {
            *of = Some(all.into_iter().map(|object| (object.name_any(), object)).collect());
        }
        News::Changed(object) => drop(of.get_or_insert_default().insert(object.name_any(), object)),
        News::Gone(object) => drop(of.get_or_insert_default().remove(&object.name_any())),
        News::Failed(why) => tracing::warn!(error = why, "watch the {what}"),
    }
}

async fn tell(
    found: &Mutex<Found>,
    mut changes: watch::Receiver<()>,
    inputs: &UnboundedSender<Input>,
    refused: &Mutex<BTreeMap<String, String>>,
    picture: &watch::Sender<Picture>,
) {
    let mut last = None;
    while changes.changed().await.is_ok() {
        tokio::time::sleep(TOGETHER).await;
        changes.mark_unchanged();
        let (networks, pools) = {
            let found = lock(found);
            let (Some(networks), Some(pools)) = (&found.networks, &found.pools) else { continue };
            (networks.clone(), pools.clone())
        };
        let mut problems = BTreeMap::new();
        let networks = parsed(networks, "UnderlayNetwork", &mut problems);
        let pools = parsed(pools, "IPPool", &mut problems);
        let generation = |pool: &IPPool| Some((pool.name_any().parse().ok()?, pool.metadata.generation?));
        let generations = pools.values().filter_map(generation).collect();
        let (config, unfit) = usable(&networks, &pools);
        picture.send_modify(|picture| picture.declare(&config, &generations));
        problems.extend(unfit);
        for (object, why) in &problems {
            tracing::error!(object, error = why, "a declaration cannot be used");
        }
        *lock(refused) = problems;
        if last.as_ref() != Some(&config) {
            last = Some(config.clone());
            if inputs.send(Input::Declared(Box::new(config))).is_err() {
                return;
            }
        }
    }
}

fn parsed<K: Resource + DeserializeOwned>(
    objects: BTreeMap<String, DynamicObject>,
    kind: &str,
    problems: &mut BTreeMap<String, String>,
) -> BTreeMap<String, K> {
    let mut all = BTreeMap::new();
    for (name, object) in objects {
        match object.try_parse() {
            Ok(object) => drop(all.insert(name, object)),
            Err(error) => {
                let why = format!(
                    "{}; it was written for another version of Berth, or the definitions in the cluster are: apply \
                     deploy/crds.yaml of this version",
                    chain(&error)
                );
                problems.insert(format!("{kind} {name}"), why);
            }
        }
    }
    all
}

/// As much as fits together, in the order of names, and what does not, with its reason.
fn usable(
    networks: &BTreeMap<String, UnderlayNetwork>,
    pools: &BTreeMap<String, IPPool>,
) -> (Config, BTreeMap<String, String>) {
    let mut problems = BTreeMap::new();
    let mut taken = Declared::default();
    let mut config = Config::default();
    for (name, network) in networks {
        let object = format!("UnderlayNetwork {name}");
        match with(&taken, network, pools) {
            Ok((next, fits)) => (taken, config) = (next, fits),
            Err(error) => drop(problems.insert(object, chain(&error))),
        }
    }
    (config, problems)
}

/// What is taken already together with one more network and its pools.
fn with(
    taken: &Declared,
    network: &UnderlayNetwork,
    pools: &BTreeMap<String, IPPool>,
) -> Result<(Declared, Config), ApiError> {
    let mut next = taken.clone();
    for pool in network.spec.pools.iter().filter_map(|name| pools.get(name)) {
        if !next.has_pool(&pool.name_any()) {
            next.add_pool(place("IPPool", &pool.name_any()), pool.clone())?;
        }
    }
    next.add_network(place("UnderlayNetwork", &network.name_any()), network.clone())?;
    let config = next.clone().into_config()?;
    Ok((next, config))
}

fn place(kind: &str, name: &str) -> Place {
    Place::new(Path::new("the API server"), 1).of_object(format!("{kind} {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: &str, pools: &[&str]) -> (String, UnderlayNetwork) {
        let spec = serde_json::json!({"link": {"type": "macvlan", "parent": "eth1"}, "pools": pools});
        (name.to_owned(), UnderlayNetwork::new(name, serde_json::from_value(spec).unwrap()))
    }

    fn pool(name: &str, subnet: &str) -> (String, IPPool) {
        let spec = serde_json::json!({"segment": "default", "subnet": subnet});
        (name.to_owned(), IPPool::new(name, serde_json::from_value(spec).unwrap()))
    }

    #[test]
    fn a_network_that_cannot_be_used_keeps_no_other_from_being_used() {
        let networks =
            [network("a", &["p"]), network("b", &["gone"]), network("c", &["q"]), network("d", &["r"])];
        let pools = [pool("p", "10.0.0.0/24"), pool("q", "10.0.0.0/25"), pool("r", "10.1.0.0/24")];
        let (config, problems) = usable(&networks.into(), &pools.into());
        let names: Vec<_> = config.networks.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["a", "d"], "c's pool overlaps with a's: {problems:?}");
        assert!(problems["UnderlayNetwork b"].contains("gone"), "{problems:?}");
        assert!(problems["UnderlayNetwork c"].contains("the API server"), "{problems:?}");
    }
}
