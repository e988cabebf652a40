//! What can be wrong with a declaration: where it is, which key, which value, and what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_ipam::mac::MacError;
use berth_ipam::name::NameError;

/// Where a declaration was found. Cheap to clone, because every error carries one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place(Arc<Parts>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts {
    file: PathBuf,
    document: usize,
    object: Option<String>,
}

impl Place {
    /// Document number `document`, counted from 1, of `file` or of whatever stands for one.
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
    #[error("read {}: check the path and its permissions", path.display())]
    Read {
        /// What was read.
        path: PathBuf,
        /// The system's answer.
        #[source]
        cause: io::Error,
    },

    /// A folder without a configuration.
    #[error("the folder {} holds no *.yaml or *.yml file: write one, as docs/configuration.md shows", path.display())]
    NoFiles {
        /// The folder.
        path: PathBuf,
    },

    /// A text that is not YAML.
    #[error("{place}: not readable as YAML: correct the text at the line and column given")]
    Syntax {
        /// Where.
        place: Place,
        /// The parser's answer.
        #[source]
        cause: yaml_serde::Error,
    },

    /// A kind that Berth does not know.
    #[error(
        "{place}: apiVersion {api_version:?}, kind {kind:?} is unknown: write apiVersion: berth.dev/v1alpha1 and \
         kind: UnderlayNetwork or kind: IPPool"
    )]
    UnknownKind {
        /// Where.
        place: Place,
        /// Its `apiVersion`.
        api_version: String,
        /// Its `kind`.
        kind: String,
    },

    /// An unknown or missing key, or a value of the wrong type.
    #[error("{place}: key {key}: not as docs/configuration.md describes it")]
    Shape {
        /// Where.
        place: Place,
        /// The path of the key, as in `spec.link.parent`.
        key: String,
        /// What was expected.
        #[source]
        cause: yaml_serde::Error,
    },

    /// A rule of the type is broken.
    #[error("{place}: {}", broken.join("; "))]
    Rule {
        /// Where.
        place: Place,
        /// Each broken rule: the key, its value and the rule in words.
        broken: Vec<String>,
    },

    /// A status in a declaration.
    #[error("{place}: key status: a cluster's agents write it, nobody declares it: remove it")]
    DeclaredStatus {
        /// Where.
        place: Place,
    },

    /// A value that cannot be used.
    #[error("{place}: key {key}: {value:?}: {advice}")]
    Value {
        /// Where.
        place: Place,
        /// The path of the key, as in `spec.ranges[0]`.
        key: String,
        /// What was written there.
        value: String,
        /// What is wrong and what to write.
        advice: String,
    },

    /// A name that cannot be used.
    #[error("{place}: key {key}: the name cannot be used: choose another")]
    Name {
        /// Where.
        place: Place,
        /// The path of the key.
        key: String,
        /// The rule for such names.
        #[source]
        cause: NameError,
    },

    /// Two objects of one kind and name.
    #[error("{place}: declared before in {first}: remove or rename one of them")]
    Duplicate {
        /// Where the second is.
        place: Place,
        /// Where the first is.
        first: Place,
    },

    /// A network names a pool that nobody declares.
    #[error("{place}: key {key}: there is no IPPool {pool:?}: declare it, or name one of: {}", known.join(", "))]
    UnknownPool {
        /// Where the network is.
        place: Place,
        /// The path of the key, as in `spec.pools[0]`.
        key: String,
        /// The name.
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
        /// Where the network is.
        place: Place,
        /// One pool.
        first: String,
        /// Its segment.
        first_segment: String,
        /// Another pool.
        second: String,
        /// Its segment.
        second_segment: String,
    },

    /// Two pools of a segment that contradict each other.
    #[error("{place} and {other}, both in segment {segment}: {what}")]
    Overlap {
        /// Where one pool is.
        place: Place,
        /// Where the other is.
        other: Place,
        /// Their segment.
        segment: String,
        /// What they share, and what to do.
        what: String,
    },

    /// A key that only a cluster gives a meaning.
    #[error(
        "{place}: key {key}: it needs --store kubernetes, where the API server tells more of a pod than its name; without \
         a cluster, reserve addresses by namespace and podName, as the runtime names them"
    )]
    NeedsCluster {
        /// Where.
        place: Place,
        /// The key.
        key: String,
    },

    /// A pool without an address to give.
    #[error(
        "{place}: no address is left after gateway, network, broadcast and exclude: widen ranges or subnet, or \
         shorten exclude"
    )]
    EmptyPool {
        /// Where it is.
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
        /// What was expected.
        #[source]
        cause: serde_json::Error,
    },

    /// An `IPLease` with a value that Berth never writes.
    #[error(
        "IPLease {object}: key spec.{key}: {value:?}: Berth never writes that: undo the edit of the object"
    )]
    LeaseValue {
        /// The object's name.
        object: String,
        /// The path of the key below `spec`.
        key: &'static str,
        /// What is there.
        value: String,
        /// What was expected.
        #[source]
        cause: LeaseFault,
    },

    /// An `IPLease` whose name is not that of its address, so that it locks another one or none.
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
    #[error("write a custom resource definition as YAML")]
    WriteDefinition {
        /// The encoder's answer.
        #[source]
        cause: yaml_serde::Error,
    },
}

/// What is wrong with a text in an `IPLease`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseFault {
    /// It is no name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It is no address.
    #[error(transparent)]
    Address(#[from] std::net::AddrParseError),
    /// It is no number, or too large a one.
    #[error(transparent)]
    Number(#[from] std::num::ParseIntError),
    /// It is no MAC.
    #[error(transparent)]
    Mac(#[from] MacError),
}
