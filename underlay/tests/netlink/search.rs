//! The search over every namespace that can be named.

use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use berth_ipam::mac::Mac;
use berth_underlay::netns::run_in;
use berth_underlay::read::Reader;
use berth_underlay::search::{Options, SearchResult, search};

use crate::support::{Namespace, eventually, in_node, random_mac};

/// Number of links with that MAC. The search covers the whole machine, other tests' pods included, so each
/// test has its own MAC.
fn count(result: &SearchResult, mac: Mac) -> usize {
    result.iter().filter(|(_, link)| link.mac == Some(mac)).count()
}

fn look(options: &Options) -> SearchResult {
    let result = search(&mut Reader::new().unwrap(), options);
    // Some systems forbid reading the descriptors of certain processes, even to root.
    let refused =
        |why: &String| options.descriptors && why.contains("/fd/") && why.contains("Permission denied");
    assert!(result.incomplete_because.iter().all(refused), "{:?}", result.incomplete_because);
    assert_eq!(result.complete, result.incomplete_because.is_empty());
    result
}

/// A process that is killed on drop.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_link_is_found_in_a_named_namespace_once() {
    in_node(|node| {
        let mac = random_mac();
        let pod = node.pod(&mac.to_string());
        let options = Options { cookies: true, ..Options::default() };
        let result = look(&options);
        let found: Vec<_> = result.iter().filter(|(_, link)| link.mac == Some(mac)).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        let (seen, link) = found[0];
        assert_eq!((seen.nsid, seen.nsid_is_random, link.ifindex), (Some(pod.nsid), true, pod.link.ifindex));
        assert_eq!(seen.inode, pod.namespace.file().inode());
        assert_eq!(seen.cookie, Some(pod.namespace.file().cookie().unwrap()));
        // The node's own namespace is searched as well, without an nsid.
        assert!(result.iter().any(|(seen, link)| seen.nsid.is_none() && link.name == "eth1"));
    });
}

#[test]
fn a_namespace_that_only_a_process_holds_is_found() {
    in_node(|node| {
        let mac = random_mac();
        let pod = node.pod(&mac.to_string());
        let sleeper =
            run_in(&pod.namespace.file(), || Process(Command::new("sleep").arg("60").spawn().unwrap()));
        let _sleeper = sleeper.unwrap();
        pod.namespace.delete();
        assert_eq!(count(&look(&Options::default()), mac), 1);
    });
}

#[test]
fn a_namespace_that_only_a_descriptor_holds_is_found_when_asked_for() {
    in_node(|node| {
        let mac = random_mac();
        let pod = node.pod(&mac.to_string());
        let file = std::fs::File::open(pod.namespace.path()).unwrap();
        let holder = Process(Command::new("sleep").arg("60").stdin(Stdio::from(file)).spawn().unwrap());
        pod.namespace.delete();
        assert_eq!(count(&look(&Options::default()), mac), 0);
        let thorough = Options { descriptors: true, ..Options::default() };
        assert_eq!(count(&look(&thorough), mac), 1);
        drop(holder);
        eventually("the link ends with its last holder", || count(&look(&thorough), mac) == 0);
    });
}

#[test]
fn a_namespace_that_only_a_mount_of_another_mount_namespace_holds_is_found_when_asked_for() {
    in_node(|node| {
        let mac = random_mac();
        let pod = node.pod(&mac.to_string());
        let file = std::env::temp_dir().join(format!("berth-mount-{}", std::process::id()));
        std::fs::write(&file, "").unwrap();
        let script = format!(
            "mount --make-rprivate / && mount --bind {} {} && echo mounted && exec sleep 60",
            pod.namespace.path().display(),
            file.display()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).stdout(Stdio::piped());
        let mut process = Process(command.spawn().unwrap());
        let mut line = String::new();
        let output = process.0.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
        assert_eq!(line, "mounted\n");
        pod.namespace.delete();
        assert_eq!(count(&look(&Options::default()), mac), 0);
        let deep = Options { descriptors: true, ..Options::default() };
        assert_eq!(count(&look(&deep), mac), 1);
        drop(process);
        eventually("the namespace ends with its mount", || count(&look(&deep), mac) == 0);
        std::fs::remove_file(&file).unwrap();
    });
}

#[test]
fn other_folders_are_looked_into_and_other_files_are_no_gap() {
    in_node(|node| {
        let mac = random_mac();
        let pod = node.pod(&mac.to_string());
        let folder = tempfile::tempdir().unwrap();
        symlink(pod.namespace.path(), folder.path().join("ns")).unwrap();
        std::fs::write(folder.path().join("left-over"), "").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        let options = Options { folders: vec![folder.path().to_owned()], ..Options::default() };
        assert_eq!(count(&look(&options), mac), 1);
    });
}

#[test]
fn a_task_that_cannot_be_looked_at_makes_the_search_incomplete() {
    in_node(|_| {
        let proc = tempfile::tempdir().unwrap();
        let namespaces = proc.path().join("42/task/42/ns");
        std::fs::create_dir_all(&namespaces).unwrap();
        std::fs::create_dir_all(proc.path().join("self")).unwrap();
        std::fs::write(proc.path().join("self/mountinfo"), "").unwrap();
        let options = Options { proc_root: proc.path().to_owned(), ..Options::default() };
        let mut reader = Reader::new().unwrap();
        assert!(search(&mut reader, &options).complete, "a task without the file has left");
        symlink("net", namespaces.join("net")).unwrap();
        std::fs::write(proc.path().join("42/task/42/comm"), "vmm\n").unwrap();
        let result = search(&mut reader, &options);
        assert!(
            !result.complete && result.incomplete_because[0].contains("42/task/42/ns/net (vmm): "),
            "{result:?}"
        );
    });
}

#[test]
fn a_hundred_namespaces_take_milliseconds() {
    in_node(|_| {
        let namespaces: Vec<_> = (0..100).map(|_| Namespace::new()).collect();
        look(&Options::default());
        let start = Instant::now();
        let result = look(&Options::default());
        let elapsed = start.elapsed();
        println!("{} namespaces: {elapsed:?}", result.namespaces.len());
        assert!(result.namespaces.len() > namespaces.len() && elapsed.as_millis() < 300, "{elapsed:?}");
    });
}
