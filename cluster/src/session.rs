//! A cluster that stays up: `up` starts a process that builds and owns it, `down` ends that process, and
//! everything with it.
//!
//! The data for other commands is in one file, `STATE/NAME.json`, which exists as long as the cluster
//! responds. The owner removes everything on an orderly end; after a kill the next `down` or `up` sweeps.
//! Nothing here builds a part of a cluster.

use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use berth_testbed::cleanup::{self, Process};
use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, Options, print_step};
use crate::error::{Error, Result};

/// Time limit for a cluster to come up.
const UP_LIMIT: Duration = Duration::from_mins(5);
/// Time limit for a cluster to go down: removing a thousand namespaces takes a while.
const DOWN_LIMIT: Duration = Duration::from_mins(2);

/// Folder of one cluster's files.
#[derive(Debug, Clone)]
pub struct Place {
    folder: PathBuf,
    name: String,
}

/// State of a cluster that is up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// The owner's process id.
    pub pid: u32,
    /// Number of nodes.
    pub nodes: u32,
    /// Its CNI configuration.
    pub cni: String,
    /// Its files and logs.
    pub folder: PathBuf,
    /// Command line with which a developer inspects the cluster.
    pub kubectl: String,
}

impl Place {
    /// The cluster `name` of those in `folder`.
    pub fn new(folder: &Path, name: &str) -> Result<Self> {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if name.is_empty() || !plain {
            return Err(Error::Usage(format!("{name:?} names no cluster: letters, digits and dashes do")));
        }
        std::fs::create_dir_all(folder).map_err(Error::file(format!("make {}", folder.display())))?;
        Ok(Self { folder: folder.to_owned(), name: name.to_owned() })
    }

    fn state_file(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.name))
    }

    fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    /// The cluster, if it is up; the file of one with a killed owner is removed.
    pub fn state(&self) -> Option<State> {
        let text = std::fs::read_to_string(self.state_file()).ok()?;
        let state: State = serde_json::from_str(&text).ok()?;
        if owner_lives(state.pid) {
            return Some(state);
        }
        let _ = std::fs::remove_file(self.state_file());
        None
    }

    fn publish(&self, state: &State) -> Result<()> {
        let text = serde_json::to_string_pretty(state)
            .map_err(|error| Error::Usage(format!("internal error in the state: {error}")))?;
        let (path, temporary) = (self.state_file(), self.folder.join(format!("{}.new", self.name)));
        std::fs::write(&temporary, text)
            .and_then(|()| std::fs::rename(&temporary, &path))
            .map_err(Error::file(format!("write {}", path.display())))
    }
}

/// True if the process is a cluster's owner, and not another one with its number.
fn owner_lives(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0);
    let program = words.next().is_some_and(|word| word.ends_with(b"berth-cluster"));
    program && words.next() == Some(b"serve")
}

/// Starts the owner with `arguments`, passes its output on, and returns when the cluster is up.
pub fn up(place: &Place, arguments: &[String]) -> Result<()> {
    if let Some(state) = place.state() {
        let text = format!("it is up already (process {}): `down` first, or another --name", state.pid);
        return Err(Error::Usage(text));
    }
    cleanup::watch_signals()?;
    cleanup::sweep();
    let mut owner = start_owner(place, arguments)?;
    let mut log = std::fs::File::open(place.log()).map_err(Error::file("open the owner's log"))?;
    let began = Instant::now();
    let outcome = loop {
        // In this order: the output from before it was up is shown.
        let state = place.state();
        show(&mut log)?;
        if let Some(state) = state {
            break Ok(state);
        }
        if !owner.runs() {
            show(&mut log)?;
            break Err(Error::Usage(format!("the cluster did not come up; see {}", place.log().display())));
        }
        if began.elapsed() > UP_LIMIT {
            break Err(Error::Timeout { what: "the cluster's start".to_owned(), within: UP_LIMIT });
        }
        if let Err(error) = cleanup::interrupted() {
            break Err(error.into());
        }
        std::thread::sleep(Duration::from_millis(30));
    };
    match outcome {
        Ok(state) => {
            println!(
                "up after {:.1} s; look around with\n\n  {} get pods -A -o wide\n",
                began.elapsed().as_secs_f64(),
                state.kubectl
            );
            println!("logs are in {}", state.folder.join("logs").display());
            owner.let_go();
            Ok(())
        }
        Err(error) => {
            // It removes its parts. If this process ends before, it continues with that.
            owner.signal(libc::SIGTERM);
            let pid = owner.pid();
            owner.let_go();
            let deadline = Instant::now() + DOWN_LIMIT;
            while owner_lives(pid) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error)
        }
    }
}

