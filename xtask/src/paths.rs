//! Where things are: the source tree, and everything generated, which lies below `target/`.

use std::path::{Path, PathBuf};

use crate::failure::{Context, Result};

/// The root of the source tree. `cargo run` names xtask's folder; a binary started by hand uses the folder
/// it was built in.
pub(crate) fn root() -> PathBuf {
    let xtask =
        std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).filter(|path| path.ends_with("xtask"));
    let xtask = xtask.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    xtask.parent().map(Path::to_path_buf).unwrap_or(xtask)
}

/// The folder for generated things: cargo's target directory.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(path) => std::path::absolute(&path).unwrap_or_else(|_| PathBuf::from(path)),
        None => root().join("target"),
    }
}

/// The path as the user would type it: relative to the current folder when it lies below it.
pub(crate) fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}

/// Creates a folder and its parents.
pub(crate) fn create_dir(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).context(format_args!("creating {}", shown(path)))
}

/// Reads a text file.
pub(crate) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).context(format_args!("reading {}", shown(path)))
}

/// Reads a file.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).context(format_args!("reading {}", shown(path)))
}

/// Writes a file whole or not at all: a reader sees the old contents or the new ones. A file that already
/// has these contents keeps its time stamp, so that what depends on it is not made again.
pub(crate) fn write(path: &Path, contents: &[u8]) -> Result<()> {
    if std::fs::read(path).is_ok_and(|old| old == contents) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        create_dir(parent)?;
    }
    let temporary = path.with_added_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&temporary, contents).context(format_args!("writing {}", shown(&temporary)))?;
    std::fs::rename(&temporary, path).context(format_args!("writing {}", shown(path)))
}
