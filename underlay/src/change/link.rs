//! Creating, changing and deleting links.

use std::os::fd::{AsFd, AsRawFd};

use berth_ipam::config::MacvlanMode;
use berth_ipam::mac::Mac;
use berth_ipam::name::IfName;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkMessage, MacVlanMode};
use rtnetlink::{LinkMacVlan, LinkMessageBuilder, LinkUnspec, LinkVlan};

use super::{CREATE, Changer};
use crate::error::{Error, Refusal};
use crate::netns::NetnsFile;

/// Properties of a macvlan to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacvlanSpec<'a> {
    /// The index of the parent in the changer's namespace.
    pub parent_index: u32,
    /// Its name at first; a temporary one, because a name that the node has too would collide.
    pub name: &'a IfName,
    /// MAC of the link; `None`: the kernel draws one. Passthru ignores it and uses the parent's.
    pub mac: Option<Mac>,
    /// Macvlan mode between the links of one parent.
    pub mode: MacvlanMode,
    /// MTU in bytes; `None`: the parent's.
    pub mtu: Option<u32>,
}

/// Properties of a VLAN device to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VlanSpec<'a> {
    /// The index of the parent in the changer's namespace.
    pub parent_index: u32,
    /// Its name at first.
    pub name: &'a IfName,
    /// The 802.1Q id, 1 to 4094.
    pub id: u16,
    /// Its MAC; `None`: the parent's.
    pub mac: Option<Mac>,
    /// MTU in bytes; `None`: the parent's.
    pub mtu: Option<u32>,
}

/// Changes to a link that one message can carry; `None` leaves a property unchanged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkChange<'a> {
    /// A new name. The link must be down.
    pub name: Option<&'a IfName>,
    /// A new alias, at most 255 bytes.
    pub alias: Option<&'a str>,
    /// A new MTU in bytes.
    pub mtu: Option<u32>,
    /// MAC address. Setting the current MAC changes nothing, but makes the kernel announce the addresses
    /// where `arp_notify` and `ndisc_notify` are on.
    pub mac: Option<Mac>,
    /// Up or down; the kernel does this last.
    pub up: Option<bool>,
}

impl Changer {
    /// Creates a macvlan, down, directly inside `target` (`None`: the changer's namespace).
    /// Its index must be read by name, inside that namespace.
    ///
    /// The kernel accepts the MAC of a sibling at creation and refuses it only when the second link is set
    /// up. Read [`crate::read::Reader::fdb`] of the parent first, to choose another MAC in time.
    pub async fn create_macvlan(
        &self,
        spec: &MacvlanSpec<'_>,
        target: Option<&NetnsFile>,
    ) -> Result<(), Error> {
        let result = self.send(RouteNetlinkMessage::NewLink(macvlan_message(spec, target)), CREATE).await;
        result.map_err(|cause| match spec.mac {
            mac if cause.is(libc::EADDRINUSE) => Error::MacInUse { mac },
            _ if unknown_kind(&cause) => Error::NoMacvlanDevices,
            _ => Error::CreateLink { kind: "macvlan", name: spec.name.to_string(), cause },
        })
    }

    /// Creates a VLAN device, down, directly inside `target` (`None`: the changer's namespace). A VLAN ID
    /// exists once per parent, over all namespaces: a second one is [`Error::CreateLink`] with `EEXIST`.
    pub async fn create_vlan(&self, spec: &VlanSpec<'_>, target: Option<&NetnsFile>) -> Result<(), Error> {
        let result = self.send(RouteNetlinkMessage::NewLink(vlan_message(spec, target)), CREATE).await;
        result.map_err(|cause| {
            if unknown_kind(&cause) {
                return Error::NoVlanDevices;
            }
            Error::CreateLink { kind: "vlan", name: spec.name.to_string(), cause }
        })
    }

    /// Deletes a link. `Ok(false)`: it was gone already.
    pub async fn delete_link(&self, ifindex: u32) -> Result<bool, Error> {
        let message = LinkUnspec::new_with_index(ifindex).build();
        match self.send(RouteNetlinkMessage::DelLink(message), 0).await {
            Ok(()) => Ok(true),
            Err(cause) if cause.is(libc::ENODEV) => Ok(false),
            Err(cause) => Err(Error::DeleteLink { ifindex, cause }),
        }
    }

