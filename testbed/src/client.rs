//! A second, independent client of the agent's socket: one JSON object per line (docs/protocol.md).

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// Time limit of a response.
const LIMIT: Duration = Duration::from_secs(5);

/// The used parts of a row of `leases`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Address in question.
    pub address: IpAddr,
    /// `reserved`, `bound`, `suspect`, `held`, `retained` or `quarantined`.
    pub state: String,
    /// Reason code of the state.
    pub reason: String,
    /// The L2 domain in which it is.
    pub segment: String,
    /// Container ID of its holder.
    #[serde(rename = "containerID")]
    pub container_id: Option<String>,
    /// Its holder's interface.
    pub ifname: Option<String>,
    /// Its holder's MAC.
    pub mac: Option<String>,
    /// Counts its holders.
    pub generation: Option<u64>,
}

/// One line of an address's history.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Time in milliseconds since the machine's start.
    pub at_ms: u64,
    /// `observation`, `verdict`, `action` or `warning`.
    pub kind: String,
    /// A stable code.
    pub code: String,
    /// Text for the operator.
    pub text: String,
}

/// Result of one check of `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// A stable name.
    pub what: String,
    /// True if it is well.
    pub ok: bool,
    /// Text for the operator.
    pub text: String,
}

/// Opens `count` connections to the agent at the same time and keeps them.
pub fn crowd(socket: &Path, count: usize) -> Result<Vec<UnixStream>> {
    let doing = || Error::system(format!("open {count} connections to {}", socket.display()));
    crate::sys::process::allow_descriptors().map_err(doing())?;
    (0..count).map(|_| UnixStream::connect(socket)).collect::<io::Result<_>>().map_err(doing())
}

/// A client that connects when it has to.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    stream: Option<BufReader<UnixStream>>,
    id: u64,
}

impl Client {
    /// A client of the agent at `socket`; connects at the first question.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), stream: None, id: 0 }
    }

    /// Every address that is not free.
    pub fn leases(&mut self) -> Result<Vec<Row>> {
        self.ask("leases", &json!("leases"))
    }

    /// The agent's observations and decisions about an address, oldest first.
    pub fn history(&mut self, address: IpAddr) -> Result<Vec<Event>> {
        #[derive(Deserialize)]
        struct Explanation {
            history: Vec<Event>,
        }
        let answer: Explanation = self.ask("explain", &json!({"explain": {"address": address}}))?;
        Ok(answer.history)
    }

    /// Number of claims of an address seen by the eBPF watcher; `None`: it watches the address on no segment.
    pub fn hits(&mut self, address: IpAddr) -> Result<Option<u64>> {
        #[derive(Deserialize)]
        struct Wire {
            hits: u64,
        }
        #[derive(Deserialize)]
        struct Explanation {
            wires: Vec<Wire>,
        }
        let answer: Explanation = self.ask("explain", &json!({"explain": {"address": address}}))?;
        Ok(answer.wires.iter().map(|wire| wire.hits).max())
    }

    /// Advice for the operator if the state of an address lasts.
    pub fn to_do(&mut self, address: IpAddr) -> Result<Option<String>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Explanation {
            to_do: Option<String>,
        }
        let answer: Explanation = self.ask("explain", &json!({"explain": {"address": address}}))?;
        Ok(answer.to_do)
    }

    /// The agent's findings about its own health.
    pub fn doctor(&mut self) -> Result<Vec<Finding>> {
        #[derive(Deserialize)]
        struct Diagnosis {
            checks: Vec<Finding>,
        }
        let answer: Diagnosis = self.ask("doctor", &json!("doctor"))?;
        Ok(answer.checks)
    }

    /// The agent's readiness to serve an ADD.
    pub fn status(&mut self) -> Result<Value> {
        self.ask("status", &json!({"status": {}}))
    }

    fn ask<T: for<'a> Deserialize<'a>>(&mut self, verb: &str, request: &Value) -> Result<T> {
        let line = self.exchange(request).map_err(|cause| {
            // The connection may be out of step now.
            self.stream = None;
            Error::Ask { verb: verb.to_owned(), cause }
        })?;
        let wrong = || Error::Answer { verb: verb.to_owned(), answer: line.clone() };
        let mut answer: Value = serde_json::from_str(&line).map_err(|_| wrong())?;
        let result = answer.get_mut("ok").and_then(|ok| ok.get_mut(verb)).map(Value::take);
        serde_json::from_value(result.ok_or_else(wrong)?).map_err(|_| wrong())
    }

    fn exchange(&mut self, request: &Value) -> io::Result<String> {
        if self.stream.is_none() {
            let stream = UnixStream::connect(&self.socket)?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.set_write_timeout(Some(LIMIT))?;
            self.stream = Some(BufReader::new(stream));
        }
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        self.id += 1;
        let call = json!({"v": 1, "id": self.id, "request": request});
        stream.get_mut().write_all(format!("{call}\n").as_bytes())?;
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line)
    }
}
