use berth_ipam::identity::{BootId, MachineId};
use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::cluster::claim::stamp;

const PATIENCE: Duration = Duration::from_secs(10);

fn identity(machine: &str, boot: &str) -> Identity {
    let (boot_id, machine_id) = (BootId(boot.to_owned()), MachineId(machine.to_owned()));
    Identity { node: "n1".parse().unwrap(), boot_id, machine_id }
}

fn at(seconds: u64) -> Time {
    Time::from_millis(seconds * 1000)
}

fn node(machine: &str, boot: &str) -> NodeSeen {
    NodeSeen::There { machine_id: machine.to_owned(), boot_id: boot.to_owned() }
}

/// An API server with one lease, and a date that moves with every write.
#[derive(Default)]
struct Server {
    lease: Option<Lease>,
    version: u32,
    date: i64,
}

impl Server {
    fn put(&mut self, lease: Lease) -> Result<Lease, Failure> {
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        match (&self.lease, version(&lease)) {
            (None, Some(_)) => return Err(Failure::Absent),
            (Some(found), sent) if version(found) != sent => return Err(Failure::Conflict),
            _ => {}
        }
        self.version += 1;
        let mut lease = lease;
        lease.metadata.resource_version = Some(self.version.to_string());
        self.lease = Some(lease.clone());
        Ok(lease)
    }

    /// One round of an agent, as the shell makes it.
    fn round(&mut self, name: &mut Name, second: u64, node: &NodeSeen) {
        if name.must_look() {
            name.looked(at(second), at(second), self.lease.clone(), node);
        }
        if let Some(lease) = self.write_of(name) {
            match self.put(lease) {
                Ok(lease) => name.written(lease),
                Err(failure) => name.not_written(failure),
            }
        }
    }

    fn write_of(&mut self, name: &mut Name) -> Option<Lease> {
        self.date += 1;
        name.write(PATIENCE, &stamp(Timestamp::from_second(self.date).unwrap()))
    }
}

fn agent(machine: &str, boot: &str) -> Name {
    Name::new(identity(machine, boot), Duration::from_secs(4))
}

#[test]
fn the_node_object_says_whose_the_name_is() {
    let (mut server, mut name) = (Server::default(), agent("m1", "b1"));
    assert!(name.why().unwrap().starts_with(STARTING));
    server.round(&mut name, 0, &node("m1", "b1"));
    assert_eq!(name.why(), None);

    // The next boot takes it from the previous one at once, and the agent's restart keeps it.
    let mut next = agent("m1", "b2");
    server.round(&mut next, 1, &node("m1", "b2"));
    assert_eq!(next.why(), None);
    let mut restarted = agent("m1", "b2");
    server.round(&mut restarted, 2, &node("m1", "stale"));
    assert_eq!(restarted.why(), None);
}

#[test]
fn a_wrong_name_is_never_taken() {
    let (mut server, mut name) = (Server::default(), agent("m1", "b1"));
    for second in 0..60 {
        server.round(&mut name, second, &NodeSeen::Absent);
        assert!(name.why().unwrap().contains("--node-name"), "{:?}", name.why());
    }
    assert!(server.lease.is_none());
    for second in 60..90 {
        server.round(&mut name, second, &NodeSeen::Unread);
        assert!(name.why().is_some() && server.lease.is_none(), "what could not be read proves nothing");
    }
}

#[test]
fn of_two_agents_with_one_name_the_second_waits_for_the_silence_of_the_first() {
    let (mut server, mut first, mut second) = (Server::default(), agent("m1", "b1"), agent("m2", "b2"));
    let object = node("m1", "b1");
    for time in 0..60 {
        server.round(&mut first, time, &object);
        server.round(&mut second, time, &object);
        assert_eq!(first.why(), None);
        assert!(second.why().unwrap().contains("held by m1/b1"), "{:?}", second.why());
    }
    let silent_since = 59;
    for time in 60..90 {
        server.round(&mut second, time, &object);
        assert_eq!(second.why().is_none(), time >= silent_since + 10, "{time}");
    }
    // The first comes back, and finds a write of another agent.
    server.round(&mut first, 90, &object);
    assert_eq!(first.why(), None, "a conflict alone is settled by a read");
    server.round(&mut first, 91, &object);
    assert!(first.why().unwrap().contains("held by m2/b2"), "{:?}", first.why());
}

