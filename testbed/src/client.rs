//! The agent's socket, spoken to by own code: one JSON object a line (docs/protocol.md).

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);

/// One row of `leases`, as far as the testbed looks at it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// The address.
    pub address: IpAddr,
    /// `reserved`, `bound`, `suspect`, `held`, `retained` or `quarantined`.
    pub state: String,
    /// Why.
    pub reason: String,
    /// The L2 domain in which it is.
    pub segment: String,
    /// Its holder.
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
    /// When, in milliseconds since the machine's start.
    pub at_ms: u64,
    /// `observation`, `verdict`, `action` or `warning`.
    pub kind: String,
    /// A stable code.
    pub code: String,
    /// In words.
    pub text: String,
}

/// One thing that `doctor` looked at.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// A stable name.
    pub what: String,
    /// Whether it is well.
    pub ok: bool,
    /// In words.
    pub text: String,
}

/// Opens `count` connections to the agent at once and keeps them.
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

    /// What the agent observed and decided about an address, oldest first.
    pub fn history(&mut self, address: IpAddr) -> Result<Vec<Event>> {
        #[derive(Deserialize)]
        struct Explanation {
            history: Vec<Event>,
        }
        let answer: Explanation = self.ask("explain", &json!({"explain": {"address": address}}))?;
        Ok(answer.history)
    }

    /// How often the watcher in the kernel heard somebody speak for an address; `None`: it watches it
    /// on no wire.
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

    /// What an operator can do where the state of an address lasts.
    pub fn to_do(&mut self, address: IpAddr) -> Result<Option<String>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Explanation {
            to_do: Option<String>,
        }
        let answer: Explanation = self.ask("explain", &json!({"explain": {"address": address}}))?;
        Ok(answer.to_do)
    }

    /// What the agent says of its own health.
    pub fn doctor(&mut self) -> Result<Vec<Finding>> {
        #[derive(Deserialize)]
        struct Diagnosis {
            checks: Vec<Finding>,
        }
        let answer: Diagnosis = self.ask("doctor", &json!("doctor"))?;
        Ok(answer.checks)
    }

    /// Whether the agent can serve an ADD.
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
