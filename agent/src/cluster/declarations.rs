//! The declared networks and pools, as the API server has them.
//!
//! An unusable object does not affect the others: a network with its pools is used or left out as a whole,
//! and an omission is reported with its reason. The API server checks the same rules, so that happens only if
//! objects do not fit together.

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

/// Declarations by name; `None`: not read yet.
type Objects = Option<BTreeMap<String, Seen>>;

#[derive(Debug, Default)]
struct Found {
    networks: Objects,
    pools: Objects,
}

/// One object, read and checked by the rules of its type when it came: that is the dear part.
#[derive(Debug, Clone)]
struct Seen {
    uid: Option<String>,
    /// Counts the changes of its `spec`.
    generation: Option<i64>,
    /// The parsed object, or the reason why it cannot be used.
    read: Result<Arc<One>, String>,
}

#[derive(Debug)]
struct One {
    declared: Declared,
    /// Creation time in seconds since 1970.
    created: i64,
    /// Of a network.
    pools: Vec<String>,
}

impl Seen {
    fn of(object: DynamicObject, read: fn(DynamicObject) -> Result<One, String>) -> Self {
        let uid = object.metadata.uid.clone();
        let generation = object.metadata.generation;
        Self { uid, generation, read: read(object).map(Arc::new) }
    }

    /// True if it is this object in this generation: then only its status was changed.
    fn is(&self, object: &DynamicObject) -> bool {
        let meta = &object.metadata;
        meta.generation.is_some() && meta.generation == self.generation && meta.uid == self.uid
    }
}

/// Unusable objects with their reasons, for `doctor`.
pub type Refused = Arc<Mutex<BTreeMap<String, String>>>;