    /// Changes several things about a link in one message.
    pub async fn change_link(&self, ifindex: u32, change: &LinkChange<'_>) -> Result<(), Error> {
        self.set("change name, alias, MTU or state", ifindex, change).await
    }

    /// Renames a link that is down.
    pub async fn rename(&self, ifindex: u32, name: &IfName) -> Result<(), Error> {
        self.set("rename", ifindex, &LinkChange { name: Some(name), ..LinkChange::default() }).await
    }

    /// Notes something on a link, at most 255 bytes.
    pub async fn set_alias(&self, ifindex: u32, alias: &str) -> Result<(), Error> {
        self.set("set the alias", ifindex, &LinkChange { alias: Some(alias), ..LinkChange::default() }).await
    }

    /// Sets a link up.
    pub async fn set_up(&self, ifindex: u32) -> Result<(), Error> {
        self.set("set up", ifindex, &LinkChange { up: Some(true), ..LinkChange::default() }).await
    }

    /// Sets a link down.
    pub async fn set_down(&self, ifindex: u32) -> Result<(), Error> {
        self.set("set down", ifindex, &LinkChange { up: Some(false), ..LinkChange::default() }).await
    }

    async fn set(&self, what: &'static str, ifindex: u32, change: &LinkChange<'_>) -> Result<(), Error> {
        let message = change_message(ifindex, change);
        let sent = self.send(RouteNetlinkMessage::SetLink(message), 0).await;
        sent.map_err(|cause| {
            // Without a new MAC in the request, only setting up meets this: a sibling has the MAC.
            if cause.is(libc::EADDRINUSE) && change.up == Some(true) {
                return Error::MacInUse { mac: None };
            }
            Error::ChangeLink { what, ifindex, cause }
        })
    }
}

/// The two answers with which the kernel reports an unsupported kind of device. It returns `EOPNOTSUPP` for
/// other reasons too, each with an extended ack message.
fn unknown_kind(cause: &Refusal) -> bool {
    let Refusal::Kernel(kernel) = cause else { return false };
    let sentence = kernel.message.as_deref();
    kernel.is(libc::EOPNOTSUPP) && sentence.is_none_or(|text| text.contains("Unknown device type"))
}

fn macvlan_message(spec: &MacvlanSpec<'_>, target: Option<&NetnsFile>) -> LinkMessage {
    let mode = match spec.mode {
        MacvlanMode::Bridge => MacVlanMode::Bridge,
        MacvlanMode::Private => MacVlanMode::Private,
        MacvlanMode::Vepa => MacVlanMode::Vepa,
        MacvlanMode::Passthru => MacVlanMode::Passthrough,
    };
    let builder = LinkMacVlan::new(spec.name.as_str(), spec.parent_index, mode);
    placed(builder, spec.mac, spec.mtu, target)
}

fn vlan_message(spec: &VlanSpec<'_>, target: Option<&NetnsFile>) -> LinkMessage {
    let builder = LinkVlan::new(spec.name.as_str(), spec.parent_index, spec.id);
    placed(builder, spec.mac, spec.mtu, target)
}

/// Properties that every new link may have: a MAC, an MTU, and the namespace in which it is created.
fn placed<T>(
    mut builder: LinkMessageBuilder<T>,
    mac: Option<Mac>,
    mtu: Option<u32>,
    target: Option<&NetnsFile>,
) -> LinkMessage {
    if let Some(mac) = mac {
        builder = builder.address(mac.0.to_vec());
    }
    if let Some(mtu) = mtu {
        builder = builder.mtu(mtu);
    }
    if let Some(target) = target {
        builder = builder.setns_by_fd(target.as_fd().as_raw_fd());
    }
    builder.build()
}

