//! The way of hints from a thread that hears them to the main loop: bounded, and calm.
//!
//! Answers to orders are as many as the orders, and are never dropped. Other processes decide the number of hints: so
//! many wait at most, and the first one that finds no room becomes the word that hints were lost, after which everything
//! is read once. The invariant: a hint that is dropped is followed in the queue by that word, which the main loop has
//! not taken yet.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use berth_ipam::identity::Nsid;
use berth_ipam::ledger::io::{Input, KernelHint, Source};
use berth_ipam::limit::Limiter;
use berth_ipam::time::Time;
use tokio::sync::mpsc::UnboundedSender;

/// So many hints of one kind of source wait for the main loop.
pub const WAITING_MAX: usize = 4096;
/// The same word about an address is passed on this often at most.
const AGAIN: Duration = Duration::from_millis(50);

/// A sender of hints, and of answers to orders.
#[derive(Debug, Clone)]
pub struct Feed {
    inputs: UnboundedSender<Input>,
    room: Room,
}

/// Fill level of the queue of one source; shared with the main loop.
#[derive(Debug, Clone)]
pub struct Room {
    by: Source,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: AtomicUsize,
    /// True while the notice of lost hints waits.
    lost: AtomicBool,
    dropped: AtomicU64,
}

impl Feed {
    /// A way into the main loop's queue for netlink's hints, or for claims that packet sockets heard.
    pub fn new(inputs: UnboundedSender<Input>, by: Source) -> Self {
        Self { inputs, room: Room { by, shared: Arc::default() } }
    }

    /// The main loop's end.
    pub fn room(&self) -> Room {
        self.room.clone()
    }

    /// Passes on an answer to an order. False: the main loop has ended.
    pub fn answer(&self, answer: Input) -> bool {
        self.inputs.send(answer).is_ok()
    }

    /// Passes on a hint. False: the main loop has ended.
    pub fn hint(&self, hint: Input) -> bool {
        let Shared { waiting, lost, dropped } = &*self.room.shared;
        if lost.load(Ordering::Acquire) {
            dropped.fetch_add(1, Ordering::Relaxed);
            return !self.inputs.is_closed();
        }
        if waiting.load(Ordering::Acquire) >= WAITING_MAX {
            dropped.fetch_add(1, Ordering::Relaxed);
            return self.overrun();
        }
        waiting.fetch_add(1, Ordering::AcqRel);
        self.answer(hint)
    }

    /// Passes on that hints were lost, once until the main loop has taken that word. False: the main loop has ended.
    pub fn overrun(&self) -> bool {
        if self.room.shared.lost.swap(true, Ordering::AcqRel) {
            return !self.inputs.is_closed();
        }
        self.answer(Input::Kernel(self.room.by, KernelHint::Overrun))
    }
}

