//! Builds the kernel and the selftest guests for the bare machine.

use std::path::PathBuf;

use crate::failure::{Context, Failure, Result};
use crate::toolchain::{self, Toolchain};
use crate::{paths, process, progress};

/// Builds the kernel. Gives `target/basalt.elf`, with its line tables.
pub(crate) fn kernel() -> Result<PathBuf> {
    let toolchain = Toolchain::find()?;
    progress::step("building the kernel", || {
        process::run(toolchain.cargo_build().args(["--package", "boot"])).map_err(compile_errors)
    })?;
    let built = Toolchain::binaries().join("boot");
    let kernel = paths::target().join("basalt.elf");
    paths::write(&kernel, &paths::read_bytes(&built)?)?;
    Ok(kernel)
}

/// Builds the kernel with boot faults on request, for tests. Gives `target/basalt-faults.elf`.
pub(crate) fn kernel_with_faults() -> Result<PathBuf> {
    let toolchain = Toolchain::find()?;
    progress::step("building the kernel with boot faults", || {
        process::run(toolchain.cargo_build().args(["--package", "boot", "--features", "faults"]))
            .map_err(compile_errors)
    })?;
    let kernel = paths::target().join("basalt-faults.elf");
    paths::write(&kernel, &paths::read_bytes(&Toolchain::binaries().join("boot"))?)?;
    Ok(kernel)
}

/// Builds the kernel that measures how long it goes on without a look for pending work. Gives
/// `target/basalt-stretch.elf`.
pub(crate) fn kernel_that_measures() -> Result<PathBuf> {
    let toolchain = Toolchain::find()?;
    progress::step("building the kernel that measures itself", || {
        process::run(toolchain.cargo_build().args(["--package", "boot", "--features", "stretch"]))
            .map_err(compile_errors)
    })?;
    let kernel = paths::target().join("basalt-stretch.elf");
    paths::write(&kernel, &paths::read_bytes(&Toolchain::binaries().join("boot"))?)?;
    Ok(kernel)
}

/// Builds the selftest guests.
pub(crate) fn selftests() -> Result<()> {
    let toolchain = Toolchain::find()?;
    progress::step("building the selftest guests", || {
        process::run(toolchain.cargo_build().args(["--package", "selftest", "--bins"]))
            .map_err(compile_errors)
    })
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

fn compile_errors(failure: Failure) -> Failure {
    failure.next("the compiler's messages above say where; `cargo xtask check` looks at everything at once")
}
