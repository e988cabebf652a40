//! One thread per parent that listens to the wire and probes it.
//!
//! [`ParentWire`] is the handle: it starts rounds and stops the thread. Everything heard goes to one
//! callback, repetitions kept back; an answer to a probe is told there too. The thread outlives its
//! interface: while the parent is down, gone or replaced under the same name it reports
//! [`WireEvent::Down`], answers rounds as unknown, and carries on when the link is back.
//!
//! Left out: any memory of who holds what. The thread lives in the namespace in which it was opened.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use berth_ipam::mac::Mac;
use berth_ipam::time::Time;
use rustix::event::{EventfdFlags, eventfd};

use super::WireError;
use super::device::{Device, has_carrier};
use super::frame::{Kind, Statement};
use super::probe::{Limits, Outcome, Priority, ProbeResult, Prober, RoundId};
use super::quiet::Quiet;
use super::shell::{boot_time, drain, send_due, wait};
use super::socket::{Direction, PacketSocket, Received};

/// How often the parent's state is looked at when nothing else happens.
const LOOK: Duration = Duration::from_millis(100);

/// One statement heard on a parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Heard {
    /// The address it was about.
    pub address: IpAddr,
    /// The MAC that was given for it; for [`Kind::Dad`] that of the asking host.
    pub mac: Mac,
    /// [`Direction::Out`]: said by this node or one of its pods.
    pub direction: Direction,
    /// The VLAN whose tag the frame carried on the parent; `None`: the parent's own segment.
    pub vlan: Option<u16>,
    /// In what way it was said. Only [`Kind::is_claim`] is evidence of use.
    pub kind: Kind,
    /// The arrival of the frame.
    pub at: Time,
}

/// What the thread reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WireEvent {
    /// Somebody said something about an address.
    Heard(Heard),
    /// The parent is running; the first event after a start, if it is.
    Up {
        /// The parent's index, which changes when the device is made anew.
        ifindex: u32,
        /// The parent's own MAC.
        mac: Mac,
    },
    /// The parent is down, has no carrier or is gone, for this reason: nothing is heard.
    Down(String),
    /// So many frames were lost because the callback was too slow.
    Lost(u32),
}

type Reply = Box<dyn FnOnce(Vec<ProbeResult>) + Send>;

enum Order {
    Probe { addresses: Vec<IpAddr>, priority: Priority, reply: Reply },
    AnswersOnly(bool),
}

/// The handle of a parent's thread. Dropping it stops the thread and waits for it (some milliseconds);
/// rounds still running are answered as unknown.
#[derive(Debug)]
pub struct ParentWire {
    parent: String,
    orders: Option<Sender<Order>>,
    bell: Arc<OwnedFd>,
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
        let socket = PacketSocket::listening(device.ifindex)?;
        let thread_error = |cause| WireError::Thread { parent: parent.to_owned(), cause };
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map(Arc::new)
            .map_err(|errno| thread_error(errno.into()))?;
        let (orders, inbox) = channel();
        let worker = Worker {
            parent: parent.to_owned(),
            socket,
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
        Ok(Self { parent: parent.to_owned(), orders: Some(orders), bell, thread: Some(thread) })
    }

    /// The parent's name.
    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// Probes `addresses` in one round; `reply` runs on the wire's thread with one result for each
    /// distinct address, 100 ms later if the rate limit does not stretch it. It is always called once.
    pub fn probe(
        &self,
        addresses: Vec<IpAddr>,
        priority: Priority,
        reply: impl FnOnce(Vec<ProbeResult>) + Send + 'static,
    ) {
        if let Some(order) = self.send(Order::Probe { addresses, priority, reply: Box::new(reply) }) {
            // The thread ended, which only a panicking callback can cause.
            order.reply_unknown("the wire's thread has ended");
        }
    }

    /// Listens only while a round runs, because somebody else hears the rest; or all the time again.
    pub fn answers_only(&self, on: bool) {
        // A thread that has ended listens to nothing anyhow.
        let _ = self.send(Order::AnswersOnly(on));
    }

    /// What could not be delivered.
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
        // A bell that cannot be rung is one that rings already, or the poll time-out stands in for it.
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
        let unknown =
            |address| ProbeResult { address, outcome: Outcome::Unknown(reason.to_owned()), last_probe: None };
        reply(addresses.into_iter().map(unknown).collect());
    }
}

