//! `ADD`: attaches one container to the underlay by one interface, or by its addresses.
//!
//! The order is essential. Nothing changes until the call is checked as far as possible; the lease is
//! recorded before the link exists; the link stays down and without addresses until the agent watches it; the
//! undo of each change is registered before the change.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use berth_cni::result::{Ip, Route as ResultRoute};
use berth_cni::{Attach, CniResult, NetConf};
use berth_ipam::attachment::{AttachmentKey, Role};
use berth_ipam::config::{MacvlanMode, Route};
use berth_ipam::identity::{NetnsIdentity, TxnId};
use berth_ipam::mac::{Mac, SALTS};
use berth_ipam::name::IfName;
use berth_protocol::alias;
use berth_protocol::fault;
use berth_protocol::request::{Bind, Done, Lease};
use berth_protocol::response::{LeaseGrant, LinkPlan};
use berth_underlay::error::Error as KernelError;
use berth_underlay::facts::{LinkFacts, RouteFacts};
use ipnetwork::IpNetwork;

use crate::delegate::{Given, Ipam};
use crate::errors::PluginError;
use crate::links::{Made, Removal, is_own, remove_made};
use crate::refusal;
use crate::routes;
use crate::session::Session;
use crate::settings::{self, Settings};
use crate::undo::{Step, Undo, Whose};
use crate::world::{Entered, NewLink, Setup, World};

mod repeat;

/// Prefix of Berth's annotations.
const ANNOTATIONS: &str = "berth.dev/";

/// Attaches; the result is what is printed.
pub fn add(
    world: &mut impl World,
    conf: &NetConf,
    settings: &Settings,
    attach: &Attach,
) -> Result<CniResult, PluginError> {
    let order = Order::read(conf, settings, attach)?;
    let ground = survey(world, &order, attach)?;

    let whose = order.whose(&ground);
    let mut undo = Undo::default();
    let outcome = attach_interface(world, &order, &ground, &mut undo);
    if outcome.is_err() {
        undo.run(world, &whose);
    }
    Ok(order.result(attach, outcome?))
}

/// Parameters of the call, checked without reading the node.
struct Order {
    key: AttachmentKey,
    role: Role,
    add_timeout: Option<Duration>,
    lease: LeaseWish,
    prev: CniResult,
    /// The interface's place in `prev`, if it is listed there.
    position: Option<usize>,
    /// Addresses that another IPAM gave to the interface of a chained ADD. They are leased as they are;
    /// neither they nor the routes are changed.
    adopted: Vec<IpAddr>,
    /// Another IPAM that assigns the addresses of role main.
    ipam: Option<Ipam>,
    dns: Option<serde_json::Value>,
    cni_network: berth_ipam::name::NetworkName,
}

/// The parts of a lease that the runtime may request.
struct LeaseWish {
    ips: Vec<IpAddr>,
    mac: Option<Mac>,
    pod: Option<berth_ipam::attachment::PodRef>,
    /// Berth's among the pod's annotations, if the runtime gave them.
    annotations: Option<BTreeMap<String, String>>,
}

/// State of the node before the first change.
struct Ground {
    txn: TxnId,
    netns: NetnsIdentity,
    /// The container's interface of that name, which a main plugin or an ADD before has made.
    existing: Option<Link>,
    temporary: IfName,
}

/// The interface that is bound.
#[derive(Debug, Clone)]
struct Link {
    ifindex: u32,
    mac: Mac,
    name: IfName,
}

/// Result of a successful ADD.
struct Attached {
    grant: LeaseGrant,
    link: Option<Link>,
    /// Result of another IPAM.
    given: Option<Given>,
}

impl LeaseWish {
    /// An impossible request is refused before anything is created.
    fn read(conf: &NetConf, attach: &Attach) -> Result<Self, PluginError> {
        let ips = conf.requested_ips(&attach.args)?;
        one_of_each_family(&ips)?;
        let mac = conf.requested_mac(&attach.args)?;
        if let Some(mac) = mac.filter(|mac| mac.0[0] & 1 == 1 || mac.0 == [0; 6]) {
            return Err(PluginError::NoHostMac { mac });
        }
        let annotations = conf.pod_annotations(ANNOTATIONS)?;
        Ok(Self { ips, mac, pod: attach.args.pod.clone(), annotations })
    }
}

