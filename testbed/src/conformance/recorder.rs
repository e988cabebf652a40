//! An IPAM that records its calls: a small script, because a delegate is found by its name in a folder and
//! must be a separate file.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::answer::Play;
use super::stage::Stage;
use crate::error::Error;
use crate::plugin::Call;
use crate::world::{PARENT, Pod};

/// The type by which it is found.
pub const KIND: &str = "recording";
/// The address that it assigns: in the network's pool, and far from those that the pool assigns first.
pub const ADDRESS: &str = "10.77.0.70/16";
/// Its text on standard error.
pub const WORDS: &str = "the recording ipam speaks";

/// The script and what it wrote.
#[derive(Debug)]
pub struct Recorder {
    folder: PathBuf,
}

impl Recorder {
    /// Writes the script into a new folder of the stage.
    pub fn install(stage: &mut Stage) -> Play<Self> {
        let serial = stage.serial();
        let folder = stage.world.folder().join(format!("recorder-{serial}"));
        let script = folder.join(KIND);
        let written = std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(&script, text(&folder)))
            .and_then(|()| std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)));
        written.map_err(Error::system(format!("write {}", script.display())))?;
        Ok(Self { folder })
    }

    /// From now on it fails this command.
    pub fn fail(&self, command: &str) -> Play {
        let mark = self.folder.join(format!("fail-{command}"));
        Ok(std::fs::write(&mark, "").map_err(Error::system(format!("write {}", mark.display())))?)
    }

    /// The plugin under test with this IPAM under it.
    pub fn config(stage: &Stage) -> Value {
        let ipam = json!({"type": KIND, "own": [1, {"deep": true}]});
        let mut config = stage.config();
        config["ipam"] = ipam;
        config["invented"] = json!({"by": "somebody"});
        if !stage.subject.is_berth() {
            config["master"] = json!(PARENT);
        }
        config
    }

    /// A call that finds this IPAM.
    pub fn call(&self, stage: &Stage, command: &str, config: &Value, pod: &Pod) -> Call {
        let path = format!("{}:{}", self.folder.display(), stage.subject.path().to_string_lossy());
        stage.call(command, config, pod).variable("CNI_PATH", &path)
    }

    /// True if it was called with this command.
    pub fn heard(&self, command: &str) -> bool {
        self.folder.join(format!("{command}.env")).exists()
    }

    /// The configuration that it got with this command.
    pub fn input(&self, command: &str) -> Value {
        let text = self.read(command, "in");
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// The environment that it got with this command.
    pub fn variable(&self, command: &str, name: &str) -> Option<String> {
        let text = self.read(command, "env");
        text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
    }

    /// The links that the container had when it was called with this command.
    pub fn links(&self, command: &str) -> String {
        self.read(command, "links")
    }

    fn read(&self, command: &str, what: &str) -> String {
        // A missing file reads as empty: the caller checks `heard` first.
        std::fs::read_to_string(self.folder.join(format!("{command}.{what}"))).unwrap_or_default()
    }
}

fn text(folder: &Path) -> String {
    let folder = folder.display();
    let failure = json!({"cniVersion": "1.0.0", "code": 120, "msg": "planted by the recorder"});
    let result = json!({"cniVersion": "1.0.0", "ips": [{"address": ADDRESS, "gateway": "10.77.0.1"}]});
    format!(
        "#!/bin/sh\n\
         cat >'{folder}'/$CNI_COMMAND.in\n\
         env >'{folder}'/$CNI_COMMAND.env\n\
         nsenter --net=\"$CNI_NETNS\" ip -brief link show >'{folder}'/$CNI_COMMAND.links 2>&1\n\
         echo '{WORDS}' >&2\n\
         if [ -e '{folder}'/fail-$CNI_COMMAND ]; then echo '{failure}'; exit 1; fi\n\
         if [ $CNI_COMMAND = ADD ]; then echo '{result}'; fi\n"
    )
}
