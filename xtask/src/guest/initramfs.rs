//! Builds a guest's initial file system: Debian's static busybox, links for its applets, and the guest's
//! own `/init`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::cpio::Archive;
use super::debian;
use super::drivers;
use super::programs::{self, Program};
use crate::failure::{Context, Result};
use crate::{build, paths, process};

const BUSYBOX_PACKAGE: &str = "busybox-static";
const BUSYBOX: &str = "bin/busybox";
const FOLDERS: [&str; 7] = ["bin", "dev", "etc", "proc", "run", "sys", "tmp"];

/// What a guest adds to busybox: paths beside its description.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contents {
    init: PathBuf,
    jobs: Option<PathBuf>,
    #[serde(default)]
    programs: Vec<Program>,
    #[serde(default)]
    own: Vec<String>,
    #[serde(default)]
    drivers: Vec<String>,
}

/// Builds the archive for `guest`, whose description lies in `folder` and whose kernel is in a Debian package. Gives its path.
pub(super) fn build(
    guest: &str,
    folder: &Path,
    contents: &Contents,
    kernel: Option<&str>,
) -> Result<PathBuf> {
    let mut archive = busybox()?;
    archive.program("init", &paths::read_bytes(&folder.join(&contents.init))?);
    if let Some(jobs) = &contents.jobs {
        add_jobs(&mut archive, &folder.join(jobs))?;
    }
    programs::add(&mut archive, &contents.programs)?;
    for program in &contents.own {
        archive.program(&format!("bin/{program}"), &paths::read_bytes(&build::linux_program(program)?)?);
    }
    drivers::add(&mut archive, kernel, &contents.drivers)?;
    let archive = archive.finish();
    let path = paths::target().join("guests").join(guest).join("initrd");
    paths::write(&path, &archive)?;
    Ok(path)
}

fn add_jobs(archive: &mut Archive, folder: &Path) -> Result<()> {
    archive.folder("jobs");
    let entries = std::fs::read_dir(folder).context(format_args!("reading {}", paths::shown(folder)))?;
    let mut jobs: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    jobs.sort();
    for job in jobs {
        let name = job.file_name().unwrap_or_default().to_string_lossy().into_owned();
        archive.program(&format!("jobs/{name}"), &paths::read_bytes(&job)?);
    }
    Ok(())
}

/// An archive with busybox and the folders that an initial file system begins with.
pub(super) fn busybox() -> Result<Archive> {
    let busybox = debian::unpack(BUSYBOX_PACKAGE)?.join(BUSYBOX);
    let applets = process::text(Command::new(&busybox).arg("--list"))?;
    let mut archive = Archive::default();
    for folder in FOLDERS {
        archive.folder(folder);
    }
    // The kernel opens these before /init can mount anything.
    archive.character_device("dev/console", 5, 1);
    archive.character_device("dev/null", 1, 3);
    archive.program(BUSYBOX, &paths::read_bytes(&busybox)?);
    for applet in applets.lines().filter(|name| *name != "busybox") {
        archive.link(&format!("bin/{applet}"), "busybox");
    }
    Ok(archive)
}
