//! `cargo xtask dist`: the static binaries that operators install.
//!
//! It verifies the result of the flags: each binary's ELF header is read, and one that needs a dynamic loader
//! is refused.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::build::{self, Variant};
use crate::build_ebpf::{self, EbpfArgs};
use crate::install::InstallArgs;

/// Build the static binaries that operators install, into target/dist/.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    ebpf: EbpfArgs,
    #[command(flatten)]
    install: InstallArgs,
}

/// Builds, checks and lists them.
pub fn run(args: &Args) -> Result<()> {
    let object = build_ebpf::wanted(args.ebpf, args.install)?;
    let folder = build::binaries(Variant::Dist, object.as_deref())?;
    for (_, name) in build::BINARIES {
        let path = folder.join(name);
        check_static(&path)?;
        let size = std::fs::metadata(&path).with_context(|| format!("look at {}", path.display()))?.len();
        println!("{:>8} kB  static  target/dist/{name}", size / 1024);
    }
    Ok(())
}

fn check_static(path: &Path) -> Result<()> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    match has_interpreter(&bytes) {
        Some(false) => Ok(()),
        Some(true) => bail!("{} is not static: it names a dynamic loader", path.display()),
        None => bail!("{} is not a 64-bit little-endian ELF file", path.display()),
    }
}

/// True if the ELF file needs a dynamic loader (program header `PT_INTERP`); `None`: not such an ELF file.
fn has_interpreter(elf: &[u8]) -> Option<bool> {
    const INTERPRETER: u32 = 3;
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let word = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let headers = usize::try_from(u64::from_le_bytes(elf.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (usize::from(word(54)?), usize::from(word(56)?));
    for index in 0..count {
        let at = headers.checked_add(index * size)?;
        let kind = u32::from_le_bytes(elf.get(at..at.checked_add(4)?)?.try_into().ok()?);
        if kind == INTERPRETER {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(kinds: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = u8::try_from(kinds.len()).unwrap();
        for kind in kinds {
            bytes.extend(kind.to_le_bytes());
            bytes.extend([0; 52]);
        }
        bytes
    }

    #[test]
    fn a_dynamic_loader_is_seen_wherever_it_is_named() {
        assert_eq!(has_interpreter(&elf(&[6, 1, 3])), Some(true));
        assert_eq!(has_interpreter(&elf(&[6, 1, 2])), Some(false));
    }

    #[test]
    fn what_is_cut_short_or_no_elf_is_not_called_static() {
        assert_eq!(has_interpreter(b"#!/bin/sh"), None);
        assert_eq!(has_interpreter(&elf(&[1, 3])[..70]), None);
    }

    #[test]
    fn the_test_binary_itself_is_dynamic() {
        let own = std::env::current_exe().unwrap();
        let dynamic = has_interpreter(&std::fs::read(own).unwrap());
        assert_eq!(dynamic, Some(!cfg!(target_feature = "crt-static")));
    }
}
