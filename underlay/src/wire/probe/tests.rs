use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::wire::Kind;

const HOLDER: Mac = Mac([2, 0, 0, 0, 0, 7]);

fn address(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
}

fn at(millis: u64) -> Time {
    Time::from_millis(10_000 + millis)
}

fn reply(last: u8, mac: Mac) -> Statement {
    Statement { address: address(last), mac, vlan: None, kind: Kind::Reply }
}

fn fast() -> Prober {
    Prober::new(Limits { per_second: 100_000, burst: 10_000 }, at(0))
}

/// Result of a run: each round's results and each probe, with their times.
type Course = (Vec<(Time, Vec<ProbeResult>)>, Vec<(Time, IpAddr)>);

/// Runs a prober until its rounds are over, waking exactly at the requested times.
fn run(prober: &mut Prober, mut act: impl FnMut(&mut Prober, Time)) -> Course {
    let (mut results, mut sent, mut now) = (Vec::new(), Vec::new(), at(0));
    for _ in 0..100_000 {
        act(prober, now);
        results.extend(prober.finished(now, true).into_iter().map(|(_, result)| (now, result)));
        sent.extend(prober.due(now).into_iter().map(|address| (now, address)));
        let Some(wake) = prober.wake_at(now) else { return (results, sent) };
        assert!(wake > now, "the shell would spin");
        now = wake;
    }
    panic!("the rounds never end");
}

#[test]
fn three_probes_at_0_33_and_66_ms_and_the_verdict_at_100() {
    let mut prober = fast();
    prober.start(&[address(1)], Priority::Now);
    let (results, sent) = run(&mut prober, |_, _| {});
    assert_eq!(sent.iter().map(|(time, _)| *time).collect::<Vec<_>>(), [at(0), at(33), at(66)]);
    let silent = ProbeResult {
        address: address(1),
        outcome: Outcome::Silent,
        last_probe: Some(at(66)),
        reached: false,
    };
    assert_eq!(results, [(at(100), vec![silent])]);
}

#[test]
fn many_addresses_share_one_round_and_each_is_asked_once_per_turn() {
    let mut prober = fast();
    let all: Vec<IpAddr> = (1..=50).map(address).collect();
    let twice = [all.clone(), all.clone()].concat();
    prober.start(&twice, Priority::Now);
    let (results, sent) = run(&mut prober, |_, _| {});
    assert_eq!(sent.len(), 150);
    assert_eq!(results.len(), 1);
    assert_eq!(results[0].0, at(100));
    assert_eq!(results[0].1.iter().map(|line| line.address).collect::<Vec<_>>(), all);
}

#[test]
fn every_answer_counts_until_the_verdict_whatever_its_mac() {
    let mut prober = fast();
    prober.start(&[address(1), address(2)], Priority::Now);
    let other = Mac([0xb2, 9, 9, 9, 9, 9]);
    let (results, _) = run(&mut prober, |prober, now| {
        if now == at(33) {
            prober.heard(&reply(1, HOLDER), now);
            prober.heard(&reply(1, HOLDER), now);
        }
        if now == at(100) {
            prober.heard(&reply(1, other), now);
        }
    });
    assert_eq!(
        results[0].1[0].outcome,
        Outcome::Answered(vec![Claim { mac: HOLDER, at: at(33) }, Claim { mac: other, at: at(100) }])
    );
    assert_eq!(results[0].1[1].outcome, Outcome::Silent);
}

#[test]
fn the_last_claim_of_a_mac_counts_whatever_order_they_are_read_in() {
    let mut prober = fast();
    prober.start(&[address(1)], Priority::Now);
    let (results, _) = run(&mut prober, |prober, now| {
        if now == at(66) {
            prober.heard(&reply(1, HOLDER), at(60));
            prober.heard(&reply(1, HOLDER), at(50));
        }
    });
    assert_eq!(results[0].1[0].outcome, Outcome::Answered(vec![Claim { mac: HOLDER, at: at(60) }]));
}

#[test]
fn another_nodes_probe_and_another_vlans_reply_are_no_answers() {
    let mut prober = fast();
    prober.start(&[address(1)], Priority::Now);
    let (results, _) = run(&mut prober, |prober, now| {
        prober.heard(&Statement { kind: Kind::Dad, ..reply(1, HOLDER) }, now);
        prober.heard(&Statement { vlan: Some(100), ..reply(1, HOLDER) }, now);
        prober.heard(&reply(9, HOLDER), now);
    });
    assert_eq!(results[0].1[0].outcome, Outcome::Silent);
}

#[test]
fn a_probe_that_did_not_go_out_leaves_the_address_unknown_and_its_neighbour_judged() {
    let mut prober = fast();
    prober.start(&[address(1), address(2)], Priority::Now);
    let (results, _) = run(&mut prober, |prober, now| {
        if now == at(66) {
            prober.failed(address(1), "no buffer space");
        }
    });
    let outcomes: Vec<&Outcome> = results[0].1.iter().map(|line| &line.outcome).collect();
    assert_eq!(outcomes, [&Outcome::Unknown("no buffer space".to_owned()), &Outcome::Silent]);
}

