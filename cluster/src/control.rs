//! A control plane in a separate namespace: etcd, the API server, the controller manager, the scheduler.
//!
//! Each part can be stopped, killed, paused and started again alone; etcd can be restored to an older copy.
//! The output of each part is appended to `logs/PART.log`. Every start waits until the part responds, for a
//! bounded time. The flags of the parts are in `control/flags.rs`.

mod flags;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use berth_testbed::cleanup::{self, Process};
use berth_testbed::kubernetes::Programs;
use berth_testbed::world;
use k8s_openapi::api::core::v1::ServiceAccount;

use crate::api::Api;
use crate::error::{Error, Result};
use crate::network::CONTROL;
use crate::pki::Pki;
use crate::proxy::{Plan, Proxy};

/// Time limit for a part's first response. Two cores are shared with builds.
const START_LIMIT: Duration = Duration::from_secs(90);
/// Time limit for a part's orderly exit. The API server waits for its watchers, more than a minute.
const END_LIMIT: Duration = Duration::from_secs(2);
/// From one look at a part that starts to the next.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Number of log lines that a failure shows.
const LOG_LINES: usize = 25;

/// The parts, in the order of their start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The etcd database.
    Etcd,
    /// The API server.
    ApiServer,
    /// The controller manager.
    Controllers,
    /// The `kube-scheduler` program.
    Scheduler,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Etcd, Self::ApiServer, Self::Controllers, Self::Scheduler];

    /// Its name, of its log too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::Controllers => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
        }
    }
}

/// Settings of a control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Detect dead nodes within about 10 s instead of 50 s.
    pub fast_failure: bool,
    /// Let etcd wait for the disk at every write, as in production.
    pub durable: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { fast_failure: true, durable: false }
    }
}

/// Users of the API server, each with a kubeconfig.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// May do everything.
    Admin,
    /// The controller manager.
    Controllers,
    /// The kube-scheduler's user.
    Scheduler,
    /// A node's kubelet.
    Node(String),
    /// A service account, as `namespace:name`, with its RBAC rights.
    Account(String),
}

impl User {
    fn token(&self) -> String {
        match self {
            Self::Admin => "admin-token".to_owned(),
            Self::Controllers => "controllers-token".to_owned(),
            Self::Scheduler => "scheduler-token".to_owned(),
            Self::Node(name) => format!("node-{name}-token"),
            Self::Account(name) => format!("account-{}-token", name.replace(':', "-")),
        }
    }

    /// Its line of the tokens file: token, name, uid, groups.
    fn line(&self) -> String {
        let (name, groups) = match self {
            Self::Admin => ("admin".to_owned(), "system:masters".to_owned()),
            Self::Controllers => ("system:kube-controller-manager".to_owned(), String::new()),
            Self::Scheduler => ("system:kube-scheduler".to_owned(), String::new()),
            Self::Node(name) => (format!("system:node:{name}"), "system:nodes".to_owned()),
            Self::Account(name) => {
                let namespace = name.split(':').next().unwrap_or_default();
                let all = format!("system:serviceaccounts,system:serviceaccounts:{namespace}");
                (format!("system:serviceaccount:{name}"), all)
            }
        };
        format!("{0},{name},{0},\"{groups}\"\n", self.token())
    }

    fn file(&self) -> String {
        format!("{}.kubeconfig", self.token().trim_end_matches("-token"))
    }
}

/// A copy of etcd's data.
#[derive(Debug)]
pub struct Snapshot(PathBuf);

/// The running control plane; everything ends when it is dropped.
pub struct ControlPlane {
    // Dropped first: what talks to the parts.
    api: Option<Api>,
    running: BTreeMap<Part, Process>,
    programs: Programs,
    folder: PathBuf,
    netns: PathBuf,
    pki: Pki,
    settings: Settings,
    copies: u32,
}

