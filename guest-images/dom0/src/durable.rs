//! Files that are there whole or not at all, also when the power fails: written beside their place, brought to the medium, and renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{Error, ErrorKind, Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Who may read such a file: everybody of dom0, or root alone.
pub(crate) const FOR_ALL: u32 = 0o644;
pub(crate) const FOR_ROOT: u32 = 0o600;

/// Writes a file in the place of what was there. Its folder is made where there is none.
///
/// # Errors
/// It cannot be written: what was there is there still.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let folder = path.parent().ok_or_else(|| Error::from(ErrorKind::InvalidInput))?;
    fs::create_dir_all(folder)?;
    let new = path.with_added_extension("new");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync(folder)
}

/// Brings to the medium what was renamed in a folder.
///
/// # Errors
/// It cannot be.
pub(crate) fn sync(folder: &Path) -> Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced() {
        let folder = std::env::temp_dir().join(format!("basaltd-{}-durable", std::process::id()));
        let path = folder.join("deep/vm.toml");
        for text in ["one", "another"] {
            write(&path, text.as_bytes(), FOR_ROOT).expect("room");
            assert_eq!(fs::read_to_string(&path).expect("it is there"), text);
        }
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, FOR_ROOT);
        assert_eq!(
            fs::read_dir(folder.join("deep")).expect("a folder").count(),
            1,
            "nothing is left beside it"
        );
        fs::remove_dir_all(folder).expect("it is there");
    }
}