fn change_message(ifindex: u32, change: &LinkChange<'_>) -> LinkMessage {
    let mut builder = LinkUnspec::new_with_index(ifindex);
    if let Some(name) = change.name {
        builder = builder.name(name.as_str());
    }
    if let Some(mac) = change.mac {
        builder = builder.address(mac.0.to_vec());
    }
    if let Some(alias) = change.alias {
        builder = builder.alias(alias);
    }
    if let Some(mtu) = change.mtu {
        builder = builder.mtu(mtu);
    }
    match change.up {
        Some(true) => builder = builder.up(),
        Some(false) => builder = builder.down(),
        None => {}
    }
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::KernelError;
    use rtnetlink::packet_route::link::{
        InfoData, InfoKind, InfoMacVlan, InfoVlan, LinkAttribute, LinkFlags, LinkInfo,
    };

    fn has(message: &LinkMessage, attribute: &LinkAttribute) -> bool {
        message.attributes.contains(attribute)
    }

    fn info(message: &LinkMessage) -> Vec<LinkInfo> {
        let infos = message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos.clone()),
            _ => None,
        });
        infos.unwrap_or_default()
    }

    #[test]
    fn a_vlan_is_asked_for_with_its_id_parent_and_target() {
        let name = "eth1.100".parse().unwrap();
        let own = NetnsFile::own().unwrap();
        let spec =
            VlanSpec { parent_index: 7, name: &name, id: 100, mac: Some(Mac([2; 6])), mtu: Some(1400) };
        let message = vlan_message(&spec, Some(&own));
        assert!(has(&message, &LinkAttribute::IfName("eth1.100".to_owned())));
        assert!(has(&message, &LinkAttribute::Link(7)) && has(&message, &LinkAttribute::Mtu(1400)));
        assert!(has(&message, &LinkAttribute::Address(vec![2; 6])));
        assert!(has(&message, &LinkAttribute::NetNsFd(own.as_fd().as_raw_fd())));
        assert!(info(&message).contains(&LinkInfo::Kind(InfoKind::Vlan)));
        assert!(info(&message).contains(&LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(100)]))));
        assert!(!message.header.flags.contains(LinkFlags::Up), "created down");
    }

    #[test]
    fn a_macvlan_is_asked_for_in_each_mode_and_down() {
        let name = "tmp0".parse().unwrap();
        for (mode, number) in [
            (MacvlanMode::Bridge, MacVlanMode::Bridge),
            (MacvlanMode::Private, MacVlanMode::Private),
            (MacvlanMode::Vepa, MacVlanMode::Vepa),
            (MacvlanMode::Passthru, MacVlanMode::Passthrough),
        ] {
            let spec = MacvlanSpec { parent_index: 7, name: &name, mac: None, mode, mtu: None };
            let message = macvlan_message(&spec, None);
            assert!(
                info(&message).contains(&LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(number)])))
            );
            assert!(!message.header.flags.contains(LinkFlags::Up));
            let unasked = |attribute: &LinkAttribute| {
                matches!(
                    attribute,
                    LinkAttribute::Address(_) | LinkAttribute::Mtu(_) | LinkAttribute::NetNsFd(_)
                )
            };
            assert!(!message.attributes.iter().any(unasked), "{message:?}");
        }
    }

    #[test]
    fn a_change_says_nothing_that_was_not_asked_for() {
        let message = change_message(3, &LinkChange { alias: Some("note"), ..LinkChange::default() });
        assert_eq!(message.attributes, [LinkAttribute::IfAlias("note".to_owned())]);
        assert!(message.header.change_mask.is_empty());
        let down = change_message(3, &LinkChange { up: Some(false), ..LinkChange::default() });
        assert!(
            down.header.change_mask.contains(LinkFlags::Up) && !down.header.flags.contains(LinkFlags::Up)
        );
    }

    #[test]
    fn only_an_unknown_kind_of_device_is_taken_for_one() {
        let refusal = |errno, message: Option<&str>| {
            Refusal::Kernel(KernelError { errno, message: message.map(str::to_owned) })
        };
        assert!(unknown_kind(&refusal(libc::EOPNOTSUPP, Some("Unknown device type"))));
        assert!(unknown_kind(&refusal(libc::EOPNOTSUPP, None)));
        assert!(!unknown_kind(&refusal(libc::EOPNOTSUPP, Some("VLANs not supported on this device"))));
        assert!(!unknown_kind(&refusal(libc::EEXIST, None)));
    }
}
