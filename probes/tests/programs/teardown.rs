//! The ends of devices, namespaces and tasks.

use std::process::{Command, Stdio};
use std::time::Duration;

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::identity::NetnsCookie;
use berth_probes::{Allowed, ProbeEvent, Probes, Rung, Stage, Verdict};

use crate::world::{Netns, key, options, probes, wait_for};

const SOON: Duration = Duration::from_secs(2);

/// Each attach mode is either proved or refused with a reason. On the kernel of the first run, the vendor
/// bans function entries and has no breakpoints; tracepoints work.
#[test]
fn every_rung_is_proved_or_refused_with_a_reason() {
    let Some(options) = options() else { return };
    for rung in Rung::ALL {
        let probes =
            Probes::start(&berth_probes::Options { allowed: Allowed::Only(rung), ..options.clone() });
        let probes = probes.unwrap();
        println!("{rung}: {:?}, tasks {}, refusals:", probes.rung(), probes.sees_tasks());
        for refusal in probes.refusals() {
            println!("  {refusal}");
        }
        if probes.rung() == Some(rung) {
            continue;
        }
        assert_eq!(probes.rung(), None);
        let refusal = probes.refusals().first().unwrap();
        assert!(!refusal.reason.is_empty());
        assert_ne!(refusal.stage, Stage::Prove, "attached, and not proved: {refusal}");
        assert!(refusal.errno.is_some() || rung == Rung::Kprobe, "{refusal:?}");
    }
}

#[test]
fn no_rung_at_all_is_no_error_and_nothing_is_told() {
    let Some(options) = options() else { return };
    let mut probes = Probes::start(&berth_probes::Options { allowed: Allowed::None, ..options }).unwrap();
    assert_eq!(probes.rung(), None);
    assert!(matches!(probes.prove().unwrap(), Verdict::Unknown(_)));
    assert!(probes.drain().unwrap().is_empty());
}

#[test]
fn the_rung_is_proved_again_and_other_events_are_kept_meanwhile() {
    let Some(mut probes) = probes() else { return };
    let pod = Netns::new("pod");
    let index = pod.pair("192.0.2.7");
    probes.attachments().follow(&key("kept"), &pod.identity(), Some(index)).unwrap();
    pod.ip("link del net1");
    assert_eq!(probes.prove().unwrap(), Verdict::Proved);
    assert!(probes.has_kept());
    let told = wait_for(&mut probes, SOON, |event| match event {
        ProbeEvent::DeviceDown { key, .. } => Some(key.clone()),
        _ => None,
    });
    assert_eq!(told, Some(Some(key("kept"))));
}

#[test]
fn a_followed_link_is_told_once_and_an_unfollowed_one_is_not() {
    let Some(mut probes) = probes() else { return };
    let (pod, other) = (Netns::new("pod"), Netns::new("other"));
    let index = pod.pair("192.0.2.7");
    other.pair("192.0.2.8");
    let identity = pod.identity();
    probes.attachments().follow(&key("a"), &identity, Some(index)).unwrap();
    other.ip("link del net1");
    pod.ip("link del net1");
    let mut ends = Vec::new();
    wait_for(&mut probes, Duration::from_millis(500), |event| -> Option<()> {
        if let ProbeEvent::DeviceDown { .. } = event {
            ends.push(event.clone());
        }
        None
    });
    let [ProbeEvent::DeviceDown { key: told, cookie, ifindex, name, ipv4, namespace_ends, .. }] = &ends[..]
    else {
        panic!("{ends:?}")
    };
    assert_eq!((told, *cookie, *ifindex), (&Some(key("a")), identity.cookie, index));
    assert_eq!(
        (name.as_str(), &ipv4[..], *namespace_ends),
        ("net1", &["192.0.2.7".parse().unwrap()][..], Some(false))
    );
}

/// Events of a moment: ends, and links that leave.
fn ends_and_leavings(probes: &mut Probes) -> (usize, Vec<Option<AttachmentKey>>) {
    let (mut ends, mut leavings) = (0, Vec::new());
    wait_for(probes, Duration::from_millis(300), |event| -> Option<()> {
        match event {
            ProbeEvent::DeviceDown { .. } => ends += 1,
            ProbeEvent::DeviceLeaving { key, .. } => leavings.push(key.clone()),
            _ => {}
        }
        None
    });
    (ends, leavings)
}

