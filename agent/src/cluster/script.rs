//! An API server in this process, for tests: objects by path, versions, and faults on demand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use berth_ipam::time::Time;
use http::{Method, Request, Response, StatusCode};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use crate::cluster::clocks::Clocks;

/// Clocks that stop with tokio's; the wall clock is a day ahead.
pub const CLOCKS: Clocks = Clocks { own, wall };

fn origin() -> std::time::Instant {
    static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
    *ORIGIN.get_or_init(std::time::Instant::now)
}

pub fn own() -> Time {
    let start = origin();
    Time::from_millis(3_600_000) + tokio::time::Instant::now().into_std().saturating_duration_since(start)
}

fn wall() -> Timestamp {
    let nanoseconds = i128::from(own().0) + 86_400_000_000_000;
    Timestamp::from_nanosecond(nanoseconds).unwrap()
}

/// Fault of a request.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// A refusal of that code.
    Code(u16),
    /// The same, with this text.
    Says(u16, &'static str),
    /// The response never comes.
    Hang,
    /// It is applied, and the connection breaks before the response.
    LostReply,
    /// The connection is refused.
    Unreachable,
}

type Faults = Box<dyn Fn(&Method, &str) -> Option<Fault> + Send>;

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    log: Vec<(Time, String)>,
    queries: Vec<String>,
    faults: Option<Faults>,
}

/// See the module's head.
#[derive(Clone, Default)]
pub struct Script(Arc<Mutex<State>>);

impl Script {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        origin();
        let script = self.clone();
        Client::new(tower::service_fn(move |request| script.clone().serve(request)), "default")
    }

    /// Puts an object there, as another hand would.
    pub fn put(&self, path: &str, object: Value) {
        self.state().store(path, object);
    }

    /// Takes one away.
    pub fn delete(&self, path: &str) {
        self.state().objects.remove(path);
    }

    /// Present state of an object.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.state().objects.get(path).cloned()
    }

    /// All objects below a path.
    pub fn below(&self, path: &str) -> Vec<Value> {
        let state = self.state();
        state
            .objects
            .iter()
            .filter(|(key, _)| key.starts_with(path))
            .map(|(_, value)| value.clone())
            .collect()
    }

    /// Faults of all requests from now on.
    pub fn faults(&self, faults: impl Fn(&Method, &str) -> Option<Fault> + Send + 'static) {
        self.state().faults = Some(Box::new(faults));
    }

    /// Requests so far, with their times, as `METHOD path`.
    pub fn log(&self) -> Vec<(Time, String)> {
        self.state().log.clone()
    }

    /// Query strings of the requests.
    pub fn queries(&self) -> Vec<String> {
        self.state().queries.clone()
    }

    async fn serve(self, request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let path = parts.uri.path().to_owned();
        let fault = {
            let mut state = self.state();
            state.log.push((own(), format!("{} {path}", parts.method)));
            state.queries.extend(parts.uri.query().map(str::to_owned));
            state.faults.as_ref().and_then(|faults| faults(&parts.method, &path))
        };
        let broken = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let (code, answer) = match fault {
            Some(Fault::Hang) => {
                tokio::time::sleep(Duration::from_hours(24)).await;
                return Err(broken());
            }
            Some(Fault::Unreachable) => return Err(broken()),
            Some(Fault::Code(code)) => status(code, ""),
            Some(Fault::Says(code, words)) => {
                let (code, mut answer) = status(code, "");
                answer["message"] = json!(words);
                (code, answer)
            }
            Some(Fault::LostReply) => {
                self.state().carry_out(&parts.method, &path, &body);
                return Err(broken());
            }
            None => self.state().carry_out(&parts.method, &path, &body),
        };
        let answer = Body::from(serde_json::to_vec(&answer).unwrap());
        Ok(Response::builder().status(StatusCode::from_u16(code).unwrap()).body(answer).unwrap())
    }
}

fn status(code: u16, reason: &str) -> (u16, Value) {
    let answer =
        json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "scripted"});
    (code, answer)
}

impl State {
    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        }
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    fn carry_out(&mut self, method: &Method, path: &str, body: &[u8]) -> (u16, Value) {
        let sent: Value = serde_json::from_slice(body).unwrap_or_default();
        let found = self.objects.get(path).cloned();
        match (method.as_str(), found) {
            ("GET", Some(found)) => (200, found),
            ("GET", None) if is_collection(path) => (200, self.list(path)),
            ("POST", _) => {
                let path = format!("{path}/{}", sent["metadata"]["name"].as_str().unwrap());
                if self.objects.contains_key(&path) {
                    return status(409, "AlreadyExists");
                }
                (201, self.store(&path, sent))
            }
            ("PUT", Some(found)) => {
                let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
                if version(&found) != version(&sent) {
                    return status(409, "Conflict");
                }
                (200, self.store(path, sent))
            }
            ("PATCH", found) => {
                let whole = path.strip_suffix("/status").unwrap_or(path);
                let Some(mut object) = found.or_else(|| self.objects.get(whole).cloned()) else {
                    return status(404, "NotFound");
                };
                merge(&mut object, &sent);
                (200, self.store(whole, object))
            }
            _ => status(404, "NotFound"),
        }
    }

    /// One object and the number of the others of nodes, all of others.
    fn list(&self, path: &str) -> Value {
        let prefix = format!("{path}/");
        let all: Vec<_> =
            self.objects.iter().filter(|(key, _)| key.starts_with(&prefix)).map(|(_, value)| value).collect();
        if path.ends_with("/nodes") && all.len() > 1 {
            return json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "items": [all[0]],
                "metadata": {"continue": "more", "remainingItemCount": all.len() - 1},
            });
        }
        json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": all})
    }
}

fn is_collection(path: &str) -> bool {
    ["leases", "nodes", "events", "pods"].iter().any(|kind| path.ends_with(&format!("/{kind}")))
}

fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}
