//! Prints the custom resource definitions. `cargo xtask crds` calls it, so that xtask itself is not
//! built from the client of a cluster.

use std::io::Write as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    Ok(std::io::stdout().write_all(berth_api::definitions()?.as_bytes())?)
}
