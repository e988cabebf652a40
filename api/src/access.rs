//! Access to a pool: from the declared selector and reservations to what the core matches.

use berth_ipam::access::{Access, Owner, Requirement, Reservation, Selector, Tenant, Test};
use berth_ipam::interval::IntervalSet;
use ipnetwork::IpNetwork;

use crate::convert::At;
use crate::error::ApiError;
use crate::types;
use crate::types::{IPPoolSpec, LabelOperator, NamespaceSelector};

/// Reserved addresses of a pool, at most.
const RESERVED_MAX: u128 = 1024;

/// The key of a declaration that a standalone node cannot evaluate: there the runtime names a pod, and its
/// labels and owner are unknown.
pub fn of_clusters(spec: &IPPoolSpec) -> Option<String> {
    if spec.namespace_selector.is_some() {
        return Some("spec.namespaceSelector".to_owned());
    }
    let mut reservations = spec.reservations.iter().flatten();
    let index = reservations.position(|one| one.owner.is_some())?;
    Some(format!("spec.reservations[{index}].owner"))
}

impl At<'_> {
    /// Access rules of a pool with the assignable addresses `members` of `subnet`.
    pub(crate) fn access(
        &self,
        selector: Option<NamespaceSelector>,
        reservations: Vec<types::Reservation>,
        subnet: IpNetwork,
        members: &IntervalSet,
    ) -> Result<Access, ApiError> {
        let mut access = Access { selector: selector.map(convert), reservations: Vec::new() };
        let mut all = IntervalSet::new();
        for (index, one) in reservations.into_iter().enumerate() {
            let key = format!("spec.reservations[{index}].addresses");
            let mut addresses = IntervalSet::new();
            for (part, (first, last)) in self.spans(&key, &one.addresses, subnet)?.into_iter().enumerate() {
                let (key, text) = (format!("{key}[{part}]"), &one.addresses[part]);
                let mut span = IntervalSet::new();
                span.insert(first, last);
                if !span.difference(members).is_empty() {
                    let advice = "the pool does not give all of these; reserve addresses within ranges and outside of exclude";
                    return Err(self.error(key, text, advice));
                }
                if all.intersects(&span) {
                    return Err(self.error(
                        key,
                        text,
                        "it is in two reservations; list each address in one reservation only",
                    ));
                }
                all = all.union(&span);
                addresses = addresses.union(&span);
                if all.len() > RESERVED_MAX {
                    let advice = format!(
                        "a pool reserves at most {RESERVED_MAX} addresses; use a separate pool with namespaceSelector"
                    );
                    return Err(self.error(key, text, advice));
                }
            }
            let of = match (one.pod_name, one.owner) {
                (Some(name), _) => Tenant::Pod(name),
                (None, Some(owner)) => Tenant::Owner(Owner { kind: owner.kind, name: owner.name }),
                (None, None) => Tenant::Any,
            };
            access.reservations.push(Reservation { addresses, namespace: one.namespace, of });
        }
        Ok(access)
    }
}

fn convert(selector: NamespaceSelector) -> Selector {
    let requirement = |one: types::LabelRequirement| {
        let values = one.values.unwrap_or_default();
        let test = match one.operator {
            LabelOperator::In => Test::In(values),
            LabelOperator::NotIn => Test::NotIn(values),
            LabelOperator::Exists => Test::Exists,
            LabelOperator::DoesNotExist => Test::DoesNotExist,
        };
        Requirement { key: one.key, test }
    };
    Selector {
        labels: selector.match_labels.unwrap_or_default(),
        requirements: selector.match_expressions.unwrap_or_default().into_iter().map(requirement).collect(),
    }
}
