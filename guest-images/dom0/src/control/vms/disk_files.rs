//! Files of a VM's disks: which there are, and those that are made because nothing is there yet.

use std::fs::{self, File};
use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};

use api::vm::{Disk, VmFile};

use super::file::{self, named};
use crate::hub::{BackingFile, DiskFile};
use crate::worker::{self, Limit, Limits};

/// Those of a VM's disks that are in files, which are there then.
pub(super) fn disk_files(folder: &Path, vm: &VmFile) -> Result<Vec<DiskFile>> {
    vm.disks.iter().try_for_each(|disk| make(folder, disk))?;
    Ok((0..).zip(&vm.disks).filter_map(|(number, disk)| disk_file(folder, number, disk)).collect())
}

/// The same of a VM that is there already. Of one whose file cannot be read any more nothing is known.
pub(super) fn files_of(folder: &Path) -> Vec<DiskFile> {
    file::read(folder).and_then(|file| disk_files(folder, &file)).unwrap_or_default()
}

fn disk_file(folder: &Path, number: u16, disk: &Disk) -> Option<DiskFile> {
    let backing = disk.backing.as_ref().zip(disk.backing_format);
    Some(DiskFile {
        number,
        path: folder.join(&disk.file),
        format: disk.format?,
        read_only: disk.read_only,
        limits: limits(disk),
        backing: backing.map(|(name, format)| BackingFile {
            path: folder.join(name),
            format,
            name: name.clone(),
        }),
    })
}

/// What disks may do by a description, where that is something else than they may do now.
pub(super) fn other_limits(now: &[DiskFile], described: &VmFile) -> Vec<Limit> {
    let new = |file: &DiskFile| {
        let limits = limits(described.disks.get(usize::from(file.number))?);
        (limits != file.limits).then_some(Limit { disk: file.number, limits })
    };
    now.iter().filter_map(new).collect()
}

/// How much a disk may do.
fn limits(disk: &Disk) -> Limits {
    Limits { iops: disk.iops, bandwidth: disk.bandwidth.map(|rate| rate.0) }
}

/// Makes the file of a disk that says how large it is, where there is none: it is there as a whole, or not at all.
fn make(folder: &Path, disk: &Disk) -> Result<()> {
    let path = folder.join(&disk.file);
    let (Some(size), Some(format)) = (disk.size, disk.format) else { return Ok(()) };
    if fs::symlink_metadata(&path).is_ok() {
        return Ok(());
    }
    let new = beside(&path);
    let backing = disk.backing.as_deref().map(|name| folder.join(name));
    // In the file it is named as a whole: the file may lie elsewhere.
    let backing = backing.as_deref().map(Path::to_string_lossy).zip(disk.backing_format);
    let made = place_for(&path)
        .and_then(|()| match fs::remove_file(&new) {
            // One that was begun before.
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => File::options().read(true).write(true).create_new(true).open(&new),
        })
        .and_then(|file| {
            let backing = backing.as_ref().map(|(name, format)| (name.as_ref(), *format));
            worker::create(file, format, size.0, backing)
        })
        .and_then(|()| fs::rename(&new, &path));
    made.map_err(|error| {
        let _ = fs::remove_file(&new);
        named(&path, format_args!("it cannot be made: {error}"))
    })
}

/// Where a file is made before it has its name.
fn beside(path: &Path) -> PathBuf {
    path.with_added_extension("new")
}

/// The node's images have a folder of their own, once there are some.
fn place_for(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(disk: &str) -> VmFile {
        VmFile::parse(&format!("kernel = 'k'\n[[disks]]\n{disk}")).expect("valid")
    }

    #[test]
    fn what_is_not_there_is_made_once() {
        let folder = std::env::temp_dir().join(format!("basaltd-{}-disk-files", std::process::id()));
        fs::create_dir_all(&folder).expect("room");
        let raw = vm("file = 'a'\nformat = 'raw'\nsize = '1M'");
        let files = disk_files(&folder, &raw).expect("room");
        assert_eq!(files[0].path.metadata().expect("it is there").len(), 1 << 20);
        fs::write(&files[0].path, b"mine").expect("room");
        disk_files(&folder, &raw).expect("it is there");
        assert_eq!(fs::read(&files[0].path).expect("it is there"), b"mine", "it is let be");
        let text =
            "file = 'b/c'\nformat = 'qcow2'\nsize = '8M'\nbacking = 'a'\nbacking_format = 'raw'\niops = 7";
        let [over] = &disk_files(&folder, &vm(text)).expect("room")[..] else { panic!("one") };
        assert!(fs::read(&over.path).expect("it is there").starts_with(b"QFI\xfb"));
        assert_eq!(over.limits, Limits { iops: Some(7), bandwidth: None });
        assert_eq!(over.backing.as_ref().map(|it| it.path.clone()), Some(folder.join("a")));
        assert!(!beside(&over.path).exists());
        let slower = vm(&text.replace("iops = 7", "bandwidth = '1M'"));
        let limits = Limits { iops: None, bandwidth: Some(1 << 20) };
        let files = disk_files(&folder, &vm(text)).expect("it is there");
        assert_eq!(other_limits(&files, &slower), [Limit { disk: 0, limits }]);
        assert_eq!(other_limits(&files, &vm(text)), []);
        let none = vm("file = 'd'\nformat = 'raw'");
        assert!(!disk_files(&folder, &none).expect("nothing is made")[0].path.exists());
        fs::remove_dir_all(&folder).expect("it is there");
    }
}
