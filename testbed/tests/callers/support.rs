//! One node with pods attached through a configuration list, and the assertions about them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use berth_testbed::callers::{Runtime, Tools};
use berth_testbed::lab::{Families, Lab, Options};
use berth_testbed::plugin::{CniError, Outcome};
use berth_testbed::world::{PARENT, POD_LINK, Pod};
use serde_json::{Value, json};

/// The newest version of the specification: all six verbs.
pub const NEWEST: &str = "1.1.0";

/// A node with an agent, and a runtime with a list.
pub struct Bench {
    // Dropped in this order: the remains of cnitool, then the world.
    pub runtime: Runtime,
    pub lab: Lab,
}

/// Berth's entry in a list, with more keys.
pub fn berth(lab: &Lab, more: &Value) -> Value {
    let mut entry = lab.config.clone();
    for key in ["cniVersion", "name"] {
        entry.as_object_mut().unwrap().remove(key);
    }
    entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    entry
}

/// Upstream's macvlan on the node's parent, with this IPAM.
pub fn macvlan(ipam: &Value) -> Value {
    json!({"type": "macvlan", "master": PARENT, "mode": "bridge", "ipam": ipam})
}

impl Bench {
    /// A pool of `addresses`, and the list that `plugins` builds. `None`: it is not available here, which was
    /// recorded as a skip.
    pub fn start(addresses: u16, version: &str, plugins: impl Fn(&Lab) -> Vec<Value>) -> Option<Self> {
        Self::start_with(addresses, Families::V4, version, plugins)
    }

    pub fn start_with(
        addresses: u16,
        families: Families,
        version: &str,
        plugins: impl Fn(&Lab) -> Vec<Value>,
    ) -> Option<Self> {
        let options = Options::of_tests(1.0)?;
        let tools = Tools::of_tests()?;
        // An ADD that must wait for an address waits briefly: none becomes free in these tests.
        let mut lab = Lab::prepare(&options, addresses, "  addTimeout: 1s\n", families).unwrap();
        lab.start_agent(None).unwrap();
        let list = plugins(&lab);
        let runtime = Runtime::new(&lab, &options.binaries, &tools, version, &list).unwrap();
        Some(Self { runtime, lab })
    }

    pub fn pod(&self) -> Pod {
        self.lab.world.pod().unwrap()
    }

    /// An ADD that succeeds; its result.
    pub fn add(&self, pod: &Pod) -> Value {
        result(&self.runtime.call("add", pod).unwrap())
    }

    /// A CHECK or DEL that succeeds in silence.
    pub fn quiet(&self, verb: &str, pod: &Pod) {
        silent(&self.runtime.call(verb, pod).unwrap());
    }

    /// The pod has exactly these addresses on its interface, the agent holds them for it, and the neighbour
    /// receives answers for them.
    pub fn attached(&self, pod: &Pod, result: &Value) {
        let mut named = addresses(result);
        named.sort();
        assert!(!named.is_empty(), "{result}");
        assert_eq!(self.lab.world.addresses_on(pod, POD_LINK).unwrap(), named);
        assert_eq!(self.held(&pod.container_id), named);
    }

    /// The neighbour gets an answer from the pod's first address.
    pub fn answers(&self, result: &Value) {
        let first = addresses(result)[0];
        assert!(self.lab.answers(first).unwrap(), "{first} does not answer");
    }

    /// Nothing is left of the pod: no interface but loopback, no lease, no cached result.
    pub fn gone(&self, pod: &Pod) {
        let links = self.lab.world.links(pod).unwrap().unwrap_or_default();
        let left: Vec<&str> =
            links.iter().map(|link| link.name.as_str()).filter(|name| *name != "lo").collect();
        assert!(left.is_empty(), "{left:?}");
        self.freed(&pod.container_id);
        assert!(!self.runtime.cached(pod).exists());
    }

    /// The container's addresses become free. The agent verifies a DEL by its own reads.
    pub fn freed(&self, container: &str) {
        let deadline = Instant::now() + Duration::from_secs(15);
        while !self.held(container).is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let rows = self.lab.leases().unwrap();
        assert!(self.held(container).is_empty(), "{rows:?}");
    }

    /// The addresses that the agent holds for a container.
    pub fn held(&self, container: &str) -> Vec<IpAddr> {
        let rows = self.lab.leases().unwrap();
        let own = rows.iter().filter(|row| row.container_id.as_deref() == Some(container));
        let mut held: Vec<IpAddr> = own.map(|row| row.address).collect();
        held.sort();
        held
    }
}

/// The result of an ADD that succeeded.
pub fn result(outcome: &Outcome) -> Value {
    assert!(outcome.succeeded(), "{outcome:?}");
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

/// Success without output on standard output.
pub fn silent(outcome: &Outcome) {
    assert!(outcome.succeeded() && outcome.stdout.is_empty(), "{outcome:?}");
}

/// The plugin's error by which a call failed.
pub fn refused(outcome: &Outcome) -> CniError {
    assert!(!outcome.succeeded(), "{outcome:?}");
    outcome.failure().unwrap_or_else(|| panic!("no error object: {outcome:?}"))
}

/// The addresses of a result of 0.3.0 or newer, in its order.
pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let text = |entry: &Value| entry["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap();
    result["ips"].as_array().map(|list| list.iter().map(text).collect()).unwrap_or_default()
}
