//! Long-lived clusters: two at the same time, a node without power, an owner that is killed.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use berth_testbed::cleanup::{self, Folder};
use berth_testbed::kubernetes::Programs;
use berth_testbed::skip;

struct Person(Folder);

impl Person {
    #[expect(clippy::expect_used, reason = "the test needs the program")]
    fn run(&self, words: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth-cluster"));
        command.args(words.split(' ')).arg("--state").arg(self.0.path());
        command.stdin(Stdio::null()).output().expect("the program was built with this test")
    }

    fn does(&self, words: &str) -> String {
        let output = self.run(words);
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{words}: {text}");
        text
    }

    /// State file of a cluster.
    fn state(&self, name: &str) -> serde_json::Value {
        let text = std::fs::read(self.0.path().join(format!("{name}.json"))).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Kills the owner of a cluster, which then can remove nothing.
    fn kills(&self, name: &str) {
        let pid = self.state(name)["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        assert!(pid.is_some(), "{name} has no owner");
        cleanup::signal(pid.unwrap_or_default(), libc::SIGKILL);
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        // After a failure, too, nothing is left.
        for name in ["one", "two"] {
            self.run(&format!("down --name {name}"));
        }
    }
}

fn namespaces(prefix: &str) -> usize {
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).count()
}

fn soon(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn two_clusters_are_up_at_once_lose_power_and_owner_and_leave_nothing() {
    if skip::unless_root() {
        return;
    }
    if let Err(names) = Programs::of_environment() {
        let names = names.join(", ");
        skip::because(&format!("needs {names}; `cargo xtask tools kubernetes` builds them with Go"));
        return;
    }
    let person = Person(Folder::create(&format!("{}-session", cleanup::prefix())).unwrap());
    let said = std::thread::scope(|scope| {
        let both = ["one", "two"].map(|name| {
            let person = &person;
            scope.spawn(move || person.does(&format!("up --name {name} --nodes 1 --pods 2")))
        });
        both.map(|thread| thread.join().unwrap())
    });
    for text in &said {
        for part in ["kube-apiserver", "nodes Ready", "up after", "kubectl"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    let [one, two] = ["one", "two"].map(|name| {
        let folder = person.state(name)["folder"].as_str().unwrap().to_owned();
        Path::new(&folder).file_name().unwrap().to_str().unwrap().to_owned()
    });
    assert_ne!(one, two);
    assert!(!person.run("up --name one --nodes 1").status.success(), "it is up already");
    assert!(person.does("status --name one").contains("n1"));

    let node = Path::new("/run/netns").join(format!("{one}-n1"));
    assert!(node.exists());
    person.does("power n1 off --name one");
    soon("the node loses its power", || !node.exists());
    person.does("power n1 on --name one");
    soon("the node boots", || node.exists());
    assert!(!person.run("power n2 off --name one").status.success(), "the node does not exist");

    person.kills("two");
    soon("its owner is dead", || !person.run("status --name two").status.success());
    assert!(namespaces(&two) > 0, "a killed owner removes nothing");
    assert!(person.does("down --name two").contains("no cluster"));
    soon("what it left is swept", || namespaces(&two) == 0);
    assert!(person.does("status --name one").contains("Ready"), "the other one was not touched");
    assert!(person.does("down --name one").contains("down after"));
    soon("nothing is left", || namespaces(&one) == 0 && !std::env::temp_dir().join(&one).exists());
}
