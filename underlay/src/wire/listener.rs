//! One thread per parent that listens to its segment and probes it.
//!
//! [`ParentWire`] is the handle: it starts rounds and stops the thread. All statements received go to one
//! callback, without repetitions; a reply to a probe is among them. The thread outlives its interface. While
//! the parent is down, gone or replaced under the same name it reports [`WireEvent::Down`], completes rounds
//! as unknown, and continues when the link is back.
//!
//! Left out: a memory of holders. The thread stays in the namespace in which it was opened.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use berth_ipam::mac::Mac;
use berth_ipam::name::IfName;
use berth_ipam::time::Time;
use rustix::event::{EventfdFlags, eventfd};

use super::WireError;
use super::asking::Asking;
use super::device::Device;
use super::filter;
use super::frame::{self, Kind, Statement};
use super::probe::{Limits, Outcome, Priority, ProbeResult, Prober, RoundId};
use super::quiet::Quiet;
use super::shell::{ANSWERS_LOST, STOOD_STILL, boot_time, clocks, drain, send_due, wait};
use super::socket::{Direction, PacketSocket, Received};
use super::standstill::{self, Pace, Standstill};
use crate::read::{LinkRead, Reader};

/// Number of frames that announce one address.
pub const ANNOUNCEMENTS: u8 = 2;
/// Interval between reads of the parent's state when nothing else happens.
const LOOK: Duration = Duration::from_millis(100);

/// One statement received on a parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Heard {
    /// The address it was about.
    pub address: IpAddr,
    /// The MAC of the address; for [`Kind::Dad`] that of the probing host.
    pub mac: Mac,
    /// [`Direction::Out`]: sent by this node or one of its pods.
    pub direction: Direction,
    /// VLAN tag that the frame carried on the parent; `None`: the parent's own segment.
    pub vlan: Option<u16>,
    /// Kind of the statement. Only [`Kind::is_claim`] is evidence of use.
    pub kind: Kind,
    /// The arrival of the frame.
    pub at: Time,
}

/// Events that the thread reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WireEvent {
    /// A station made a statement about an address.
    Heard(Heard),
    /// The parent is running; the first event after a start, if it is.
    Up {
        /// Index of the parent, which changes when the device is created again.
        ifindex: u32,
        /// The parent's own MAC.
        mac: Mac,
    },
    /// The parent is down, has no carrier or is gone, for this reason: no frames are received.
    Down(String),
    /// The parent is running, and earlier statements may have been missed, for this reason.
    Gap(String),
    /// Number of frames lost because the callback was too slow.
    Lost(u32),
}

type Reply = Box<dyn FnOnce(Vec<ProbeResult>) + Send>;

enum Order {
    Probe { addresses: Vec<IpAddr>, priority: Priority, mark: Option<u32>, reply: Reply },
    Announce(Vec<(IpAddr, Mac)>),
    AnswersOnly(bool),
}

