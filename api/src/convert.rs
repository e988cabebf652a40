//! From declarations to what the core works with, with the checks that take more than one rule of
//! one type: arithmetic on addresses, and objects that must fit together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use berth_ipam::config::{Config, LinkSpec, MacvlanMode, Network, Pool, Route};
use berth_ipam::interval::{Family, to_bits};
use berth_ipam::name::PoolName;
use ipnetwork::IpNetwork;

use crate::duration;
use crate::error::{ApiError, Place};
use crate::load::Declared;
use crate::members;
use crate::types::{IPPoolSpec, Link, LinkType, Mode, UnderlayNetworkSpec};

const ADD_TIMEOUT: Duration = Duration::from_secs(110);
const SETTLE: Duration = Duration::from_secs(2);

/// The smallest MTU on which IPv6 works, in bytes (RFC 8200, section 5).
const IPV6_MTU: u32 = 1280;

impl Declared {
    /// Converts everything, and checks that it fits together.
    pub fn into_config(self) -> Result<Config, ApiError> {
        let mut places = BTreeMap::new();
        let mut config = Config::default();
        for (name, (place, spec)) in self.pools {
            config.pools.insert(name.clone(), At(&place).pool(spec)?);
            places.insert(name, place);
        }
        check_pools(&config.pools, &places)?;
        for (name, (place, spec)) in self.networks {
            let declared = self.order.get(&name).copied().unwrap_or(0);
            config.networks.insert(name, At(&place).network(declared, spec, &config.pools)?);
        }
        Ok(config)
    }
}

/// The place that errors name.
pub(crate) struct At<'a>(&'a Place);

