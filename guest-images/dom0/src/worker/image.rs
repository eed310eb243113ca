//! What a disk's sectors are in: a file in one of the formats that are known. Its format is what its owner says, never what the file looks like; and
//! no file is opened that only another one names.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::sync::RwLock;

use api::image::Format;
use imago::file::File as Storage;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, StorageOpenOptions};

use super::{Source, qcow2};

/// Bytes of a sector.
pub(super) const SECTOR: u64 = 512;

/// A disk.
pub(super) struct Image {
    /// Only who discards needs it alone.
    access: RwLock<FormatAccess<Storage>>,
    read_only: bool,
}

/// The image below another one.
pub(super) struct Backing<'a> {
    pub(super) file: File,
    pub(super) source: Source,
    /// What it may be called there.
    pub(super) names: &'a [String],
}

impl Image {
    /// The disk in an open file, over another one where it has that.
    ///
    /// # Errors
    /// The file is not of that format, is broken, or names another one than this.
    pub(super) fn open(
        (file, source): (File, Source),
        read_only: bool,
        backing: Option<Backing<'_>>,
    ) -> Result<Self> {
        let storage = storage(file, source, !read_only)?;
        let gate = DenyImplicitOpenGate::default();
        let access = match source.format {
            Format::Raw => FormatAccess::new(Raw::builder(storage).write(!read_only).open(gate)?),
            Format::Qcow2 => {
                qcow2::check(&storage, !read_only, backing.as_ref().map(|it| (it.names, it.source.format)))?;
                let below = backing.map(Backing::open).transpose()?;
                let builder = Qcow2::<Storage>::builder(storage).write(!read_only);
                FormatAccess::new(builder.backing(below).data_file(None).open(gate)?)
            }
        };
        Ok(Self { access: RwLock::new(access), read_only })
    }

    /// Whole sectors that it has.
    pub(super) fn sectors(&self) -> u64 {
        self.with(|access| Ok(access.size() / SECTOR)).unwrap_or(0)
    }

    /// Reads all of the buffer.
    ///
    /// # Errors
    /// It cannot be read there.
    pub(super) fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<()> {
        let offset = self.offset(sector, buffer.len() as u64)?;
        self.with(|access| access.read(buffer, offset))
    }

    /// Writes all of the buffer: it has left this system's memory afterwards, with what finds it.
    ///
    /// # Errors
    /// It cannot be written there; [`ErrorKind::StorageFull`] where there is no room.
    pub(super) fn write(&self, sector: u64, buffer: &[u8]) -> Result<()> {
        let offset = self.offset_to_write(sector, buffer.len() as u64)?;
        self.with(|access| {
            access.write(buffer, offset)?;
            access.flush()
        })
    }

    /// Has sectors be zeros.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(super) fn zero(&self, sector: u64, sectors: u64) -> Result<()> {
        let bytes = sectors.saturating_mul(SECTOR);
        let offset = self.offset_to_write(sector, bytes)?;
        self.with(|access| {
            access.write_zeroes(offset, bytes)?;
            access.flush()
        })
    }

    /// Forgets sectors, where that saves something.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(super) fn discard(&self, sector: u64, sectors: u64) -> Result<()> {
        let bytes = sectors.saturating_mul(SECTOR);
        let offset = self.offset_to_write(sector, bytes)?;
        let mut access = self.access.write().map_err(|_| ErrorKind::Other)?;
        access.discard_to_any(offset, bytes)?;
        access.flush()
    }

    /// What was written before survives a loss of power from here on.
    ///
    /// # Errors
    /// The device says so.
    pub(super) fn flush(&self) -> Result<()> {
        self.with(|access| {
            access.flush()?;
            access.sync()
        })
    }

    fn with<T>(&self, run: impl FnOnce(&FormatAccess<Storage>) -> Result<T>) -> Result<T> {
        // Who has panicked with it has left it as it was: nothing is changed but by its own calls.
        run(&*self.access.read().map_err(|_| ErrorKind::Other)?)
    }

    fn offset_to_write(&self, sector: u64, bytes: u64) -> Result<u64> {
        if self.read_only {
            return Err(ErrorKind::ReadOnlyFilesystem.into());
        }
        self.offset(sector, bytes)
    }

    /// The offset of a sector from which on there are so many bytes.
    fn offset(&self, sector: u64, bytes: u64) -> Result<u64> {
        let offset = sector.checked_mul(SECTOR);
        let end = offset.and_then(|offset| offset.checked_add(bytes));
        match (offset, end) {
            (Some(offset), Some(end)) if end <= self.sectors().saturating_mul(SECTOR) => Ok(offset),
            _ => Err(Error::new(ErrorKind::InvalidInput, "there are no such sectors")),
        }
    }
}

