//! What can go wrong that is more than a refused program.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use berth_ipam::name::IfName;

use crate::btf::BtfError;

/// A failure of an operation of this crate. The agent runs without the programs then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The object with the programs cannot be read.
    #[error("read the eBPF object {path}; `cargo xtask build-ebpf` makes it")]
    ReadObject {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// The kernel's description of its own types cannot be read.
    #[error("read the kernel's types from {path}")]
    ReadTypes {
        /// Where they should be.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// The kernel's types are not what the programs need.
    #[error("understand the kernel's types")]
    Types(#[source] BtfError),
    /// The object cannot be taken apart, or its maps cannot be made.
    #[error("load the eBPF object")]
    Load(#[source] Box<EbpfError>),
    /// The object is of another version than this program.
    #[error("the eBPF object is of another version: {what}; build it again with `cargo xtask build-ebpf`")]
    OtherVersion {
        /// What does not fit.
        what: String,
    },
    /// The object lacks a map or program.
    #[error("the eBPF object has no {0}; build it again with `cargo xtask build-ebpf`")]
    Missing(&'static str),
    /// A map cannot be opened.
    #[error("open the map {name}")]
    OpenMap {
        /// Which.
        name: &'static str,
        /// Why not.
        #[source]
        cause: Box<MapError>,
    },
    /// A map cannot be read or written.
    #[error("{operation} the map {name}")]
    UseMap {
        /// What was tried.
        operation: &'static str,
        /// Which.
        name: &'static str,
        /// Why not.
        #[source]
        cause: Box<MapError>,
    },
    /// More attachments, namespaces or addresses than the maps hold.
    #[error("the map {name} is full: it holds {capacity}; what does not fit is found by reads alone")]
    Full {
        /// Which.
        name: &'static str,
        /// How many it holds.
        capacity: u32,
    },
    /// The watcher cannot be put on a device.
    #[error("watch the wire {device}")]
    Watch {
        /// Which.
        device: IfName,
        /// Why not.
        #[source]
        cause: Box<ProgramError>,
    },
}

impl Error {
    pub(crate) fn open(name: &'static str) -> impl FnOnce(MapError) -> Self {
        move |cause| Self::OpenMap { name, cause: Box::new(cause) }
    }

    pub(crate) fn using(operation: &'static str, name: &'static str) -> impl FnOnce(MapError) -> Self {
        move |cause| Self::UseMap { operation, name, cause: Box::new(cause) }
    }
}
