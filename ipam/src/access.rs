//! Access to a pool: which namespaces draw from it, and for which workloads addresses of it are reserved.
//!
//! Pure matching. Invariant: what is not known does not match. A selector is met by known labels alone, and a
//! reservation by a pod that the runtime named.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::attachment::PodRef;
use crate::interval::{IntervalSet, to_bits};

/// Labels of a Kubernetes object.
pub type Labels = BTreeMap<String, String>;

/// Access to one pool. The default admits every pod to every address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// Labels that the pod's namespace must have; `None`: none are asked for.
    pub selector: Option<Selector>,
    /// Addresses that are kept for workloads.
    pub reservations: Vec<Reservation>,
}

/// A label selector: all parts must be met. An empty one is met by every namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    /// Labels with their values.
    pub labels: Labels,
    /// Further requirements on labels.
    pub requirements: Vec<Requirement>,
}

/// One requirement of a selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// The test of its value.
    pub test: Test,
}

/// Test of one label, as Kubernetes defines it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// The label has one of these values.
    In(Vec<String>),
    /// The label is absent or has none of these values.
    NotIn(Vec<String>),
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// Addresses that are given to one workload alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Addresses that are reserved.
    pub addresses: IntervalSet,
    /// The namespace of the pods.
    pub namespace: String,
    /// Pods of the namespace that may have them.
    pub of: Tenant,
}

/// Pods of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tenant {
    /// All of its pods.
    Any,
    /// The one of this name.
    Pod(String),
    /// Those that this object controls.
    Owner(Owner),
}

/// Controller of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its kind, as `StatefulSet`.
    pub kind: String,
    /// Name of the controller.
    pub name: String,
}

/// State of a pod that a cluster knows beyond its name. Without a cluster none of it is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// Labels of its namespace; `None`: not known.
    pub labels: Option<Labels>,
    /// Its controller; `None`: it has none, or that is not known.
    pub owner: Option<Owner>,
}

/// Parts of a pod's [`Standing`] that must be known before addresses are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// Labels of its namespace.
    pub labels: bool,
    /// Controller of the pod.
    pub owner: bool,
}

impl Selector {
    /// True if these labels meet it.
    pub fn is_met_by(&self, labels: &Labels) -> bool {
        let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        self.labels.iter().all(has)
            && self.requirements.iter().all(|one| one.test.holds(labels.get(&one.key)))
    }
}

impl Test {
    fn holds(&self, value: Option<&String>) -> bool {
        match self {
            Self::In(values) => value.is_some_and(|value| values.contains(value)),
            Self::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Self::Exists => value.is_some(),
            Self::DoesNotExist => value.is_none(),
        }
    }
}

impl Reservation {
    fn is_for(&self, pod: Option<&PodRef>, standing: &Standing) -> bool {
        pod.is_some_and(|pod| {
            pod.namespace == self.namespace
                && match &self.of {
                    Tenant::Any => true,
                    Tenant::Pod(name) => pod.name == *name,
                    Tenant::Owner(owner) => standing.owner.as_ref() == Some(owner),
                }
        })
    }
}

impl fmt::Display for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.of {
            Tenant::Any => write!(f, "pods of namespace {}", self.namespace),
            Tenant::Pod(name) => write!(f, "pod {}/{name}", self.namespace),
            Tenant::Owner(Owner { kind, name }) => write!(f, "pods of {kind} {}/{name}", self.namespace),
        }
    }
}

impl Access {
    /// Parts of a pod's standing that must be known before this pool can be judged.
    pub fn needs(&self) -> Needs {
        let owner = self.reservations.iter().any(|one| matches!(one.of, Tenant::Owner(_)));
        Needs { labels: self.selector.is_some(), owner }
    }

    /// Checks that a pod may draw from the pool at all; the error has the reason against it.
    pub fn admits(&self, pod: Option<&PodRef>, standing: &Standing) -> Result<(), String> {
        let Some(selector) = &self.selector else { return Ok(()) };
        let Some(pod) = pod else {
            return Err("its namespaceSelector selects pods, and the runtime named none".to_owned());
        };
        match &standing.labels {
            None => Err(format!(
                "its namespaceSelector selects namespaces by labels, and the labels of namespace {} are not known",
                pod.namespace
            )),
            Some(labels) if selector.is_met_by(labels) => Ok(()),
            Some(_) => Err(format!("its namespaceSelector does not select namespace {}", pod.namespace)),
        }
    }

