//! The whole program at a node's folders: what is there afterwards, what it prints, how it exits.

#![expect(clippy::unwrap_used, reason = "a helper of a test may end the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

const CONFLIST: &str = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"berth","network":"lan"}]}"#;
const PROGRAM: &[u8] = b"\x7fELF one";

/// A node's folders, and what an image brings.
struct Node(tempfile::TempDir);

impl Node {
    fn new() -> Self {
        let node = Self(tempfile::tempdir().unwrap());
        for folder in ["bin", "net.d", "image"] {
            fs::create_dir(node.at(folder)).unwrap();
        }
        fs::write(node.at("image/berth"), PROGRAM).unwrap();
        fs::write(node.at("image/10-berth.conflist"), CONFLIST).unwrap();
        node
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn install(&self, more: &[(&str, &Path)]) -> Output {
        let mut flags = vec![
            ("--plugin", self.at("image/berth")),
            ("--conflist", self.at("image/10-berth.conflist")),
            ("--bin-dir", self.at("bin")),
            ("--conf-dir", self.at("net.d")),
        ];
        for (flag, path) in more {
            flags.retain(|(known, _)| known != flag);
            flags.push((flag, (*path).to_owned()));
        }
        let words = flags.iter().flat_map(|(flag, path)| [(*flag).as_ref(), path.as_os_str()]);
        // A socket without a server: none of these commands calls an agent.
        let mut command = berthctl();
        command.args(["--socket", "/nonexistent/agent.sock", "install-node"]).args(words).output().unwrap()
    }

    fn uninstall(&self, more: &[&str]) -> Output {
        let mut command = berthctl();
        command.arg("uninstall-node").arg("--bin-dir").arg(self.at("bin"));
        command.arg("--conf-dir").arg(self.at("net.d")).args(more).output().unwrap()
    }

    /// Files in the runtime's folders, with their sizes.
    fn files(&self) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        for folder in ["bin", "net.d"] {
            for entry in fs::read_dir(self.at(folder)).unwrap() {
                let entry = entry.unwrap();
                found.push((entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()));
            }
        }
        found.sort();
        found
    }
}

fn berthctl() -> Command {
    Command::new(env!("CARGO_BIN_EXE_berthctl"))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn names(node: &Node) -> Vec<String> {
    node.files().into_iter().map(|(name, _)| name).collect()
}

#[test]
fn a_node_is_installed_upgraded_and_uninstalled() {
    let node = Node::new();
    let output = node.install(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let (plugin, list) = (node.at("bin/berth"), node.at("net.d/10-berth.conflist"));
    let lines = format!("installed  {}\ninstalled  {}\n", plugin.display(), list.display());
    assert_eq!(text(&output.stdout), lines);
    assert_eq!(fs::read(&plugin).unwrap(), PROGRAM);
    assert_eq!(fs::read_to_string(&list).unwrap(), CONFLIST);

    fs::write(node.at("image/berth"), b"\x7fELF two").unwrap();
    let output = node.install(&[]);
    let lines = format!("installed  {}\nunchanged  {}\n", plugin.display(), list.display());
    assert_eq!(text(&output.stdout), lines);

    let output = node.uninstall(&["-o", "json"]);
    let changes: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        changes,
        json!([{"path": list, "outcome": "removed"}, {"path": plugin, "outcome": "removed"}])
    );
    assert!(names(&node).is_empty());
    let output = node.uninstall(&[]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout).matches("absent").count(), 2);
}

