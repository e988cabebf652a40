//! Namespaces found by number or by cookie, where numbers, inodes and paths come back.

use std::process::Command;

use berth_ipam::identity::{NetnsIdentity, Nsid};
use berth_underlay::finder::{Finder, Numbered};
use berth_underlay::netns::{NetnsFile, socket_in};
use berth_underlay::nsid;
use berth_underlay::read::{LinkRead, Reader};
use berth_underlay::search::Options;

use crate::support::{Namespace, eventually, in_node, run};

/// Makes the kernel assign an nsid to the namespace.
fn numbered(reader: &mut Reader, namespace: &Namespace) -> NetnsIdentity {
    run("ip", &["netns", "set", &namespace.name, "auto"]);
    identity(reader, namespace)
}

/// Assigns that nsid to the namespace; false: it still belongs to another one.
fn gives(namespace: &Namespace, nsid: Nsid) -> bool {
    let number = nsid.0.to_string();
    Command::new("ip").args(["netns", "set", &namespace.name, &number]).output().unwrap().status.success()
}

fn identity(reader: &mut Reader, namespace: &Namespace) -> NetnsIdentity {
    let file = namespace.file();
    let nsid = nsid::read(reader.socket(), &file).unwrap().unwrap();
    assert!(!nsid.is_drawn());
    NetnsIdentity { cookie: file.cookie().unwrap(), inode: file.inode(), nsid, nsid_is_random: false }
}

fn is_free(reader: &mut Reader, nsid: Nsid) -> bool {
    matches!(reader.link(Some(nsid), 1), LinkRead::NoNamespace)
}

#[test]
fn a_number_that_came_back_is_anothers() {
    in_node(|_| {
        let (mut reader, mut finder) = (Reader::new().unwrap(), Finder::new(Options::default()));
        let first = Namespace::new();
        let netns = numbered(&mut reader, &first);
        assert!(matches!(finder.of_number(&mut reader, &netns), Numbered::Own(_)));
        first.delete();
        eventually("the number is free", || is_free(&mut reader, netns.nsid));
        assert!(matches!(finder.of_number(&mut reader, &netns), Numbered::Unnamed));
        let second = Namespace::new();
        // The number of a namespace that is being torn down means nothing, and is taken for a moment longer.
        eventually("the number is given again", || gives(&second, netns.nsid));
        let other = identity(&mut reader, &second);
        assert_eq!(other.nsid, netns.nsid);
        eventually("the next search", || matches!(finder.of_number(&mut reader, &netns), Numbered::Another));
        assert!(matches!(finder.of_number(&mut reader, &other), Numbered::Own(_)));
    });
}

#[test]
fn a_path_that_names_another_namespace_now_proves_no_end() {
    in_node(|_| {
        let (mut reader, mut finder) = (Reader::new().unwrap(), Finder::new(Options::default()));
        let first = Namespace::new();
        let netns = numbered(&mut reader, &first);
        assert!(matches!(finder.of_number(&mut reader, &netns), Numbered::Own(_)));
        assert!(finder.of_cookie(&mut reader, &netns).is_some());
        let held = first.file();
        run("ip", &["netns", "del", &first.name]);
        run("ip", &["netns", "add", &first.name]);
        assert_ne!(numbered(&mut reader, &first).nsid, netns.nsid);
        let found = finder.of_number(&mut reader, &netns);
        assert!(matches!(found, Numbered::Own(_)), "a descriptor names it: {found:?}");
        let found = finder.of_cookie(&mut reader, &netns);
        assert_eq!(found.map(|held| held.nsid), Some(netns.nsid));
        drop(held);
    });
}

#[test]
fn a_namespace_that_only_a_socket_holds_is_not_named() {
    in_node(|_| {
        let (mut reader, mut finder) = (Reader::new().unwrap(), Finder::new(Options::default()));
        let pod = Namespace::new();
        let netns = numbered(&mut reader, &pod);
        let socket = socket_in(&pod.file()).unwrap();
        pod.delete();
        assert!(!is_free(&mut reader, netns.nsid));
        assert!(matches!(finder.of_number(&mut reader, &netns), Numbered::Unnamed));
        assert!(finder.of_cookie(&mut reader, &netns).is_none());
        drop(socket);
        eventually("the namespace ends with the socket", || is_free(&mut reader, netns.nsid));
    });
}

#[test]
fn a_cookie_leads_to_a_namespace_from_another_place() {
    let pod = Namespace::new();
    let mut known = None;
    in_node(|_| known = Some(numbered(&mut Reader::new().unwrap(), &pod)));
    let netns = known.unwrap();
    in_node(|_| {
        let (mut reader, mut finder) = (Reader::new().unwrap(), Finder::new(Options::default()));
        assert!(matches!(finder.of_number(&mut reader, &netns), Numbered::Unnamed | Numbered::Another));
        let held = finder.of_cookie(&mut reader, &netns).unwrap();
        assert!(held.nsid.is_drawn(), "it had no number here");
        let file = NetnsFile::open(pod.path()).unwrap();
        assert_eq!(nsid::read(reader.socket(), &file).unwrap(), Some(held.nsid));
    });
}
