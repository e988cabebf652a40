//! The real [`World`]: a Linux node with an agent.
//!
//! Single-threaded, except for work that must be done inside the container's namespace, which
//! `berth_underlay::netns` does on a separate thread. The container's namespace stays open for the length of
//! the call and no longer.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use berth_ipam::identity::{BootId, Nsid};
use berth_ipam::name::IfName;
use berth_protocol::alive::{self, Alive};
use berth_protocol::request::Release;
use berth_protocol::response::LinkPlan;
use berth_protocol::spool::{self, SpoolError};
use berth_protocol::{CallError, Client, Request, Response};
use berth_underlay::change::{Changer, LinkChange, MacvlanSpec, RouteSocket, VlanSpec};
use berth_underlay::error::{Checked, Error as KernelError, Unknown};
use berth_underlay::facts::{AddressFacts, LinkFacts, RouteFacts};
use berth_underlay::netns::{NetnsFile, own_cookie, run_in};
use berth_underlay::nsid;
use berth_underlay::read::{LinkRead, Reader};
use berth_underlay::sysctl::{self, Setting};
use berth_underlay::wire::announce::announce;
use tokio::runtime::Runtime;

use crate::errors::chain;
use crate::exec::{self, Ended};
use crate::settings::Settings;
use crate::world::{Entered, NewLink, ParentFacts, Setup, World};

/// Number of announcements of a new holder's MAC to the neighbours, so that stale caches do not send its
/// frames to the previous one.
const ANNOUNCEMENTS: u8 = 3;

/// The node on which the plugin runs.
pub struct Kernel {
    settings: Settings,
    client: Option<Client>,
    container: Option<Container>,
    node: Option<Reader>,
    runtime: Option<Runtime>,
}

/// The open namespace of the container.
struct Container {
    file: NetnsFile,
    reader: Reader,
    changer: Option<Changer>,
}

impl Kernel {
    /// A node with the agent of the settings.
    pub fn new(settings: Settings) -> Self {
        Self { settings, client: None, container: None, node: None, runtime: None }
    }

    fn container(&mut self) -> Checked<&mut Container> {
        self.container.as_mut().ok_or_else(|| Unknown("no container namespace was entered".to_owned()))
    }

    fn node(&mut self) -> Result<&mut Reader, KernelError> {
        match &mut self.node {
            Some(reader) => Ok(reader),
            empty => Ok(empty.insert(Reader::new()?)),
        }
    }

    /// An interface of the node; `None`: none has the name.
    fn node_facts(&mut self, name: &IfName) -> Checked<Option<LinkFacts>> {
        let reader = self.node().map_err(|error| Unknown(error.to_string()))?;
        match reader.link_by_name(None, name) {
            LinkRead::Found(facts) => Ok(Some(facts)),
            LinkRead::NoDevice => Ok(None),
            LinkRead::NoNamespace => Err(Unknown("the kernel reports no own namespace".to_owned())),
            LinkRead::Unknown(unknown) => Err(unknown),
        }
    }

    /// The container with a changer in it, and the runtime on which that works.
    fn changing(&mut self) -> Result<(&mut Container, &Runtime), KernelError> {
        let runtime = runtime(&mut self.runtime)?;
        let container = self.container.as_mut().ok_or(KernelError::NoRuntime)?;
        if container.changer.is_none() {
            let _context = runtime.enter();
            container.changer = Some(Changer::start(RouteSocket::inside(&container.file)?)?);
        }
        Ok((container, runtime))
    }
}

fn runtime(slot: &mut Option<Runtime>) -> Result<&Runtime, KernelError> {
    match slot {
        Some(runtime) => Ok(runtime),
        empty => {
            let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
            Ok(empty.insert(built.map_err(KernelError::Thread)?))
        }
    }
}

impl World for Kernel {
    fn enter(&mut self, path: &Path) -> Result<Entered, KernelError> {
        let file = NetnsFile::open(path)?;
        let is_own = file.is_same(&NetnsFile::own()?);
        let (cookie, reader) = run_in(&file, || Ok((own_cookie()?, Reader::new()?)))??;
        let entered = Entered { cookie, inode: file.inode(), is_own };
        self.container = Some(Container { file, reader, changer: None });
        Ok(entered)
    }

