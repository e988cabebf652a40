//! `cargo xtask build-ebpf`: the programs for the kernel, with type information, as target/ebpf/berth.o.
//!
//! The target has no precompiled core library in an ordinary toolchain. Two ways lead to one: a rustup
//! nightly with `rust-src` and a bpf-linker on the search path, taken if it is complete; else Debian's
//! compiler with its BPF library, and a bpf-linker built into target/tools. Both compile the same sources, in
//! a separate target folder, so that neither waits for other builds. Invariant: target/ebpf/berth.o is
//! complete, or the previous one, or absent; nothing else in the repository needs it to compile.

mod object;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::install::{self, InstallArgs, Need, Probe};
use crate::{process, repo};

/// Build the programs for the kernel, into target/ebpf/berth.o.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Args {
    #[command(flatten)]
    install: InstallArgs,
}

/// The bpf-linker that fits Debian's compiler: both use LLVM 22.
const LINKER_VERSION: &str = "0.13.0";
const LLVM: &str = "/usr/lib/llvm-22";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const TARGET: &str = "bpfel-unknown-none";
/// The name of the program crate's executable.
const PROGRAM: &str = "berth-ebpf";

const NEEDS: [Need; 4] = [
    Need {
        probe: Probe::File("/usr/lib/rustlib/bpfel-unknown-none/lib"),
        package: "libstd-rust-web-dev-bpf",
    },
    Need { probe: Probe::File(DEBIAN_RUSTC), package: "rustc-web" },
    Need { probe: Probe::File("/usr/lib/llvm-22/bin/llvm-config"), package: "llvm-22-dev" },
    Need { probe: Probe::Command("c++"), package: "g++" },
];

/// The flag of every verb with binaries that contain the programs.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct EbpfArgs {
    /// Continue without the programs for the kernel: netlink, reads and a packet socket replace them.
    #[arg(long)]
    pub without_ebpf: bool,
}

/// The object for a verb that needs the programs; `None` if it must continue without.
pub fn wanted(args: EbpfArgs, install: InstallArgs) -> Result<Option<PathBuf>> {
    if args.without_ebpf {
        return Ok(None);
    }
    object(install).map(Some).context(
        "the programs for the kernel cannot be built here. `cargo xtask build-ebpf` needs Debian 12's packages \
         (--no-install prints the commands) or a rustup nightly with rust-src and bpf-linker; \
         --without-ebpf goes on without them",
    )
}

/// A compiler and a linker that fit each other.
#[derive(Debug, PartialEq, Eq)]
enum Toolchain {
    /// A rustup nightly and the linker on the search path.
    Nightly { linker: PathBuf },
    /// Debian's compiler and the linker in target/tools.
    Debian { linker: PathBuf },
}

/// Builds the object and prints its path.
pub fn run(args: Args) -> Result<()> {
    let path = object(args.install)?;
    let size = std::fs::metadata(&path).with_context(|| format!("look at {}", path.display()))?.len();
    println!("{:>8} kB  target/ebpf/berth.o", size.div_ceil(1024));
    Ok(())
}

/// Builds the object and returns its path. A repeated build is cheap: cargo checks for changes, and an
/// identical object keeps its file, so that the agent need not be built again.
pub fn object(install: InstallArgs) -> Result<PathBuf> {
    let root = repo::root()?;
    let _turn = turn(&root)?;
    let toolchain = match nightly() {
        Some(nightly) => nightly,
        None => debian(&root, install)?,
    };
    let folder = repo::output_folder(&root, "ebpf")?;
    process::run(&mut compile(&root, &folder, &toolchain))?;
    let built = folder.join("build").join(TARGET).join("release").join(PROGRAM);
    let object = folder.join("berth.o");
    let bytes = std::fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    object::check(&bytes).with_context(|| format!("{} is not what the agent can load", built.display()))?;
    replace(&object, &bytes).with_context(|| format!("copy {} to {}", built.display(), object.display()))?;
    Ok(object)
}

/// Waits until no other run of this clone builds tools or object; the turn ends with the file. A run
/// that copied while another one links would see half of an object.
fn turn(root: &Path) -> Result<File> {
    let path = repo::output_folder(root, "ebpf")?.join(".lock");
    let doing = || format!("lock {}", path.display());
    let file = File::options().create(true).append(true).open(&path).with_context(doing)?;
    file.lock().with_context(doing)?;
    Ok(file)
}

/// Writes a file whole, and only if it would change.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if std::fs::read(path).is_ok_and(|former| former == bytes) {
        return Ok(());
    }
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    std::fs::write(&temporary, bytes)?;
    std::fs::rename(&temporary, path)
}

/// The rustup nightly, if all of its required parts exist. A mismatch between its LLVM and the linker's shows
/// only during linking, with the error "Invalid record".
fn nightly() -> Option<Toolchain> {
    let answer = |command: &mut Command| {
        let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let sysroot = answer(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))?;
    let sources = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    let linker = std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join("bpf-linker"))
        .find(|path| path.is_file())?;
    sources.is_file().then_some(Toolchain::Nightly { linker })
}