impl ControlPlane {
    /// Starts all parts in the namespace at `netns`, with its files in `folder`, for `users` in addition to
    /// the parts' own. Returns when the API server is ready and the default service account exists; the
    /// duration of each part's start is passed to the callback.
    pub fn start(
        programs: &Programs,
        netns: &Path,
        folder: &Path,
        settings: Settings,
        users: &[User],
        told: &mut dyn FnMut(&str, Duration),
    ) -> Result<Self> {
        let began = Instant::now();
        let pki = Pki::create(&folder.join("pki"))?;
        for name in ["logs", "etcd"] {
            let path = folder.join(name);
            std::fs::create_dir_all(&path).map_err(Error::file(format!("make {}", path.display())))?;
        }
        let (programs, folder, netns) = (programs.clone(), folder.to_owned(), netns.to_owned());
        let mut plane =
            Self { api: None, running: BTreeMap::new(), programs, folder, netns, pki, settings, copies: 0 };
        plane.write_identities(users)?;
        write(&flags::scheduler_file(&plane), &flags::scheduler_configuration(&plane))?;
        told("keys", began.elapsed());
        for part in Part::ALL {
            told(part.name(), plane.launch(part)?);
        }
        plane.api = Some(Api::open(&plane.netns, &plane.kubeconfig(&User::Admin))?);
        told("default service account", plane.await_account()?);
        Ok(plane)
    }

