//! The folders of VMs: `/data/vms/NAME` are the node's own, those below `/etc/basalt/vms` came with dom0's initial file system and are as they are.
//! Whatever is written is there whole or not at all, also when the power fails meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::io::Result;
use std::path::{Path, PathBuf};

use api::name::Name;
use api::vm::VmFile;
use api::{Error, Reason};

use super::{file, identity};
use crate::durable;

/// What came with dom0.
const WITH_DOM0: &str = "/etc/basalt/vms";
/// The node's own.
const OWN: &str = "/data/vms";
/// The node's images.
pub(super) const IMAGES: &str = "/data/images";
/// Folders of the node's own that are none yet, or none any more, begin so: no VM has such a name.
const UNFINISHED: &str = ".new-";
const DELETED: &str = ".deleted-";

/// VMs' names and folders, in order. What came with dom0 has its name before one of the node's own.
pub(super) fn folders(with_own: bool) -> BTreeMap<String, PathBuf> {
    let below = |place: &str| {
        let entries = fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path());
        let folders = entries.filter(|path| path.join(file::NAME).is_file());
        let named = folders.filter_map(|path| Some((path.file_name()?.to_string_lossy().into_owned(), path)));
        named.filter(|(name, _)| !name.starts_with('.'))
    };
    let mut all: BTreeMap<_, _> = if with_own { below(OWN).collect() } else { BTreeMap::new() };
    all.extend(below(WITH_DOM0));
    all
}

/// Whether a folder is one of the node's own.
pub(super) fn is_own(folder: &Path) -> bool {
    folder.starts_with(OWN)
}

/// Folders that were being made or deleted when the power failed, or this program died: they are to go.
pub(super) fn left_over() -> Vec<PathBuf> {
    let is_left = |name: &str| name.starts_with(UNFINISHED) || name.starts_with(DELETED);
    let entries = fs::read_dir(OWN).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_left))
        .map(|entry| entry.path())
        .collect()
}

/// Makes a VM's folder, with an identity of its own where its description has none.
///
/// # Errors
/// It cannot be written; a file that it names is not there.
pub(super) fn create(name: &Name, file: &VmFile) -> Result<PathBuf> {
    let mut file = file.clone();
    if file.id.is_none() {
        file.id = Some(identity::new()?);
    }
    let folder = Path::new(OWN).join(name.as_str());
    check_files(&folder, &file)?;
    let new = Path::new(OWN).join(format!("{UNFINISHED}{name}"));
    fs::create_dir_all(OWN)?;
    if new.exists() {
        fs::remove_dir_all(&new)?;
    }
    fs::create_dir(&new)?;
    write_file(&new, &file)?;
    fs::rename(&new, &folder)?;
    durable::sync(Path::new(OWN))?;
    Ok(folder)
}

/// Describes a VM anew. Its identity stays, where the new description has none.
///
/// # Errors
/// It cannot be written; a file that it names is not there.
pub(super) fn change(folder: &Path, file: &VmFile) -> Result<()> {
    let mut file = file.clone();
    if file.id.is_none() {
        file.id = file::read(folder).ok().and_then(|old| old.id);
    }
    check_files(folder, &file)?;
    write_file(folder, &file)
}

/// Takes a VM's folder away from the others. What is in it is to be deleted then.
///
/// # Errors
/// It cannot be renamed.
pub(super) fn delete(name: &str, folder: &Path) -> Result<PathBuf> {
    let gone = Path::new(OWN).join(format!("{DELETED}{name}-{}", identity::new()?));
    fs::rename(folder, &gone)?;
    durable::sync(Path::new(OWN))?;
    Ok(gone)
}

/// Files that are not made here have to be there.
fn check_files(folder: &Path, file: &VmFile) -> Result<()> {
    let is_made = |name: &str| file.disks.iter().any(|disk| disk.size.is_some() && disk.file == name);
    for (key, name) in file.named_files().filter(|(_, name)| !is_made(name)) {
        let path = folder.join(name);
        if !path.is_file() {
            return Err(Error::new(Reason::File, format!("{key}: there is no file {}", path.display()))
                .next(format!("import it (`basalt image import`), and name it as {IMAGES}/NAME"))
                .into());
        }
    }
    Ok(())
}

fn write_file(folder: &Path, file: &VmFile) -> Result<()> {
    let text = file.write().map_err(|error| Error::new(Reason::Invalid, error))?;
    durable::write(&folder.join(file::NAME), text.as_bytes(), durable::FOR_ALL)
}