#[test]
fn an_outage_takes_the_name_from_nobody() {
    let (mut server, mut name) = (Server::default(), agent("m1", "b1"));
    let object = node("m1", "b1");
    server.round(&mut name, 0, &object);
    for _ in 0..1000 {
        assert!(!name.must_look() || name.why().is_none());
        let _ = server.write_of(&mut name);
        name.not_written(Failure::Unknown);
        name.not_looked("no route", false);
        assert_eq!(name.why(), None);
        name.not_looked("leases is forbidden", true);
        assert_eq!(name.why(), None, "rights that are taken away give the name to nobody");
    }
    server.round(&mut name, 1000, &object);
    assert_eq!(name.why(), None);
    assert!(!name.must_look());
}

#[test]
fn a_write_whose_answer_was_lost_is_known_again() {
    let (mut server, mut name) = (Server::default(), agent("m1", "b1"));
    let object = node("m1", "b1");
    server.round(&mut name, 0, &object);
    let lease = server.write_of(&mut name).unwrap();
    server.put(lease).unwrap();
    name.not_written(Failure::Unknown);
    server.round(&mut name, 2, &object);
    assert_eq!((name.why(), name.must_look()), (None, false));

    // The first one too, by which it was taken.
    let (mut server, mut name) = (Server::default(), agent("m1", "b1"));
    name.looked(at(0), at(0), None, &object);
    let lease = server.write_of(&mut name).unwrap();
    server.put(lease).unwrap();
    name.not_written(Failure::Unknown);
    assert!(name.why().is_some());
    server.round(&mut name, 1, &node("m1", "stale"));
    assert_eq!(name.why(), None);
}

#[test]
fn another_hand_in_the_object_takes_nothing() {
    let (mut server, mut name) = (Server::default(), agent("m1", "b1"));
    let object = node("m1", "b1");
    server.round(&mut name, 0, &object);
    // A label of an operator's: another version, the same signature and date.
    let edited = server.lease.clone().unwrap();
    server.put(edited).unwrap();
    server.round(&mut name, 2, &object);
    server.round(&mut name, 4, &object);
    assert_eq!((name.why(), name.must_look()), (None, false));
    // Deleted: made again.
    server.lease = None;
    server.round(&mut name, 6, &object);
    server.round(&mut name, 8, &object);
    assert!(name.why().is_none() && server.lease.is_some());
}

#[test]
fn of_two_copies_of_a_machine_one_has_the_name() {
    let (mut server, mut first, mut second) = (Server::default(), agent("m1", "b1"), agent("m1", "b1"));
    let object = node("m1", "b1");
    server.round(&mut first, 0, &object);
    for time in 1..60 {
        server.round(&mut second, time, &object);
        server.round(&mut first, time, &object);
        server.round(&mut first, time, &object);
        assert_eq!(second.why(), None);
        assert!(first.why().is_some(), "{time}");
    }
    assert!(first.why().unwrap().contains("copy of this machine"), "{:?}", first.why());
    for time in 60..80 {
        server.round(&mut first, time, &object);
    }
    assert_eq!(first.why(), None, "the other one was silent");
}

#[test]
fn what_is_refused_is_said_and_what_is_out_of_reach_is_no_trouble_yet() {
    let mut name = agent("m1", "b1");
    name.not_looked("connection refused", false);
    assert!(name.why().unwrap().starts_with(STARTING));
    name.not_looked("leases is forbidden", true);
    assert!(name.why().unwrap().contains("ServiceAccount"));
    let said = name.why().map(str::to_owned);
    name.not_looked("connection refused", false);
    assert_eq!(name.why().map(str::to_owned), said, "no flapping between reasons");
}
