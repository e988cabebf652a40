//! The canary: a device in a separate namespace, with an end that must be reported with its name, index,
//! cookie and address. That proves in one step that a program is attached, that its offsets are correct, and
//! that its events arrive.
//!
//! The namespace belongs to one thread and ends with it in every case, and the devices with it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use berth_ipam::identity::NetnsCookie;
use berth_underlay::netns::{NetnsFile, own_cookie};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::{LinkUnspec, LinkVeth};

use crate::attachments::CANARY;
use crate::event::{Raw, name};
use crate::ladder::{Rung, chain};
use berth_ebpf_common::Kind;

/// Time limit for the event of the device's end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// Time limit of a step of the thread; creating a device waits for concurrent changes.
const STEP: Duration = Duration::from_secs(5);
/// From the block for documentation; it is invisible outside the namespace.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A device that waits for its end.
#[derive(Debug)]
pub(crate) struct Canary {
    /// Identity of the device.
    pub identity: Identity,
    /// Its number in maps.
    pub number: u64,
    go: Sender<()>,
    done: Receiver<Result<(), String>>,
    thread: Option<JoinHandle<()>>,
}

/// Expected content of its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub cookie: NetnsCookie,
    pub inode: u64,
    pub ifindex: u32,
    pub name: String,
}

impl Canary {
    /// Creates a canary. `number` makes its name unique.
    pub(crate) fn hatch(number: u64) -> Result<Self, String> {
        let (go, wait) = channel();
        let (tell, born) = channel();
        let (report, done) = channel();
        let name = format!("bc{:011x}", number & 0xfff_ffff_ffff);
        let thread = std::thread::Builder::new()
            .name("berth-canary".to_owned())
            .spawn(move || live(&name, &tell, &wait, &report))
            .map_err(|error| format!("start a thread: {error}"))?;
        let identity = born.recv_timeout(STEP).map_err(|_| "it was not made in time".to_owned())??;
        Ok(Self { identity, number, go, done, thread: Some(thread) })
    }

    /// Lets the thread delete the device, and does not wait for that.
    pub(crate) fn release(&self) {
        // Without a receiver the thread has ended, and the device with it.
        let _ = self.go.send(());
    }

    /// Result of the deletion, if it is over; never waits.
    pub(crate) fn ended(&self) -> Option<Result<(), String>> {
        match self.done.try_recv() {
            Ok(result) => Some(result),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err("its thread ended".to_owned())),
        }
    }

    /// The same, and waits for it.
    pub(crate) fn wait_for_end(&self) -> Result<(), String> {
        self.done.recv_timeout(STEP).map_err(|_| "it was not deleted in time".to_owned())?
    }

    /// Result of an event about this canary: correct, or the description of the fault; `None` for other
    /// events.
    pub(crate) fn verdict(&self, rung: Rung, raw: &Raw) -> Option<Result<(), String>> {
        let Raw::Device(Kind::DeviceDown, source, event) = raw else { return None };
        if event.id != self.number | CANARY {
            return None;
        }
        let wanted = &self.identity;
        let told = [
            ("source", format!("{source:?}"), format!("{:?}", rung.source())),
            ("name", name(&event.name), wanted.name.clone()),
            ("index", event.ifindex.to_string(), wanted.ifindex.to_string()),
            ("cookie", event.cookie.to_string(), wanted.cookie.0.to_string()),
            ("inode", event.inode.to_string(), wanted.inode.to_string()),
            ("address", Ipv4Addr::from(event.ipv4[0]).to_string(), ADDRESS.to_string()),
        ];
        let wrong: Vec<String> = told
            .iter()
            .filter(|(_, found, wanted)| found != wanted)
            .map(|(what, found, wanted)| format!("its {what} arrived as {found}, not as {wanted}"))
            .collect();
        Some(if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) })
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        let _ = self.go.send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread: a namespace, a device, a wait, the device's end. With the thread the namespace goes.
fn live(
    name: &str,
    tell: &Sender<Result<Identity, String>>,
    wait: &Receiver<()>,
    report: &Sender<Result<(), String>>,
) {
    let step = |what: &'static str| move |error: &dyn std::fmt::Display| format!("{what}: {error}");
    let runtime = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .map_err(|error| step("make a namespace")(&error))
        .and_then(|()| {
            tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build()
                .map_err(|error| step("start a runtime")(&error))
        });
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return drop(tell.send(Err(error))),
    };
    runtime.block_on(async {
        let (connection, handle, _) = match rtnetlink::new_connection() {
            Ok(connection) => connection,
            Err(error) => return drop(tell.send(Err(step("open a netlink socket")(&error)))),
        };
        let connection = tokio::spawn(connection);
        match make(&handle, name).await {
            Ok(identity) => {
                let ifindex = identity.ifindex;
                let _ = tell.send(Ok(identity));
                // Blocks the runtime, which has no other work. An error means that the owner is gone.
                let _ = wait.recv();
                let deleted = handle.link().del(ifindex).execute().await;
                let _ = report.send(deleted.map_err(|error| step("delete the device")(&error)));
            }
            Err(error) => drop(tell.send(Err(error))),
        }
        connection.abort();
    });
}

