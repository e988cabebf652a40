//! Third-party runtimes: `cnitool`, and a small program around libcni (tools/libcni), each one process per
//! call, on a configuration list that a test builds.
//!
//! Their work between the call and the plugins (order, `prevResult`, result cache, GC's own DELs) is the
//! reference library's. This file only starts them and names their files: those of libcni are in the world's
//! folder, those of cnitool in its fixed place, under a name that is unique to this world, and are removed in
//! the end.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::cleanup::CNITOOL_RESULTS;
use crate::error::{Error, Result};
use crate::lab::{Binaries, Lab};
use crate::plugin::{LIMIT, Outcome, Running};
use crate::skip;
use crate::world::{self, POD_LINK, Pod};

/// Names the folder with upstream's programs.
pub const TOOLS_VARIABLE: &str = "BERTH_TOOLS_DIR";

/// Upstream's plugins and callers, as `cargo xtask tools` builds them.
#[derive(Debug, Clone)]
pub struct Tools(PathBuf);

impl Tools {
    /// Tools passed to a test run. `None`, with the reason recorded as a skip, if there are none.
    pub fn of_tests() -> Option<Self> {
        let folder = std::env::var_os(TOOLS_VARIABLE).map(PathBuf::from);
        if folder.is_none() {
            skip::because(
                "needs upstream's programs; `cargo xtask test` builds them if there is Go (see `cargo xtask tools`)",
            );
        }
        folder.map(Self)
    }

    /// One of them.
    pub fn program(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// Attachments that a GC must keep.
#[derive(Debug, Clone, Copy)]
pub enum Keep<'a> {
    /// The key is absent.
    Absent,
    /// A list that a runtime never filled: `null`.
    Null,
    /// These, perhaps none.
    Only(&'a [&'a Pod]),
}

/// One configuration list on one node, driven by libcni.
#[derive(Debug)]
pub struct Runtime {
    tools: Tools,
    /// The folders with plugins: Berth's before upstream's.
    plugins: String,
    node: PathBuf,
    folder: PathBuf,
    name: String,
    /// The folder of the result cache.
    pub cache: PathBuf,
    /// Capability arguments, a JSON object.
    pub capabilities: Value,
    /// Value of `CNI_ARGS`.
    pub args: String,
}

impl Runtime {
    /// Writes a list of `plugins` in `version`. The network's name is one that no other world has.
    pub fn new(
        lab: &Lab,
        binaries: &Binaries,
        tools: &Tools,
        version: &str,
        plugins: &[Value],
    ) -> Result<Self> {
        let folder = lab.world.folder().join("runtime");
        std::fs::create_dir_all(&folder).map_err(Error::system(format!("make {}", folder.display())))?;
        let name = lab.world.id().to_owned();
        let list = json!({"cniVersion": version, "name": name, "plugins": plugins});
        let path = folder.join("list.conflist");
        std::fs::write(&path, list.to_string())
            .map_err(Error::system(format!("write {}", path.display())))?;
        let own = binaries.plugin.parent().unwrap_or_else(|| Path::new("/"));
        Ok(Self {
            plugins: format!("{}:{}", own.display(), tools.0.display()),
            tools: tools.clone(),
            node: lab.world.node().to_owned(),
            cache: folder.join("cache"),
            folder,
            name,
            capabilities: json!({}),
            args: String::new(),
        })
    }

    /// Has another folder's plugins called instead of upstream's newest.
    pub fn call_plugins_of(&mut self, folder: &Path) {
        let own = self.plugins.split(':').next().unwrap_or_default();
        self.plugins = format!("{own}:{}", folder.display());
    }

    /// `add`, `check` or `del` of a pod's interface.
    pub fn call(&self, verb: &str, pod: &Pod) -> Result<Outcome> {
        self.call_in(verb, pod, &pod.netns.to_string_lossy())
    }

    /// The same with another path of the namespace, which may be empty.
    pub fn call_in(&self, verb: &str, pod: &Pod, netns: &str) -> Result<Outcome> {
        self.libcni(verb, &["-container", &pod.container_id, "-netns", netns, "-ifname", POD_LINK])
    }

    /// `status` of the whole list.
    pub fn status(&self) -> Result<Outcome> {
        self.libcni("status", &[])
    }

    /// `gc` of the whole list.
    pub fn gc(&self, keep: Keep<'_>) -> Result<Outcome> {
        let entry = |pod: &&Pod| json!({"containerID": pod.container_id, "ifname": POD_LINK});
        let valid = match keep {
            Keep::Absent => "absent".to_owned(),
            Keep::Null => "null".to_owned(),
            Keep::Only(pods) => Value::from(pods.iter().map(entry).collect::<Vec<_>>()).to_string(),
        };
        self.libcni("gc", &["-valid", &valid])
    }

    /// The file in which the result of a pod's ADD is kept.
    pub fn cached(&self, pod: &Pod) -> PathBuf {
        self.cache.join("results").join(format!("{}-{}-{POD_LINK}", self.name, pod.container_id))
    }

    fn libcni(&self, verb: &str, arguments: &[&str]) -> Result<Outcome> {
        let mut command = self.command("libcni");
        command.arg("-conflist").arg(self.folder.join("list.conflist"));
        command.args(["-plugins", &self.plugins]).arg("-cache").arg(&self.cache);
        command.args(["-args", &self.args, "-capabilities", &self.capabilities.to_string()]);
        command.args(arguments).arg(verb);
        finish(&format!("libcni {verb}"), &mut command, &self.node)
    }

    /// The same list in cnitool's hands. It forms container ids by itself, from the namespace's path.
    pub fn cnitool(&self, verb: &str, pod: &Pod) -> Result<Outcome> {
        let mut command = self.command("cnitool");
        command.env("NETCONFPATH", &self.folder).env("CNI_PATH", &self.plugins);
        command.args([verb, &self.name]).arg(&pod.netns);
        finish(&format!("cnitool {verb}"), &mut command, &self.node)
    }

    /// Number of results that cnitool keeps of this network.
    pub fn kept_by_cnitool(&self) -> usize {
        self.files_of_cnitool().count()
    }

    fn files_of_cnitool(&self) -> impl Iterator<Item = PathBuf> {
        let own = format!("{}-", self.name);
        let files = std::fs::read_dir(CNITOOL_RESULTS).into_iter().flatten().flatten();
        files.filter(move |file| file.file_name().to_string_lossy().starts_with(&own)).map(|file| file.path())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.tools.program(program));
        // As for plugins: nothing of this process may leak in. `portmap` needs iptables.
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        for path in self.files_of_cnitool() {
            // What a DEL removed meanwhile needs no removal.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn finish(what: &str, command: &mut Command, node: &Path) -> Result<Outcome> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let began = Instant::now();
    let process = world::start(command, Some(node))?;
    Running::adopt(what.to_owned(), process, began).finish(LIMIT)
}