/// The handle of a parent's thread. Dropping it stops the thread and waits for it (some milliseconds);
/// rounds still running are answered as unknown.
#[derive(Debug)]
pub struct ParentWire {
    parent: String,
    orders: Option<Sender<Order>>,
    bell: Arc<OwnedFd>,
    /// Latest time of the thread's next turn, in nanoseconds since boot.
    due: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl ParentWire {
    /// Starts listening on `parent` in the calling thread's namespace. The parent must exist but may be
    /// down. `report` runs on the wire's thread: it must be quick and must not wait for this handle.
    /// Needs `CAP_NET_RAW`, and `CAP_NET_ADMIN` for a large receive buffer.
    pub fn open(
        parent: &str,
        limits: Limits,
        report: impl FnMut(WireEvent) + Send + 'static,
    ) -> Result<Self, WireError> {
        let device = Device::by_name(parent)?;
        let ears = PacketSocket::listening(device.ifindex)?;
        let asking = Asking::on(device.ifindex)?;
        let name = parent.parse().map_err(|_| WireError::NoDevice(parent.to_owned()))?;
        let reader = Reader::new().map_err(|cause| WireError::Reader { parent: parent.to_owned(), cause })?;
        let thread_error = |cause| WireError::Thread { parent: parent.to_owned(), cause };
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map(Arc::new)
            .map_err(|errno| thread_error(errno.into()))?;
        let (orders, inbox) = channel();
        let due = Arc::new(AtomicU64::new(boot_time().0));
        let worker = Worker {
            parent: name,
            ears,
            asking,
            reader,
            carrier_changes: None,
            standstill: Standstill::new(clocks()),
            due: Arc::clone(&due),
            mac: device.mac,
            state: None,
            looked_at: Time::default(),
            prober: Prober::new(limits, boot_time()),
            answers_only: false,
            hears: true,
            replies: Vec::new(),
            quiet: Quiet::default(),
            bell: Arc::clone(&bell),
            report,
        };
        let thread = std::thread::Builder::new()
            .name(format!("wire-{parent}"))
            .spawn(move || worker.run(&inbox))
            .map_err(thread_error)?;
        Ok(Self { parent: parent.to_owned(), orders: Some(orders), bell, due, thread: Some(thread) })
    }

    /// True if the thread is so late that the machine or the agent was stopped. The thread reports that gap
    /// when it runs; until then, silence before it proves nothing.
    pub fn stands_still(&self) -> bool {
        standstill::is_still(boot_time(), Time(self.due.load(Ordering::Relaxed)))
    }

    /// The parent's name.
    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// Probes `addresses` in one round. `reply` runs on the wire's thread with one result for each distinct
    /// address, after 100 ms unless the rate limit stretches it. It is called exactly once. `mark`: socket
    /// mark of the probes, by which a program on the parent identifies them.
    pub fn probe(
        &self,
        addresses: Vec<IpAddr>,
        priority: Priority,
        mark: Option<u32>,
        reply: impl FnOnce(Vec<ProbeResult>) + Send + 'static,
    ) {
        if let Some(order) = self.send(Order::Probe { addresses, priority, mark, reply: Box::new(reply) }) {
            // The thread ended, which only a panicking callback can cause.
            order.reply_unknown("the wire's thread has ended");
        }
    }

    /// Claims each address for its MAC, by [`ANNOUNCEMENTS`] frames sent from the parent.
    pub fn announce(&self, claims: Vec<(IpAddr, Mac)>) {
        // A thread that has ended announces nothing; the port is reported as down.
        let _ = self.send(Order::Announce(claims));
    }

    /// Restricts reception to replies to rounds, because a program in the kernel receives the rest; or lifts
    /// that.
    pub fn answers_only(&self, on: bool) {
        // A thread that has ended receives nothing anyway.
        let _ = self.send(Order::AnswersOnly(on));
    }

    /// Sends an order; returns it if it could not be delivered.
    fn send(&self, order: Order) -> Option<Order> {
        let undelivered = match &self.orders {
            Some(orders) => orders.send(order).err().map(|error| error.0),
            None => Some(order),
        };
        if undelivered.is_none() {
            self.ring();
        }
        undelivered
    }

    fn ring(&self) {
        // A failed write means that the bell is already rung; otherwise the poll time-out replaces it.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}

impl Drop for ParentWire {
    fn drop(&mut self) {
        self.orders = None;
        self.ring();
        if let Some(thread) = self.thread.take() {
            // A panic on that thread was reported by the panic hook; there is nothing left to undo.
            let _ = thread.join();
        }
    }
}

impl Order {
    fn reply_unknown(self, reason: &str) {
        let Self::Probe { addresses, reply, .. } = self else { return };
        let unknown = |address| ProbeResult {
            address,
            outcome: Outcome::Unknown(reason.to_owned()),
            last_probe: None,
            reached: false,
        };
        reply(addresses.into_iter().map(unknown).collect());
    }
}

struct Worker<R> {
    parent: IfName,
    /// Socket for unsolicited statements.
    ears: PacketSocket,
    /// Socket for probes and their replies.
    asking: Asking,
    reader: Reader,
    /// Carrier changes of the parent at the last read; `None` before the first one.
    carrier_changes: Option<u32>,
    standstill: Standstill,
    /// Latest time of the thread's next turn, in nanoseconds since boot; shared with the handle.
    due: Arc<AtomicU64>,
    mac: Mac,
    /// True if the parent was running at the last read; `None` before the first one.
    state: Option<bool>,
    looked_at: Time,
    prober: Prober,
    /// A program in the kernel receives all frames but replies to rounds.
    answers_only: bool,
    /// True if the listening socket receives frames at the moment.
    hears: bool,
    replies: Vec<(RoundId, Reply)>,
    quiet: Quiet,
    bell: Arc<OwnedFd>,
    report: R,
}

impl<R: FnMut(WireEvent)> Worker<R> {
    fn run(mut self, inbox: &Receiver<Order>) {
        // Ends when the handle is dropped, which disconnects the inbox.
        while self.take_orders(inbox) {
            self.turn();
            let now = boot_time();
            let due = self.prober.wake_at(now).map_or(now + LOOK, |wake| wake.min(now + LOOK));
            self.due.store(due.0, Ordering::Relaxed);
            let bell = Arc::clone(&self.bell);
            match wait([self.ears.as_fd(), self.asking.socket().as_fd(), bell.as_fd()], due) {
                Ok([_, _, true]) => {
                    // Empties the bell; an empty one is not an error.
                    let _ = rustix::io::read(&bell, &mut [0; 8]);
                }
                Ok(_) => {}
                // Only a lack of kernel memory gets here; without a pause this would spin.
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        let abandoned = self.prober.abandon("the wire was closed");
        self.answer(abandoned);
    }

    fn answer(&mut self, finished: Vec<(RoundId, Vec<ProbeResult>)>) {
        for (id, results) in finished {
            if let Some(at) = self.replies.iter().position(|(asked, _)| *asked == id) {
                (self.replies.swap_remove(at).1)(results);
            }
        }
    }

    /// Starts the requested rounds. False if the handle is gone.
    fn take_orders(&mut self, inbox: &Receiver<Order>) -> bool {
        loop {
            match inbox.try_recv() {
                Ok(Order::Probe { addresses, priority, mark, reply }) => {
                    let id = self.prober.start_marked(&addresses, priority, mark);
                    self.replies.push((id, reply));
                }
                Ok(Order::Announce(claims)) => self.announce(&claims),
                Ok(Order::AnswersOnly(on)) => self.answers_only = on,
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// A claim that cannot be sent is lost with its port, and made again when that returns.
    fn announce(&self, claims: &[(IpAddr, Mac)]) {
        for (address, mac) in claims {
            let frame = frame::announcement(*mac, *address);
            for _ in 0..ANNOUNCEMENTS {
                let _ = self.asking.socket().send(&frame, *address);
            }
        }
    }

    fn turn(&mut self) {
        self.check_pace();
        let now = boot_time();
        let drained = self.listen(now);
        self.count_losses();
        // A verdict of silence needs a fresh look at the link; an idle wire needs one now and then.
        let wakes = self.prober.wake_at(now).is_some_and(|wake| wake <= now + Duration::from_millis(5));
        if wakes || now.since(self.looked_at) >= LOOK || self.state.is_none() {
            self.look(now);
        }
        if self.prober.verdict_due(now) {
            self.look_at_carrier();
        }
        let finished = self.prober.finished(now, drained);
        self.answer(finished);
        self.attend();
        let running = self.state == Some(true);
        send_due(&mut self.prober, self.asking.socket(), self.mac, running, now);
    }

    /// Statements made while the machine or the thread was stopped were missed.
    fn check_pace(&mut self) {
        match self.standstill.look(clocks(), Time(self.due.load(Ordering::Relaxed))) {
            Pace::Steady => {}
            Pace::Late => self.prober.disturbed(STOOD_STILL),
            Pace::StoodStill(why) => self.gap(&why),
        }
    }

    /// Silence before this moment proves nothing.
    fn gap(&mut self, why: &str) {
        self.prober.disturbed(why);
        if self.state == Some(true) {
            (self.report)(WireEvent::Gap(why.to_owned()));
        }
    }

    fn listen(&mut self, now: Time) -> bool {
        let Self { prober, quiet, report, ears, asking, mac, .. } = self;
        let mut tell = |statement, received: Received| {
            let heard = Heard::from(statement, received);
            if quiet.admit(heard, now) {
                report(WireEvent::Heard(heard));
            }
        };
        let overheard = drain(ears, &mut tell);
        let answered = drain(asking.socket(), |statement, received| {
            if statement.kind == Kind::Dad {
                // Of these the filter accepts own probes that were received again, and frames of the same
                // form.
                let own = statement.mac == *mac && received.direction == Direction::In;
                own.then(|| prober.came_in(statement.address));
                return;
            }
            prober.heard(&statement, received.at);
            tell(statement, received);
        });
        match (overheard, answered) {
            (Ok(_), Ok(drained)) => drained,
            (Err(error), _) | (_, Err(error)) => {
                // ENETDOWN comes once when the link goes, also if it is back before the next look.
                self.gap(&format!("receive frames on {}: {error}", self.parent));
                self.looked_at = Time::default();
                false
            }
        }
    }

    /// Opens the sockets before a round starts. Replies are received while a round waits for them.
    fn attend(&mut self) {
        if let Err(error) = self.asking.hear(self.prober.open()) {
            self.prober.disturbed(&error.to_string());
        }
        let wanted = !self.answers_only;
        if wanted == self.hears {
            return;
        }
        let program = if wanted { filter::neighbour_messages() } else { filter::nothing() };
        // If the filter cannot be changed, the socket receives too much, or is changed in the next turn.
        if self.ears.hear(&program).is_ok() {
            self.hears = wanted;
        }
    }

    fn count_losses(&mut self) {
        match self.ears.dropped() {
            Ok(0) => {}
            Ok(lost) => (self.report)(WireEvent::Lost(lost)),
            Err(error) => self.gap(&format!("count lost frames: {error}")),
        }
        match self.asking.socket().dropped() {
            Ok(0) => {}
            Ok(_) => self.prober.disturbed(ANSWERS_LOST),
            Err(error) => self.prober.disturbed(&format!("count lost answers: {error}")),
        }
    }

    /// Reads the parent's state, and opens new sockets if the name belongs to another device now.
    fn look(&mut self, now: Time) {
        self.looked_at = now;
        let trouble = match Device::by_name(self.parent.as_str()) {
            Ok(device) => {
                self.follow(&device).map_or_else(|error| Some(error.to_string()), |()| device.trouble())
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(trouble) = &trouble {
            self.prober.disturbed(trouble);
        }
        if self.state == Some(trouble.is_none()) {
            return;
        }
        self.state = Some(trouble.is_none());
        match trouble {
            None => {
                self.carrier_changes = None;
                self.look_at_carrier();
                (self.report)(WireEvent::Up { ifindex: self.ears.ifindex(), mac: self.mac });
            }
            Some(trouble) => (self.report)(WireEvent::Down(trouble)),
        }
    }

    /// The device that the parent's name means now.
    fn follow(&mut self, device: &Device) -> Result<(), WireError> {
        self.mac = device.mac;
        if device.ifindex != self.ears.ifindex() {
            self.ears = PacketSocket::listening(device.ifindex)?;
            self.asking = Asking::on(device.ifindex)?;
            self.hears = true;
            self.carrier_changes = None;
            self.gap(&format!("{} was replaced by another device of that name", self.parent));
        }
        Ok(())
    }

    /// Reads the carrier itself, which the flags lag, and whether it was lost since the last such read. The
    /// read takes the kernel's link lock, so it may wait for other changes: once per verdict.
    fn look_at_carrier(&mut self) {
        let LinkRead::Found(facts) = self.reader.link_by_name(None, &self.parent) else {
            return self.prober.disturbed("the link could not be read");
        };
        if !facts.up || facts.carrier == Some(false) {
            self.prober.disturbed(&format!("{} has no carrier", self.parent));
        }
        let before = self.carrier_changes.replace(facts.carrier_changes);
        if before.is_some_and(|before| before != facts.carrier_changes) {
            self.gap(&format!("{} lost its carrier for a moment", self.parent));
        }
    }
}

impl Heard {
    fn from(statement: Statement, received: Received) -> Self {
        let Statement { address, mac, vlan, kind } = statement;
        Self { address, mac, direction: received.direction, vlan, kind, at: received.at }
    }
}
