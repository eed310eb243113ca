//! Files of disks, as workers are to have them: open, locked against other VMs, and past this system's memory.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use api::image::Format;
use rustix::fs::{FlockOperation, OFlags, flock, fstatfs};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::worker::{Disk, Limits, Source};

/// File systems that are in memory anyway, and know no other way (Linux, `magic.h`: TMPFS_MAGIC, RAMFS_MAGIC).
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
/// A worker that ends has its files a moment longer.
const PATIENCE: Duration = Duration::from_secs(3);
const AGAIN: Duration = Duration::from_millis(50);

/// A disk's file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct DiskFile {
    /// Its number among all disks of its VM.
    pub(crate) number: u16,
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
    pub(crate) read_only: bool,
    pub(crate) limits: Limits,
    /// Where what is not in it lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) backing: Option<BackingFile>,
}

/// The image below another one.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct BackingFile {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
    /// As its owner calls it.
    pub(crate) name: String,
}

impl DiskFile {
    /// Opens its files: what a worker is told of the disk, and the files in the order in which it takes them.
    ///
    /// # Errors
    /// One cannot be had, which is named.
    pub(super) fn open(&self) -> Result<(Disk, Vec<File>)> {
        let (file, direct) = open(&self.path, !self.read_only)?;
        let mut disk = Disk {
            number: self.number,
            read_only: self.read_only,
            source: Source { format: self.format, direct },
            limits: self.limits,
            backing: None,
            backing_names: Vec::new(),
        };
        let mut files = vec![file];
        if let Some(BackingFile { path, format, name }) = &self.backing {
            let (file, direct) = open(path, false)?;
            disk.backing = Some(Source { format: *format, direct });
            disk.backing_names = vec![name.clone(), path.to_string_lossy().into_owned()];
            files.push(file);
        }
        Ok((disk, files))
    }
}

/// Opens a file, and says whether what is read and written there passes by this system's memory.
fn open(path: &Path, write: bool) -> Result<(File, bool)> {
    let named = |error: Error| Error::new(error.kind(), format!("{}: {error}", path.display()));
    let with = |flags: OFlags| {
        OpenOptions::new().read(true).write(write).custom_flags(flags.bits().cast_signed()).open(path)
    };
    let (file, direct) = match with(OFlags::DIRECT | OFlags::NOFOLLOW) {
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            let file = with(OFlags::NOFOLLOW).map_err(named)?;
            let kind = u64::try_from(fstatfs(&file)?.f_type).unwrap_or_default();
            if !IN_MEMORY.contains(&kind) {
                return Err(named(Error::new(
                    ErrorKind::Unsupported,
                    "its file system writes through memory only; put it on the node's data",
                )));
            }
            (file, false)
        }
        opened => (opened.map_err(named)?, true),
    };
    lock(&file, write).map_err(named)?;
    Ok((file, direct))
}

/// Who writes to a file is alone with it. The lock goes when nobody has the file open that was opened here.
fn lock(file: &File, alone: bool) -> Result<()> {
    let how =
        if alone { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::NonBlockingLockShared };
    let until = Instant::now() + PATIENCE;
    loop {
        match flock(file, how) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if Instant::now() < until => sleep(AGAIN),
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::new(
                    ErrorKind::ResourceBusy,
                    "another VM, or another disk of this one, has it open; stop that, or make a copy",
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_writes_is_alone() {
        let path = std::env::temp_dir().join(format!("basaltd-{}-lock", std::process::id()));
        std::fs::write(&path, [0; 512]).expect("room");
        let (writer, _) = open(&path, true).expect("nobody has it");
        assert_eq!(open(&path, true).expect_err("one has it").kind(), ErrorKind::ResourceBusy);
        assert_eq!(open(&path, false).expect_err("one writes").kind(), ErrorKind::ResourceBusy);
        drop(writer);
        let readers = [open(&path, false), open(&path, false)];
        assert!(readers.iter().all(Result::is_ok));
        assert!(open(&path, true).is_err());
        let link = path.with_extension("link");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(&path, &link).expect("room");
        assert!(open(&link, false).is_err(), "links lead anywhere");
        for file in [path, link] {
            std::fs::remove_file(file).expect("it is there");
        }
    }
}