impl At<'_> {
    pub(crate) fn error(&self, key: impl Into<String>, value: &str, advice: impl Into<String>) -> ApiError {
        ApiError::Value {
            place: self.0.clone(),
            key: key.into(),
            value: value.to_owned(),
            advice: advice.into(),
        }
    }

    fn pool(&self, spec: IPPoolSpec) -> Result<Pool, ApiError> {
        let segment = spec.segment.parse().map_err(|cause| ApiError::Name {
            place: self.0.clone(),
            key: "spec.segment".to_owned(),
            cause,
        })?;
        let subnet = self.subnet(&spec.subnet)?;
        let onlink = spec.onlink.unwrap_or(false);
        let next_hop = |key: &str, text: &str| self.next_hop(key, text, subnet, onlink);
        let gateway = spec.gateway.map(|text| next_hop("spec.gateway", &text)).transpose()?;
        let ranges =
            spec.ranges.as_ref().map(|texts| self.spans("spec.ranges", texts, subnet)).transpose()?;
        let exclude = self.spans("spec.exclude", &spec.exclude.unwrap_or_default(), subnet)?;
        let members = members::members(subnet, ranges.as_deref(), &exclude, gateway).map_err(|index| {
            let text = spec.ranges.as_ref().and_then(|ranges| ranges.get(index)).cloned().unwrap_or_default();
            self.error(
                format!("spec.ranges[{index}]"),
                &text,
                "it holds nothing but the gateway, network or broadcast address, which are never given; remove it",
            )
        })?;
        if members.is_empty() {
            return Err(ApiError::EmptyPool { place: self.0.clone() });
        }
        let mut routes = Vec::new();
        for (index, route) in spec.routes.unwrap_or_default().into_iter().enumerate() {
            routes.push(self.route(index, &route, subnet, (gateway, onlink))?);
        }
        let access =
            self.access(spec.namespace_selector, spec.reservations.unwrap_or_default(), subnet, &members)?;
        let disabled = spec.disabled.unwrap_or(false);
        Ok(Pool { segment, subnet, members, gateway, routes, disabled, access })
    }

    fn subnet(&self, text: &str) -> Result<IpNetwork, ApiError> {
        let subnet = self.block("spec.subnet", text)?;
        let ip = subnet.ip();
        let special = match ip {
            IpAddr::V4(v4) => v4.is_multicast() || v4.is_loopback() || v4.is_unspecified(),
            IpAddr::V6(v6) => v6.is_multicast() || v6.is_unspecified() || v6.is_unicast_link_local(),
        };
        if special || ip.is_loopback() {
            return Err(self.error(
                "spec.subnet",
                text,
                "multicast, loopback, link-local IPv6 and all-zero blocks cannot be given to pods; write the \
                 underlay's subnet",
            ));
        }
        Ok(subnet)
    }

    /// A CIDR without host bits.
    fn block(&self, key: &str, text: &str) -> Result<IpNetwork, ApiError> {
        let form = "write it in CIDR notation, as in 192.0.2.0/24 or 2001:db8::/64";
        let block: IpNetwork =
            text.parse().ok().filter(|_| text.contains('/')).ok_or_else(|| self.error(key, text, form))?;
        if block.ip() == block.network() {
            Ok(block)
        } else {
            let advice = format!("it has host bits; write {}/{}", block.network(), block.prefix());
            Err(self.error(key, text, advice))
        }
    }

    /// An address that pods reach on the link.
    fn next_hop(&self, key: &str, text: &str, subnet: IpNetwork, onlink: bool) -> Result<IpAddr, ApiError> {
        let address: IpAddr = text.parse().map_err(|_| {
            self.error(key, text, "write an address without a prefix length, as in 192.0.2.1")
        })?;
        if Family::of(address) != Family::of(subnet.ip()) {
            let advice = format!("write an address of the family of the subnet {subnet}");
            return Err(self.error(key, text, advice));
        }
        if onlink || subnet.contains(address) || is_link_local(address) {
            return Ok(address);
        }
        let advice = format!(
            "write an address inside the subnet {subnet}, or set spec.onlink: true if pods reach this one on the link"
        );
        Err(self.error(key, text, advice))
    }

    pub(crate) fn spans(
        &self,
        key: &str,
        texts: &[String],
        subnet: IpNetwork,
    ) -> Result<Vec<members::Span>, ApiError> {
        let span = |(index, text): (usize, &String)| {
            members::span(text, subnet).map_err(|advice| self.error(format!("{key}[{index}]"), text, advice))
        };
        texts.iter().enumerate().map(span).collect()
    }

    fn route(
        &self,
        index: usize,
        route: &crate::types::Route,
        subnet: IpNetwork,
        (gateway, onlink): (Option<IpAddr>, bool),
    ) -> Result<Route, ApiError> {
        let key = format!("spec.routes[{index}]");
        let to = self.block(&format!("{key}.to"), &route.to)?;
        if Family::of(to.ip()) != Family::of(subnet.ip()) {
            let advice = format!("write a destination of the family of the subnet {subnet}");
            return Err(self.error(format!("{key}.to"), &route.to, advice));
        }
        let via = match &route.via {
            Some(text) => Some(self.next_hop(&format!("{key}.via"), text, subnet, onlink)?),
            None => gateway,
        };
        if to.prefix() == 0 && via.is_none() {
            return Err(self.error(key, &route.to, "a default route needs via, or a gateway in its pool"));
        }
        let metric = route.metric.map(|metric| {
            let wrong = || self.error(format!("{key}.metric"), &metric.to_string(), "write 1 to 2147483647");
            u32::try_from(metric).ok().filter(|metric| *metric != 0).ok_or_else(wrong)
        });
        let onlink = via.is_some_and(|via| !subnet.contains(via) && !is_link_local(via));
        Ok(Route { to, via, onlink, metric: metric.transpose()? })
    }

    fn network(
        &self,
        declared: u64,
        spec: UnderlayNetworkSpec,
        pools: &BTreeMap<PoolName, Pool>,
    ) -> Result<Network, ApiError> {
        let named = self.named_pools(&spec.pools, pools)?;
        let link = self.link(&spec.link)?;
        let with_ipv6 = named.iter().filter_map(|name| pools.get(name)).any(|pool| pool.subnet.is_ipv6());
        if let Some(mtu) = link.mtu().filter(|mtu| with_ipv6 && *mtu < IPV6_MTU) {
            let advice = "write at least 1280, or remove the IPv6 pool: IPv6 needs that much";
            return Err(self.error("spec.link.mtu", &mtu.to_string(), advice));
        }
        let mut proxy_macs = BTreeSet::new();
        for (index, text) in spec.proxy_macs.unwrap_or_default().iter().enumerate() {
            let advice = "write six hexadecimal octets joined by colons, as in 00:00:5e:00:53:01";
            let mac =
                text.parse().map_err(|_| self.error(format!("spec.proxyMACs[{index}]"), text, advice))?;
            proxy_macs.insert(mac);
        }
        let is_guarded = match spec.source_guard.as_deref() {
            None | Some("off") => false,
            Some("arp") => true,
            Some(other) => return Err(self.error("spec.sourceGuard", other, "write off or arp")),
        };
        let mut allowed = BTreeSet::new();
        for (index, text) in spec.source_guard_allow.unwrap_or_default().iter().enumerate() {
            let advice = "write one address, as in 192.0.2.1 or 2001:db8::1";
            let wrong = |_| self.error(format!("spec.sourceGuardAllow[{index}]"), text, advice);
            allowed.insert(text.parse().map_err(wrong)?);
        }
        Ok(Network {
            declared,
            link,
            pools: named,
            accept_ra: spec.accept_ra.unwrap_or(false),
            add_timeout: self.duration("spec.addTimeout", spec.add_timeout)?.unwrap_or(ADD_TIMEOUT),
            settle: self.duration("spec.settle", spec.settle)?.unwrap_or(SETTLE),
            leaked_after: self.duration("spec.leakedAfter", spec.leaked_after)?,
            proxy_macs,
            source_guard: is_guarded.then_some(allowed),
        })
    }

    /// The pools that a network names: there is at least one, all exist, all are in one segment.
    fn named_pools(
        &self,
        wanted: &[String],
        pools: &BTreeMap<PoolName, Pool>,
    ) -> Result<Vec<PoolName>, ApiError> {
        let mut named: Vec<PoolName> = Vec::new();
        let mut first: Option<(&PoolName, &Pool)> = None;
        for (index, text) in wanted.iter().enumerate() {
            let key = format!("spec.pools[{index}]");
            let known = text.parse().ok().and_then(|name: PoolName| pools.get_key_value(&name));
            let Some((name, pool)) = known else {
                let known = pools.keys().map(ToString::to_string).collect();
                return Err(ApiError::UnknownPool { place: self.0.clone(), key, pool: text.clone(), known });
            };
            let (first_name, first_pool) = *first.get_or_insert((name, pool));
            if first_pool.segment != pool.segment {
                return Err(ApiError::Segments {
                    place: self.0.clone(),
                    first: first_name.to_string(),
                    first_segment: first_pool.segment.to_string(),
                    second: name.to_string(),
                    second_segment: pool.segment.to_string(),
                });
            }
            named.push(name.clone());
        }
        if named.is_empty() {
            return Err(self.error("spec.pools", "[]", "name at least one IPPool"));
        }
        Ok(named)
    }

    fn link(&self, link: &Link) -> Result<LinkSpec, ApiError> {
        let parent = link.parent.parse().map_err(|cause| ApiError::Name {
            place: self.0.clone(),
            key: "spec.link.parent".to_owned(),
            cause,
        })?;
        let number = |key: &str, value: i32| {
            let advice = "write a positive number";
            u32::try_from(value).map_err(|_| self.error(key, &value.to_string(), advice))
        };
        let mtu = link.mtu.map(|mtu| number("spec.link.mtu", mtu)).transpose()?;
        match link.kind {
            LinkType::Macvlan => Ok(LinkSpec::Macvlan { parent, mode: mode(link.mode), mtu }),
            LinkType::Vlan => {
                let text = link.id.map_or_else(|| "(absent)".to_owned(), |id| id.to_string());
                let id = link
                    .id
                    .and_then(|id| u16::try_from(id).ok())
                    .filter(|id| (1..=4094).contains(id))
                    .ok_or_else(|| {
                    self.error("spec.link.id", &text, "write the VLAN's number, 1 to 4094")
                })?;
                Ok(LinkSpec::Vlan { parent, id, exclusive: link.exclusive.unwrap_or(false), mtu })
            }
        }
    }

    fn duration(&self, key: &str, text: Option<String>) -> Result<Option<Duration>, ApiError> {
        text.map(|text| duration::parse(&text).ok_or_else(|| self.error(key, &text, duration::FORM)))
            .transpose()
    }
}

