//! A second machine boots with a copy of the first one's disk: the same node name, the same store, another
//! machine ID. The first one's pods are still alive and answer on the segment.

use std::time::Duration;

use crate::agent::AgentSetup;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::lab::{Lab, Options, runtime_config};
use crate::lease_watch::LeaseWatch;
use crate::narrate::Who;
use crate::plugin::{self, Call, Plugin};
use crate::report::Builder;

/// Time for which the second machine's agent is watched.
const WATCHED: Duration = Duration::from_secs(4);
/// Pods of the first machine.
const PODS: usize = 4;

pub fn another(options: &Options, lab: &mut Lab, case: &mut Builder) -> Result<()> {
    let pods = lab.attach_many(options.scaled(PODS))?;
    lab.stop_agent()?;
    let node = lab.world.second_node()?;
    let setup = AgentSetup {
        node: node.clone(),
        folder: lab.world.folder().join("machine-2"),
        // What one machine's kernel holds, another's does not.
        bpffs: lab.setup.bpffs.with_file_name("berth-2"),
        ..lab.setup.clone()
    };
    let config = std::fs::read_to_string(lab.setup.config().join("lan.yaml"))
        .map_err(Error::system("read the first machine's configuration"))?;
    setup.prepare(&config, 7, 2)?;
    copy_state(&lab.setup, &setup)?;
    let mut agent = setup.start(None)?;
    agent.wait_ready()?;
    lab.tell.say(
        Who::World,
        "a second machine started with a copy of the first one's disk and another machine id",
    );
    let mut watch = LeaseWatch::new(Client::new(&setup.socket()));
    watch.follow_all(&pods);
    watch.look_for(WATCHED)?;
    case.none("live addresses of the first machine freed on the second", &watch.lost(&pods));
    let second = Plugin { binary: lab.plugin.binary.clone(), node };
    let sandboxes = pods.iter().map(|_| lab.world.pod()).collect::<Result<Vec<_>>>()?;
    let wanted = runtime_config(&setup);
    let adding = sandboxes.iter().zip(&pods).map(|(pod, attachment)| {
        second.start(&Call::new("ADD", &wanted, pod).addresses(&[attachment.address]))
    });
    let mut given = Vec::new();
    for (adding, attachment) in adding.collect::<Result<Vec<_>>>()?.into_iter().zip(&pods) {
        if adding.finish(plugin::LIMIT)?.succeeded() {
            given.push(attachment.address.to_string());
        }
    }
    for pod in &sandboxes {
        lab.world.remove(pod);
    }
    case.none("live addresses of the first machine given away on the second", &given);
    agent.stop()?;
    lab.start_agent(None)?;
    let mut watch = LeaseWatch::new(lab.client());
    watch.follow_all(&pods);
    watch.look_for(Duration::from_millis(500))?;
    case.none("addresses lost on the first machine, started again", &watch.lost(&pods));
    for attachment in &pods {
        lab.retire(attachment)?;
    }
    case.equal(
        "addresses of the first machine given again after their DEL",
        lab.prove_free(&pods)?,
        pods.len(),
    );
    Ok(())
}

fn copy_state(from: &AgentSetup, to: &AgentSetup) -> Result<()> {
    let doing = || Error::system("copy the first machine's disk");
    for entry in std::fs::read_dir(from.state()).map_err(doing())? {
        let entry = entry.map_err(doing())?;
        // The spool is empty: no DEL is under way.
        if entry.file_type().map_err(doing())?.is_file() {
            std::fs::copy(entry.path(), to.state().join(entry.file_name())).map_err(doing())?;
        }
    }
    Ok(())
}
