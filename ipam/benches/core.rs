//! Cost of the pure core, in instructions: the allocator's order and the verdict on one
//! attachment. Counted by valgrind, so the numbers hold on a busy machine; `cargo xtask bench core`.

#![expect(missing_docs, unused_qualifications, reason = "the macros of gungraun write both")]
#![expect(clippy::expect_used, reason = "an input that does not parse is a fault of this file")]

use std::collections::BTreeSet;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use berth_ipam::alloc::FreeSet;
use berth_ipam::config::Pool;
use berth_ipam::evidence::{Departure, Facts, FdbFact, LinkFact, NetnsFact, SearchFact};
use berth_ipam::interval::{IntervalSet, to_bits};
use berth_ipam::name::NodeName;
use berth_ipam::time::Time;
use berth_ipam::verdict::{self, Row};
use gungraun::{library_benchmark, library_benchmark_group, main};

/// Number of candidates that the agent asks for: the first and some to probe ahead.
const CANDIDATES: usize = 8;

fn pool(subnet: &str, first: &str, last: &str) -> Pool {
    let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
    let mut members = IntervalSet::new();
    members.insert(to_bits(parse(first)), to_bits(parse(last)));
    Pool {
        segment: "default".parse().expect("a segment"),
        subnet: subnet.parse().expect("a subnet"),
        members,
        gateway: None,
        routes: Vec::new(),
        disabled: false,
        access: berth_ipam::access::Access::default(),
    }
}

fn thousand() -> Pool {
    pool("10.0.0.0/22", "10.0.0.1", "10.0.3.232")
}

fn node() -> NodeName {
    "node-1".parse().expect("a node name")
}

/// A pool of 1,000 of which `taken` are in use.
fn set(taken: u32) -> (FreeSet, NodeName) {
    let first = u32::from(Ipv4Addr::new(10, 0, 0, 1));
    let used: BTreeSet<IpAddr> = (0..taken).map(|n| Ipv4Addr::from(first + n).into()).collect();
    (FreeSet::new(&thousand(), used), node())
}

/// A /64 with nothing in use.
fn wide() -> (FreeSet, NodeName) {
    (FreeSet::new(&pool("fd00::/64", "fd00::1", "fd00::ffff:ffff:ffff:ffff"), []), node())
}

#[library_benchmark]
#[bench::all_free(set(0))]
#[bench::ten_free(set(990))]
#[bench::a_slash_64(wide())]
fn candidates((mut free, node): (FreeSet, NodeName)) -> Vec<IpAddr> {
    black_box(free.candidates(black_box(&node), Time::from_millis(1), CANDIDATES))
}

#[library_benchmark]
#[bench::of_a_thousand(set(500))]
fn take_and_give_back((mut free, _): (FreeSet, NodeName)) -> bool {
    let address = black_box(IpAddr::V4(Ipv4Addr::new(10, 0, 3, 1)));
    free.take(address) && free.give_back(address, Time::from_millis(1))
}

/// The facts of an attachment that lives.
fn alive() -> Facts {
    Facts { netns: NetnsFact::Alive, link: LinkFact::Present, fdb: FdbFact::Present, ..Facts::UNKNOWN }
}

/// The facts of an attachment with a destroyed namespace.
fn dead() -> Facts {
    Facts {
        netns: NetnsFact::Dead,
        link: LinkFact::Gone,
        fdb: FdbFact::Absent,
        departure: Departure::Destroyed,
        search: SearchFact::NotFound,
        ..Facts::UNKNOWN
    }
}

#[library_benchmark]
#[bench::alive(alive())]
#[bench::dead(dead())]
#[bench::nothing_known(Facts::UNKNOWN)]
fn judge(facts: Facts) -> &'static Row {
    black_box(verdict::judge(black_box(&facts)))
}

library_benchmark_group!(name = allocator, benchmarks = [candidates, take_and_give_back]);
library_benchmark_group!(name = verdicts, benchmarks = [judge]);
main!(library_benchmark_groups = [allocator, verdicts]);