#[test]
fn a_link_that_moves_to_another_namespace_leaves_and_its_index_is_nobodys_afterwards() {
    let Some(mut probes) = probes() else { return };
    let (pod, other) = (Netns::new("pod"), Netns::new("other"));
    let index = pod.pair("192.0.2.7");
    probes.attachments().follow(&key("moved"), &pod.identity(), Some(index)).unwrap();
    pod.ip(&format!("link set net1 netns {}", other.name));
    assert_eq!(ends_and_leavings(&mut probes), (0, vec![Some(key("moved"))]));
    // Another link gets its index, and ends: that is not the end of the one that moved.
    pod.ip(&format!("link add net1 index {index} type veth peer name peer1"));
    pod.ip("link set peer1 up");
    pod.ip("link set net1 up");
    pod.ip("link del net1");
    assert_eq!(ends_and_leavings(&mut probes), (0, vec![]));
}

/// Attachments with departed links that were reported as torn down within a moment, each with the place that
/// it left.
fn departed_ends(probes: &mut Probes) -> Vec<(Option<AttachmentKey>, NetnsCookie, u32)> {
    let mut found = Vec::new();
    wait_for(probes, Duration::from_millis(500), |event| -> Option<()> {
        if let ProbeEvent::DepartedDown { key, cookie, ifindex, .. } = event {
            found.push((key.clone(), *cookie, *ifindex));
        }
        None
    });
    found
}

/// A link that is up in `pod`, and that ends only with its own namespace.
fn lone_link(pod: &Netns, outside: &Netns) -> u32 {
    pod.ip(&format!("link add net1 type veth peer name peer netns {}", outside.name));
    outside.ip("link set peer up");
    pod.ip("link set net1 up");
    pod.index_of("net1")
}

#[test]
fn a_link_that_left_is_followed_through_every_move_until_its_teardown_and_told_once() {
    let Some(mut probes) = probes() else { return };
    let (pod, outside) = (Netns::new("pod"), Netns::new("out"));
    let (child, grandchild) = (Netns::new("child"), Netns::new("grand"));
    let index = lone_link(&pod, &outside);
    let identity = pod.identity();
    probes.attachments().follow(&key("moved"), &identity, Some(index)).unwrap();
    for (from, to) in [(&pod, &child), (&child, &grandchild)] {
        from.ip(&format!("link set net1 netns {}", to.name));
        to.ip("link set net1 up");
    }
    // From here on the link of the attachment is elsewhere.
    probes.attachments().follow(&key("moved"), &identity, None).unwrap();
    pod.delete();
    child.delete();
    assert_eq!(departed_ends(&mut probes), []);
    grandchild.delete();
    assert_eq!(departed_ends(&mut probes), [(Some(key("moved")), identity.cookie, index)]);
}

#[test]
fn a_link_that_left_is_not_followed_on_once_its_attachment_is_forgotten() {
    let Some(mut probes) = probes() else { return };
    let (pod, outside, child) = (Netns::new("pod"), Netns::new("out"), Netns::new("child"));
    let index = lone_link(&pod, &outside);
    let follow = |probes: &mut Probes| {
        probes.attachments().follow(&key("moved"), &pod.identity(), Some(index)).unwrap();
    };
    follow(&mut probes);
    pod.ip(&format!("link set net1 netns {}", child.name));
    child.ip("link set net1 up");
    probes.attachments().forget(&key("moved")).unwrap();
    // The next attachment of that name is another one.
    follow(&mut probes);
    child.delete();
    assert_eq!(departed_ends(&mut probes), []);
}

#[test]
fn a_link_whose_queues_are_replaced_does_not_leave() {
    let Some(mut probes) = probes() else { return };
    let pod = Netns::new("pod");
    let index = pod.pair("192.0.2.7");
    probes.attachments().follow(&key("queued"), &pod.identity(), Some(index)).unwrap();
    let replace = |kind: &str| {
        let arguments = ["-n", &pod.name, "qdisc", "replace", "dev", "net1", "root", kind];
        Command::new("tc").args(arguments).output().unwrap().status.success()
    };
    if !(replace("pfifo") && replace("bfifo")) {
        return berth_testbed::skip::because("this kernel has no second queueing discipline");
    }
    assert_eq!(ends_and_leavings(&mut probes), (0, vec![]));
    pod.ip("link del net1");
    assert_eq!(ends_and_leavings(&mut probes), (1, vec![]));
}