impl Room {
    /// The main loop took this input out of its queue. To be called before the input is acted upon.
    pub fn taken(&self, input: &Input) {
        let hint = match input {
            Input::Kernel(by, KernelHint::Overrun) if *by == self.by => {
                return self.shared.lost.store(false, Ordering::Release);
            }
            Input::Kernel(by, _) => *by == self.by,
            Input::Heard(_) => self.by == Source::Socket,
            _ => false,
        };
        if hint {
            self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Count of all hints that found no room.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

/// Words about addresses that come again and again: each passes once in [`AGAIN`], and once more at its end
/// if it came meanwhile. They ask for reads only, so that neither their order nor their number matters. Those of
/// more addresses than a limiter remembers pass without a pause.
#[derive(Debug)]
pub struct Repeats(Limiter<(Option<Nsid>, IpAddr, bool), KernelHint>);

impl Default for Repeats {
    fn default() -> Self {
        Self(Limiter::new(1, AGAIN))
    }
}

impl Repeats {
    /// The hint, if it passes now.
    pub fn admit(&mut self, now: Time, hint: KernelHint) -> Option<KernelHint> {
        let place = match &hint {
            KernelHint::AddressSeen(at, _, address) => (*at, *address, true),
            KernelHint::AddressGone(at, _, address) => (*at, *address, false),
            _ => return Some(hint),
        };
        let passes = self.0.admit(now, place, hint.clone()).is_some() || self.0.unnamed() > 0;
        passes.then_some(hint)
    }

    /// The hints that came again and may pass now.
    pub fn due(&mut self, now: Time) -> Vec<KernelHint> {
        self.0.due(now).into_iter().map(|again| again.word).collect()
    }

    /// True if a hint waits for its time.
    pub fn is_waiting(&self) -> bool {
        self.0.is_waiting()
    }
}

#[cfg(test)]
mod tests {
    use berth_ipam::config::Wire;
    use berth_ipam::ledger::io::HeardOnWire;
    use berth_ipam::mac::Mac;
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    const HERE: Nsid = Nsid(5);

    fn seen(last: u8) -> KernelHint {
        KernelHint::AddressSeen(Some(HERE), 2, [10, 0, 0, last].into())
    }

    fn hint(last: u8) -> Input {
        Input::Kernel(Source::Netlink, seen(last))
    }

    #[test]
    fn a_full_queue_becomes_one_word_that_hints_were_lost_and_answers_pass() {
        let (inputs, mut queue) = unbounded_channel();
        let feed = Feed::new(inputs, Source::Netlink);
        let room = feed.room();
        for _ in 0..3 * WAITING_MAX {
            assert!(feed.hint(hint(1)));
        }
        assert!(feed.answer(Input::Tick));
        assert_eq!(queue.len(), WAITING_MAX + 2);
        assert_eq!(room.dropped(), 2 * u64::try_from(WAITING_MAX).unwrap());
        let mut take = || {
            let input = queue.try_recv().unwrap();
            room.taken(&input);
            input
        };
        for _ in 0..WAITING_MAX {
            assert!(matches!(take(), Input::Kernel(_, KernelHint::AddressSeen(..))));
        }
        assert!(feed.hint(hint(2)), "the word is still to be taken: it covers this one");
        assert!(matches!(take(), Input::Kernel(_, KernelHint::Overrun)));
        assert!(matches!(take(), Input::Tick));
        assert!(feed.hint(hint(3)));
        assert!(matches!(take(), Input::Kernel(_, hint) if hint == seen(3)), "there is room again");
    }

    #[test]
    fn overruns_of_the_source_itself_wait_once() {
        let (inputs, queue) = unbounded_channel();
        let feed = Feed::new(inputs, Source::Netlink);
        assert!((0..100).all(|_| feed.overrun()));
        assert_eq!(queue.len(), 1);
        drop(queue);
        assert!(!feed.overrun(), "the main loop has ended");
    }

    #[test]
    fn the_ways_of_two_sources_are_counted_apart() {
        let (inputs, mut queue) = unbounded_channel();
        let claims = Feed::new(inputs.clone(), Source::Socket);
        let netlink = Feed::new(inputs, Source::Netlink);
        let claim = || {
            Input::Heard(HeardOnWire {
                wire: Wire { parent: "eth1".parse().unwrap(), vlan: None },
                address: [10, 0, 0, 1].into(),
                mac: Mac([2; 6]),
                outgoing: false,
                at: Time(0),
            })
        };
        assert!((0..2 * WAITING_MAX).all(|_| claims.hint(claim())));
        assert!(netlink.hint(hint(1)));
        while let Ok(input) = queue.try_recv() {
            claims.room().taken(&input);
            netlink.room().taken(&input);
        }
        assert_eq!(netlink.room().dropped(), 0);
        assert!(claims.hint(claim()) && queue.len() == 1, "there is room again");
    }

    #[test]
    fn a_word_that_comes_again_passes_at_the_end_of_its_pause() {
        let at = Time::from_millis;
        let mut repeats = Repeats::default();
        assert_eq!(repeats.admit(at(100), seen(1)), Some(seen(1)));
        assert_eq!(repeats.admit(at(100), seen(2)), Some(seen(2)), "another address");
        assert!((101..149).all(|millis| repeats.admit(at(millis), seen(1)).is_none()));
        assert!(repeats.is_waiting() && repeats.due(at(149)).is_empty());
        assert_eq!(repeats.due(at(150)), [seen(1)]);
        assert!(!repeats.is_waiting());
        assert!(repeats.due(at(300)).is_empty());
        let many =
            |number: u32| KernelHint::AddressSeen(Some(HERE), 2, std::net::Ipv4Addr::from(number).into());
        assert!((0..5_000).all(|number| repeats.admit(at(350), many(number)).is_some()), "no hint is lost");
        let gone = KernelHint::LinkGone(Some(HERE), 2, None);
        assert!((0..9).all(|_| repeats.admit(at(400), gone.clone()).is_some()), "links are never held back");
    }
}
