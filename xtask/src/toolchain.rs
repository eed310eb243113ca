//! Finds a way to build for the bare machine, `x86_64-unknown-none`:
//!
//! 1. the active toolchain has the target's `core` and `alloc`;
//! 2. rustup can add them;
//! 3. Debian's own compiler and its library sources (`rustc-web`, `rust-web-src`) build them, which needs
//!    cargo's unstable `-Zbuild-std`; the sources fit that very compiler only.
//!
//! The target itself brings what a kernel needs: no red zone, no vector registers, the kernel code model,
//! aborting panics. We add static relocation and frame pointers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::failure::{Failure, Result};
use crate::{packages, paths, process, progress};

/// The target of everything that runs without an operating system.
pub(crate) const TARGET: &str = "x86_64-unknown-none";

/// The kernel and its dependencies use no vector registers. At the level that makes code small, functions of a few instructions are called and not
/// inlined; with this threshold they are, which is faster and no larger.
const CODE_GENERATION: &str = "-C relocation-model=static -C force-frame-pointers=yes \
     -C llvm-args=-inline-threshold=25 -C llvm-args=-min-jump-table-entries=12 -C link-arg=--icf=all --cfg chacha20_backend=\"soft\"";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const RUSTUP_LIMIT: Duration = Duration::from_secs(90);
const SECONDS_A_DAY: u64 = 86_400;

/// A way to build for the bare machine.
pub(crate) enum Toolchain {
    /// The active toolchain, with the target installed.
    Installed,
    /// Another compiler that builds the standard library from its sources.
    FromSource {
        /// The compiler.
        rustc: PathBuf,
        /// The linker.
        linker: PathBuf,
    },
}

impl Toolchain {
    /// Finds the first way that works, adding what may be added.
    pub(crate) fn find() -> Result<Self> {
        if target_is_installed() {
            return Ok(Self::Installed);
        }
        if !rustup_failed_today() {
            let added =
                progress::step("asking rustup for the bare-metal target", || Ok(rustup_adds_target()))?;
            if added && target_is_installed() {
                return Ok(Self::Installed);
            }
            remember_rustup_failure()?;
        }
        if !packages::present(packages::DEBIAN_RUST) && packages::can_install() {
            packages::ensure(packages::DEBIAN_RUST)?;
        }
        if packages::present(packages::DEBIAN_RUST) {
            return Ok(Self::FromSource { rustc: PathBuf::from(DEBIAN_RUSTC), linker: linker()? });
        }
        Err(Failure::new(format!("no standard library for {TARGET} on this machine")).next(format!(
            "either `rustup target add {TARGET}`, or on Debian `sudo apt-get install rustc-web rust-web-src lld`"
        )))
    }

    /// `cargo build` for the bare machine, in a target directory of its own, so that it does not wait for
    /// the cargo that runs us. Add the packages to build.
    pub(crate) fn cargo_build(&self) -> Command {
        let mut command = cargo();
        command
            .args(["build", "--quiet", "--release", "--target", TARGET])
            .env("CARGO_TARGET_DIR", Self::target_dir());
        match self {
            Self::Installed => command.env("RUSTFLAGS", CODE_GENERATION),
            Self::FromSource { rustc, linker } => command
                .args(["-Zbuild-std=core,alloc,compiler_builtins"])
                .arg("-Zbuild-std-features=compiler-builtins-mem")
                .env("RUSTC", rustc)
                .env("RUSTC_BOOTSTRAP", "1")
                .env(
                    "RUSTFLAGS",
                    format!("{CODE_GENERATION} -C linker={} -C linker-flavor=ld.lld", linker.display()),
                ),
        };
        command
    }

    fn target_dir() -> PathBuf {
        paths::target().join("kernel")
    }

    /// Where `cargo_build` leaves its binaries.
    pub(crate) fn binaries() -> PathBuf {
        Self::target_dir().join(TARGET).join("release")
    }
}

/// The cargo that runs us, at the root of the tree, without the settings of the outer call.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root());
    for variable in
        ["RUSTC", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_MANIFEST_DIR"]
    {
        command.env_remove(variable);
    }
    command
}

/// The target of programs for this machine.
pub(crate) fn host() -> Result<String> {
    let said = rustc(&["-vV"]);
    let host = said.as_deref().and_then(|said| said.lines().find_map(|line| line.strip_prefix("host: ")));
    host.map(str::to_owned).ok_or_else(|| Failure::new("rustc does not say what machine this is"))
}

fn rustc(arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("rustc");
    command.current_dir(paths::root()).args(arguments);
    process::text(&mut command).ok().map(|text| text.trim().to_owned())
}

fn target_is_installed() -> bool {
    let Some(folder) = rustc(&["--print", "target-libdir", "--target", TARGET]) else { return false };
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

fn rustup_adds_target() -> bool {
    let mut command = Command::new("rustup");
    command.current_dir(paths::root()).args(["target", "add", TARGET]).env("RUSTUP_MAX_RETRIES", "0");
    process::succeeds_within(&mut command, RUSTUP_LIMIT)
}

/// rustup may be without a network: its failure is remembered for the day instead of tried at every call.
fn rustup_failed_today() -> bool {
    std::fs::read_to_string(failure_stamp()).is_ok_and(|day| day.trim() == today())
}

fn remember_rustup_failure() -> Result<()> {
    paths::write(&failure_stamp(), today().as_bytes())
}

fn failure_stamp() -> PathBuf {
    paths::target().join("rustup-could-not-add-the-target")
}

fn today() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs() / SECONDS_A_DAY).to_string()
}

/// rustup's toolchains bring `rust-lld`; otherwise it is Debian's `lld`.
fn linker() -> Result<PathBuf> {
    let bundled = rustc(&["--print", "sysroot"])
        .map(|sysroot| Path::new(&sysroot).join("lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld"))
        .filter(|path| path.is_file());
    if let Some(path) = bundled {
        return Ok(path);
    }
    packages::ensure(packages::LINKER)?;
    process::find("ld.lld").ok_or_else(|| Failure::new("the package lld brought no ld.lld"))
}
