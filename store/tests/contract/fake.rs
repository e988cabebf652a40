//! An API server in this process, as far as leases see one: objects with uid and resource version,
//! preconditions, pages, watches with bookmarks, and every way to fail that a real one has.
//!
//! Deterministic: nothing happens but by a request or by the test's own hand. It judges no rules; for
//! those there is the real one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tower::BoxError;

const BASE: &str = "/apis/berth.dev/v1alpha1/ipleases";

type Reply = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// Fault of the next request of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This status, and nothing done.
    Answer(u16),
    /// It is done, and this status is answered.
    AnswerAfter(u16),
    /// 429, with `Retry-After` of this number of seconds.
    Busy(u32),
    /// No response, and the request is not applied.
    Silent,
    /// No response, but the request is applied.
    SilentAfter,
    /// The connection breaks before anything is done.
    Broken,
    /// It is done, and the connection breaks.
    BrokenAfter,
    /// The connection is refused.
    Refused,
    /// 200 from a server that is not an API server.
    Foreign,
}

/// The server. Clones are the same server.
#[derive(Clone, Default)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    posts: Arc<Crowd>,
    deletes: Arc<Crowd>,
}

/// Requests of one kind.
#[derive(Default)]
struct Crowd {
    now: AtomicUsize,
    most: AtomicUsize,
}

