//! The CNI protocol as a plugin sees it: environment, configuration, versions, results, errors.
//!
//! No policy and no I/O: everything here is a function from text to types and back, so each rule of
//! the specification is a unit test. What an attachment *means* is the plugin's business.
//!
//! Invariant: JSON that Berth did not write passes through unchanged. Configuration and results are
//! kept as the objects that arrived; typed views read from them, and conversions between versions
//! touch only what the specification changed between those versions.

pub mod args;
pub mod config;
pub mod env;
pub mod error;
pub mod result;
mod result_convert;
pub mod version;

pub use args::Args;
pub use config::NetConf;
pub use env::{Attach, Call, Detach};
pub use error::{Error, ErrorObject};
pub use result::CniResult;
pub use version::Version;
