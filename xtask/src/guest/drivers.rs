//! Drivers that a distribution's kernel has as modules, for an initial file system: each with those that it needs, in an order in
//! which they can be loaded (`/etc/drivers`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::cpio::Archive;
use super::debian;
use super::module_info::ModuleInfo;
use crate::failure::{Context, Failure, Result};
use crate::paths;

const FOLDER: &str = "lib/drivers";

/// Adds drivers of the kernel in a Debian package.
pub(super) fn add(archive: &mut Archive, kernel: Option<&str>, drivers: &[String]) -> Result<()> {
    if drivers.is_empty() {
        return Ok(());
    }
    let package = kernel.ok_or_else(|| {
        Failure::new("drivers can only be had for a kernel out of a Debian package".to_owned())
    })?;
    let mut files = BTreeMap::new();
    find(&debian::unpack_kernel(package)?.join("lib/modules"), &mut files)?;
    let mut order = Vec::new();
    for driver in drivers {
        load(driver, &files, &mut order)?;
    }
    for folder in ["lib", FOLDER] {
        archive.folder(folder);
    }
    let mut list = String::new();
    for (name, bytes) in order {
        archive.program(&format!("{FOLDER}/{name}.ko"), &bytes);
        list += &format!("{name}\n");
    }
    archive.program("etc/drivers", list.as_bytes());
    Ok(())
}

/// All modules below a folder, by name.
pub(super) fn find(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(folder).context(format_args!("reading {}", paths::shown(folder)))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() && !path.is_symlink() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "ko")
            && let Some(name) = path.file_stem()
        {
            files.insert(name.to_string_lossy().replace('-', "_"), path);
        }
    }
    Ok(())
}

/// Puts a driver on the list, behind those that it needs.
fn load(name: &str, files: &BTreeMap<String, PathBuf>, order: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let name = name.replace('-', "_");
    if order.iter().any(|(known, _)| *known == name) {
        return Ok(());
    }
    let file =
        files.get(&name).ok_or_else(|| Failure::new(format!("the kernel's package has no module {name}")))?;
    let bytes = paths::read_bytes(file)?;
    for needed in ModuleInfo::read(&bytes, &name)?.needs() {
        load(needed, files, order)?;
    }
    order.push((name, bytes));
    Ok(())
}
