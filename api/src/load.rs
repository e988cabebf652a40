//! Declarations from files: the files, the documents, the objects.
//!
//! Each object is checked here by the rules of its type; checks that need a second object are left to the
//! conversion. The first fault is returned, with its file, document and key.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};

use berth_ipam::name::{NameError, NetworkName, PoolName};
use kube::core::ObjectMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::access;
use crate::error::{ApiError, Place};
use crate::types::{IPPool, IPPoolSpec, UnderlayNetwork, UnderlayNetworkSpec};

const API_VERSION: &str = "berth.dev/v1alpha1";

/// All declarations, each valid in itself, with the places they came from.
#[derive(Debug, Clone, Default)]
pub struct Declared {
    pub(crate) networks: BTreeMap<NetworkName, (Place, UnderlayNetworkSpec)>,
    /// Creation time of each network, in seconds since 1970; for documents of files, their position.
    pub(crate) order: BTreeMap<NetworkName, u64>,
    pub(crate) pools: BTreeMap<PoolName, (Place, IPPoolSpec)>,
}

/// One document. Of the metadata an operator may write more than Berth reads.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: yaml_serde::Value,
    status: Option<yaml_serde::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Metadata {
    name: String,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Metadata {
    fn into_object_meta(self) -> ObjectMeta {
        ObjectMeta {
            name: Some(self.name),
            labels: self.labels,
            annotations: self.annotations,
            ..ObjectMeta::default()
        }
    }
}

/// Reads one file, or every `*.yaml` and `*.yml` of a folder in the order of their names (not of
/// folders in it).
pub fn load(path: &Path) -> Result<Declared, ApiError> {
    let mut declared = Declared::default();
    for file in files(path)? {
        let text = fs::read_to_string(&file).map_err(|cause| ApiError::Read { path: file.clone(), cause })?;
        declared.add_text(&file, &text)?;
    }
    declared.refuse_what_needs_a_cluster()?;
    Ok(declared)
}

fn files(path: &Path) -> Result<Vec<PathBuf>, ApiError> {
    let read = |cause| ApiError::Read { path: path.to_owned(), cause };
    if !fs::metadata(path).map_err(read)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(read)? {
        let file = entry.map_err(read)?.path();
        let is_yaml = file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if is_yaml && !file.is_dir() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(ApiError::NoFiles { path: path.to_owned() });
    }
    files.sort();
    Ok(files)
}

impl Declared {
    /// Adds every document of `text`; `file` is for messages.
    pub fn add_text(&mut self, file: &Path, text: &str) -> Result<(), ApiError> {
        for (index, document) in yaml_serde::Deserializer::from_str(text).enumerate() {
            let place = Place::new(file, index + 1);
            let value = yaml_serde::Value::deserialize(document)
                .map_err(|cause| ApiError::Syntax { place: place.clone(), cause })?;
            // An empty document is between two separators, or holds comments only.
            if !value.is_null() {
                self.add_document(place, value)?;
            }
        }
        Ok(())
    }

    fn add_document(&mut self, place: Place, value: yaml_serde::Value) -> Result<(), ApiError> {
        let document: Document = parse(&place, "", value)?;
        let place = place.of_object(format!("{} {}", document.kind, document.metadata.name));
        if document.status.is_some() {
            return Err(ApiError::DeclaredStatus { place });
        }
        match (document.api_version.as_str(), document.kind.as_str()) {
            (API_VERSION, "UnderlayNetwork") => {
                let spec = parse(&place, "spec", document.spec)?;
                let metadata = document.metadata.into_object_meta();
                self.add_network(place, UnderlayNetwork { metadata, spec, status: None })
            }
            (API_VERSION, "IPPool") => {
                let spec = parse(&place, "spec", document.spec)?;
                let metadata = document.metadata.into_object_meta();
                self.add_pool(place, IPPool { metadata, spec, status: None })
            }
            _ => Err(ApiError::UnknownKind { place, api_version: document.api_version, kind: document.kind }),
        }
    }

    /// Refuses keys that need a cluster: with files, only the name of a pod is known.
    fn refuse_what_needs_a_cluster(&self) -> Result<(), ApiError> {
        let mut found =
            self.pools.values().filter_map(|(place, spec)| Some((place, access::of_clusters(spec)?)));
        match found.next() {
            Some((place, key)) => Err(ApiError::NeedsCluster { place: place.clone(), key }),
            None => Ok(()),
        }
    }

    /// Adds the objects of `other`, which are already checked. An existing name keeps its object.
    pub fn merge(&mut self, other: &Self) {
        for (name, network) in &other.networks {
            self.networks.entry(name.clone()).or_insert_with(|| network.clone());
        }
        for (name, order) in &other.order {
            self.order.entry(name.clone()).or_insert(*order);
        }
        for (name, pool) in &other.pools {
            self.pools.entry(name.clone()).or_insert_with(|| pool.clone());
        }
    }

    /// Adds one network, after checking the rules of its type.
    pub fn add_network(&mut self, place: Place, network: UnderlayNetwork) -> Result<(), ApiError> {
        check(&place, &network, network.validate_cel())?;
        let created = network.metadata.creation_timestamp.as_ref();
        let created = created.map(|created| u64::try_from(created.0.as_second()).unwrap_or(0));
        let order = created.unwrap_or(self.networks.len() as u64);
        let name: NetworkName = name(&place, network.metadata)?;
        insert(&mut self.networks, name.clone(), place, network.spec)?;
        self.order.insert(name, order);
        Ok(())
    }

    /// Adds one pool, after checking the rules of its type.
    pub fn add_pool(&mut self, place: Place, pool: IPPool) -> Result<(), ApiError> {
        check(&place, &pool, pool.validate_cel())?;
        let name = name(&place, pool.metadata)?;
        insert(&mut self.pools, name, place, pool.spec)
    }
}

/// Parses `value`, which is at `root` of its document; an error names the key by its full path.
fn parse<T: DeserializeOwned>(place: &Place, root: &str, value: yaml_serde::Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        // The root of a value is "." in that crate.
        let key = match (root, path.as_str()) {
            ("", ".") => "(whole document)".to_owned(),
            (root, ".") => root.to_owned(),
            ("", path) => path.to_owned(),
            (root, path) => format!("{root}.{path}"),
        };
        ApiError::Shape { place: place.clone(), key, cause: error.into_inner() }
    })
}

