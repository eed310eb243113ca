//! Files out of Debian's packages, fetched with apt but not installed: that needs no rights, and leaves the
//! machine as it is.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::vmlinux;
use crate::failure::{Context, Failure, Result};
use crate::{packages, paths, process, progress};

/// The kernel of the package, or of the package that it stands for (`linux-image-amd64` only depends on the
/// real one), as an ELF file. It is fetched once: remove `target/guests/debian` to fetch it anew.
pub(super) fn kernel(package: &str) -> Result<PathBuf> {
    let finished = folder(package).with_added_extension("vmlinux");
    if finished.is_file() {
        return Ok(finished);
    }
    let packed = bzimage(package)?;
    progress::step("taking vmlinux out of the package", || {
        let elf = vmlinux::extract(&paths::read_bytes(&packed)?)?;
        let elf = super::compact(&elf).context("compacting vmlinux")?;
        paths::write(&finished, &elf)
    })?;
    Ok(finished)
}

/// The same as the package has it: a bzImage.
pub(super) fn bzimage(package: &str) -> Result<PathBuf> {
    find_kernel(&unpack_kernel(package)?)
}

/// Fetches a package and unpacks it. Gives the folder.
pub(super) fn unpack(package: &str) -> Result<PathBuf> {
    let folder = folder(package);
    if folder.is_dir() {
        return Ok(folder);
    }
    packages::ensure(packages::DEBIAN_GUEST)?;
    progress::step(&format!("fetching Debian's {package}"), || fetch(package, &folder))?;
    Ok(folder)
}

fn folder(package: &str) -> PathBuf {
    paths::target().join("guests/debian").join(package)
}

/// Fetches the package of a kernel, or the one that it stands for, and unpacks it. Gives the folder.
pub(super) fn unpack_kernel(package: &str) -> Result<PathBuf> {
    let folder = folder(package);
    if folder.is_dir() {
        return Ok(folder);
    }
    packages::ensure(packages::DEBIAN_GUEST)?;
    refresh_lists(package)?;
    let depends = process::text(Command::new("apt-cache").args(["depends", package])).map_err(no_lists)?;
    let real = dependency(&depends).unwrap_or(package);
    progress::step(&format!("fetching Debian's {real}"), || fetch(real, &folder))?;
    Ok(folder)
}

fn fetch(package: &str, folder: &Path) -> Result<()> {
    refresh_lists(package)?;
    let download = folder.with_added_extension(format!("{}.download", std::process::id()));
    let contents = download.join("contents");
    paths::create_dir(&contents)?;
    process::output(Command::new("apt-get").args(["download", "-q", package]).current_dir(&download))
        .map_err(no_lists)?;
    let archive = entries(&download)?
        .into_iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or_else(|| Failure::new(format!("apt-get download {package} left no package behind")))?;
    process::output(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&contents))?;
    // Another xtask may have been quicker; its folder is as good.
    if std::fs::rename(&contents, folder).is_err() && !folder.is_dir() {
        return Err(Failure::new(format!("could not create {}", paths::shown(folder))));
    }
    std::fs::remove_dir_all(&download).context(format_args!("removing {}", paths::shown(&download)))
}

/// A bare machine has no package lists yet.
pub(super) fn refresh_lists(package: &str) -> Result<()> {
    if process::output(Command::new("apt-cache").args(["show", package])).is_ok() || !packages::can_install()
    {
        return Ok(());
    }
    progress::step("reading the package lists", || {
        process::output(Command::new("apt-get").args(["update", "-q"])).map(drop)
    })
}

fn no_lists(failure: Failure) -> Failure {
    failure.next("check the network and the package lists: sudo apt-get update")
}

/// The kernel image that a metapackage depends on, from what `apt-cache depends` prints.
fn dependency(depends: &str) -> Option<&str> {
    depends
        .lines()
        .filter_map(|line| line.trim().trim_start_matches('|').strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
}

fn find_kernel(folder: &Path) -> Result<PathBuf> {
    entries(&folder.join("boot"))?
        .into_iter()
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
        .ok_or_else(|| Failure::new(format!("{} holds no kernel", paths::shown(folder))))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).context(format_args!("reading {}", paths::shown(folder)))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

#[cfg(test)]
mod tests {
    use super::dependency;

    #[test]
    fn a_metapackage_leads_to_the_real_kernel() {
        let depends = "linux-image-amd64\n  Depends: linux-image-6.1.0-99-amd64\n  Conflicts: other\n";
        assert_eq!(dependency(depends), Some("linux-image-6.1.0-99-amd64"));
        let depends = "linux-image-6.1.0-99-amd64\n  Depends: kmod\n |Depends: initramfs-tools\n";
        assert_eq!(dependency(depends), None);
    }
}
