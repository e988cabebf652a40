//! Errors other than a refused program.

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
    #[error("cannot read the eBPF object {path}; `cargo xtask build-ebpf` builds it")]
    ReadObject {
        /// Path of the object.
        path: PathBuf,
        /// Cause of the failure.
        #[source]
        cause: io::Error,
    },
    /// The kernel's BTF cannot be read.
    #[error("cannot read the kernel's BTF from {path}")]
    ReadTypes {
        /// Path of the BTF.
        path: PathBuf,
        /// Cause of the failure.
        #[source]
        cause: io::Error,
    },
    /// The kernel's types are not what the programs need.
    #[error("cannot parse the kernel's BTF")]
    Types(#[source] BtfError),
    /// The object cannot be taken apart, or its maps cannot be made.
    #[error("cannot load the eBPF object")]
    Load(#[source] Box<EbpfError>),
    /// The object is of another version than this program.
    #[error("the eBPF object is of another version: {what}; build it again with `cargo xtask build-ebpf`")]
    OtherVersion {
        /// Description of the mismatch.
        what: String,
    },
    /// The object lacks a map or program.
    #[error("the eBPF object has no {0}; build it again with `cargo xtask build-ebpf`")]
    Missing(&'static str),
    /// A map cannot be opened.
    #[error("cannot open the map {name}")]
    OpenMap {
        /// Name of the map.
        name: &'static str,
        /// Cause of the failure.
        #[source]
        cause: Box<MapError>,
    },
    /// A map cannot be read or written.
    #[error("cannot {operation} the map {name}")]
    UseMap {
        /// The failed operation.
        operation: &'static str,
        /// Name of the map.
        name: &'static str,
        /// Cause of the failure.
        #[source]
        cause: Box<MapError>,
    },
    /// More attachments, namespaces or addresses than the maps hold.
    #[error("map {name} is full ({capacity} entries); the rest is detected by reads alone")]
    Full {
        /// Name of the map.
        name: &'static str,
        /// Capacity in entries.
        capacity: u32,
    },
    /// The watcher cannot be put on a device.
    #[error("cannot attach the watcher to {device}")]
    Watch {
        /// Name of the device.
        device: IfName,
        /// Cause of the failure.
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