#[test]
fn a_node_that_stopped_between_the_two_is_completed() {
    let node = Node::new();
    // As a power cut leaves it: the plugin in place, the list prepared in part.
    fs::write(node.at("bin/berth"), PROGRAM).unwrap();
    fs::write(node.at("net.d/.10-berth.conflist.berth-new"), "{\"cniVer").unwrap();
    let output = node.install(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(names(&node), ["10-berth.conflist", "berth"]);
    assert_eq!(fs::read_to_string(node.at("net.d/10-berth.conflist")).unwrap(), CONFLIST);
}

#[test]
fn bad_input_is_named_and_changes_nothing() {
    let node = Node::new();
    fs::write(node.at("bin/macvlan"), "other").unwrap();
    for (name, content) in [
        ("broken.conflist", "{"),
        ("nameless.conflist", r#"{"plugins":[{"type":"berth"}]}"#),
        ("empty.conflist", r#"{"name":"pods","plugins":[]}"#),
        ("foreign.conflist", r#"{"name":"pods","plugins":[{"type":"macvlan"}]}"#),
        ("10-berth.conf", CONFLIST),
    ] {
        fs::write(node.at(name), content).unwrap();
        let output = node.install(&[("--conflist", &node.at(name))]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        assert!(said.contains(name), "{name}: {said}");
    }
    let nowhere = node.at("nowhere");
    for (flag, path) in [
        ("--plugin", nowhere.clone()),
        ("--plugin", node.at("image")),
        ("--plugin", node.at("image/10-berth.conflist")),
        ("--conflist", node.at("nowhere.conflist")),
        ("--bin-dir", nowhere.clone()),
        ("--conf-dir", nowhere.clone()),
        ("--bin-dir", node.at("image/berth")),
    ] {
        let output = node.install(&[(flag, &path)]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{flag} {}: {said}", path.display());
        assert!(said.contains(&*path.to_string_lossy()), "{flag}: {said}");
    }
    assert_eq!(node.files(), [("macvlan".to_owned(), 5)]);
    let output = berthctl().args(["install-node", "--plugin", "x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "without a list");
}

/// A folder that takes no file, even from root.
const READ_ONLY: &str = "/sys/kernel";

#[test]
fn a_read_only_folder_is_named_and_changes_nothing() {
    let node = Node::new();
    for flag in ["--bin-dir", "--conf-dir"] {
        let output = node.install(&[(flag, Path::new(READ_ONLY))]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{flag}: {said}");
        assert!(said.contains(READ_ONLY) && said.contains("nothing was changed"), "{flag}: {said}");
        assert!(names(&node).is_empty(), "{flag}: {:?}", names(&node));
    }
}

#[test]
fn only_berths_own_is_uninstalled() {
    let node = Node::new();
    node.install(&[]);
    let foreign = r#"{"name":"x","plugins":[{"type":"macvlan"}]}"#;
    fs::write(node.at("net.d/20-other.conflist"), foreign).unwrap();
    fs::write(node.at("bin/macvlan"), "other").unwrap();

    let output = node.uninstall(&["--conflist", "20-other.conflist"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("20-other.conflist"), "{}", text(&output.stderr));
    assert_eq!(names(&node), ["10-berth.conflist", "20-other.conflist", "berth", "macvlan"]);

    // The list has another name: the plugin is not taken away from under it.
    let output = node.uninstall(&["--conflist", "99-berth.conflist"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("10-berth.conflist"), "{}", text(&output.stderr));
    assert_eq!(names(&node).len(), 4);

    assert_eq!(node.uninstall(&[]).status.code(), Some(0));
    assert_eq!(names(&node), ["20-other.conflist", "macvlan"]);
}

#[test]
fn the_daemon_set_installs_a_list_that_is_taken() {
    let manifest = include_str!("../../deploy/agent.yaml");
    let (_, after) = manifest.split_once("  10-berth.conflist: |\n").unwrap();
    let list: Vec<_> = after.lines().map_while(|line| line.strip_prefix("    ")).collect();
    let (_, after) = manifest.split_once("            - install-node\n").unwrap();
    let flags = after.lines().map_while(|line| line.trim_start().strip_prefix("- --"));
    let flags: Vec<_> = flags.map(|flag| flag.split_once('=').unwrap()).collect();

    let node = Node::new();
    fs::write(node.at("image/10-berth.conflist"), list.join("\n")).unwrap();
    let names: Vec<_> = flags.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["plugin", "conflist", "bin-dir", "conf-dir"]);
    assert!(flags[1].1.ends_with("/10-berth.conflist"), "the name that uninstall-node looks for");
    let output = node.install(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}