/// True for an address that every IPv6 link reaches without a route.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn mode(mode: Option<Mode>) -> MacvlanMode {
    match mode {
        None | Some(Mode::Bridge) => MacvlanMode::Bridge,
        Some(Mode::Private) => MacvlanMode::Private,
        Some(Mode::Vepa) => MacvlanMode::Vepa,
        Some(Mode::Passthru) => MacvlanMode::Passthru,
    }
}

/// Checks that within a segment an address belongs to one pool, a subnet has one prefix length, and a
/// router's address belongs to no pool.
fn check_pools(pools: &BTreeMap<PoolName, Pool>, places: &BTreeMap<PoolName, Place>) -> Result<(), ApiError> {
    let all: Vec<_> = pools.iter().collect();
    for (index, (name, pool)) in all.iter().enumerate() {
        for (other_name, other) in all.iter().skip(index + 1) {
            let same_family = Family::of(pool.subnet.ip()) == Family::of(other.subnet.ip());
            if pool.segment != other.segment || !same_family {
                continue;
            }
            let (Some(place), Some(first)) = (places.get(other_name), places.get(name)) else { continue };
            if let Some(what) = contradiction(pool, other) {
                return Err(ApiError::Overlap {
                    place: place.clone(),
                    other: first.clone(),
                    segment: pool.segment.to_string(),
                    what,
                });
            }
        }
    }
    Ok(())
}

fn contradiction(pool: &Pool, other: &Pool) -> Option<String> {
    // A gateway may be outside its subnet.
    let routers = [(pool.gateway, other), (other.gateway, pool)];
    let taken = routers
        .iter()
        .find_map(|(gateway, pool)| gateway.filter(|gateway| pool.members.contains(to_bits(*gateway))));
    shared(pool, other).or_else(|| {
        taken.map(|gateway| {
            format!("the gateway {gateway} of one is an address that the other gives; exclude it there")
        })
    })
}

/// Description of a forbidden overlap between two pools of one segment and family.
fn shared(pool: &Pool, other: &Pool) -> Option<String> {
    let ((first, last), (other_first, other_last)) =
        (members::bounds(pool.subnet), members::bounds(other.subnet));
    if last < other_first || other_last < first {
        return None;
    }
    if pool.subnet != other.subnet {
        return Some(format!(
            "the subnets {} and {} overlap; give both pools the same subnet and ranges of their own, or put them \
             into different segments",
            pool.subnet, other.subnet
        ));
    }
    let advice = "they share addresses; give them ranges that do not overlap";
    pool.members.intersects(&other.members).then(|| advice.to_owned())
}
