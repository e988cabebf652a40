//! Faults of a declaration: the place, the key, the value, and advice.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_ipam::mac::MacError;
use berth_ipam::name::NameError;

/// Place of a declaration. Cheap to clone, because every error carries one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place(Arc<Parts>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts {
    file: PathBuf,
    document: usize,
    object: Option<String>,
}

impl Place {
    /// Document number `document`, counted from 1, of `file` or of a name that represents one.
    pub fn new(file: &Path, document: usize) -> Self {
        Self(Arc::new(Parts { file: file.to_owned(), document, object: None }))
    }

    /// The same place, once kind and name of the object are known: `IPPool lan-v4`.
    pub fn of_object(self, object: String) -> Self {
        let Parts { file, document, .. } = Arc::unwrap_or_clone(self.0);
        Self(Arc::new(Parts { file, document, object: Some(object) }))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, document {}", self.0.file.display(), self.0.document)?;
        match &self.0.object {
            Some(object) => write!(f, " ({object})"),
            None => Ok(()),
        }
    }
}

/// A declaration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// A file or folder could not be read.
    #[error("cannot read {}; check the path and its permissions", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error from the system.
        #[source]
        cause: io::Error,
    },

    /// A folder without a configuration.
    #[error("the folder {} holds no *.yaml or *.yml file; write one, as docs/configuration.md shows", path.display())]
    NoFiles {
        /// Path of the folder.
        path: PathBuf,
    },

    /// A text that is not YAML.
    #[error("{place}: not valid YAML; correct the text at the line and column given")]
    Syntax {
        /// Place of the document.
        place: Place,
        /// Error of the parser.
        #[source]
        cause: yaml_serde::Error,
    },

    /// A kind that Berth does not support.
    #[error(
        "{place}: apiVersion {api_version:?}, kind {kind:?} is unknown; write apiVersion: berth.dev/v1alpha1 and \
         kind: UnderlayNetwork or kind: IPPool"
    )]
    UnknownKind {
        /// Place of the document.
        place: Place,
        /// Value of `apiVersion`.
        api_version: String,
        /// Value of `kind`.
        kind: String,
    },

    /// An unknown or missing key, or a value of the wrong type.
    #[error("{place}: key {key}: does not match docs/configuration.md")]
    Shape {
        /// Place of the object.
        place: Place,
        /// The path of the key, as in `spec.link.parent`.
        key: String,
        /// Error of the parser.
        #[source]
        cause: yaml_serde::Error,
    },

    /// A rule of the type is broken.
    #[error("{place}: {}", broken.join("; "))]
    Rule {
        /// Place of the object.
        place: Place,
        /// Broken rules: the key, its value and the text of the rule.
        broken: Vec<String>,
    },

    /// A status in a declaration.
    #[error("{place}: key status: only a cluster's agents write it; remove it from the declaration")]
    DeclaredStatus {
        /// Place of the object.
        place: Place,
    },

    /// A value that cannot be used.
    #[error("{place}: key {key}: {value:?}: {advice}")]
    Value {
        /// Place of the object.
        place: Place,
        /// The path of the key, as in `spec.ranges[0]`.
        key: String,
        /// Value in the declaration.
        value: String,
        /// Description of the fault, and advice.
        advice: String,
    },

    /// A name that cannot be used.
    #[error("{place}: key {key}: the name is not valid; choose another")]
    Name {
        /// Place of the object.
        place: Place,
        /// The path of the key.
        key: String,
        /// Rule for such names.
        #[source]
        cause: NameError,
    },

    /// Two objects of one kind and name.
    #[error("{place}: already declared in {first}; remove or rename one of them")]
    Duplicate {
        /// Place of the second one.
        place: Place,
        /// Place of the first one.
        first: Place,
    },

    /// A network names a pool that is not declared.
    #[error("{place}: key {key}: IPPool {pool:?} does not exist; declare it, or name one of: {}", known.join(", "))]
    UnknownPool {
        /// Place of the network.
        place: Place,
        /// The path of the key, as in `spec.pools[0]`.
        key: String,
        /// Name of the pool.
        pool: String,
        /// The pools that are declared.
        known: Vec<String>,
    },

    /// The pools of one network lie in several segments.
    #[error(
        "{place}: pool {first} is in segment {first_segment} and pool {second} in segment {second_segment}: a \
         network is on one L2 domain, so give its pools the same segment"
    )]
    Segments {
        /// Place of the network.
        place: Place,
        /// Name of one pool.
        first: String,
        /// Segment of the first pool.
        first_segment: String,
        /// Name of another pool.
        second: String,
        /// Segment of the second pool.
        second_segment: String,
    },

    /// Two pools of a segment that contradict each other.
    #[error("{place} and {other}, both in segment {segment}: {what}")]
    Overlap {
        /// Place of one pool.
        place: Place,
        /// Place of the other pool.
        other: Place,
        /// Segment of both pools.
        segment: String,
        /// Description of the overlap, and advice.
        what: String,
    },

    /// A key that has a meaning only in a cluster.
    #[error(
        "{place}: key {key}: it needs --store kubernetes, where the API server tells more of a pod than its name; without \
         a cluster, reserve addresses by namespace and podName, as the runtime names them"
    )]
    NeedsCluster {
        /// Place of the object.
        place: Place,
        /// Path of the key.
        key: String,
    },

    /// A pool without assignable addresses.
    #[error(
        "{place}: no address is left after gateway, network, broadcast and exclude: widen ranges or subnet, or \
         shorten exclude"
    )]
    EmptyPool {
        /// Place of the object.
        place: Place,
    },

    /// An `IPLease` with an unknown or missing key, or a value of the wrong type.
    #[error(
        "IPLease {object}: key {key}: this version of Berth cannot read it: if the definitions in the cluster are \
         older, apply deploy/crds.yaml of this version; if a newer one wrote it, upgrade this agent; if it was edited \
         by hand, undo that"
    )]
    LeaseShape {
        /// The object's name.
        object: String,
        /// The path of the key, as in `spec.netns.cookie`.
        key: String,
        /// Error of the parser.
        #[source]
        cause: serde_json::Error,
    },

    /// An `IPLease` with a value that Berth never writes.
    #[error(
        "IPLease {object}: key spec.{key}: {value:?}: Berth never writes this value; undo the edit of the object"
    )]
    LeaseValue {
        /// The object's name.
        object: String,
        /// The path of the key below `spec`.
        key: &'static str,
        /// Value in the object.
        value: String,
        /// Error of the parser.
        #[source]
        cause: LeaseFault,
    },

    /// An `IPLease` with a name other than that of its address, so that it locks another address or none.
    #[error(
        "IPLease {object}: its segment and address make it {expected}: it was made by hand; delete it, if nobody \
         uses that address"
    )]
    LeaseName {
        /// The object's name.
        object: String,
        /// The name that belongs to what is in it.
        expected: String,
    },

    /// An `IPLease` without a node: its address is retained.
    #[error(
        "IPLease {object}: key spec.node is absent, which retains the address for an owner on no node: a newer version \
         of Berth wrote it; upgrade this agent, or delete the object if its owner needs the address no longer"
    )]
    LeaseRetained {
        /// The object's name.
        object: String,
    },

    /// A custom resource definition could not be written as YAML.
    #[error("cannot write a custom resource definition as YAML")]
    WriteDefinition {
        /// Error of the encoder.
        #[source]
        cause: yaml_serde::Error,
    },
}

/// Fault of a text in an `IPLease`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseFault {
    /// Not a valid name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Not a valid address.
    #[error(transparent)]
    Address(#[from] std::net::AddrParseError),
    /// Not a number, or out of range.
    #[error(transparent)]
    Number(#[from] std::num::ParseIntError),
    /// Not a valid MAC.
    #[error(transparent)]
    Mac(#[from] MacError),
}