impl Backing<'_> {
    /// Opens it, for reading. What it names itself is not opened.
    fn open(self) -> Result<FormatAccess<Storage>> {
        let open = || {
            let storage = storage(self.file, self.source, false)?;
            let gate = DenyImplicitOpenGate::default();
            Ok(match self.source.format {
                Format::Raw => FormatAccess::new(Raw::builder(storage).write(false).open(gate)?),
                Format::Qcow2 => {
                    qcow2::check(&storage, false, None)?;
                    let builder = Qcow2::<Storage>::builder(storage).write(false);
                    FormatAccess::new(builder.backing(None).data_file(None).open(gate)?)
                }
            })
        };
        open().map_err(|error: Error| Error::other(format!("its backing image: {error}")))
    }
}

fn storage(file: File, source: Source, write: bool) -> Result<Storage> {
    Storage::from_open_file(file, StorageOpenOptions::new().write(write).direct(source.direct))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;

    /// A file of its own for a test.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("basaltd-{}-{name}", std::process::id())))
        }

        fn open(&self) -> File {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&self.0)
                .expect("a file")
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    const fn buffered(format: Format) -> Source {
        Source { format, direct: false }
    }

    fn check(image: &Image) {
        let (mut read, one) = (vec![0xee; 1024], vec![0x5a; 1024]);
        image.read(0, &mut read).expect("it is there");
        assert_eq!(read, [0; 1024]);
        image.write(3, &one).expect("it has room");
        image.read(3, &mut read).expect("it is there");
        assert_eq!(read, one);
        image.zero(4, 1).expect("it has room");
        image.read(3, &mut read).expect("it is there");
        assert_eq!((&read[..512], &read[512..]), (&one[..512], &[0; 512][..]));
        image.discard(0, 8).expect("it can be forgotten");
        image.flush().expect("it is on the disk");
        let last = image.sectors() - 1;
        image.write(last, &one[..512]).expect("the last sector");
        for (sector, length) in [(last, 1024), (last + 1, 512), (u64::MAX, 512), (u64::MAX / 512, 512)] {
            assert!(image.write(sector, &one[..length]).is_err(), "{sector}");
            assert!(image.read(sector, &mut read[..length]).is_err(), "{sector}");
        }
    }

    #[test]
    fn a_raw_file_is_a_disk() {
        let place = Place::new("raw");
        place.open().set_len(1 << 20).expect("room");
        let image = Image::open((place.open(), buffered(Format::Raw)), false, None).expect("a disk");
        assert_eq!(image.sectors(), 2048);
        check(&image);
        let fixed = Image::open((place.open(), buffered(Format::Raw)), true, None).expect("a disk");
        assert!(fixed.write(0, &[0; 512]).is_err() && fixed.read(0, &mut [0; 512]).is_ok());
    }

    /// Where there is QEMU's program that makes them, its images are used and it checks them.
    #[test]
    fn a_qcow2_file_is_a_disk() {
        let place = Place::new("qcow2");
        let qemu_img = |words: &[&str]| Command::new("qemu-img").args(words).arg(&place.0).output();
        let Ok(made) = qemu_img(&["create", "-q", "-f", "qcow2"]) else { return };
        if !made.status.success() {
            // It wants the size behind the name.
            let made = Command::new("qemu-img")
                .args(["create", "-q", "-f", "qcow2"])
                .arg(&place.0)
                .arg("8M")
                .output();
            assert!(made.expect("it runs").status.success());
        }
        let image = Image::open((place.open(), buffered(Format::Qcow2)), false, None).expect("a disk");
        assert_eq!(image.sectors(), 16 << 10);
        check(&image);
        drop(image);
        let checked = qemu_img(&["check", "-q", "-f", "qcow2"]).expect("it runs");
        assert!(checked.status.success(), "{checked:?}");
    }

    #[test]
    fn what_is_none_is_refused() {
        let place = Place::new("none");
        place.open().set_len(64 << 10).expect("room");
        assert!(Image::open((place.open(), buffered(Format::Qcow2)), false, None).is_err());
        // A file that looks like qcow2 is what its owner says.
        fs::write(&place.0, [&b"QFI\xfb"[..], &[0; 1020]].concat()).expect("room");
        assert!(Image::open((place.open(), buffered(Format::Qcow2)), false, None).is_err());
        let raw = Image::open((place.open(), buffered(Format::Raw)), false, None).expect("a disk");
        assert_eq!(raw.sectors(), 2);
    }
}
