//! The whole server over real sockets, with a main loop of a few lines.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as Blocking;
use std::path::PathBuf;
use std::time::Instant;

use berth_protocol::response::Status;
use berth_protocol::{CallError, Client, Response};
use berth_testbed::skip;
use tokio::task::{JoinHandle, spawn_blocking};

use super::*;

const SOON: Duration = Duration::from_secs(5);

struct World {
    dir: tempfile::TempDir,
    events: mpsc::Receiver<ServerEvent>,
    connections: Connections,
    task: JoinHandle<()>,
}

impl World {
    fn new(most: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = BoundSocket::bind(&dir.path().join("agent.sock")).unwrap();
        let (sender, events) = mpsc::channel(64);
        let connections = Connections::new();
        let table = connections.clone();
        let task = tokio::spawn(async move { serve(&socket, most, sender, table).await.unwrap() });
        Self { dir, events, connections, task }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    fn connect(&self) -> Blocking {
        let stream = Blocking::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    async fn event(&mut self) -> ServerEvent {
        tokio::time::timeout(SOON, self.events.recv()).await.unwrap().unwrap()
    }

    async fn opened(&mut self) -> ConnId {
        match self.event().await {
            ServerEvent::Opened { conn } => conn,
            other => panic!("{other:?}"),
        }
    }
}

/// The server serves root alone, so for other users there is nothing to test.
fn nobody_would_be_served() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip::because("the agent's socket serves root only; run `cargo xtask test` as root");
    }
    !root
}

fn ready() -> Answer {
    let status = Status { ready: true, reasons: Vec::new() };
    Answer { v: VERSION, id: 1, outcome: Outcome::Ok(Response::Status(status)) }
}

/// Complete output of the server until it closes the connection.
fn rest(mut stream: Blocking) -> String {
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}

#[tokio::test]
async fn a_call_is_answered_and_a_hang_up_is_reported_at_once() {
    if nobody_would_be_served() {
        return;
    }
    let mut world = World::new(4);
    let path = world.path();
    let client = spawn_blocking(move || {
        let mut client = Client::connect(&path, SOON).unwrap();
        let answer = client.call(&Request::Status { network: None }, SOON).unwrap();
        assert!(matches!(answer, Response::Status(status) if status.ready));
        client
    });
    let conn = world.opened().await;
    assert_eq!(
        world.event().await,
        ServerEvent::Call { conn, id: 1, request: Request::Status { network: None } }
    );
    assert!(world.connections.send(conn, ready()));
    let client = client.await.unwrap();
    let before = Instant::now();
    drop(client);
    assert_eq!(world.event().await, ServerEvent::Closed { conn });
    assert!(before.elapsed() < Duration::from_millis(500), "{:?}", before.elapsed());
    assert!(!world.connections.send(conn, ready()) && world.connections.is_empty());
}

#[tokio::test]
async fn a_hang_up_is_seen_while_a_call_waits_for_its_answer() {
    if nobody_would_be_served() {
        return;
    }
    let mut world = World::new(4);
    let mut stream = world.connect();
    stream.write_all(b"{\"v\":1,\"id\":1,\"request\":\"leases\"}\n").unwrap();
    let conn = world.opened().await;
    assert!(matches!(world.event().await, ServerEvent::Call { .. }));
    drop(stream);
    assert_eq!(world.event().await, ServerEvent::Closed { conn });
}