    /// The reservation that keeps an address from a pod.
    pub fn kept_from(
        &self,
        address: IpAddr,
        pod: Option<&PodRef>,
        standing: &Standing,
    ) -> Option<&Reservation> {
        let mut reserved = self.reservations.iter().filter(|one| one.addresses.contains(to_bits(address)));
        reserved.find(|one| !one.is_for(pod, standing))
    }

    /// The reservations of a pod.
    pub fn reserved_for<'a>(
        &'a self,
        pod: Option<&'a PodRef>,
        standing: &'a Standing,
    ) -> impl Iterator<Item = &'a Reservation> {
        self.reservations.iter().filter(move |one| one.is_for(pod, standing))
    }

    /// The number of addresses that are reserved.
    pub fn reserved(&self) -> usize {
        self.reservations.iter().map(|one| usize::try_from(one.addresses.len()).unwrap_or(usize::MAX)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn pod(namespace: &str, name: &str) -> PodRef {
        PodRef { namespace: namespace.to_owned(), name: name.to_owned(), uid: None }
    }

    #[test]
    fn a_selector_is_met_as_kubernetes_defines_it() {
        let values = || vec!["a".to_owned(), "b".to_owned()];
        let of = |test: Test| Selector {
            labels: Labels::new(),
            requirements: vec![Requirement { key: "k".to_owned(), test }],
        };
        for (selector, none, a, c) in [
            (Selector::default(), true, true, true),
            (Selector { labels: labels(&[("k", "a")]), ..Selector::default() }, false, true, false),
            (of(Test::In(values())), false, true, false),
            (of(Test::NotIn(values())), true, false, true),
            (of(Test::Exists), false, true, true),
            (of(Test::DoesNotExist), true, false, false),
        ] {
            let met = [&[][..], &[("k", "a")], &[("k", "c")]].map(|pairs| selector.is_met_by(&labels(pairs)));
            assert_eq!(met, [none, a, c], "{selector:?}");
        }
        let both = Selector { labels: labels(&[("k", "a"), ("l", "x")]), ..Selector::default() };
        assert!(!both.is_met_by(&labels(&[("k", "a")])), "all parts must be met");
    }

    #[test]
    fn what_is_not_known_admits_nobody() {
        let access = Access { selector: Some(Selector::default()), ..Access::default() };
        let unknown = access.admits(Some(&pod("shop", "a")), &Standing::default()).unwrap_err();
        assert!(unknown.contains("shop") && unknown.contains("not known"), "{unknown}");
        let known = Standing { labels: Some(Labels::new()), owner: None };
        assert!(access.admits(Some(&pod("shop", "a")), &known).is_ok());
        assert!(access.admits(None, &known).unwrap_err().contains("named none"));
        assert!(Access::default().admits(None, &Standing::default()).is_ok());
    }

    #[test]
    fn a_reserved_address_is_kept_from_all_but_its_workload() {
        let seven: IpAddr = "10.0.0.7".parse().unwrap();
        let mut addresses = IntervalSet::new();
        addresses.insert(to_bits(seven), to_bits(seven));
        let owner = Owner { kind: "StatefulSet".to_owned(), name: "db".to_owned() };
        let standing = Standing { labels: None, owner: Some(owner.clone()) };
        for (of, name, fits) in [
            (Tenant::Any, "x", true),
            (Tenant::Pod("db-0".to_owned()), "db-0", true),
            (Tenant::Pod("db-0".to_owned()), "db-1", false),
            (Tenant::Owner(owner.clone()), "db-1", true),
            (Tenant::Owner(Owner { kind: "Deployment".to_owned(), ..owner }), "db-1", false),
        ] {
            let one = Reservation { addresses: addresses.clone(), namespace: "shop".to_owned(), of };
            let access = Access { reservations: vec![one], ..Access::default() };
            let kept = |pod: Option<&PodRef>| access.kept_from(seven, pod, &standing).is_some();
            assert_eq!(!kept(Some(&pod("shop", name))), fits, "{access:?}");
            assert!(kept(Some(&pod("other", name))) && kept(None), "{access:?}");
            assert_eq!(access.kept_from("10.0.0.8".parse().unwrap(), None, &standing), None);
        }
    }
}