/// An attachment has one address of each family.
fn one_of_each_family(ips: &[IpAddr]) -> Result<(), PluginError> {
    for v4 in [true, false] {
        let mut family = ips.iter().filter(|ip| ip.is_ipv4() == v4);
        if let (Some(first), Some(second)) = (family.next(), family.next()) {
            return Err(PluginError::TwoOfAFamily { first: *first, second: *second });
        }
    }
    Ok(())
}

impl Order {
    fn read(conf: &NetConf, settings: &Settings, attach: &Attach) -> Result<Self, PluginError> {
        let role = settings.role(conf)?;
        let ipam = Ipam::of(conf)?;
        if let Some(ipam) = ipam.as_ref().filter(|_| role == Role::Chained) {
            return Err(PluginError::IpamOfChained { kind: ipam.kind().to_owned() });
        }
        let prev =
            if role == Role::Chained { conf.prev_result()?.unwrap_or_default() } else { CniResult::new() };
        let position = prev.container_interface(attach.ifname.as_str());
        if role == Role::Chained && position.is_none() && !prev.interfaces().is_empty() {
            return Err(PluginError::InterfaceMissing { ifname: attach.ifname.clone() });
        }
        let given = prev.ips_of(position).into_iter().map(|ip| ip.address.ip());
        let adopted: Vec<IpAddr> = given.filter(|_| role == Role::Chained).collect();
        one_of_each_family(&adopted)?;
        Ok(Self {
            key: AttachmentKey {
                network: settings.network.clone(),
                container_id: attach.container_id.clone(),
                ifname: attach.ifname.clone(),
            },
            role,
            add_timeout: settings::add_timeout(conf)?,
            lease: LeaseWish::read(conf, attach)?,
            prev,
            position,
            adopted,
            ipam,
            dns: conf.dns()?.cloned(),
            cni_network: conf.name().clone(),
        })
    }

    fn whose(&self, ground: &Ground) -> Whose {
        Whose {
            key: self.key.clone(),
            cni_network: self.cni_network.clone(),
            role: self.role,
            txn: ground.txn.clone(),
        }
    }

    /// `given` are the addresses of another IPAM, assigned now or to an earlier main plugin.
    fn lease(&self, ground: &Ground, given: &[IpAddr]) -> Lease {
        // A delegate and a chained plugin use the main plugin's MAC, not the requested one.
        let mac = match self.role {
            Role::Main => self.lease.mac,
            Role::Chained | Role::Delegate => ground.existing.as_ref().map(|link| link.mac),
        };
        Lease {
            txn: ground.txn.clone(),
            attachment: self.key.clone(),
            cni_network: self.cni_network.clone(),
            role: self.role,
            netns: ground.netns.clone(),
            pod: self.lease.pod.clone(),
            ips: if given.is_empty() { self.lease.ips.clone() } else { given.to_vec() },
            adopt: !given.is_empty(),
            mac,
            annotations: self.lease.annotations.clone(),
            add_timeout_ms: self.add_timeout.and_then(|time| u64::try_from(time.as_millis()).ok()),
        }
    }

    fn bind(&self, ground: &Ground, link: &Link) -> Bind {
        Bind { txn: ground.txn.clone(), attachment: self.key.clone(), ifindex: link.ifindex, mac: link.mac }
    }

    /// The MACs to try for the link, in order; `None`: the kernel's choice.
    fn macs(&self, grant: &LeaseGrant) -> Vec<Option<Mac>> {
        match (&grant.link, self.lease.mac) {
            // A passthru child has its parent's MAC, whatever MAC is requested.
            (LinkPlan::Macvlan { mode: MacvlanMode::Passthru, .. }, _) => vec![None],
            (_, Some(mac)) => vec![Some(mac)],
            (_, None) => (0..SALTS).map(|salt| Some(Mac::derive(&self.key, salt))).collect(),
        }
    }

    fn result(self, attach: &Attach, attached: Attached) -> CniResult {
        if !self.adopted.is_empty() {
            return self.prev;
        }
        let Attached { grant, link, given } = attached;
        let was_given = given.is_some();
        let mut result = given.map_or(self.prev, Given::into_result);
        let sandbox = attach.netns.to_string_lossy();
        let interface = match (self.role, link) {
            (Role::Delegate, _) | (_, None) => None,
            (_, Some(link)) => Some(
                self.position
                    .unwrap_or_else(|| result.push_interface(self.key.ifname.as_str(), link.mac, &sandbox)),
            ),
        };
        if was_given {
            if let Some(position) = interface {
                result.place_ips(position);
            }
            for (position, route) in grant.routes.iter().enumerate() {
                if let Some(metric) = route.metric {
                    result.set_priority(position, metric);
                }
            }
        } else {
            for granted in &grant.addresses {
                result.push_ip(&Ip { address: granted.address, gateway: granted.gateway, interface });
            }
            for route in &grant.routes {
                result.push_route(&ResultRoute { to: route.to, via: route.via, priority: route.metric });
            }
        }
        if let Some(dns) = self.dns {
            result.set_dns_if_absent(dns);
        }
        result
    }
}

