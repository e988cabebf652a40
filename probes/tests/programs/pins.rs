//! Pins in a BPF file system of the test's own.

use std::path::PathBuf;
use std::time::Duration;

use berth_probes::pins::Pins;
use berth_probes::{Allowed, Error, Object, Options, ProbeEvent, Probes, Verdict};
use berth_testbed::skip;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::world::{Netns, key, object_bytes, options, wait_for};

/// A BPF file system, unmounted with this value.
struct BpfFs {
    folder: tempfile::TempDir,
}

impl BpfFs {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let none: Option<&str> = None;
        if let Err(error) = mount(Some("bpf"), folder.path(), Some("bpf"), MsFlags::empty(), none) {
            skip::because(&format!("mount a BPF file system: {error}"));
            return None;
        }
        Some(Self { folder })
    }

    fn base(&self) -> PathBuf {
        self.folder.path().join("berth")
    }

    fn options(&self) -> Option<Options> {
        Some(Options { bpffs: Some(self.base()), ..options()? })
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}

#[test]
fn what_happens_while_no_agent_runs_is_told_to_the_next() {
    let Some(options) = options().and_then(|_| BpfFs::new()).and_then(|fs| fs.options().map(|o| (fs, o)))
    else {
        return;
    };
    let (fs, options) = options;
    let pods: Vec<Netns> = (0..3).map(|_| Netns::new("pod")).collect();
    let indices: Vec<u32> = pods.iter().map(|pod| pod.pair("192.0.2.7")).collect();
    let mut first = Probes::start(&options).unwrap();
    if first.rung().is_none() {
        return skip::because("this kernel takes no program that sees teardowns");
    }
    assert_eq!(first.pins(), &Pins::At(fs.base().join("v1")));
    for (number, pod) in pods.iter().enumerate() {
        let key = key(&format!("pin{number}"));
        first.attachments().follow(&key, &pod.identity(), Some(indices[number])).unwrap();
    }
    drop(first);
    pods[0].ip("link del net1");

    let mut second = Probes::start(&options).unwrap();
    pods[1].ip("link del net1");
    for (number, pod) in pods.iter().enumerate().take(2) {
        let key = key(&format!("pin{number}"));
        second.attachments().follow(&key, &pod.identity(), Some(indices[number])).unwrap();
    }
    // The third is not followed again: after settling it has no events.
    second.attachments().settle().unwrap();
    pods[2].ip("link del net1");
    let mut told = Vec::new();
    wait_for(&mut second, Duration::from_millis(500), |event| -> Option<()> {
        if let ProbeEvent::DeviceDown { key, .. } = event {
            told.push(key.clone());
        }
        None
    });
    assert_eq!(told, [Some(key("pin0")), Some(key("pin1"))]);
}

#[test]
fn programs_of_an_earlier_agent_do_not_outlive_one_that_wants_none() {
    let Some(fs) = options().and_then(|_| BpfFs::new()) else { return };
    let Some(options) = fs.options() else { return };
    let pod = Netns::new("pod");
    let index = pod.pair("192.0.2.7");
    let mut first = Probes::start(&options).unwrap();
    first.attachments().follow(&key("none"), &pod.identity(), Some(index)).unwrap();
    drop(first);
    let mut second = Probes::start(&Options { allowed: Allowed::None, ..options }).unwrap();
    pod.ip("link del net1");
    let told = wait_for(&mut second, Duration::from_millis(300), |event| match event {
        ProbeEvent::DeviceDown { .. } => Some(()),
        _ => None,
    });
    assert_eq!(told, None);
}

#[test]
fn a_map_of_another_layout_is_replaced_and_older_versions_are_removed() {
    let Some(fs) = options().and_then(|_| BpfFs::new()) else { return };
    let Some(options) = fs.options() else { return };
    drop(Probes::start(&options).unwrap());
    let folder = fs.base().join("v1");
    // The counters in the place of the watches: another layout.
    std::fs::remove_file(folder.join("WATCH")).unwrap();
    std::fs::rename(folder.join("COUNTERS"), folder.join("WATCH")).unwrap();
    let older = fs.base().join("v0");
    std::fs::create_dir(&older).unwrap();
    std::fs::create_dir(fs.base().join("v999")).unwrap();
    let mut probes = Probes::start(&options).unwrap();
    assert!(matches!(probes.pins(), Pins::At(_)), "{:?}", probes.pins());
    let wire = berth_probes::watch::Wire { parent: 1, vlan: None };
    probes.watches().watch(wire, "192.0.2.7".parse().unwrap(), None).unwrap();
    assert!(!older.exists());
    assert!(fs.base().join("v999").exists(), "a newer version is another's");
}

