//! Builds the kernel and the selftest guests for the bare machine.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use ::tests::scenario::Kernel;

use crate::failure::{Context, Failure, Result};
use crate::toolchain::{self, Toolchain};
use crate::{paths, process, progress};

/// Builds the kernel for users. Gives `target/basalt.elf`, with its line tables.
pub(crate) fn kernel() -> Result<PathBuf> {
    kernel_for(Kernel::Users)
}

/// Builds one of the kernels, a file of its own in `target`.
pub(crate) fn kernel_for(kernel: Kernel) -> Result<PathBuf> {
    let (title, features, file): (_, &[&str], _) = match kernel {
        Kernel::Users => ("building the kernel", &[], "basalt.elf"),
        Kernel::WithFaults => {
            ("building the kernel with boot faults", &["--features", "faults"], "basalt-faults.elf")
        }
        Kernel::Measuring => {
            ("building the kernel that measures itself", &["--features", "stretch"], "basalt-stretch.elf")
        }
    };
    let toolchain = Toolchain::find()?;
    progress::step(title, || {
        process::run(toolchain.cargo_build().args(["--package", "boot"]).args(features))
            .map_err(compile_errors)
    })?;
    let file = paths::target().join(file);
    paths::write(&file, &paths::read_bytes(&Toolchain::binaries().join("boot"))?)?;
    Ok(file)
}

/// Builds the selftest guests, once: a boot may have many of them.
pub(crate) fn selftests() -> Result<()> {
    static BUILT: Mutex<bool> = Mutex::new(false);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if *built {
        return Ok(());
    }
    let toolchain = Toolchain::find()?;
    progress::step("building the selftest guests", || {
        process::run(toolchain.cargo_build().args(["--package", "selftest", "--bins"]))
            .map_err(compile_errors)
    })?;
    *built = true;
    Ok(())
}

/// Builds a program of this workspace for Linux guests, with all that it needs in it. Gives its path.
pub(crate) fn linux_program(package: &str) -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let folder = paths::target().join("linux");
    let mut command = toolchain::cargo();
    command
        .args(["build", "--quiet", "--release", "--target", TARGET, "--package", package])
        .env("CARGO_TARGET_DIR", &folder)
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols");
    progress::step(&format!("building {package} for Linux guests"), || {
        process::run(&mut command).map_err(compile_errors)
    })?;
    Ok(folder.join(TARGET).join("release").join(package))
}

/// The binary of a selftest guest, once [`selftests`] has built it.
pub(crate) fn selftest_binary(name: &str) -> PathBuf {
    Toolchain::binaries().join(name)
}

/// The names of the selftest guests: the binaries of the package `selftest`, sorted.
pub(crate) fn selftest_names() -> Result<Vec<String>> {
    let packages = metadata()?;
    let mut names: Vec<String> = packages
        .iter()
        .filter(|package| package["name"] == "selftest")
        .flat_map(|package| package["targets"].as_array().into_iter().flatten())
        .filter(|target| {
            target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "bin"))
        })
        .filter_map(|target| target["name"].as_str().map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

/// The packages of the workspace, as `cargo metadata` describes them.
pub(crate) fn metadata() -> Result<Vec<serde_json::Value>> {
    let mut command = toolchain::cargo();
    command.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]);
    let text = process::text(&mut command)?;
    let mut metadata: serde_json::Value = serde_json::from_str(&text).context("reading cargo's metadata")?;
    match metadata["packages"].take() {
        serde_json::Value::Array(packages) => Ok(packages),
        _ => Err(Failure::new("cargo's metadata lists no packages")),
    }
}

pub(crate) fn compile_errors(failure: Failure) -> Failure {
    failure.next("the compiler's messages above say where; `cargo xtask check` looks at everything at once")
}