struct Worker<R> {
    parent: String,
    socket: PacketSocket,
    mac: Mac,
    /// Whether the parent was last seen running; `None` before the first look.
    state: Option<bool>,
    looked_at: Time,
    prober: Prober,
    /// Whether somebody else hears what is no answer to a round.
    answers_only: bool,
    /// Whether the socket hears anything at the moment.
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
            let until = self.prober.wake_at(now).map_or(now + LOOK, |wake| wake.min(now + LOOK));
            let bell = Arc::clone(&self.bell);
            match wait([self.socket.as_fd(), bell.as_fd()], until) {
                Ok([_, true]) => {
                    // Emptying the bell; that it was empty already is no fault.
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

    /// Starts the rounds that were asked for. False if nobody can ask any more.
    fn take_orders(&mut self, inbox: &Receiver<Order>) -> bool {
        loop {
            match inbox.try_recv() {
                Ok(Order::Probe { addresses, priority, reply }) => {
                    let id = self.prober.start(&addresses, priority);
                    self.replies.push((id, reply));
                }
                Ok(Order::AnswersOnly(on)) => self.answers_only = on,
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn turn(&mut self) {
        let now = boot_time();
        let drained = self.listen(now);
        self.count_losses();
        // A verdict of silence needs a fresh look at the link; an idle wire needs one now and then.
        let wakes = self.prober.wake_at(now).is_some_and(|wake| wake <= now + Duration::from_millis(5));
        if wakes || now.since(self.looked_at) >= LOOK || self.state.is_none() {
            self.look(now);
        }
        if self.prober.verdict_due(now) && !has_carrier(&self.parent).unwrap_or(false) {
            self.prober.disturbed("the link has no carrier");
        }
        let finished = self.prober.finished(now, drained);
        self.answer(finished);
        self.attend();
        send_due(&mut self.prober, &self.socket, self.mac, self.state == Some(true), now);
    }

    fn listen(&mut self, now: Time) -> bool {
        let Self { prober, quiet, report, socket, .. } = self;
        let read = drain(socket, |statement, received| {
            prober.heard(&statement, received.at);
            let heard = Heard::from(statement, received);
            if quiet.admit(heard, now) {
                report(WireEvent::Heard(heard));
            }
        });
        match read {
            Ok(drained) => drained,
            Err(error) => {
                // ENETDOWN comes once when the link goes; the next look tells how it stands.
                self.prober.disturbed(&format!("receive: {error}"));
                self.looked_at = Time::default();
                false
            }
        }
    }

    /// Hears before anything is asked, and nothing while nobody waits for an answer.
    fn attend(&mut self) {
        let wanted = !self.answers_only || !self.prober.is_idle();
        if wanted == self.hears {
            return;
        }
        match self.socket.hear(wanted) {
            Ok(()) => self.hears = wanted,
            Err(error) => self.prober.disturbed(&error.to_string()),
        }
    }

    fn count_losses(&mut self) {
        match self.socket.dropped() {
            Ok(0) => {}
            Ok(lost) => {
                self.prober.disturbed("frames were lost because they came too fast");
                (self.report)(WireEvent::Lost(lost));
            }
            Err(error) => self.prober.disturbed(&format!("count lost frames: {error}")),
        }
    }

    /// Looks at the parent, and opens a new socket if the name means another device now.
    fn look(&mut self, now: Time) {
        self.looked_at = now;
        let seen = Device::by_name(&self.parent).and_then(|device| {
            if device.ifindex != self.socket.ifindex() {
                self.socket = PacketSocket::listening(device.ifindex)?;
                self.hears = true;
                self.prober.disturbed("the parent was replaced by another device");
            }
            Ok(device)
        });
        let (running, reason) = match seen {
            Ok(device) => {
                self.mac = device.mac;
                (device.running, "the link is down or has no carrier".to_owned())
            }
            Err(error) => (false, error.to_string()),
        };
        if !running {
            self.prober.disturbed(&reason);
        }
        if self.state == Some(running) {
            return;
        }
        self.state = Some(running);
        (self.report)(if running {
            WireEvent::Up { ifindex: self.socket.ifindex(), mac: self.mac }
        } else {
            WireEvent::Down(reason)
        });
    }
}

impl Heard {
    fn from(statement: Statement, received: Received) -> Self {
        let Statement { address, mac, vlan, kind } = statement;
        Self { address, mac, direction: received.direction, vlan, kind, at: received.at }
    }
}