#[tokio::test]
async fn bad_input_gets_a_clear_answer_and_a_hang_up() {
    if nobody_would_be_served() {
        return;
    }
    let mut world = World::new(4);
    let oversized = vec![b'x'; berth_protocol::LINE_BYTES_MAX + 1];
    for (input, word) in [
        (&b"hello\n"[..], "\"code\":6"),
        (b"{\"v\":7,\"id\":3,\"request\":\"leases\"}\n", "version 7"),
        (&oversized, "65536 bytes"),
    ] {
        let mut stream = world.connect();
        stream.write_all(input).unwrap();
        let text = spawn_blocking(move || rest(stream));
        let conn = world.opened().await;
        assert_eq!(world.event().await, ServerEvent::Closed { conn });
        let text = text.await.unwrap();
        assert!(text.contains(word) && text.ends_with('\n'), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        let answer: Answer = serde_json::from_str(&text).unwrap();
        assert!(matches!(answer.outcome, Outcome::Error(_)));
    }
}

#[tokio::test]
async fn finishing_sends_what_is_queued_first() {
    if nobody_would_be_served() {
        return;
    }
    let mut world = World::new(4);
    let mut stream = world.connect();
    let conn = world.opened().await;
    for _ in 0..3 {
        assert!(world.connections.send(conn, ready()));
    }
    world.connections.finish(conn);
    assert_eq!(world.event().await, ServerEvent::Closed { conn });
    let lines = spawn_blocking(move || {
        let _ = stream.flush();
        BufReader::new(stream).lines().map_while(Result::ok).count()
    });
    assert_eq!(lines.await.unwrap(), 3);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_hung_up_on() {
    if nobody_would_be_served() {
        return;
    }
    let mut world = World::new(4);
    let stream = world.connect();
    let conn = world.opened().await;
    let mut answer = ready();
    answer.outcome = Outcome::Ok(Response::Released { summary: "x".repeat(100_000) });
    let mut sent = 0;
    while world.connections.send(conn, answer.clone()) {
        sent += 1;
        assert!(sent < 10_000, "the queue has no end");
        tokio::task::yield_now().await;
    }
    assert_eq!(world.event().await, ServerEvent::Closed { conn });
    assert!(sent >= 256, "hung up after {sent} answers");
    drop(stream);
}

#[tokio::test]
async fn ten_thousand_connections_do_no_harm() {
    const MANY: usize = 10_000;
    const SERVED: usize = 64;
    if nobody_would_be_served() {
        return;
    }
    let allowed = raise_descriptor_limit(MANY as u64 + 2_000);
    let many = MANY.min(usize::try_from(allowed).unwrap().saturating_sub(1_000));
    assert!(many > 10 * SERVED, "only {allowed} descriptors are allowed; raise the hard limit (ulimit -Hn)");
    let mut world = World::new(SERVED);
    let path = world.path();
    let crowd = spawn_blocking(move || {
        let mut crowd = Vec::with_capacity(many);
        while crowd.len() < many {
            crowd.push(Blocking::connect(&path).unwrap());
        }
        crowd
    });
    for _ in 0..SERVED {
        world.opened().await;
    }
    let mut crowd = crowd.await.unwrap();
    assert_eq!(world.connections.len(), SERVED);
    // The first ones are served, every other one reads its refusal.
    let mut refused = crowd.split_off(SERVED);
    let texts = spawn_blocking(move || {
        let codes = refused.drain(..).filter(|stream| {
            stream.set_read_timeout(Some(SOON)).unwrap();
            rest(stream.try_clone().unwrap()).contains("\"code\":11")
        });
        codes.count()
    });
    assert_eq!(texts.await.unwrap(), many - SERVED);
    // A slot that becomes free is used again, and its client is answered.
    drop(crowd);
    for _ in 0..SERVED {
        assert!(matches!(world.event().await, ServerEvent::Closed { .. }));
    }
    let path = world.path();
    let client = spawn_blocking(move || {
        Client::connect(&path, SOON).unwrap().call(&Request::Status { network: None }, SOON)
    });
    let conn = world.opened().await;
    assert!(matches!(world.event().await, ServerEvent::Call { .. }));
    assert!(world.connections.send(conn, ready()));
    assert!(client.await.unwrap().is_ok());
}

#[tokio::test]
async fn only_root_is_served() {
    if nobody_would_be_served() {
        return;
    }
    let mut world = World::new(4);
    // The modes keep others out already; here the second door is tried.
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(world.dir.path(), 0o755);
    open(&world.path(), 0o666);
    let path = world.path();
    // The identity is the thread's alone, and ends with it.
    let stranger = std::thread::spawn(move || {
        let nobody = rustix::thread::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        Client::connect(&path, SOON).unwrap().next(Some(SOON))
    });
    let refused = spawn_blocking(move || stranger.join().unwrap()).await.unwrap().unwrap_err();
    assert!(
        matches!(&refused, CallError::Refused(failure) if failure.msg.contains("uid 65534")),
        "{refused:?}"
    );
    // Nothing of it reached the main loop; root is served as before.
    let _root = world.connect();
    assert_eq!(world.opened().await, ConnId(1));
}

#[tokio::test]
async fn the_server_ends_with_the_main_loop() {
    if nobody_would_be_served() {
        return;
    }
    let World { dir, events, task, .. } = World::new(4);
    drop(events);
    tokio::time::timeout(SOON, task).await.unwrap().unwrap();
    assert!(!dir.path().join("agent.sock").exists());
}
