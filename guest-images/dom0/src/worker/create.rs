//! New files for disks: of zeros, or of what is in another image. Nothing is read here that was there before.

use std::fs::File;
use std::io::Result;

use api::image::Format;
use imago::file::File as Storage;
use imago::qcow2::Qcow2;
use imago::{FormatCreateBuilder, StorageOpenOptions};

/// Makes an empty file the disk of so many bytes, over an image that is called so.
///
/// # Errors
/// There is no room.
pub(crate) fn create(file: File, format: Format, bytes: u64, backing: Option<(&str, Format)>) -> Result<()> {
    if format == Format::Raw {
        return file.set_len(bytes);
    }
    let written = file.try_clone()?;
    let storage = Storage::from_open_file(file, StorageOpenOptions::new().write(true))?;
    let mut builder = Qcow2::<Storage>::create_builder(storage).size(bytes);
    if let Some((name, format)) = backing {
        let format = match format {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        };
        builder = builder.backing(name.to_owned(), format.to_owned());
    }
    builder.create()?;
    written.sync_all()
}
