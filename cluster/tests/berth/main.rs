//! Berth in a cluster: a real API server, real agents and plugins, nodes as namespaces. One control plane
//! serves the scenarios of one test; each scenario leaves no pod and no record behind.

mod agents;
mod declared;
mod exact_fit;
mod faults;
mod fifty;
mod outages;
mod rights;
mod sandboxes;
mod segment;
mod stage;