#[test]
fn two_agents_never_share_pins() {
    let Some(fs) = options().and_then(|_| BpfFs::new()) else { return };
    let Some(options) = fs.options() else { return };
    let first = Probes::start(&options).unwrap();
    let second = Probes::start(&options).unwrap();
    assert!(matches!(second.pins(), Pins::None(reason) if reason.contains("another agent")), "{second:?}");
    assert!(Pins::remove_all(&fs.base()).is_err(), "not under the first one's feet");
    drop(first);
    Pins::remove_all(&fs.base()).unwrap();
    assert_eq!(std::fs::read_dir(fs.base()).unwrap().count(), 0);
}

#[test]
fn a_bpf_file_system_that_takes_nothing_costs_the_pins_and_no_program() {
    let Some(fs) = options().and_then(|_| BpfFs::new()) else { return };
    let Some(options) = fs.options() else { return };
    drop(Probes::start(&options).unwrap());
    std::fs::remove_file(fs.base().join("v1/WATCH")).unwrap();
    let none: Option<&str> = None;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, fs.folder.path(), none, flags, none).unwrap();
    let mut probes = Probes::start(&options).unwrap();
    assert!(matches!(probes.pins(), Pins::None(_)), "{:?}", probes.pins());
    if probes.rung().is_some() {
        assert_eq!(probes.prove().unwrap(), Verdict::Proved);
    }
}

#[test]
fn without_a_bpf_file_system_it_works_and_says_so() {
    let Some(options) = options() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut probes = Probes::start(&Options { bpffs: Some(folder.path().join("x")), ..options }).unwrap();
    assert!(matches!(probes.pins(), Pins::None(reason) if reason.contains("BPF file system")));
    if probes.rung().is_some() {
        assert_eq!(probes.prove().unwrap(), Verdict::Proved);
    }
}

#[test]
fn an_object_that_is_none_or_of_another_version_is_refused_with_what_to_do() {
    let Some(options) = options() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("berth.o");
    let started = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Probes::start(&Options { object: Object::File(path.clone()), ..options.clone() })
    };
    let good = object_bytes(&options);
    assert!(started(&good).is_ok());
    for length in [0, 3, 100, good.len() / 2] {
        assert!(started(&good[..length]).is_err(), "{length}");
    }
    // Of another version: the layout's symbol has another name.
    let mut other = good.clone();
    let at = other.windows(9).rposition(|part| part == b"LAYOUT_V1").unwrap();
    other[at + 8] = b'9';
    let error = started(&other).err().unwrap();
    assert!(matches!(error, Error::OtherVersion { .. }), "{error:?}");
    assert!(error.to_string().contains("build-ebpf"));
    let absent = Probes::start(&Options { object: Object::File(folder.path().join("absent")), ..options });
    assert!(matches!(absent, Err(Error::ReadObject { .. })));
}

#[test]
fn bpftool_shows_maps_with_the_names_of_their_fields() {
    let Some(fs) = options().and_then(|_| BpfFs::new()) else { return };
    let Some(options) = fs.options() else { return };
    if std::process::Command::new("bpftool").arg("version").output().is_err() {
        return skip::because("needs the Debian package bpftool");
    }
    let pod = Netns::new("pod");
    let identity = pod.identity();
    let mut probes = Probes::start(&options).unwrap();
    probes.attachments().follow(&key("shown"), &identity, Some(77)).unwrap();
    let wire = berth_probes::watch::Wire { parent: 5, vlan: Some(12) };
    probes.watches().watch(wire, "192.0.2.7".parse().unwrap(), None).unwrap();
    let dump = |map: &str| {
        let path = fs.base().join("v1").join(map);
        let output = std::process::Command::new("bpftool").args(["map", "dump", "pinned"]).arg(path).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let links = dump("ATTACH");
    let cookie = format!("\"netns\": {}", identity.cookie.0);
    assert!(links.contains(&cookie) && links.contains("\"ifindex\": 77"), "{links}");
    let watched = dump("WATCH");
    let wanted = ["\"parent\": 5", "\"vlan\": 12", "[192,0,2,7,0", "\"conflicts\": 0"];
    assert!(wanted.iter().all(|part| watched.contains(part)), "{watched}");
    assert!(dump("NETNS").contains("\"slot\":"));
}