/// Reads the node's state. Its only side effect is the namespace's nsid, which pins nothing and is reused by
/// the next attempt.
fn survey(world: &mut impl World, order: &Order, attach: &Attach) -> Result<Ground, PluginError> {
    let entered = world.enter(&attach.netns).map_err(PluginError::Netns)?;
    let Entered { cookie, inode, .. } = entered;
    if entered.is_own && !attach.netns_override {
        return Err(PluginError::OwnNetns { path: attach.netns.clone() });
    }
    let what = "read the container's interfaces";
    let links = world.links().map_err(|cause| PluginError::Unknown { what, cause })?;
    let existing = links.iter().find(|link| link.name == attach.ifname.as_str());
    let existing = match (order.role, existing) {
        // An own interface belongs to an earlier ADD, which is repeated; another IPAM assigns its addresses
        // only once.
        (Role::Main, Some(found)) if order.ipam.is_some() || !is_own(found, &order.key, cookie) => {
            return Err(PluginError::InterfaceExists { ifname: attach.ifname.clone() });
        }
        (Role::Chained, None) => return Err(PluginError::InterfaceMissing { ifname: attach.ifname.clone() }),
        (_, None) => None,
        // A delegate of a main plugin without Ethernet continues without a link.
        (Role::Main | Role::Delegate, Some(found)) => found.mac.map(|mac| link(found, mac, &attach.ifname)),
        (_, Some(found)) => {
            let mac = found.mac.ok_or_else(|| PluginError::NoMac { ifname: attach.ifname.clone() })?;
            Some(link(found, mac, &attach.ifname))
        }
    };
    let random = world.random().map_err(PluginError::Random)?;
    let what = "assign an nsid to the container's network namespace";
    let (nsid, nsid_is_random) = world.number().map_err(|cause| PluginError::Kernel { what, cause })?;
    let txn = format!("{:032x}", u128::from_be_bytes(random));
    Ok(Ground {
        temporary: temporary_name(&txn)?,
        txn: TxnId(txn),
        netns: NetnsIdentity { cookie, inode, nsid, nsid_is_random },
        existing,
    })
}

fn link(found: &LinkFacts, mac: Mac, name: &IfName) -> Link {
    Link { ifindex: found.ifindex, mac, name: name.clone() }
}

fn temporary_name(txn: &str) -> Result<IfName, PluginError> {
    let wrong = |cause| berth_cni::Error::WrongVariable { name: "CNI_IFNAME", cause };
    Ok(format!("bt{}", txn.get(..12).unwrap_or_default()).parse().map_err(wrong)?)
}

/// Another IPAM's part if there is one, lease, link with bind and configuration, done.
fn attach_interface(
    world: &mut impl World,
    order: &Order,
    ground: &Ground,
    undo: &mut Undo,
) -> Result<Attached, PluginError> {
    let mut agent = Session::default();
    fault::point("add.start");

    let given = match &order.ipam {
        Some(ipam) => {
            undo.push(Step::Delegate(ipam.clone()));
            Some(ipam.add(world)?)
        }
        None => None,
    };
    let addresses = given.as_ref().map_or_else(|| order.adopted.clone(), Given::ips);
    one_of_each_family(&addresses)?;

    undo.push(Step::Release);
    let leased = agent.lease(world, order.lease(ground, &addresses));
    if matches!(leased, Err(PluginError::Refused(_))) || !agent.heard {
        undo.pop();
    }
    let mut grant = match &given {
        Some(given) => given.grant(leased?),
        None => leased?,
    };
    fault::point("add.leased");

    plan_routes(world, order, ground, &mut grant)?;
    if let Some(bound) = grant.bound {
        let link = repeat::repeat(world, &mut agent, order, ground, (&grant, bound), undo)?;
        return Ok(Attached { grant, link, given });
    }
    let link = match order.role {
        Role::Main => Some(main_link(world, &mut agent, order, ground, &grant, undo)?),
        Role::Chained | Role::Delegate => existing_link(world, &mut agent, order, ground, &grant, undo)?,
    };
    fault::point("add.configured");

    agent.done(world, Done { txn: ground.txn.clone(), attachment: order.key.clone() })?;
    fault::point("add.done");
    Ok(Attached { grant, link, given })
}

