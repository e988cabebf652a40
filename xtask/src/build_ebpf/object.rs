//! Requirements of an object for the kernel before it replaces the previous one.
//!
//! Reads the few required fields of ELF directly. Left out: acceptance of the programs, which only the kernel
//! can decide. Invariant: an object that would be refused under lockdown in a preferred attach mode is not
//! handed out, even if a library's macro is the cause.

use anyhow::{Context, Result, bail};

/// Machine number `EM_BPF` in ELF.
const MACHINE: [u8; 2] = [247, 0];
/// `SHF_EXECINSTR`: the section holds instructions.
const EXECUTABLE: u64 = 4;
const INSTRUCTION: usize = 8;
/// A call; of a helper, if its source register is 0.
const CALL: [u8; 2] = [0x85, 0];
/// Helpers that read any address, which lockdown refuses: `bpf_probe_read` and its kin.
const READERS: [u32; 4] = [4, 45, 113, 115];
/// Only breakpoints have arguments without a type, and are refused under lockdown anyway.
const MAY_READ: &str = "kprobe/";

/// Checks that it is an object for the BPF machine, fit for lockdown, and with type information, which the
/// linker leaves out when it does not understand the compiler's debug information.
pub fn check(bytes: &[u8]) -> Result<()> {
    if bytes.get(..4) != Some(b"\x7fELF") || bytes.get(18..20) != Some(&MACHINE) {
        bail!("it is not an object for the BPF machine");
    }
    let sections = sections(bytes).context("it is cut short")?;
    if !sections.iter().any(|section| section.name == ".BTF") {
        bail!("it has no type information (.BTF)");
    }
    for section in sections.iter().filter(|section| section.flags & EXECUTABLE != 0) {
        if !section.name.starts_with(MAY_READ)
            && let Some(helper) = section.bytes.chunks_exact(INSTRUCTION).find_map(reader)
        {
            bail!("section {} calls helper {helper}, which lockdown refuses", section.name);
        }
    }
    Ok(())
}

/// The helper that reads any address, if that is what the instruction calls.
fn reader(instruction: &[u8]) -> Option<u32> {
    let helper = u32::from_le_bytes(*instruction.get(4..)?.first_chunk()?);
    let is_helper = instruction[0] == CALL[0] && instruction[1] >> 4 == CALL[1];
    (is_helper && READERS.contains(&helper)).then_some(helper)
}

struct Section<'a> {
    name: String,
    flags: u64,
    bytes: &'a [u8],
}

fn sections(bytes: &[u8]) -> Option<Vec<Section<'_>>> {
    let table = number::<8>(bytes, 0x28)?;
    let (size, count, names) =
        (number::<2>(bytes, 0x3a)?, number::<2>(bytes, 0x3c)?, number::<2>(bytes, 0x3e)?);
    let header = |index: usize| bytes.get(table.checked_add(index * size)?..)?.get(..size);
    let content = |header: &[u8]| {
        let (start, length) = (number::<8>(header, 24)?, number::<8>(header, 32)?);
        // SHT_NOBITS has a length and no bytes.
        if header.get(4..8)? == [8, 0, 0, 0] {
            Some(&[][..])
        } else {
            bytes.get(start..start.checked_add(length)?)
        }
    };
    let names = content(header(names)?)?;
    let read = |index| {
        let header = header(index)?;
        let name = names.get(number::<4>(header, 0)?..)?.split(|byte| *byte == 0).next()?;
        let flags = u64::from_le_bytes(*header.get(8..)?.first_chunk()?);
        Some(Section { name: String::from_utf8_lossy(name).into_owned(), flags, bytes: content(header)? })
    };
    (0..count).map(read).collect()
}

/// A number of `N` bytes, as this machine's sizes.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<usize> {
    let mut wide = [0; 8];
    wide.get_mut(..N)?.copy_from_slice(bytes.get(at..at.checked_add(N)?)?);
    usize::try_from(u64::from_le_bytes(wide)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An object with these sections of instructions, and `.BTF`.
    fn object(sections: &[(&str, &[u8])]) -> Vec<u8> {
        let mut elf = b"\x7fELF".to_vec();
        elf.resize(64, 0);
        elf[18] = MACHINE[0];
        let mut names = vec![0];
        let mut headers = vec![0_u8; 64];
        let mut add = |name: &str, flags: u64, start: usize, length: usize, names: &mut Vec<u8>| {
            let mut header = u32::try_from(names.len()).unwrap().to_le_bytes().to_vec();
            header.extend([1, 0, 0, 0]);
            for word in [flags, 0, start as u64, length as u64] {
                header.extend(word.to_le_bytes());
            }
            header.resize(64, 0);
            headers.extend(header);
            names.extend(name.bytes().chain([0]));
        };
        for (name, bytes) in sections.iter().chain(&[(".BTF", &[][..])]) {
            let flags = if *name == ".BTF" { 0 } else { EXECUTABLE };
            add(name, flags, elf.len(), bytes.len(), &mut names);
            elf.extend(*bytes);
        }
        let (start, length) = (elf.len(), names.len() + 7);
        add(".names", 0, start, length, &mut names);
        elf.extend(&names);
        let table = elf.len() as u64;
        let count = u16::try_from(headers.len() / 64).unwrap();
        elf.extend(headers);
        elf[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        for (at, value) in [(0x3a, 64), (0x3c, count), (0x3e, count - 1)] {
            elf[at..at + 2].copy_from_slice(&u16::to_le_bytes(value));
        }
        elf
    }

    fn call(source: u8, number: u8) -> [u8; 8] {
        [0x85, source << 4, 0, 0, number, 0, 0, 0]
    }

    #[test]
    fn what_is_no_bpf_object_or_has_no_types_is_refused() {
        let good = object(&[]);
        check(&good).unwrap();
        let mut other = good.clone();
        other[18] = 62;
        assert!(check(&other).unwrap_err().to_string().contains("BPF machine"));
        let mut untyped = good.clone();
        let at = good.windows(4).position(|part| part == b".BTF").unwrap();
        untyped[at] = b'x';
        assert!(check(&untyped).unwrap_err().to_string().contains("type information"));
        for length in 0..good.len() {
            assert!(check(&good[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn a_helper_that_lockdown_refuses_is_found_but_for_breakpoints() {
        let read = call(0, 113);
        check(&object(&[("kprobe/dev_shutdown", &read)])).unwrap();
        for section in ["fentry/dev_shutdown", "tp_btf/qdisc_destroy", "classifier", ".text"] {
            let refused = check(&object(&[(section, &[call(0, 131), read].concat())])).unwrap_err();
            assert!(refused.to_string().contains(section), "{refused}");
            // Another helper, and a function of the object itself at that distance.
            check(&object(&[(section, &[call(0, 131), call(1, 113)].concat())])).unwrap();
        }
    }
}
