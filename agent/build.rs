//! Embeds the programs for the kernel into the agent, if they were built.
//!
//! `BERTH_EBPF_OBJECT` names the object (`cargo xtask` builds it and sets the variable). Without the variable
//! an empty file is embedded, so that the agent builds without an eBPF toolchain.

use std::path::PathBuf;
use std::{env, fs, io};

/// Names the object.
const VARIABLE: &str = "BERTH_EBPF_OBJECT";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let named = env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let object = match named {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", path.display());
            fs::read(&path).map_err(|error| {
                let what = format!("read {}, which {VARIABLE} names: {error}", path.display());
                io::Error::new(error.kind(), what)
            })?
        }
        None => Vec::new(),
    };
    let folder = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo set no OUT_DIR"))?;
    fs::write(PathBuf::from(folder).join("berth.o"), object)
}