/// Creates the link of role main and configures it. The kernel reports a MAC conflict only when the link is
/// set up, so each further MAC starts with a new link.
fn main_link(
    world: &mut impl World,
    agent: &mut Session,
    order: &Order,
    ground: &Ground,
    grant: &LeaseGrant,
    undo: &mut Undo,
) -> Result<Link, PluginError> {
    let (LinkPlan::Macvlan { parent, .. } | LinkPlan::Vlan { parent, .. }) = &grant.link;
    let what = "read the parent interface";
    let found = world.node_link(parent).map_err(|cause| PluginError::Unknown { what, cause })?;
    let missing = || PluginError::NoParent { parent: parent.clone(), network: order.key.network.to_string() };
    let parent_index = found.ok_or_else(missing)?;
    undo.push(Step::RemoveLink(Made { temporary: ground.temporary.clone(), ifindex: None }));
    if ground.existing.is_some()
        && let Some(link) = link_of_before(world, order, ground, grant)?
    {
        agent.bind(world, order.bind(ground, &link))?;
        fault::point("add.bound");
        return Ok(link);
    }
    let choices = order.macs(grant);
    let mut last = None;
    for mac in &choices {
        let new =
            NewLink { plan: &grant.link, parent_index, name: &ground.temporary, mac: *mac, mtu: grant.mtu };
        match try_link(world, agent, order, ground, grant, &new, undo) {
            Err(PluginError::Kernel { cause: cause @ KernelError::MacInUse { .. }, .. }) => {
                let removed = undo.last_made().map_or(Removal::NoneHere, |made| remove_made(world, &made));
                last = Some(cause);
                if removed == Removal::Failed {
                    break;
                }
            }
            outcome => return outcome,
        }
    }
    match (choices.len(), last) {
        // A requested MAC has no alternative.
        (0 | 1, Some(cause)) => Err(match order.lease.mac {
            Some(mac) => refusal::of_mac(world, &order.key, parent, mac, cause),
            None => PluginError::Kernel { what: "configure the interface", cause },
        }),
        _ => Err(PluginError::NoMacLeft { tried: SALTS, parent: parent.clone() }),
    }
}

/// The link named `CNI_IFNAME` that an earlier ADD created and the agent does not have, if it is up and has
/// the addresses of the lease: its connections survive. An incomplete one is deleted and created again.
fn link_of_before(
    world: &mut impl World,
    order: &Order,
    ground: &Ground,
    grant: &LeaseGrant,
) -> Result<Option<Link>, PluginError> {
    let ifname = &order.key.ifname;
    let unknown = |cause| PluginError::Unknown { what: "read the interface of an earlier ADD", cause };
    let links = world.links().map_err(unknown)?;
    let here =
        |found: &&LinkFacts| found.name == ifname.as_str() && is_own(found, &order.key, ground.netns.cookie);
    let Some(found) = links.iter().find(here) else { return Ok(None) };
    let complete = found.up
        && missing_addresses(world, grant, found.ifindex)?.is_empty()
        && missing_route(world, grant, found.ifindex)?.is_none();
    if let Some(mac) = found.mac.filter(|_| complete) {
        return Ok(Some(link(found, mac, ifname)));
    }
    match remove_made(world, &Made { temporary: ifname.clone(), ifindex: Some(found.ifindex) }) {
        Removal::Failed => Err(PluginError::InterfaceExists { ifname: ifname.clone() }),
        Removal::Removed | Removal::NoneHere => Ok(None),
    }
}

/// One attempt: create, bind, configure.
fn try_link(
    world: &mut impl World,
    agent: &mut Session,
    order: &Order,
    ground: &Ground,
    grant: &LeaseGrant,
    new: &NewLink<'_>,
    undo: &mut Undo,
) -> Result<Link, PluginError> {
    let link = create(world, order, ground, new, undo)?;
    fault::point("add.link-created");
    agent.bind(world, order.bind(ground, &link))?;
    fault::point("add.bound");
    configure(world, order, grant, &link)?;
    Ok(link)
}