fn name<N: std::str::FromStr<Err = NameError>>(place: &Place, metadata: ObjectMeta) -> Result<N, ApiError> {
    metadata.name.unwrap_or_default().parse().map_err(|cause| ApiError::Name {
        place: place.clone(),
        key: "metadata.name".to_owned(),
        cause,
    })
}

fn insert<N: Ord, S>(
    map: &mut BTreeMap<N, (Place, S)>,
    name: N,
    place: Place,
    spec: S,
) -> Result<(), ApiError> {
    match map.entry(name) {
        Entry::Vacant(free) => {
            free.insert((place, spec));
            Ok(())
        }
        Entry::Occupied(taken) => Err(ApiError::Duplicate { place, first: taken.get().0.clone() }),
    }
}

/// Converts broken rules into an error that shows the value as it was written.
fn check<T: Serialize>(
    place: &Place,
    object: &T,
    checked: Result<(), kube::core::cel::ValidationErrors>,
) -> Result<(), ApiError> {
    let Err(errors) = checked else { return Ok(()) };
    let object = serde_json::to_value(object).unwrap_or_default();
    let broken = errors
        .as_slice()
        .iter()
        .map(|error| {
            let pointer = format!("/{}", error.field_path.replace(['.', '['], "/").replace(']', ""));
            match object.pointer(&pointer) {
                Some(value) if !value.is_object() => {
                    format!("key {}: {value}: {}", error.field_path, error.message)
                }
                _ => format!("key {}: {}", error.field_path, error.message),
            }
        })
        .collect();
    Err(ApiError::Rule { place: place.clone(), broken })
}
