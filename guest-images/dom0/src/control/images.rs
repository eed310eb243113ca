//! Images: files below `/data/images`. They are uploaded into a folder of the process with the API, and taken from there when they are whole.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use api::image::Image;
use api::{Error, Reason};

use crate::{durable, log};

/// The folder.
const FOLDER: &str = "/data/images";
/// Where the process with the API puts what is uploaded.
pub(crate) const INCOMING: &str = "/data/incoming";
/// Images at most.
const MOST: usize = 4096;

/// All of them, in order.
pub(super) fn list() -> Vec<Image> {
    let entries = fs::read_dir(FOLDER).into_iter().flatten().flatten().take(MOST);
    let image = |entry: fs::DirEntry| {
        let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
        Some(Image { name: entry.file_name().into_string().ok()?, bytes: metadata.len() })
    };
    let mut images: Vec<_> = entries.filter_map(image).collect();
    images.sort_by(|one, other| one.name.cmp(&other.name));
    images
}

/// Makes an image of what was uploaded.
///
/// # Errors
/// It has no name for an image; there is one of that name; there is nothing that was uploaded.
pub(super) fn add(name: &str, file: &str) -> Result<Image, Error> {
    let path = path(name)?;
    if path.exists() {
        return Err(Error::new(Reason::NameTaken, format!("there is an image with the name {name}"))
            .next("choose another name, or delete that one first: `basalt image delete`"));
    }
    let uploaded = Path::new(INCOMING).join(checked(file)?);
    let metadata = fs::symlink_metadata(&uploaded)?;
    if !metadata.is_file() {
        return Err(Error::new(Reason::Failed, format!("{file} is no file")));
    }
    fs::create_dir_all(FOLDER)?;
    File::open(&uploaded)?.sync_all()?;
    std::os::unix::fs::chown(&uploaded, Some(0), Some(0))?;
    fs::rename(&uploaded, &path)?;
    durable::sync(Path::new(FOLDER))?;
    log::info(&format!("image {name} is there, with {} bytes", metadata.len()));
    Ok(Image { name: name.to_owned(), bytes: metadata.len() })
}

/// Deletes one.
///
/// # Errors
/// There is none of that name; one of these VMs' descriptions names it.
pub(super) fn delete<'a>(
    name: &str,
    mut users: impl Iterator<Item = (&'a str, Vec<String>)>,
) -> Result<(), Error> {
    let path = path(name)?;
    if !path.is_file() {
        return Err(Error::new(Reason::NotFound, format!("there is no image {name}"))
            .next("`basalt image list` shows all"));
    }
    if let Some((vm, _)) = users.find(|(_, files)| files.iter().any(|file| Path::new(file) == path)) {
        return Err(Error::new(Reason::InUse, format!("VM {vm} uses the image {name}"))
            .next(format!("delete or change that VM first: `basalt vm show {vm}`")));
    }
    fs::remove_file(&path)?;
    log::info(&format!("image {name} is deleted"));
    Ok(())
}

fn path(name: &str) -> Result<PathBuf, Error> {
    Ok(Path::new(FOLDER).join(checked(name)?))
}

/// A name that is a file's, and nothing else.
fn checked(name: &str) -> Result<&str, Error> {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=100).contains(&name.len()) && name.bytes().all(is_known) && !name.starts_with('.') {
        return Ok(name);
    }
    Err(Error::new(Reason::Invalid, format!("'{}' is no name for an image", name.escape_debug()))
        .next("write 1 to 100 letters, digits, -, _ and ., and no . at the beginning"))
}

#[cfg(test)]
mod tests {
    use super::checked;

    #[test]
    fn names_are_of_files() {
        assert!(["a", "debian-12.qcow2", "A_b"].into_iter().all(|name| checked(name).is_ok()));
        assert!(
            !["", ".", "..", ".a", "a/b", "a b", "\n", "ä"].into_iter().any(|name| checked(name).is_ok())
        );
    }
}
