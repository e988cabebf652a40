//! The agent's part of ADD while 200 ADDs a second are offered over all nodes, until a pool of 1,000
//! addresses is full: the sum of its three responses, over its socket (docs/protocol.md) as the plugin calls
//! it.
//!
//! Plugins are left out: 200 a second of them would take all of a small machine. Their namespaces and links
//! are created before, so that all of the measured time is the agent's.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_testbed::cleanup::{Netns, pause};
use berth_testbed::stats::Times;
use berth_testbed::{netns, world};
use serde_json::{Value, json};

use super::table::Table;
use super::{SINGLE, SINGLE_COUNT};
use crate::cluster::Cluster;
use crate::error::{Error, Result};
use crate::network::PARENT;

/// Equal to the number of addresses of the pool.
const ADDS: usize = SINGLE_COUNT as usize;
/// From one ADD to the next.
const EVERY: Duration = Duration::from_millis(5);
/// Bound of the agent's part.
const PART: Duration = Duration::from_millis(50);
/// Number of concurrent ADDs; a kubelet has some four per node.
const CALLERS: usize = 40;
/// Time limit of one response.
const ANSWER: Duration = Duration::from_mins(2);
/// First nsid of these namespaces, in an unused range.
const FIRST_NUMBER: i32 = 0x2000_0000;

/// One ADD to come: its namespace, with a link in it.
struct Ready {
    netns: Netns,
    socket: PathBuf,
    order: usize,
    cookie: u64,
    inode: u64,
    nsid: i32,
    ifindex: i32,
}

/// Offers them; what they attached stays as long as what is returned.
pub fn measure(cluster: &Cluster, table: &mut Table) -> Result<Vec<Netns>> {
    let mut ready = prepare(cluster)?;
    pause(Duration::from_secs(5))?;
    let queue = Mutex::new(ready.iter_mut().collect::<VecDeque<_>>());
    let began = Instant::now();
    let outcomes: Vec<Result<Times>> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(|| call_all(&queue, began))).collect();
        let died = || Err(Error::Usage("the thread of a caller panicked".to_owned()));
        callers.into_iter().map(|caller| caller.join().unwrap_or_else(|_| died())).collect()
    });
    let took = began.elapsed();
    let mut parts = Times::default();
    for times in outcomes {
        parts.extend(times?.iter());
    }
    let offered = f64::from(u32::try_from(ADDS).unwrap_or(u32::MAX));
    table.value("ADDs a second, of 200 offered", offered / took.as_secs_f64(), None, "/s", parts.len());
    table.times("the agent's part of ADD at that pace", &parts, Some(PART));
    Ok(ready.into_iter().map(|ready| ready.netns).collect())
}

/// Makes all namespaces and links, evenly over the nodes.
fn prepare(cluster: &Cluster) -> Result<Vec<Ready>> {
    let mut all = Vec::new();
    let nodes = cluster.nodes.len();
    for (index, node) in cluster.nodes.iter().enumerate() {
        let home = node.netns().ok_or_else(|| Error::Usage(format!("{} has no power", node.name())))?;
        let folder = node.folder().join("netns");
        let (mut spaces, mut lines) = (Vec::new(), String::new());
        for order in (index..ADDS).step_by(nodes) {
            let space = Netns::create_at(&folder.join(format!("adds-{order}")))?;
            let path = space.path().display();
            let address = mac(order);
            let _ = writeln!(
                lines,
                "link add link {PARENT} name eth0 address {address} netns {path} type macvlan mode bridge"
            );
            spaces.push((order, space));
        }
        world::ip(home, &lines)?;
        let number = |order: usize| FIRST_NUMBER + i32::try_from(order).unwrap_or(0);
        netns::number(home, spaces.iter().map(|(order, space)| (space.path(), number(*order))))
            .map_err(Error::file("number namespaces"))?;
        for (order, space) in spaces {
            let socket = node.folder().join("agent.sock");
            all.push(
                identified(order, number(order), space, socket).map_err(Error::file("read a namespace"))?,
            );
        }
    }
    all.sort_by_key(|ready| ready.order);
    Ok(all)
}

fn identified(order: usize, nsid: i32, netns: Netns, socket: PathBuf) -> std::io::Result<Ready> {
    use std::os::unix::fs::MetadataExt as _;
    let path = netns.path();
    let (cookie, inode) = (netns::cookie(path)?, std::fs::metadata(path)?.ino());
    let ifindex = netns::ifindex(path, "eth0")?;
    Ok(Ready { netns, socket, order, cookie, inode, nsid, ifindex })
}

/// Takes ADDs from the queue, each when its time has come.
fn call_all(queue: &Mutex<VecDeque<&mut Ready>>, began: Instant) -> Result<Times> {
    let mut times = Times::default();
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(ready) = next else { return Ok(times) };
        let due = began + EVERY * u32::try_from(ready.order).unwrap_or(u32::MAX);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        times.push(add(ready)?);
    }
}

/// One ADD; returns the agent's time for its three responses together.
fn add(ready: &Ready) -> Result<Duration> {
    let mac = mac(ready.order);
    let attachment =
        json!({"network": SINGLE, "containerID": format!("adds-{}", ready.order), "ifname": "eth0"});
    let txn = format!("{:032x}", 0xadd0_0000 + ready.order);
    let netns = json!({"cookie": ready.cookie.to_string(), "inode": ready.inode, "nsid": ready.nsid,
                       "nsidIsRandom": true});
    let pod = json!({"namespace": "bounds", "name": format!("add-{}", ready.order),
                     "uid": format!("uid-{}", ready.order)});
    let lease = json!({"lease": {"txn": txn, "attachment": attachment, "cniNetwork": SINGLE, "role": "main",
                                 "netns": netns, "pod": pod, "annotations": {}}});
    let bind = json!({"bind": {"txn": txn, "attachment": attachment, "ifindex": ready.ifindex, "mac": mac}});
    let done = json!({"done": {"txn": txn, "attachment": attachment}});
    let doing = || Error::file(format!("talk to {}", ready.socket.display()));
    let stream = UnixStream::connect(&ready.socket).map_err(doing())?;
    stream.set_read_timeout(Some(ANSWER)).map_err(doing())?;
    let mut stream = BufReader::new(stream);
    let mut part = Duration::ZERO;
    for (id, request) in [lease, bind, done].iter().enumerate() {
        let (began, line) =
            (Instant::now(), json!({"v": 1, "id": id, "request": request}).to_string() + "\n");
        stream.get_mut().write_all(line.as_bytes()).map_err(doing())?;
        let mut answer = String::new();
        stream.read_line(&mut answer).map_err(doing())?;
        part += began.elapsed();
        let value: Value = serde_json::from_str(&answer).unwrap_or_default();
        if value.get("ok").is_none() {
            return Err(Error::Usage(format!("an ADD was answered: {}", answer.trim())));
        }
    }
    Ok(part)
}

/// The MAC of a link of ours: locally administered, and not of Berth's prefix.
fn mac(order: usize) -> String {
    let [.., high, low] = order.to_be_bytes();
    format!("02:ad:d0:00:{high:02x}:{low:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_have_macs_of_their_own() {
        assert_eq!((mac(0).as_str(), mac(999).as_str()), ("02:ad:d0:00:00:00", "02:ad:d0:00:03:e7"));
    }
}