#[derive(Default)]
struct State {
    clock: u64,
    objects: BTreeMap<String, Value>,
    /// Every change, with its number.
    history: Vec<(u64, &'static str, Value)>,
    /// Resource version up to which the history is compacted.
    forgotten: u64,
    /// The kind has no definition.
    unknown_kind: bool,
    faults: Vec<(&'static str, Fault)>,
    requests: Vec<String>,
    watchers: Vec<UnboundedSender<Result<Frame<Bytes>, BoxError>>>,
}

impl Fake {
    /// A client of it, without any retry.
    pub fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request| fake.clone().serve(request));
        Client::new(service, "default")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The next request of this kind (a method, `LIST` or `WATCH`) fails so. Several wait in line.
    pub fn fail(&self, kind: &'static str, fault: Fault) {
        self.state().faults.push((kind, fault));
    }

    /// Clears all planned faults.
    pub fn calm(&self) {
        self.state().faults.clear();
    }

    /// Every request so far: its kind and its path with query.
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// The most creates and deletes that were there at the same time.
    pub fn most(&self) -> (usize, usize) {
        (self.posts.most.load(Ordering::SeqCst), self.deletes.most.load(Ordering::SeqCst))
    }

    /// Number of requests of a kind.
    pub fn count(&self, kind: &str) -> usize {
        self.requests().iter().filter(|line| line.split(' ').next() == Some(kind)).count()
    }

    /// Removes the definition of the kind, or brings it back.
    pub fn set_unknown_kind(&self, unknown: bool) {
        self.state().unknown_kind = unknown;
    }

    /// Creates an object as another client would.
    pub fn put(&self, name: &str, spec: &Value) {
        let mut state = self.state();
        let object = object(name, spec);
        state.create(name, object);
    }

    /// Changes an object as another client would.
    pub fn edit(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut state = self.state();
        let mut object = state.objects[name].clone();
        edit(&mut object);
        state.store("MODIFIED", name, object);
    }

    /// Changes an object as a new definition would, which shows another part of it: without an event.
    pub fn redefine(&self, name: &str, spec: &Value) {
        if let Some(object) = self.state().objects.get_mut(name) {
            object["spec"] = spec.clone();
        }
    }

    /// Deletes an object as another client would.
    pub fn remove(&self, name: &str) {
        self.state().remove(name);
    }

    /// Forgets everything before now.
    pub fn forget(&self) {
        let mut state = self.state();
        state.clock += 1;
        state.forgotten = state.clock;
    }

    /// Restores an older state of the storage: the same objects, an older resource version.
    pub fn go_back(&self, clock: u64) {
        let mut state = self.state();
        (state.clock, state.forgotten) = (clock, 0);
        state.history.clear();
    }

    /// Ends all watches.
    pub fn drop_watches(&self) {
        self.state().watchers.clear();
    }

    /// Sends these bytes to all watches.
    pub fn say(&self, text: &str) {
        self.state().say(text);
    }

    /// Sends a bookmark to all watches.
    pub fn bookmark(&self) {
        let mut state = self.state();
        let object = json!({"kind": "IPLease", "metadata": {"resourceVersion": state.clock.to_string()}});
        let line = event("BOOKMARK", &object);
        state.say(&line);
    }

    async fn serve(self, request: Request<Body>) -> Result<Reply, BoxError> {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await?;
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let name =
            parts.uri.path().strip_prefix(BASE).ok_or("another path")?.trim_start_matches('/').to_owned();
        let kind = match (parts.method.as_str(), name.is_empty()) {
            ("GET", true) if query.contains("watch=true") => "WATCH",
            ("GET", true) => "LIST",
            ("GET", false) => "GET",
            ("POST", _) => "POST",
            ("PUT", _) => "PUT",
            ("DELETE", _) => "DELETE",
            _ => return Err("another method".into()),
        };
        let fault = self.arrive(kind, &parts.uri.to_string());
        let _present = Present::of(&self, &parts.method).await;
        let broken = |kind: std::io::ErrorKind| Err(BoxError::from(std::io::Error::from(kind)));
        match fault {
            Some(Fault::Answer(code)) => return Ok(failure(code, "", "", None)),
            Some(Fault::Busy(seconds)) => return Ok(failure(429, "TooManyRequests", "", Some(seconds))),
            Some(Fault::Silent) => return std::future::pending().await,
            Some(Fault::Broken) => return broken(std::io::ErrorKind::ConnectionReset),
            Some(Fault::Refused) => return broken(std::io::ErrorKind::ConnectionRefused),
            Some(Fault::Foreign) => return Ok(whole(200, "<html>welcome</html>".to_owned(), None)),
            _ => {}
        }
        let reply = self.state().act(kind, &name, &query, &body);
        match fault {
            Some(Fault::AnswerAfter(code)) => Ok(failure(code, "", "", None)),
            Some(Fault::SilentAfter) => std::future::pending().await,
            Some(Fault::BrokenAfter) => broken(std::io::ErrorKind::ConnectionReset),
            _ => Ok(reply),
        }
    }

    fn arrive(&self, kind: &'static str, uri: &str) -> Option<Fault> {
        let mut state = self.state();
        state.requests.push(format!("{kind} {uri}"));
        let index = state.faults.iter().position(|(of, _)| *of == kind)?;
        Some(state.faults.remove(index).1)
    }
}

/// A POST or a DELETE that is there. It stays for some turns, so that others can come.
struct Present(Option<Arc<Crowd>>);

impl Present {
    async fn of(fake: &Fake, method: &Method) -> Self {
        let crowd = match *method {
            Method::POST => fake.posts.clone(),
            Method::DELETE => fake.deletes.clone(),
            _ => return Self(None),
        };
        let there = crowd.now.fetch_add(1, Ordering::SeqCst) + 1;
        crowd.most.fetch_max(there, Ordering::SeqCst);
        let present = Self(Some(crowd));
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        present
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        if let Some(posts) = &self.0 {
            posts.now.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl State {
    fn act(&mut self, kind: &str, name: &str, query: &str, body: &[u8]) -> Reply {
        if self.unknown_kind {
            return whole(404, "404 page not found\n".to_owned(), None);
        }
        let sent: Value = serde_json::from_slice(body).unwrap_or_default();
        match kind {
            "WATCH" => self.watch(query),
            "LIST" => self.list(query),
            "GET" => match self.objects.get(name) {
                Some(object) => whole(200, object.to_string(), None),
                None => missing(name),
            },
            "POST" => {
                let name = sent["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                if self.objects.contains_key(&name) {
                    return failure(409, "AlreadyExists", &name, None);
                }
                whole(201, self.create(&name, sent).to_string(), None)
            }
            "PUT" => self.update(name, sent),
            _ => self.delete(name, &sent),
        }
    }

    fn create(&mut self, name: &str, mut object: Value) -> Value {
        object["metadata"]["uid"] = json!(format!("uid-{}", self.clock + 1));
        object["metadata"]["managedFields"] = json!([{"manager": "fake", "fieldsV1": {}}]);
        self.store("ADDED", name, object)
    }

    fn update(&mut self, name: &str, mut object: Value) -> Reply {
        let Some(current) = self.objects.get(name).map(|object| object["metadata"].clone()) else {
            return missing(name);
        };
        let given = &object["metadata"];
        let same = |key: &str| given[key].is_null() || given[key] == current[key];
        if !same("uid") || !same("resourceVersion") {
            return failure(409, "Conflict", name, None);
        }
        object["metadata"]["uid"] = current["uid"].clone();
        whole(200, self.store("MODIFIED", name, object).to_string(), None)
    }

    fn delete(&mut self, name: &str, options: &Value) -> Reply {
        let Some(current) = self.objects.get(name).cloned() else { return missing(name) };
        let (wanted, metadata) = (&options["preconditions"], &current["metadata"]);
        if wanted["uid"] != metadata["uid"] || wanted["resourceVersion"] != metadata["resourceVersion"] {
            return failure(409, "Conflict", name, None);
        }
        if metadata["finalizers"].as_array().is_some_and(|list| !list.is_empty()) {
            let mut marked = current;
            marked["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            return whole(200, self.store("MODIFIED", name, marked).to_string(), None);
        }
        self.remove(name);
        whole(200, json!({"kind": "Status", "status": "Success"}).to_string(), None)
    }

    fn store(&mut self, what: &'static str, name: &str, mut object: Value) -> Value {
        self.clock += 1;
        object["metadata"]["resourceVersion"] = json!(self.clock.to_string());
        self.objects.insert(name.to_owned(), object.clone());
        self.tell(what, object.clone());
        object
    }

    fn remove(&mut self, name: &str) {
        let Some(mut object) = self.objects.remove(name) else { return };
        self.clock += 1;
        object["metadata"]["resourceVersion"] = json!(self.clock.to_string());
        self.tell("DELETED", object);
    }

    fn tell(&mut self, what: &'static str, object: Value) {
        let line = event(what, &object);
        self.history.push((self.clock, what, object));
        self.say(&line);
    }

    fn say(&mut self, text: &str) {
        let frame = || Ok(Frame::data(Bytes::from(text.to_owned())));
        self.watchers.retain(|watcher| watcher.send(frame()).is_ok());
    }

    fn list(&self, query: &str) -> Reply {
        let limit: usize = value(query, "limit").and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
        let (moment, after) = match value(query, "continue") {
            None => (self.clock, String::new()),
            Some(token) => {
                let (moment, after) = token.split_once('_').unwrap();
                (moment.parse().unwrap(), after.to_owned())
            }
        };
        if moment < self.forgotten {
            return failure(410, "Expired", "", None);
        }
        let mut rest = self.objects.iter().filter(|(name, _)| **name > after);
        let page: Vec<_> = rest.by_ref().take(limit).collect();
        let more = match (rest.next(), page.last()) {
            (Some(_), Some((name, _))) => format!("{moment}_{name}"),
            _ => String::new(),
        };
        let items: Vec<&Value> = page.into_iter().map(|(_, object)| object).collect();
        let metadata = json!({"resourceVersion": moment.to_string(), "continue": more});
        whole(200, json!({"kind": "IPLeaseList", "metadata": metadata, "items": items}).to_string(), None)
    }

    fn watch(&mut self, query: &str) -> Reply {
        let from: u64 = value(query, "resourceVersion").and_then(|text| text.parse().ok()).unwrap();
        if from > self.clock {
            return failure(504, "Timeout", "", None);
        }
        let (sender, receiver) = unbounded_channel();
        if from < self.forgotten {
            // A real server reports this on the stream as often as by its status.
            let gone = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"});
            let _ = sender.send(Ok(Frame::data(Bytes::from(event("ERROR", &gone)))));
            return stream(receiver);
        }
        for (_, what, object) in self.history.iter().filter(|(moment, ..)| *moment > from) {
            let _ = sender.send(Ok(Frame::data(Bytes::from(event(what, object)))));
        }
        self.watchers.push(sender);
        stream(receiver)
    }
}

fn object(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "berth.dev/v1alpha1", "kind": "IPLease", "metadata": {"name": name}, "spec": spec})
}

fn event(kind: &str, object: &Value) -> String {
    json!({"type": kind, "object": object}).to_string() + "\n"
}

fn value<'a>(query: &'a str, key: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
}

fn missing(name: &str) -> Reply {
    failure(404, "NotFound", name, None)
}

fn failure(code: u16, reason: &str, name: &str, seconds: Option<u32>) -> Reply {
    let details = json!({"name": name, "group": "berth.dev", "kind": "ipleases"});
    let status = json!({
        "kind": "Status", "status": "Failure", "code": code, "reason": reason, "details": details,
        "message": format!("the fake says {code}"),
    });
    whole(code, status.to_string(), seconds)
}

fn whole(code: u16, body: String, seconds: Option<u32>) -> Reply {
    let mut builder = Response::builder().status(code);
    if let Some(seconds) = seconds {
        builder = builder.header("Retry-After", seconds);
    }
    builder.body(Full::new(Bytes::from(body)).map_err(BoxError::from).boxed_unsync()).unwrap()
}

fn stream(mut receiver: UnboundedReceiver<Result<Frame<Bytes>, BoxError>>) -> Reply {
    let frames = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
    Response::new(StreamBody::new(frames).boxed_unsync())
}