fn debian(root: &Path, install: InstallArgs) -> Result<Toolchain> {
    let tools = repo::output_folder(root, "tools")?;
    let linker = tools.join("bin/bpf-linker");
    let version = Command::new(&linker).arg("--version").stdin(Stdio::null()).output();
    let fits = version.is_ok_and(|output| fits(&String::from_utf8_lossy(&output.stdout)));
    if !fits && install.no_install {
        println!("`cargo xtask build-ebpf` needs bpf-linker {LINKER_VERSION}, after its packages:");
        println!("{}", shown(&tools));
    }
    install::ensure("build-ebpf", &NEEDS, install)?;
    if fits {
        return Ok(Toolchain::Debian { linker });
    }
    if install.no_install {
        bail!("bpf-linker is missing: run the command above, or leave --no-install out");
    }
    println!("`cargo xtask build-ebpf` needs bpf-linker {LINKER_VERSION}; building it now");
    println!("+ {}", shown(&tools));
    process::run(&mut install_linker(root, &tools)).with_context(|| {
        format!("build bpf-linker; it needs LLVM 22 with its headers below {LLVM}, and a C++ compiler")
    })?;
    Ok(Toolchain::Debian { linker })
}

fn fits(version: &str) -> bool {
    version.split_whitespace().nth(1) == Some(LINKER_VERSION)
}

fn install_linker(root: &Path, tools: &Path) -> Command {
    let mut command = process::cargo(root);
    command.args(["install", "bpf-linker", "--locked", "--version", LINKER_VERSION]);
    command.args(["--no-default-features", "--features", "llvm-22", "--root"]).arg(tools);
    command.env("LLVM_PREFIX", LLVM).env("PATH", path_with_llvm());
    command
}

/// The installation as a line for a shell.
fn shown(tools: &Path) -> String {
    let line = process::shown(&install_linker(Path::new("."), tools));
    format!("LLVM_PREFIX={LLVM} PATH={LLVM}/bin:$PATH {line}")
}

fn path_with_llvm() -> std::ffi::OsString {
    let mut path = std::ffi::OsString::from(format!("{LLVM}/bin:"));
    path.push(std::env::var_os("PATH").unwrap_or_default());
    path
}

fn compile(root: &Path, folder: &Path, toolchain: &Toolchain) -> Command {
    let linker = match toolchain {
        Toolchain::Nightly { linker } | Toolchain::Debian { linker } => linker,
    };
    let mut command = match toolchain {
        Toolchain::Nightly { .. } => {
            let mut command = Command::new("rustup");
            command.args(["run", "nightly", "cargo", "build", "-Z", "build-std=core"]);
            command.env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN").current_dir(root);
            command
        }
        Toolchain::Debian { .. } => {
            let mut command = process::cargo(root);
            // aya-ebpf uses unstable features, which this compiler has, but hides.
            command.arg("build").env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
            command
        }
    };
    command.args(["--locked", "--release", "--target", TARGET]);
    command.arg("--manifest-path").arg(root.join("ebpf/Cargo.toml"));
    command.arg("--target-dir").arg(folder.join("build"));
    let flags = [
        format!("-Clinker={}", linker.display()),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
    ];
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")).env_remove("RUSTFLAGS");
    command.env_remove("RUSTC_WRAPPER").env_remove("RUSTC_WORKSPACE_WRAPPER");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_linker_does_not_fit() {
        assert!(fits("bpf-linker 0.13.0\n"));
        assert!(!fits("bpf-linker 0.9.15\n") && !fits(""));
    }

    #[test]
    fn the_shown_command_is_the_one_that_runs() {
        let line = shown(Path::new("target/tools"));
        assert!(line.contains("cargo install bpf-linker --locked --version 0.13.0"), "{line}");
        assert!(line.ends_with("--features llvm-22 --root target/tools"), "{line}");
    }

    #[test]
    fn what_did_not_change_stays_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("berth.o");
        let inode = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
        replace(&path, b"one").unwrap();
        let first = File::open(&path).unwrap();
        replace(&path, b"one").unwrap();
        assert_eq!(inode(), std::os::unix::fs::MetadataExt::ino(&first.metadata().unwrap()));
        // The first file is still open, so its inode is not reused.
        replace(&path, b"two").unwrap();
        assert_ne!(inode(), std::os::unix::fs::MetadataExt::ino(&first.metadata().unwrap()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no other file is left");
    }

    #[test]
    fn two_runs_take_turns() {
        let root = tempfile::tempdir().unwrap();
        let first = turn(root.path()).unwrap();
        let second = File::open(root.path().join("target/ebpf/.lock")).unwrap();
        assert!(second.try_lock().is_err());
        drop(first);
        second.try_lock().unwrap();
    }

    #[test]
    fn a_verb_that_goes_on_without_builds_nothing() {
        let args = EbpfArgs { without_ebpf: true };
        assert_eq!(wanted(args, InstallArgs { no_install: true }).unwrap(), None);
    }
}
