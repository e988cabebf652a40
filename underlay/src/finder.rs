//! Namespaces found by nsid or by cookie, and held open while they are read.
//!
//! An nsid of the kernel is reused as soon as its namespace ends. While a namespace is held open it keeps its
//! nsid, so a read by that nsid is a read of that namespace. Only paths are remembered, as a hint where to
//! look first: each proof is repeated for each read.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_ipam::identity::{NetnsCookie, NetnsIdentity, Nsid};

use crate::netns::NetnsFile;
use crate::nsid;
use crate::read::Reader;
use crate::search::{self, Options};

/// Searches for what no hint leads to are at least this far apart: each opens every namespace of the node.
const BETWEEN_SEARCHES: Duration = Duration::from_secs(1);

/// A namespace, held open until this is dropped: for one read.
#[derive(Debug)]
pub struct Held {
    /// Keeps its number what it is.
    _file: NetnsFile,
    /// Nsid of the namespace.
    pub nsid: Nsid,
    cookie: NetnsCookie,
}

/// The namespace with an nsid of the kernel.
#[derive(Debug)]
pub enum Numbered {
    /// The one that was meant.
    Own(Held),
    /// Another namespace: the intended one has ended, because a namespace keeps its nsid while it exists.
    Another,
    /// One that cannot be named, or none.
    Unnamed,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Finder {
    options: Options,
    by_number: HashMap<Nsid, PathBuf>,
    by_cookie: HashMap<NetnsCookie, PathBuf>,
    by_inode: HashMap<u64, PathBuf>,
    searched: Option<Instant>,
}

impl Finder {
    /// Searches these folders, too.
    pub fn new(options: Options) -> Self {
        Self { options, ..Self::default() }
    }

    /// The namespace that has the number of `netns` now.
    pub fn of_number(&mut self, reader: &mut Reader, netns: &NetnsIdentity) -> Numbered {
        let wanted = |held: &Held| held.nsid == netns.nsid;
        let known = self.by_number.get(&netns.nsid).cloned();
        let held = known
            .and_then(|path| hold(reader, &path, false))
            .filter(wanted)
            .or_else(|| self.by_inode(reader, netns, false).filter(wanted))
            .or_else(|| {
                self.search(reader);
                hold(reader, self.by_number.get(&netns.nsid)?, false).filter(wanted)
            });
        match held {
            Some(held) if held.cookie == netns.cookie => Numbered::Own(held),
            Some(_) => Numbered::Another,
            None => Numbered::Unnamed,
        }
    }

    /// The namespace that has the cookie of `netns`, with the number that it has here, drawn if it had none; `None`:
    /// no namespace that can be named has it.
    pub fn of_cookie(&mut self, reader: &mut Reader, netns: &NetnsIdentity) -> Option<Held> {
        let wanted = |held: &Held| held.cookie == netns.cookie;
        let known = self.by_cookie.get(&netns.cookie).cloned();
        known
            .and_then(|path| hold(reader, &path, true))
            .filter(wanted)
            .or_else(|| self.by_inode(reader, netns, true).filter(wanted))
            .or_else(|| {
                self.search(reader);
                hold(reader, self.by_cookie.get(&netns.cookie)?, true).filter(wanted)
            })
    }

    /// Inode numbers are reused like nsids, so they only select where to look first.
    fn by_inode(&mut self, reader: &mut Reader, netns: &NetnsIdentity, assign: bool) -> Option<Held> {
        let is_there = |path: &PathBuf| inode_of(path) == Some(netns.inode);
        if !self.by_inode.get(&netns.inode).is_some_and(is_there) {
            self.by_inode =
                search::named(&self.options).filter_map(|path| Some((inode_of(&path)?, path))).collect();
        }
        let held = hold(reader, self.by_inode.get(&netns.inode)?, assign)?;
        self.by_number.insert(held.nsid, self.by_inode.get(&netns.inode)?.clone());
        Some(held)
    }

    fn search(&mut self, reader: &mut Reader) {
        if self.searched.is_some_and(|at| at.elapsed() < BETWEEN_SEARCHES) {
            return;
        }
        let options = Options { cookies: true, descriptors: true, ..self.options.clone() };
        let found = search::search(reader, &options);
        self.by_number.clear();
        self.by_cookie.clear();
        for place in found.namespaces {
            self.by_number.extend(place.nsid.map(|nsid| (nsid, place.path.clone())));
            self.by_cookie.extend(place.cookie.map(|cookie| (cookie, place.path)));
        }
        self.searched = Some(Instant::now());
    }
}

fn inode_of(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.ino())
}

/// Opens the namespace at a path, and reads what it is called by. `assign`: it gets a number if it has none.
fn hold(reader: &mut Reader, path: &Path, assign: bool) -> Option<Held> {
    let file = NetnsFile::open(path).ok()?;
    let nsid = if assign {
        nsid::read_or_assign(reader.socket(), &file).ok()?.0
    } else {
        nsid::read(reader.socket(), &file).ok()??
    };
    let cookie = file.cookie().ok()?;
    Some(Held { _file: file, nsid, cookie })
}