#[test]
fn an_answer_outweighs_a_disturbance_and_silence_does_not() {
    let mut prober = fast();
    prober.start(&[address(1), address(2)], Priority::Now);
    let (results, _) = run(&mut prober, |prober, now| {
        if now == at(33) {
            prober.disturbed("the link is down");
            prober.heard(&reply(1, HOLDER), now);
        }
    });
    assert_eq!(results[0].1[0].outcome, Outcome::Answered(vec![Claim { mac: HOLDER, at: at(33) }]));
    assert_eq!(results[0].1[1].outcome, Outcome::Unknown("the link is down".to_owned()));
}

#[test]
fn a_starved_thread_asks_later_instead_of_bunching_its_probes() {
    let mut prober = fast();
    prober.start(&[address(1)], Priority::Now);
    assert_eq!(prober.due(at(0)).len(), 1);
    assert_eq!(prober.due(at(500)).len(), 1);
    assert_eq!(prober.due(at(500)).len(), 0);
    assert!(prober.finished(at(500), true).is_empty());
    assert_eq!(prober.due(at(533)).len(), 1);
    assert!(prober.finished(at(566), true).is_empty());
    assert_eq!(prober.finished(at(567), true).len(), 1);
}

#[test]
fn nothing_is_judged_while_frames_are_unread_and_a_flood_proves_nothing() {
    let mut prober = fast();
    prober.start(&[address(1)], Priority::Now);
    for millis in [0, 33, 66] {
        assert_eq!(prober.due(at(millis)).len(), 1);
    }
    assert!(prober.finished(at(100), false).is_empty());
    assert!(prober.finished(at(1_099), false).is_empty());
    let (_, results) = prober.finished(at(1_100), false).pop().unwrap();
    assert!(matches!(&results[0].outcome, Outcome::Unknown(reason) if reason.contains("more frames")));
}

#[test]
fn urgent_rounds_find_credit_that_others_may_not_use() {
    let mut prober = Prober::new(Limits { per_second: 10, burst: 10 }, at(0));
    let ahead: Vec<IpAddr> = (1..=20).map(address).collect();
    prober.start(&ahead, Priority::Ahead);
    assert_eq!(prober.due(at(0)).len(), 5);
    prober.start(&[address(99)], Priority::Now);
    assert_eq!(prober.due(at(0)), [address(99)]);
    assert_eq!(prober.due(at(33)), [address(99)]);
    assert_eq!(prober.due(at(66)), [address(99)]);
    assert_eq!(prober.finished(at(100), true).len(), 1);
}

#[test]
fn abandoned_rounds_are_answered_as_unknown() {
    let mut prober = fast();
    let id = prober.start(&[address(1)], Priority::Now);
    let (ended, results) = prober.abandon("closed").pop().unwrap();
    assert_eq!((ended, results[0].outcome.clone()), (id, Outcome::Unknown("closed".to_owned())));
    assert!(prober.is_idle() && prober.wake_at(at(0)).is_none());
}

#[test]
fn a_round_without_addresses_ends_at_once() {
    let mut prober = fast();
    prober.start(&[], Priority::Now);
    assert_eq!(prober.finished(at(0), true).len(), 1);
    assert!(prober.is_idle());
}

proptest! {
    /// For all limits: never faster than the limit, three probes each, and all rounds end.
    #[test]
    fn the_rate_limit_holds_over_every_window(
        per_second in 50..2_000_u32,
        burst in 2..100_u32,
        rounds in proptest::collection::vec((1..30_u8, any::<bool>()), 1..6),
    ) {
        let mut prober = Prober::new(Limits { per_second, burst }, at(0));
        let mut expected = 0;
        for (count, urgent) in &rounds {
            let all: Vec<IpAddr> = (1..=*count).map(address).collect();
            expected += all.len() * usize::from(PROBES);
            prober.start(&all, if *urgent { Priority::Now } else { Priority::Ahead });
        }
        let (results, sent) = run(&mut prober, |_, _| {});
        prop_assert_eq!(results.len(), rounds.len());
        prop_assert_eq!(sent.len(), expected);
        for (first, (start, _)) in sent.iter().enumerate() {
            for (last, (end, _)) in sent.iter().enumerate().skip(first) {
                let earned = end.since(*start).as_secs_f64() * f64::from(per_second);
                let count = u32::try_from(last - first + 1).unwrap();
                prop_assert!(f64::from(count) <= f64::from(burst) + earned + 1.0);
            }
        }
    }
}

#[test]
fn a_round_reached_links_only_if_every_probe_came_back_in() {
    for (returns, reached) in [(0, false), (2, false), (3, true)] {
        let mut prober = fast();
        prober.start_marked(&[address(1)], Priority::Now, Some(7));
        assert_eq!((prober.mark(address(1)), prober.mark(address(2))), (Some(7), None));
        for _ in 0..returns {
            prober.came_in(address(1));
        }
        prober.came_in(address(2));
        let (results, _) = run(&mut prober, |_, _| {});
        let result = &results[0].1[0];
        assert_eq!((result.reached, result.outcome.is_silent()), (reached, true), "{returns} came back");
    }
    let mut prober = fast();
    prober.start(&[address(1)], Priority::Now);
    assert_eq!(prober.mark(address(1)), None);
}
