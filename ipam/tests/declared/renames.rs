//! One network with four addresses, of a pool that an operator renames, and without the network for a while.

use berth_ipam::config::Config;

use crate::declared::config;

/// The pool is called `p` or `renamed`; one edit of eight leaves no network.
pub fn renamed(edit: u8) -> Config {
    let mut config = config(4);
    let name = if edit.is_multiple_of(2) { "p" } else { "renamed" };
    config.pools = config.pools.into_values().map(|pool| (name.parse().unwrap(), pool)).collect();
    for network in config.networks.values_mut() {
        network.pools = vec![name.parse().unwrap()];
    }
    if edit % 8 == 7 {
        config.networks.clear();
    }
    config
}