/// Creates the link, down, under a temporary name, and reads it back.
fn create(
    world: &mut impl World,
    order: &Order,
    ground: &Ground,
    new: &NewLink<'_>,
    undo: &mut Undo,
) -> Result<Link, PluginError> {
    if let Err(cause) = world.create_link(new) {
        return Err(refusal::of_link(world, &order.key, new, cause));
    }
    let what = "read the new interface";
    let links = world.links().map_err(|cause| PluginError::Unknown { what, cause })?;
    let found = links.iter().find(|link| link.name == new.name.as_str());
    let found = found.and_then(|facts| Some((facts.ifindex, facts.mac?)));
    let (ifindex, mac) = found.ok_or_else(|| PluginError::InterfaceMissing { ifname: new.name.clone() })?;
    undo.made(ifindex);
    let what = "mark the interface";
    let text = alias::write(&order.key, ground.netns.cookie);
    world.set_alias(ifindex, &text).map_err(|cause| PluginError::Kernel { what, cause })?;
    Ok(Link { ifindex, mac, name: new.name.clone() })
}

/// Binds the link that the main plugin made, if it is there yet, and addresses it in role chained.
fn existing_link(
    world: &mut impl World,
    agent: &mut Session,
    order: &Order,
    ground: &Ground,
    grant: &LeaseGrant,
    undo: &mut Undo,
) -> Result<Option<Link>, PluginError> {
    fault::point("add.link-created");
    let Some(link) = ground.existing.clone() else { return Ok(None) };
    agent.bind(world, order.bind(ground, &link))?;
    fault::point("add.bound");
    if order.role == Role::Chained && order.adopted.is_empty() {
        let addresses = missing_addresses(world, grant, link.ifindex)?;
        undo.push(Step::RemoveAddresses { ifindex: link.ifindex, addresses });
        configure(world, order, grant, &link)?;
    }
    Ok(Some(link))
}

/// The granted addresses that the link does not have: what this ADD puts there, and its undo takes off.
fn missing_addresses(
    world: &mut impl World,
    grant: &LeaseGrant,
    ifindex: u32,
) -> Result<Vec<IpNetwork>, PluginError> {
    let what = "read the container's addresses";
    let held = world.addresses().map_err(|cause| PluginError::Unknown { what, cause })?;
    let is_held = |address| held.iter().any(|held| held.ifindex == ifindex && held.address == address);
    let granted = grant.addresses.iter().map(|granted| granted.address);
    Ok(granted.filter(|address| !is_held(*address)).collect())
}

fn configure(
    world: &mut impl World,
    order: &Order,
    grant: &LeaseGrant,
    link: &Link,
) -> Result<(), PluginError> {
    let ifname = &order.key.ifname;
    let passthru = matches!(grant.link, LinkPlan::Macvlan { mode: MacvlanMode::Passthru, .. });
    let fresh = order.role == Role::Main && !passthru;
    let setup = Setup { ifindex: link.ifindex, mac: link.mac, name: &link.name, ifname, fresh, grant };
    let what = "configure the interface";
    world.configure(&setup).map_err(|cause| PluginError::Kernel { what, cause })?;
    match missing_route(world, grant, link.ifindex)? {
        Some(route) => {
            Err(PluginError::RouteMissing { ifname: ifname.clone(), to: route.to, via: route.via })
        }
        None => Ok(()),
    }
}

/// Decides the metrics of the granted routes that this ADD makes.
fn plan_routes(
    world: &mut impl World,
    order: &Order,
    ground: &Ground,
    grant: &mut LeaseGrant,
) -> Result<(), PluginError> {
    if grant.routes.is_empty() || order.role == Role::Delegate || !order.adopted.is_empty() {
        return Ok(());
    }
    let held = read_routes(world)?;
    let existing = ground.existing.as_ref().map(|link| link.ifindex);
    let ifindex = grant.bound.map(|bound| bound.ifindex).or(existing);
    grant.routes = routes::plan(&grant.routes, &held, ifindex);
    Ok(())
}

/// The first route of the grant that the link lacks.
fn missing_route(
    world: &mut impl World,
    grant: &LeaseGrant,
    ifindex: u32,
) -> Result<Option<Route>, PluginError> {
    if grant.routes.is_empty() {
        return Ok(None);
    }
    Ok(routes::missing(&grant.routes, &read_routes(world)?, ifindex).cloned())
}

fn read_routes(world: &mut impl World) -> Result<Vec<RouteFacts>, PluginError> {
    let what = "read the container's routes";
    world.routes().map_err(|cause| PluginError::Unknown { what, cause })
}

#[cfg(test)]
mod pair_tests;
#[cfg(test)]
#[path = "add_tests.rs"]
mod tests;