fn start_owner(place: &Place, arguments: &[String]) -> Result<Process> {
    use std::os::unix::process::CommandExt as _;
    let own = std::env::current_exe().map_err(Error::file("find this program"))?;
    let log = std::fs::File::create(place.log()).map_err(Error::file("make the owner's log"))?;
    let second = log.try_clone().map_err(Error::file("share a log"))?;
    let mut command = Command::new(own);
    command.arg("serve").args(arguments).stdin(Stdio::null()).stdout(log).stderr(second);
    // Ctrl-C at the terminal is for the waiting command, not for the cluster.
    command.process_group(0);
    Ok(Process::guard(command.spawn().map_err(Error::file("start the cluster's owner"))?))
}

/// Prints what came to the log since the last time.
fn show(log: &mut std::fs::File) -> Result<()> {
    let mut text = Vec::new();
    log.read_to_end(&mut text).map_err(Error::file("read the owner's log"))?;
    print!("{}", String::from_utf8_lossy(&text));
    log.stream_position().map(drop).map_err(Error::file("read the owner's log"))
}

/// The owner: builds the cluster, reports that, and waits until it must end.
pub fn serve(place: &Place, options: &Options) -> Result<()> {
    cleanup::watch_signals()?;
    let mut cluster = Cluster::start(options, &mut print_step)?;
    place.publish(&State {
        pid: std::process::id(),
        nodes: options.nodes,
        cni: options.cni.name(),
        folder: cluster.folder().to_owned(),
        kubectl: cluster.control.kubectl_line(),
    })?;
    while cleanup::interrupted().is_ok() {
        std::thread::sleep(Duration::from_millis(100));
        // A node that does not come back does not end the others.
        if let Err(error) = switch(&mut cluster) {
            println!("error: {}", error.chain());
        }
    }
    let _ = std::fs::remove_file(place.state_file());
    let began = Instant::now();
    drop(cluster);
    println!("{:>8.2} s  removed everything", began.elapsed().as_secs_f64());
    Ok(())
}

/// Powers nodes off and on, as requested.
fn switch(cluster: &mut Cluster) -> Result<()> {
    for index in 0..cluster.nodes.len() {
        let (asked, on) = (cluster.nodes[index].asked_for_power(), cluster.nodes[index].netns().is_some());
        let name = cluster.nodes[index].name().to_owned();
        match asked {
            Some(false) if on => {
                cluster.power_off(index);
                println!("{name} has lost its power");
            }
            Some(true) if !on => {
                cluster.power_on(index)?;
                println!("{name} has booted");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Requests a node's power to be on or off; the owner does it within a moment.
pub fn power(place: &Place, node: &str, on: bool) -> Result<()> {
    let Some(state) = place.state() else {
        return Err(Error::Usage(format!("no cluster {} is up", place.name)));
    };
    let folder = state.folder.join("nodes").join(node);
    let known = node.strip_prefix('n').and_then(|number| number.parse::<u32>().ok());
    if !known.is_some_and(|number| (1..=state.nodes).contains(&number)) {
        return Err(Error::Usage(format!("{node:?} is not a node of n1 to n{}", state.nodes)));
    }
    let text = if on { "on" } else { "off" };
    std::fs::write(folder.join("power"), text).map_err(Error::file(format!("ask for {node}'s power")))
}

/// Ends the owner, and waits until everything is gone.
pub fn down(place: &Place) -> Result<()> {
    let Some(state) = place.state() else {
        cleanup::sweep();
        println!("no cluster {} is up", place.name);
        return Ok(());
    };
    let began = Instant::now();
    cleanup::signal(state.pid, libc::SIGTERM);
    while owner_lives(state.pid) {
        if began.elapsed() > DOWN_LIMIT {
            cleanup::signal(state.pid, libc::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // Removes the remains of an owner that had to be killed.
    cleanup::sweep();
    println!("down after {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Shows the running clusters.
pub fn status(place: &Place) -> Result<bool> {
    let Some(state) = place.state() else {
        println!("no cluster {} is up", place.name);
        return Ok(false);
    };
    println!("{}: {} nodes, CNI {}, process {}", place.name, state.nodes, state.cni, state.pid);
    println!("files and logs: {}\n\n  {} get pods -A -o wide\n", state.folder.display(), state.kubectl);
    let mut words = state.kubectl.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).args(["get", "nodes", "-o", "wide", "--request-timeout=5s"]).stdin(Stdio::null());
    let shown = command.status().map_err(Error::file("start kubectl"))?;
    Ok(shown.success())
}