async fn make(handle: &rtnetlink::Handle, name: &str) -> Result<Identity, String> {
    let failed = |what: &str, error: rtnetlink::Error| format!("{what}: {}", chain(&error));
    let peer = format!("{name}p");
    handle
        .link()
        .add(LinkVeth::new(name, &peer).build())
        .execute()
        .await
        .map_err(|error| failed("make a pair of devices", error))?;
    let mut ifindex = None;
    // Both ends up: only a device with a carrier has queues, and one attach mode observes their end.
    for end in [peer.as_str(), name] {
        let index = index_of(handle, end).await?;
        handle
            .link()
            .set(LinkUnspec::new_with_index(index).up().build())
            .execute()
            .await
            .map_err(|error| failed("set a device up", error))?;
        ifindex = Some(index);
    }
    let ifindex = ifindex.ok_or("no device")?;
    handle
        .address()
        .add(ifindex, IpAddr::V4(ADDRESS), 32)
        .execute()
        .await
        .map_err(|error| failed("add an address", error))?;
    let cookie = own_cookie().map_err(|error| chain(&error))?;
    let inode = NetnsFile::own().map_err(|error| chain(&error))?.inode();
    Ok(Identity { cookie, inode, ifindex, name: name.to_owned() })
}

/// By a read of this one link, which is not a dump.
async fn index_of(handle: &rtnetlink::Handle, name: &str) -> Result<u32, String> {
    use futures_util::TryStreamExt as _;
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    let link = links.try_next().await.map_err(|error| format!("read a device: {}", chain(&error)))?;
    let link = link.ok_or("the device is not there")?;
    let named = link.attributes.iter().any(|a| matches!(a, LinkAttribute::IfName(own) if own == name));
    if named { Ok(link.header.index) } else { Err("another device was read".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_ebpf_common::{DeviceEvent, Source};

    fn canary() -> Canary {
        let (go, _) = channel();
        let (_, done) = channel();
        let identity = Identity { cookie: NetnsCookie(5), inode: 6, ifindex: 7, name: "bc0".to_owned() };
        Canary { identity, number: 9, go, done, thread: None }
    }

    fn event() -> DeviceEvent {
        let mut name = [0; 16];
        name[..3].copy_from_slice(b"bc0");
        let ipv4 = [ADDRESS.octets(), [0; 4]];
        DeviceEvent { ifindex: 7, cookie: 5, inode: 6, id: 9 | CANARY, name, ipv4, ..DeviceEvent::default() }
    }

    fn verdict(source: Source, event: DeviceEvent) -> Option<Result<(), String>> {
        canary().verdict(Rung::TpBtf, &Raw::Device(Kind::DeviceDown, source, event))
    }

    #[test]
    fn every_part_of_its_end_is_compared() {
        assert_eq!(verdict(Source::TpBtf, event()), Some(Ok(())));
        assert_eq!(verdict(Source::TpBtf, DeviceEvent { id: 8, ..event() }), None);
        let wrong = [
            (Source::Fentry, event(), "source"),
            (Source::TpBtf, DeviceEvent { ifindex: 8, ..event() }, "index"),
            (Source::TpBtf, DeviceEvent { cookie: 0, ..event() }, "cookie"),
            (Source::TpBtf, DeviceEvent { inode: 0, ..event() }, "inode"),
            (Source::TpBtf, DeviceEvent { name: [b'x'; 16], ..event() }, "name"),
            (Source::TpBtf, DeviceEvent { ipv4: [[0; 4]; 2], ..event() }, "address"),
        ];
        for (source, event, what) in wrong {
            let text = verdict(source, event).unwrap().unwrap_err();
            assert!(text.starts_with(&format!("its {what} ")), "{text}");
        }
    }
}
