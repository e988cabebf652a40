//! A guest behind a pod's interface, like a virtual machine: it answers ARP for an address that no interface
//! of the namespace shows, with the interface's MAC.
//!
//! Its socket keeps the namespace alive: it ends before its pod does.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use berth_ipam::mac::Mac;

use crate::error::Result;
use crate::stranger;
use crate::sys::socket::Socket;

/// Interval at which it reads frames.
const LOOK: Duration = Duration::from_millis(2);
const ETHERTYPE_ARP: [u8; 2] = 0x0806_u16.to_be_bytes();
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

/// Answers from its start until it is dropped.
#[derive(Debug)]
pub struct Guest {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

impl Guest {
    /// Answers for an address from an interface of a namespace.
    pub fn start(netns: &Path, interface: &str, mac: Mac, address: Ipv4Addr) -> Result<Self> {
        let socket = stranger::socket_on(netns, interface)?;
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (until, count) = (Arc::clone(&stop), Arc::clone(&answers));
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                count.fetch_add(answer_all(&socket, mac, address), Ordering::Relaxed);
                std::thread::sleep(LOOK);
            }
        });
        Ok(Self { stop, answers, thread: Some(thread) })
    }

    /// Number of requests that it answered.
    pub fn answers(&self) -> u32 {
        self.answers.load(Ordering::Relaxed)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The panic hook has reported a panic of it.
            let _ = thread.join();
        }
    }
}

/// Answers the queued requests; returns the number of answers.
fn answer_all(socket: &Socket, mac: Mac, address: Ipv4Addr) -> u32 {
    let mut buffer = [0; 128];
    let mut sent = 0;
    while let Ok(Some(length)) = socket.receive_now(&mut buffer) {
        let frame = &buffer[..length.min(buffer.len())];
        let asks = frame.len() >= 42 && frame[12..14] == ETHERTYPE_ARP && frame[20..22] == REQUEST;
        if asks && frame[38..42] == address.octets() && frame[6..12] != mac.0 {
            let asker = &frame[22..28];
            let ends = [asker, &mac.0, &ETHERTYPE_ARP, &[0, 1, 8, 0, 6, 4], &REPLY].concat();
            let reply = [&ends[..], &mac.0, &address.octets(), asker, &frame[28..32]].concat();
            sent += u32::from(socket.send(&reply).is_ok());
        }
    }
    sent
}