/// Watches both kinds, and passes the result on.
pub async fn run(
    client: Client,
    inputs: UnboundedSender<Input>,
    refused: Refused,
    picture: &watch::Sender<Picture>,
) {
    let found = Mutex::new(Found::default());
    let (touched, changes) = watch::channel(());
    let networks = follow(all::<UnderlayNetwork>(&client), watcher::Config::default(), |news| {
        let affects = take(&mut lock(&found).networks, news, read_network);
        !affects || touched.send(()).is_ok()
    });
    let pools = follow(all::<IPPool>(&client), watcher::Config::default(), |news| {
        let affects = take(&mut lock(&found).pools, news, read_pool);
        !affects || touched.send(()).is_ok()
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

/// Takes news; whether they change anything that is declared.
fn take(of: &mut Objects, news: News<DynamicObject>, read: fn(DynamicObject) -> Result<One, String>) -> bool {
    match news {
        News::All(all) => {
            *of = Some(all.into_iter().map(|object| (object.name_any(), Seen::of(object, read))).collect());
        }
        News::Changed(object) => {
            let of = of.get_or_insert_default();
            let name = object.name_any();
            if of.get(&name).is_some_and(|seen| seen.is(&object)) {
                return false;
            }
            of.insert(name, Seen::of(object, read));
        }
        News::Gone(object) => drop(of.get_or_insert_default().remove(&object.name_any())),
        News::Failed(why) => {
            tracing::warn!(error = why, "watch the declarations");
            return false;
        }
    }
    true
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
        let generation = |(name, pool): (&String, &Seen)| Some((name.parse().ok()?, pool.generation?));
        let generations = pools.iter().filter_map(generation).collect();
        let mut problems = BTreeMap::new();
        let networks = readable(networks, "UnderlayNetwork", &mut problems);
        let pools = readable(pools, "IPPool", &mut problems);
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

fn read_network(object: DynamicObject) -> Result<One, String> {
    let network: UnderlayNetwork = parsed(object)?;
    let (mut declared, pools) = (Declared::default(), network.spec.pools.clone());
    let created = network.metadata.creation_timestamp.as_ref().map_or(0, |created| created.0.as_second());
    let at = place("UnderlayNetwork", &network.name_any());
    declared.add_network(at, network).map_err(|error| chain(&error))?;
    Ok(One { declared, created, pools })
}

fn read_pool(object: DynamicObject) -> Result<One, String> {
    let pool: IPPool = parsed(object)?;
    let mut declared = Declared::default();
    declared.add_pool(place("IPPool", &pool.name_any()), pool).map_err(|error| chain(&error))?;
    Ok(One { declared, created: 0, pools: Vec::new() })
}

fn parsed<K: Resource + DeserializeOwned>(object: DynamicObject) -> Result<K, String> {
    object.try_parse().map_err(|error| {
        format!(
            "{}; it was written for another version of Berth, or the definitions in the cluster are: apply \
             deploy/crds.yaml of this version",
            chain(&error)
        )
    })
}

fn readable(
    objects: BTreeMap<String, Seen>,
    kind: &str,
    problems: &mut BTreeMap<String, String>,
) -> BTreeMap<String, Arc<One>> {
    let mut all = BTreeMap::new();
    for (name, seen) in objects {
        match seen.read {
            Ok(one) => drop(all.insert(name, one)),
            Err(why) => drop(problems.insert(format!("{kind} {name}"), why)),
        }
    }
    all
}

/// The largest usable set, in the order of creation and of names, and the omitted objects with their reasons.
fn usable(
    networks: &BTreeMap<String, Arc<One>>,
    pools: &BTreeMap<String, Arc<One>>,
) -> (Config, BTreeMap<String, String>) {
    let mut problems = BTreeMap::new();
    let mut all: Vec<_> = networks.iter().collect();
    all.sort_by_key(|(name, network)| (network.created, *name));
    let (mut rest, mut taken, mut config) = (all.as_slice(), Declared::default(), Config::default());
    while !rest.is_empty() {
        let (fitting, why) = longest(&taken, rest, pools);
        if let Ok((next, fits)) = with(&taken, &rest[..fitting], pools) {
            (taken, config) = (next, fits);
        }
        rest = &rest[fitting..];
        // The next one is what kept the others out.
        if let (Some(why), Some(((name, _), behind))) = (why, rest.split_first()) {
            problems.insert(format!("UnderlayNetwork {name}"), chain(&why));
            rest = behind;
        }
    }
    (config, problems)
}

/// Number of objects of `rest`, from its start, that fit together with `taken`, and the fault of one more.
/// Adding objects never repairs a fault of fewer, so the number is found by bisection.
fn longest(
    taken: &Declared,
    rest: &[(&String, &Arc<One>)],
    pools: &BTreeMap<String, Arc<One>>,
) -> (usize, Option<ApiError>) {
    let Err(mut why) = with(taken, rest, pools) else { return (rest.len(), None) };
    let (mut fits, mut too_many) = (0, rest.len());
    while too_many - fits > 1 {
        let half = fits.midpoint(too_many);
        match with(taken, &rest[..half], pools) {
            Ok(_) => fits = half,
            Err(error) => (too_many, why) = (half, error),
        }
    }
    (fits, Some(why))
}

/// The present set with more networks and their pools.
fn with(
    taken: &Declared,
    networks: &[(&String, &Arc<One>)],
    pools: &BTreeMap<String, Arc<One>>,
) -> Result<(Declared, Config), ApiError> {
    let mut next = taken.clone();
    for (_, network) in networks {
        next.merge(&network.declared);
        for pool in network.pools.iter().filter_map(|name| pools.get(name)) {
            next.merge(&pool.declared);
        }
    }
    let config = next.clone().into_config()?;
    Ok((next, config))
}

fn place(kind: &str, name: &str) -> Place {
    Place::new(Path::new("the API server"), 1).of_object(format!("{kind} {name}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(kind: &str, name: &str, generation: i64, spec: &Value) -> DynamicObject {
        let meta = json!({"name": name, "uid": format!("uid of {name}"), "generation": generation});
        let object =
            json!({"apiVersion": "berth.dev/v1alpha1", "kind": kind, "metadata": meta, "spec": spec});
        serde_json::from_value(object).unwrap()
    }

    fn network(name: &str, pools: &[&str]) -> (String, Arc<One>) {
        let spec = json!({"link": {"type": "macvlan", "parent": "eth1"}, "pools": pools});
        (name.to_owned(), Arc::new(read_network(object("UnderlayNetwork", name, 1, &spec)).unwrap()))
    }

    fn pool_object(name: &str, generation: i64, subnet: &str) -> DynamicObject {
        object("IPPool", name, generation, &json!({"segment": "default", "subnet": subnet}))
    }

    fn pool(name: &str, subnet: &str) -> (String, Arc<One>) {
        (name.to_owned(), Arc::new(read_pool(pool_object(name, 1, subnet)).unwrap()))
    }

    #[test]
    fn a_network_that_cannot_be_used_keeps_no_other_from_being_used() {
        let networks =
            [network("a", &["p"]), network("b", &["gone"]), network("c", &["q"]), network("d", &["r"])];
        let pools = [pool("p", "10.0.0.0/24"), pool("q", "10.0.0.0/25"), pool("r", "10.1.0.0/24")];
        let (config, problems) = usable(&networks.into(), &pools.into());
        let names: Vec<_> = config.networks.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["a", "d"], "c's pool overlaps with a's: {problems:?}");
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems["UnderlayNetwork b"].contains("gone"), "{problems:?}");
        assert!(problems["UnderlayNetwork c"].contains("the API server"), "{problems:?}");
    }

    #[test]
    fn of_many_networks_exactly_those_are_left_out_that_do_not_fit() {
        let names: Vec<String> = (10..60).map(|number| format!("n{number}")).collect();
        let pools: Vec<String> = (10..60).map(|number| format!("p{number}")).collect();
        let bad = |number: usize| [0, 7, 8, 49].contains(&number);
        let missing = |number| if bad(number) { "gone" } else { pools[number].as_str() };
        let networks = (0..50).map(|number| network(&names[number], &[missing(number)])).collect();
        let all = (0..50).map(|number| pool(&pools[number], &format!("10.{number}.0.0/24"))).collect();
        let (config, problems) = usable(&networks, &all);
        assert_eq!((config.networks.len(), config.pools.len()), (46, 46));
        let unfit: Vec<_> = problems.keys().map(String::as_str).collect();
        assert_eq!(unfit, ["n10", "n17", "n18", "n59"].map(|name| format!("UnderlayNetwork {name}")));
    }

    #[test]
    fn a_change_of_no_more_than_the_status_is_passed_over() {
        let mut seen = None;
        let mut tell = |news| take(&mut seen, news, read_pool);
        assert!(tell(News::All(vec![pool_object("p", 1, "10.0.0.0/24")])));
        assert!(!tell(News::Changed(pool_object("p", 1, "10.0.0.0/24"))));
        assert!(tell(News::Changed(pool_object("p", 2, "10.0.0.0/24"))));
        let mut other = pool_object("p", 2, "10.0.0.0/24");
        other.metadata.uid = Some("another".to_owned());
        assert!(tell(News::Changed(other)), "one of the same name, made anew");
        assert!(tell(News::Gone(pool_object("p", 2, "10.0.0.0/24"))) && !tell(News::Failed(String::new())));
    }
}