    /// Waits until the controllers have made the service account without which no pod can be created.
    fn await_account(&self) -> Result<Duration> {
        let (began, api) = (Instant::now(), self.api()?);
        loop {
            cleanup::interrupted()?;
            let accounts: kube::Api<ServiceAccount> = kube::Api::namespaced(api.client(), "default");
            let asked = async move { accounts.get_opt("default").await };
            if api.ask("get the default service account", asked)?.is_some() {
                return Ok(began.elapsed());
            }
            if began.elapsed() > START_LIMIT {
                return Err(self.failed(Part::Controllers, "makes no service account"));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// The tokens file, and a kubeconfig for each.
    fn write_identities(&self, users: &[User]) -> Result<()> {
        let own = [User::Admin, User::Controllers, User::Scheduler];
        let all: Vec<&User> = own.iter().chain(users).collect();
        let tokens: String = all.iter().map(|user| user.line()).collect();
        write(&self.folder.join("tokens.csv"), &tokens)?;
        all.into_iter()
            .try_for_each(|user| write(&self.kubeconfig(user), &self.kubeconfig_text(&user.token())))
    }

    fn kubeconfig_text(&self, token: &str) -> String {
        let authority = self.pki.file("ca.crt");
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: berth\n\
             clusters:\n- name: berth\n  cluster:\n    server: https://{CONTROL}:6443\n    \
             certificate-authority: {}\n\
             users:\n- name: me\n  user:\n    token: {token}\n\
             contexts:\n- name: berth\n  context:\n    cluster: berth\n    user: me\n",
            authority.display()
        )
    }

    /// Kubeconfig of a user that was named at the start.
    pub fn kubeconfig(&self, user: &User) -> PathBuf {
        self.folder.join(user.file())
    }

    /// Writes the kubeconfig of a service account, `namespace:name`, with a token that is bound to the Node
    /// object of `node`, as agents outside of pods use it. The API server issues the token.
    pub fn bound_kubeconfig(&self, account: &str, node: &str) -> Result<PathBuf> {
        let (namespace, name) = account.split_once(':').unwrap_or(("default", account));
        let bound = ["--bound-object-kind=Node", &format!("--bound-object-name={node}")];
        let token =
            self.kubectl(&[&["create", "token", name, "--namespace", namespace][..], &bound].concat())?;
        let path = self.folder.join(format!("bound-{namespace}-{name}-{node}.kubeconfig"));
        write(&path, &self.kubeconfig_text(token.trim()))?;
        Ok(path)
    }

    /// A client with all rights.
    pub fn api(&self) -> Result<&Api> {
        self.api.as_ref().ok_or_else(|| Error::ApiGone { what: "the client".to_owned() })
    }

    /// A further client, for a user that was named at the start, on a separate thread.
    pub fn api_of(&self, user: &User) -> Result<Api> {
        Api::open(&self.netns, &self.kubeconfig(user))
    }

    /// A proxy for a user that was named at the start; `name` distinguishes several.
    pub fn proxy(&self, user: &User, name: &str) -> Result<Proxy> {
        let kubeconfig = self.folder.join(format!("proxy-{name}.kubeconfig"));
        Proxy::start(Plan {
            netns: &self.netns,
            pki: &self.pki,
            original: &self.kubeconfig(user),
            kubeconfig,
        })
    }

    /// The namespace in which it listens.
    pub fn netns(&self) -> &Path {
        &self.netns
    }

    /// Runs kubectl with all rights to its end; what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_as(&self.kubeconfig(&User::Admin), arguments)
    }

    /// Runs kubectl with the rights of a kubeconfig's user to its end; what it printed.
    pub fn kubectl_as(&self, kubeconfig: &Path, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.programs.kubectl);
        command.arg("--kubeconfig").arg(kubeconfig).args(arguments);
        // Its own caches would outlive the cluster.
        command.arg("--cache-dir").arg(self.folder.join("kubectl"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let shown = arguments.join(" ");
        let spawned = berth_testbed::netns::inside(&self.netns, || command.spawn());
        let child = spawned.map_err(Error::file(format!("start kubectl {shown}")))?;
        let output = child.wait_with_output().map_err(Error::file(format!("wait for kubectl {shown}")))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        let output = text(&output.stderr).trim().to_owned();
        Err(berth_testbed::Error::Command { command: format!("kubectl {shown}"), output }.into())
    }

    /// Command line with which a developer inspects the cluster.
    pub fn kubectl_line(&self) -> String {
        format!(
            "nsenter --net={} {} --kubeconfig {}",
            self.netns.display(),
            self.programs.kubectl.display(),
            self.kubeconfig(&User::Admin).display()
        )
    }

    /// The process id of a part, while it runs.
    pub fn pid(&self, part: Part) -> Option<u32> {
        self.running.get(&part).map(Process::pid)
    }

    /// Path of a part's log.
    pub fn log(&self, part: Part) -> PathBuf {
        self.folder.join("logs").join(format!("{}.log", part.name()))
    }

    /// Starts a part that does not run, and waits until it responds; returns the time that took.
    pub fn launch(&mut self, part: Part) -> Result<Duration> {
        self.begin(part)?;
        self.await_ready(part)
    }

    /// Starts a part without waiting for it.
    pub fn begin(&mut self, part: Part) -> Result<()> {
        let path = self.log(part);
        let opened = File::options().create(true).append(true).open(&path);
        let log = opened.map_err(Error::file(format!("open {}", path.display())))?;
        let second = log.try_clone().map_err(Error::file("share a log"))?;
        let mut command = flags::command(part, self);
        command.stdin(Stdio::null()).stdout(log).stderr(second);
        // Nothing of this session's environment may lead them out of the cluster.
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "KUBECONFIG"] {
            command.env_remove(name);
        }
        let process = world::start(&mut command, Some(&self.netns))?;
        self.running.insert(part, process);
        Ok(())
    }

    /// Waits until a started part responds; returns the time that took.
    pub fn await_ready(&mut self, part: Part) -> Result<Duration> {
        let began = Instant::now();
        loop {
            cleanup::interrupted()?;
            if self.answers(part)? {
                return Ok(began.elapsed());
            }
            if !self.running.get_mut(&part).is_some_and(Process::runs) {
                return Err(self.failed(part, "has ended"));
            }
            if began.elapsed() > START_LIMIT {
                return Err(self.failed(part, "does not answer"));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn answers(&self, part: Part) -> Result<bool> {
        Ok(match part {
            Part::Etcd => self.health(2379, "/health").is_some_and(|answer| answer.contains("true")),
            // With a new client: a kept one may hold a dead connection.
            Part::ApiServer => {
                let api = Api::open(&self.netns, &self.kubeconfig(&User::Admin))?;
                api.text_within("/readyz", Duration::from_secs(1)).is_ok_and(|answer| answer.trim() == "ok")
            }
            // They serve TLS only, with their own certificates. They start to listen at the end of their
            // start.
            Part::Controllers => self.connect(10257).is_some(),
            Part::Scheduler => self.connect(10259).is_some(),
        })
    }

    fn connect(&self, port: u16) -> Option<TcpStream> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let limit = Duration::from_secs(1);
        let connected =
            berth_testbed::netns::inside(&self.netns, || TcpStream::connect_timeout(&address, limit));
        connected.ok()
    }

    fn health(&self, port: u16, path: &str) -> Option<String> {
        let mut stream = self.connect(port)?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// Ends a part in order, or by force if that takes too long.
    pub fn halt(&mut self, part: Part) -> Result<()> {
        let Some(mut process) = self.running.remove(&part) else { return Ok(()) };
        process.signal(libc::SIGTERM);
        process.wait(END_LIMIT)?;
        Ok(())
    }

    /// Sends SIGKILL to the part.
    pub fn kill(&mut self, part: Part) {
        drop(self.running.remove(&part));
    }

    /// SIGSTOP: it holds its connections and does nothing.
    pub fn pause(&self, part: Part) {
        if let Some(process) = self.running.get(&part) {
            process.signal(libc::SIGSTOP);
        }
    }

    /// Sends SIGCONT to the part.
    pub fn resume(&self, part: Part) {
        if let Some(process) = self.running.get(&part) {
            process.signal(libc::SIGCONT);
        }
    }

    /// Copies etcd's data, which stops the API server and etcd for a moment.
    pub fn snapshot(&mut self) -> Result<Snapshot> {
        self.copies += 1;
        let copy = self.folder.join(format!("etcd-copy-{}", self.copies));
        self.without_etcd(|data| copy_folder(data, &copy).map(|()| copy.clone())).map(Snapshot)
    }

    /// Restores etcd to an older copy. The API server is restarted, as after every restore: its cache is
    /// newer than the data. The other parts see a watch that is too new, and list again.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.without_etcd(|data| {
            std::fs::remove_dir_all(data).map_err(Error::file(format!("remove {}", data.display())))?;
            copy_folder(&snapshot.0, data)
        })
    }

    fn without_etcd<T>(&mut self, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        self.halt(Part::ApiServer)?;
        self.halt(Part::Etcd)?;
        let outcome = work(&self.folder.join("etcd"));
        self.launch(Part::Etcd)?;
        self.launch(Part::ApiServer)?;
        outcome
    }

    fn failed(&self, part: Part, state: &str) -> Error {
        let log = self.log(part);
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        Error::Part { part: part.name(), state: state.to_owned(), log, end }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // What talks first, then what is talked to; by force, because nothing of it is kept.
        drop(self.api.take());
        for part in Part::ALL.into_iter().rev() {
            self.kill(part);
        }
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(Error::file(format!("write {}", path.display())))
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let doing = || Error::file(format!("copy {} to {}", from.display(), to.display()));
    std::fs::create_dir_all(to).map_err(doing())?;
    for entry in std::fs::read_dir(from).map_err(doing())? {
        let entry = entry.map_err(doing())?;
        let target = to.join(entry.file_name());
        if entry.file_type().map_err(doing())?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target).map_err(doing())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_one_line_of_the_tokens_file_and_one_kubeconfig() {
        assert_eq!(User::Admin.line(), "admin-token,admin,admin-token,\"system:masters\"\n");
        let node = User::Node("n1".to_owned());
        assert_eq!(node.line(), "node-n1-token,system:node:n1,node-n1-token,\"system:nodes\"\n");
        assert_eq!(node.file(), "node-n1.kubeconfig");
        let account = User::Account("berth:berth-agent".to_owned());
        assert!(account.line().contains(",system:serviceaccount:berth:berth-agent,"));
        assert!(account.line().ends_with("\"system:serviceaccounts,system:serviceaccounts:berth\"\n"));
    }
}