    fn number(&mut self) -> Result<(Nsid, bool), KernelError> {
        self.node()?;
        match (&mut self.node, &self.container) {
            (Some(reader), Some(container)) => nsid::read_or_assign(reader.socket(), &container.file),
            _ => Err(KernelError::ReadNsid(Unknown("no namespace was entered".to_owned()).into())),
        }
    }

    fn links(&mut self) -> Checked<Vec<LinkFacts>> {
        self.container()?.reader.links(None)
    }

    fn addresses(&mut self) -> Checked<Vec<AddressFacts>> {
        self.container()?.reader.addresses(None)
    }

    fn routes(&mut self) -> Checked<Vec<RouteFacts>> {
        self.container()?.reader.routes()
    }

    fn node_link(&mut self, name: &IfName) -> Checked<Option<u32>> {
        Ok(self.node_facts(name)?.map(|facts| facts.ifindex))
    }

    fn parent(&mut self, name: &IfName) -> Checked<Option<ParentFacts>> {
        let Some(facts) = self.node_facts(name)? else { return Ok(None) };
        let reader = self.node().map_err(|error| Unknown(error.to_string()))?;
        let controller = facts.master.map(|index| match reader.link(None, index) {
            LinkRead::Found(controller) => controller.name,
            _ => format!("interface {index}"),
        });
        Ok(Some(ParentFacts { mtu: facts.mtu, mac: facts.mac, controller }))
    }

    fn create_link(&mut self, link: &NewLink<'_>) -> Result<(), KernelError> {
        let NewLink { plan, parent_index, name, mac, mtu } = *link;
        let runtime = runtime(&mut self.runtime)?;
        let _context = runtime.enter();
        let changer = Changer::start(RouteSocket::open()?)?;
        let target = self.container.as_ref().map(|container| &container.file);
        // Without a target the link would be made on the node.
        let target = Some(target.ok_or(KernelError::NoRuntime)?);
        runtime.block_on(async {
            match plan {
                LinkPlan::Macvlan { mode, .. } => {
                    let spec = MacvlanSpec { parent_index, name, mac, mode: *mode, mtu };
                    changer.create_macvlan(&spec, target).await
                }
                LinkPlan::Vlan { id, .. } => {
                    let spec = VlanSpec { parent_index, name, id: *id, mac, mtu };
                    changer.create_vlan(&spec, target).await
                }
            }
        })
    }

    fn set_alias(&mut self, ifindex: u32, alias: &str) -> Result<(), KernelError> {
        let (container, runtime) = self.changing()?;
        match &container.changer {
            Some(changer) => runtime.block_on(changer.set_alias(ifindex, alias)),
            None => Err(KernelError::NoRuntime),
        }
    }

    fn delete_link(&mut self, ifindex: u32) -> Result<(), KernelError> {
        let (container, runtime) = self.changing()?;
        let Some(changer) = &container.changer else { return Err(KernelError::NoRuntime) };
        runtime.block_on(changer.delete_link(ifindex))?;
        let why = match container.reader.link(None, ifindex) {
            LinkRead::NoDevice => return Ok(()),
            LinkRead::Unknown(unknown) => unknown,
            LinkRead::Found(_) | LinkRead::NoNamespace => Unknown("it is still there".to_owned()),
        };
        Err(KernelError::DeleteLink { ifindex, cause: why.into() })
    }

    fn configure(&mut self, setup: &Setup<'_>) -> Result<(), KernelError> {
        let (container, runtime) = self.changing()?;
        let Some(changer) = &container.changer else { return Err(KernelError::NoRuntime) };
        let announced = run_in(&container.file, || {
            harden(setup)?;
            runtime.block_on(bring_up(changer, setup))?;
            Ok::<_, KernelError>(if setup.fresh {
                runtime.block_on(announce_by_kernel(changer, setup)).map_err(|error| chain(&error))
            } else {
                announce_by_hand(setup)
            })
        })??;
        if let Err(why) = announced {
            // The attachment works without; neighbours with a stale cache find out later.
            self.note(&format!("the addresses were announced fewer than {ANNOUNCEMENTS} times: {why}"));
        }
        Ok(())
    }

    fn remove_addresses(
        &mut self,
        ifindex: u32,
        addresses: &[ipnetwork::IpNetwork],
    ) -> Result<(), KernelError> {
        let (container, runtime) = self.changing()?;
        let Some(changer) = &container.changer else { return Err(KernelError::NoRuntime) };
        for address in addresses {
            runtime.block_on(changer.delete_address(ifindex, *address))?;
        }
        Ok(())
    }