#[test]
fn an_end_that_no_program_saw_shows_when_the_attachment_is_forgotten() {
    let Some(mut probes) = probes() else { return };
    let pod = Netns::new("pod");
    let index = pod.pair("192.0.2.7");
    probes.attachments().follow(&key("seen"), &pod.identity(), Some(index)).unwrap();
    probes.attachments().follow(&key("unseen"), &pod.identity(), Some(index + 100)).unwrap();
    pod.ip("link del net1");
    assert_eq!(ends_and_leavings(&mut probes).0, 1);
    assert!(!probes.attachments().forget(&key("seen")).unwrap());
    assert!(probes.attachments().forget(&key("unseen")).unwrap());
    assert!(!probes.attachments().forget(&key("unseen")).unwrap(), "it was not followed");
}

#[test]
fn a_proof_that_nobody_waits_for_ends_by_itself() {
    let Some(mut probes) = probes() else { return };
    assert_eq!(probes.proved().unwrap(), None);
    probes.begin_proof().unwrap();
    probes.begin_proof().unwrap();
    let mut verdicts = Vec::new();
    let end = std::time::Instant::now() + Duration::from_secs(5);
    while verdicts.is_empty() && std::time::Instant::now() < end {
        assert!(probes.is_proving());
        // Namespaces of other tests end meanwhile, and are reported without a name.
        let about_links = |event: &ProbeEvent| {
            matches!(event, ProbeEvent::DeviceDown { .. } | ProbeEvent::DeviceLeaving { .. })
        };
        assert!(!probes.drain().unwrap().iter().any(about_links), "the canary causes no event");
        verdicts.extend(probes.proved().unwrap());
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(verdicts, [Verdict::Proved]);
    assert!(!probes.is_proving());
    assert!(probes.attachments().is_empty());
}

#[test]
fn a_rung_that_says_nothing_any_more_is_left() {
    let Some(mut probes) = probes() else { return };
    let rung = probes.rung().unwrap();
    probes.step_down("a reason".to_owned()).unwrap();
    assert_ne!(probes.rung(), Some(rung));
    let left = probes.refusals().iter().find(|refusal| refusal.stage == Stage::Prove).unwrap();
    assert_eq!(left.reason, "a reason");
    let pod = Netns::new("pod");
    let index = pod.pair("192.0.2.7");
    probes.attachments().follow(&key("late"), &pod.identity(), Some(index)).unwrap();
    if probes.rung().is_none() {
        pod.ip("link del net1");
        assert_eq!(ends_and_leavings(&mut probes), (0, vec![]));
    }
    // Exits of tasks have nothing to do with rungs.
    if probes.sees_tasks() {
        // `ip` itself was a task there.
        probes.rearm(&key("late")).unwrap();
        let mut command = Command::new("ip");
        assert!(command.args(["netns", "exec", &pod.name, "true"]).status().unwrap().success());
        let told = wait_for(&mut probes, SOON, |event| match event {
            ProbeEvent::TaskExit { keys, .. } => Some(keys.clone()),
            _ => None,
        });
        assert_eq!(told, Some(vec![key("late")]));
    }
    // And what was left may be tried again.
    probes.try_again().unwrap();
    assert_eq!(probes.rung(), Some(rung));
    assert_eq!(probes.prove().unwrap(), Verdict::Proved);
}

#[test]
fn forgotten_attachments_are_not_told() {
    let Some(mut probes) = probes() else { return };
    let pod = Netns::new("pod");
    let index = pod.pair("192.0.2.7");
    probes.attachments().follow(&key("f"), &pod.identity(), Some(index)).unwrap();
    probes.attachments().forget(&key("f")).unwrap();
    assert!(probes.attachments().is_empty());
    pod.ip("link del net1");
    let told = wait_for(&mut probes, Duration::from_millis(300), |event| match event {
        ProbeEvent::DeviceDown { .. } => Some(()),
        _ => None,
    });
    assert_eq!(told, None);
}

#[test]
fn a_namespace_that_ends_is_told_with_its_devices() {
    let Some(mut probes) = probes() else { return };
    let pod = Netns::new("pod");
    let index = pod.pair("192.0.2.7");
    let identity = pod.identity();
    probes.attachments().follow(&key("n"), &identity, Some(index)).unwrap();
    pod.delete();
    let ends = wait_for(&mut probes, SOON, |event| match event {
        ProbeEvent::DeviceDown { key: told, namespace_ends, .. } if *told == Some(key("n")) => {
            Some(*namespace_ends)
        }
        _ => None,
    });
    assert_eq!(ends, Some(Some(true)), "reported, and as part of the namespace's end");
    if probes.rung() != Some(Rung::TpBtf) {
        let told = wait_for(&mut probes, SOON, |event| match event {
            ProbeEvent::NamespaceEnd { keys, cookie, .. } if *cookie == identity.cookie => Some(keys.clone()),
            _ => None,
        });
        assert_eq!(told, Some(vec![key("n")]));
    }
}

/// 100 namespaces at the same time: each is reported once, and nothing is lost.
#[test]
fn a_hundred_ends_at_once_are_all_told_once() {
    let Some(mut probes) = probes() else { return };
    let pods: Vec<Netns> = (0..100).map(|_| Netns::new("many")).collect();
    for (number, pod) in pods.iter().enumerate() {
        let index = pod.pair("192.0.2.7");
        let key = key(&format!("many{number}"));
        probes.attachments().follow(&key, &pod.identity(), Some(index)).unwrap();
    }
    drop(pods);
    let mut told = std::collections::BTreeMap::<_, u32>::new();
    wait_for(&mut probes, Duration::from_secs(20), |event| {
        match event {
            ProbeEvent::DeviceDown { key: Some(key), .. } => *told.entry(key.clone()).or_default() += 1,
            ProbeEvent::Lost(lost) => panic!("{lost} lost"),
            _ => {}
        }
        (told.len() == 100).then_some(())
    });
    assert_eq!(told.len(), 100);
    assert!(told.values().all(|count| *count == 1), "{told:?}");
}

#[test]
fn a_teardown_without_a_name_is_hinted_at_on_the_tracepoint_rung() {
    let Some(options) = options() else { return };
    let allowed = Allowed::Only(Rung::TpBtf);
    let mut probes = Probes::start(&berth_probes::Options { allowed, ..options }).unwrap();
    if probes.rung().is_none() || !probes.refusals().is_empty() {
        return berth_testbed::skip::because("this kernel does not take the tracepoint programs");
    }
    Netns::new("hint").delete();
    let hint = wait_for(&mut probes, SOON, |event| match event {
        ProbeEvent::NamespacesEnding { .. } => Some(()),
        _ => None,
    });
    assert_eq!(hint, Some(()));
}

#[test]
fn an_exit_in_a_followed_namespace_is_told_once_until_it_is_rearmed() {
    let Some(mut probes) = probes() else { return };
    if !probes.sees_tasks() {
        return berth_testbed::skip::because("this kernel does not take the program that sees exits");
    }
    let pod = Netns::new("pod");
    let identity = pod.identity();
    // Without a link yet: the namespace alone is followed.
    probes.attachments().follow(&key("t"), &identity, None).unwrap();
    let run = || {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &pod.name, "true"]).stdout(Stdio::null());
        assert!(command.status().unwrap().success());
    };
    let exits = |probes: &mut Probes| {
        let mut found: Vec<(NetnsCookie, u64)> = Vec::new();
        wait_for(probes, Duration::from_millis(200), |event| -> Option<()> {
            if let ProbeEvent::TaskExit { keys, cookie, inode, .. } = event {
                assert_eq!(keys, &[key("t")]);
                found.push((*cookie, *inode));
            }
            None
        });
        found
    };
    run();
    run();
    assert_eq!(exits(&mut probes), [(identity.cookie, identity.inode)]);
    run();
    assert_eq!(exits(&mut probes), []);
    probes.rearm(&key("t")).unwrap();
    run();
    assert_eq!(exits(&mut probes).len(), 1);
}
