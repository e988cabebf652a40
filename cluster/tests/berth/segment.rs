//! Two clusters on one segment, with the same pools by mistake.

use std::collections::BTreeSet;
use std::net::IpAddr;

use berth_cluster::network::OUTSIDER_LINK;
use berth_testbed::{census, world};

use crate::stage::{Stage, must, story};

/// The second switch's address once both are joined.
const SECOND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 50, 0, 2));

#[test]
fn two_clusters_with_one_pool_on_one_segment_keep_out_of_each_others_way() {
    let Some(mut first) = Stage::build(1, 10) else { return };
    let Some(second) = Stage::build(1, 10) else { return };
    join(&first, &second);
    let name = "what the other cluster's pods have is seen on the wire, and not given";
    story(name, &mut first, |first| beside_each_other(first, &second));
}

/// Both have one node, of one name: left alone they choose the same addresses.
fn beside_each_other(first: &Stage, second: &Stage) {
    let of = |stage: &Stage| -> BTreeSet<IpAddr> {
        stage.cluster.attachments().into_iter().flat_map(|(_, addresses)| addresses).collect()
    };
    let apart = || assert!(of(first).is_disjoint(&of(second)), "{:?} {:?}", of(first), of(second));
    let mine = first.pods("one", 4, 0);
    first.settled(4);
    let others = second.pods("two", 4, 0);
    second.settled(4);
    apart();
    // The outsider of the first cluster receives frames of both.
    first.wire_is_clean();
    println!("            {}", second.event("Quarantined"));
    // Two of ten are left.
    let more = first.pods("more", 2, 0);
    first.settled(6);
    apart();
    first.wire_is_clean();
    second.delete(&others);
    second.empty();
    first.delete(&[mine, more].concat());
    first.empty();
    first.nothing_failed();
    second.nothing_failed();
}

/// A cable between both switches, of which the first stays the gateway; returns when it carries frames.
fn join(first: &Stage, second: &Stage) {
    let (one, two) = (&first.cluster.network, &second.cluster.network);
    let another = "link set br-u address 02:be:00:00:00:02\naddr flush dev br-u\n";
    must(world::ip(two.wire(), &format!("{another}addr add {SECOND}/16 dev br-u\n")), "the second switch");
    let name = format!("{}-wire", two.id());
    let cable = format!("link add x1 type veth peer name x2 netns {name}\nlink set x1 master br-u up\n");
    must(world::ip(one.wire(), &cable), "the cable");
    must(world::ip(two.wire(), "link set x2 master br-u up\n"), "the cable's end");
    first.until("a cable that carries frames", |_| {
        let heard = must(census::take(one.outsider(), OUTSIDER_LINK, &[SECOND], 1, 0), "the census");
        census::judge(&heard).1.is_empty()
    });
}