    fn ask(&mut self, request: &Request, within: Duration) -> Result<Response, CallError> {
        let start = Instant::now();
        let mut client = match self.client.take() {
            Some(client) => client,
            None => Client::connect(&self.settings.socket, within)?,
        };
        let outcome = client.call(request, within.saturating_sub(start.elapsed()));
        if matches!(outcome, Ok(_) | Err(CallError::Refused(_))) {
            self.client = Some(client);
        }
        outcome
    }

    fn delegate(&mut self, kind: &str, verb: &'static str, input: &[u8]) -> io::Result<Ended> {
        exec::run(kind, verb, input)
    }

    fn spool(&mut self, release: Release) -> Result<(), SpoolError> {
        // With an unreadable boot ID the entry has no boot: the agent then relies on evidence alone.
        let boot_id = self.boot_id().unwrap_or_else(|| BootId(String::new()));
        spool::write(&self.settings.state_dir, &spool::Entry { release, boot_id }).map(|_| ())
    }

    fn alive(&self) -> Option<Alive> {
        alive::read(&self.settings.state_dir).ok().flatten()
    }

    fn boot_id(&self) -> Option<BootId> {
        let text = std::fs::read_to_string(&self.settings.boot_id_file).ok()?;
        Some(BootId(text.trim().to_owned()))
    }

    fn boottime(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::try_from(now).unwrap_or_default()
    }

    fn sleep(&mut self, duration: Duration) {
        std::thread::sleep(duration);
    }

    fn random(&mut self) -> io::Result<[u8; 16]> {
        let mut bytes = [0; 16];
        let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        if filled == bytes.len() { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn note(&mut self, text: &str) {
        eprintln!("berth: {text}");
    }
}

/// Settings that must be in place before the interface receives its first frame. They are written under the
/// present name; a later rename keeps them.
fn harden(setup: &Setup<'_>) -> Result<(), KernelError> {
    sysctl::write(setup.name, Setting::ArpIgnore, 1)?;
    sysctl::write(setup.name, Setting::ArpAnnounce, 2)?;
    if setup.fresh {
        sysctl::write(setup.name, Setting::ArpNotify, 1)?;
    }
    if setup.grant.addresses.iter().any(|granted| granted.address.is_ipv6()) {
        if setup.fresh {
            sysctl::write(setup.name, Setting::NdiscNotify, 1)?;
        }
        // Runtimes switch IPv6 off in new namespaces; an assigned IPv6 address requires it.
        sysctl::write(setup.name, Setting::DisableIpv6, 0)?;
    }
    if !setup.grant.accept_ra {
        sysctl::write(setup.name, Setting::AcceptRa, 0)?;
    }
    Ok(())
}

/// The kernel announced the addresses when the link went up, and does so again each time that the link's MAC
/// is set. This is far cheaper than a packet socket, which waits for an RCU grace period on close.
async fn announce_by_kernel(changer: &Changer, setup: &Setup<'_>) -> Result<(), KernelError> {
    let again = LinkChange { mac: Some(setup.mac), ..LinkChange::default() };
    for _ in 1..ANNOUNCEMENTS {
        changer.change_link(setup.ifindex, &again).await?;
    }
    Ok(())
}

/// Announces with a packet socket: for a link that is already up, or one with its parent's MAC. Runs inside
/// the container.
fn announce_by_hand(setup: &Setup<'_>) -> Result<(), String> {
    let addresses: Vec<_> = setup.grant.addresses.iter().map(|granted| granted.address.ip()).collect();
    announce(setup.ifindex, setup.mac, &addresses, ANNOUNCEMENTS).map(drop).map_err(|error| chain(&error))
}

async fn bring_up(changer: &Changer, setup: &Setup<'_>) -> Result<(), KernelError> {
    for granted in &setup.grant.addresses {
        // The agent has already probed; duplicate address detection of the kernel would cost a second.
        changer.add_address(setup.ifindex, granted.address, granted.address.is_ipv6()).await?;
    }
    let name = (setup.name != setup.ifname).then_some(setup.ifname);
    changer.change_link(setup.ifindex, &LinkChange { name, up: Some(true), ..LinkChange::default() }).await?;
    for route in &setup.grant.routes {
        changer.add_route(setup.ifindex, route, None).await?;
    }
    Ok(())
}
