//! Guests: read from their descriptions (`guest-images/*/guest.toml`), made ready to be put into an image.
//!
//! A guest is named on the command line by the `name` of its description, by the name of a selftest, or by
//! the path of a description; `dom0+NAME` is the management domain, which makes that guest a VM. To add one, write a `guest.toml`:
//!
//! ```toml
//! name = "demo"
//! about = "What it is, in one line"
//! memory = "256M"
//! cpus = 1
//! cmdline = "console=ttyS0"
//! settings = "protocol=pvh"       # more words for the VM's line (may be left out)
//!
//! [kernel]
//! debian = "linux-image-amd64"    # the unpacked kernel (vmlinux) of a Debian kernel package, or:
//! # bzimage = "linux-image-amd64" # its kernel as it is packed, or:
//! # file = "vmlinux"              # a file beside the description, or:
//! # package = { debian = "memtest86+", file = "boot/memtest86+x64.bin" }   # any file of a Debian package
//!
//! [initrd.busybox]                # may be left out, or: [initrd] file = "initrd.img", or package = as above
//! init = "init"                   # a script: the first process
//! jobs = "jobs"                   # a folder of scripts: /jobs (may be left out)
//! programs = [{ debian = "stress-ng", file = "usr/bin/stress-ng" }]   # programs of Debian packages, with the
//!                                 # libraries that they need: /bin (may be left out)
//! own = ["workload"]              # programs of this workspace, which need no libraries then: /bin (may be left out)
//! drivers = ["virtio_blk"]        # modules of the kernel's package, with those that they need: /lib/drivers (may be left out)
//!
//! [[module]]                      # more modules of the VM (may be left out)
//! words = "module -- its line"    # what their line says behind the VM's name
//! file = "content"                # or: blank = "64M", nothing but zeros
//!                                 # or: bootable = { kernel = "PACKAGE", cmdline = "...", busybox = { as above } }, a disk with GRUB
//!                                 # or: debian = { suite = "bookworm", ... }, a disk with an installed Debian: see guest-images/debian
//! ```

mod bootable;
mod cpio;
mod debian;
mod debian_disk;
mod dom0;
mod drivers;
mod elf;
mod initramfs;
mod module_info;
mod programs;
mod vmlinux;

pub(crate) use cpio::Archive;
pub(crate) use dom0::Dom0;
pub(crate) use elf::compact;

use std::path::{Path, PathBuf};

use serde::Deserialize;

use bootable::Bootable;
use debian_disk::DebianDisk;

use crate::failure::{Context, Failure, Result};
use crate::{build, machine, paths};

/// The guest that is run when none is named,
pub(crate) const DEFAULT: &str = "demo";
/// by the management domain.
pub(crate) const DEFAULT_NODE: &str = "dom0+demo";

/// Whether that is the management domain, with or without VMs.
pub(crate) fn is_dom0(name: &str) -> bool {
    name.split('+').next() == Some(dom0::NAME)
}

const SELFTEST_MEMORY: &str = "64M";

/// A guest, ready to be put into an image.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// The name of its VM.
    pub(crate) name: String,
    /// Virtual CPUs.
    pub(crate) cpus: u32,
    /// Memory, as the kernel reads it (`256M`).
    pub(crate) memory: String,
    /// More words for the line of the VM's kernel.
    pub(crate) settings: String,
    /// The kernel: anything that Basalt's loader takes.
    pub(crate) kernel: PathBuf,
    /// The initial file system.
    pub(crate) initrd: Option<PathBuf>,
    /// More modules.
    pub(crate) modules: Vec<Module>,
    /// The kernel's command line.
    pub(crate) cmdline: String,
    /// It is one of our own test guests.
    pub(crate) selftest: bool,
}

/// A module of a VM beside its kernel and its initial file system.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Module {
    /// The words of its line, behind the VM's name.
    pub(crate) words: String,
    /// Its content, beside the description.
    #[serde(default)]
    pub(crate) file: PathBuf,
    /// Or its size (`64M`), where it is nothing but zeros.
    pub(crate) blank: Option<String>,
    /// Or what is on it, where it is a disk that firmware boots.
    bootable: Option<Bootable>,
    /// Or the system that is installed on it.
    debian: Option<DebianDisk>,
}

impl Module {
    /// One with this line and content.
    pub(crate) fn of_file(words: &str, file: PathBuf) -> Self {
        Self { words: words.to_owned(), file, blank: None, bootable: None, debian: None }
    }
}

impl Guest {
    /// Adds to the kernel's command line.
    pub(crate) fn append(&mut self, arguments: &str) {
        self.cmdline = format!("{} {arguments}", self.cmdline).trim().to_owned();
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    name: String,
    about: String,
    memory: String,
    cpus: u32,
    #[serde(default)]
    cmdline: String,
    #[serde(default)]
    settings: String,
    kernel: KernelSource,
    initrd: Option<InitrdSource>,
    #[serde(default)]
    module: Vec<Module>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum KernelSource {
    Debian(String),
    Bzimage(String),
    File(PathBuf),
    Package(PackageFile),
}

/// A file of a Debian package.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PackageFile {
    debian: String,
    file: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum InitrdSource {
    Busybox(initramfs::Contents),
    Package(PackageFile),
    File(PathBuf),
}

/// Makes a guest ready: fetches or builds its files. `append` is added to its command line, and to those of VMs that the management domain starts.
pub(crate) fn prepare(name: &str, append: &str) -> Result<Guest> {
    let mut guest = match vms_of_dom0(name) {
        Some(vms) => node(vms, append)?,
        None => find(name)?,
    };
    guest.append(append);
    Ok(guest)
}

fn find(name: &str) -> Result<Guest> {
    if name.ends_with(".toml") {
        return from_description(Path::new(name));
    }
    for path in descriptions()? {
        if read_description(&path)?.name == name {
            return from_description(&path);
        }
    }
    if name == dom0::NAME {
        return Dom0::make().map(Dom0::guest);
    }
    if build::selftest_names()?.iter().any(|known| known == name) {
        return selftest(name);
    }
    Err(Failure::new(format!("there is no guest named `{name}`"))
        .next(format!("one of these, or the path of a guest.toml: {}", known_names()?.join(", "))))
}

/// The management domain with VMs, which are named with `+` between them. `append` is added to the VMs' command lines.
fn node(names: &str, append: &str) -> Result<Guest> {
    let names: Vec<_> = names.split('+').map(str::to_owned).collect();
    let vms = prepare_all(&names, append)?;
    Ok(Dom0::make()?.with(&vms)?.guest())
}

/// Makes several guests ready, as [`prepare`] does. A guest named more than once gets a number behind its name.
pub(crate) fn prepare_all(names: &[String], append: &str) -> Result<Vec<Guest>> {
    let mut guests: Vec<Guest> = Vec::new();
    for name in names {
        let mut guest = prepare(name, append)?;
        let same = guests
            .iter()
            .filter(|other| other.kernel == guest.kernel && other.initrd == guest.initrd)
            .count();
        if same > 0 {
            guest.name = format!("{}{}", guest.name, same + 1);
        }
        guests.push(guest);
    }
    Ok(guests)
}

/// The VMs that the management domain is to start, with `+` between them, where that is what is named.
fn vms_of_dom0(name: &str) -> Option<&str> {
    name.strip_prefix(dom0::NAME)?.strip_prefix('+')
}

fn known_names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for path in descriptions()? {
        let description = read_description(&path)?;
        names.push(format!("{} ({})", description.name, description.about));
    }
    names.push(format!("{} (the management domain, which has the machine's own devices)", dom0::NAME));
    names.push(format!("{0}+{DEFAULT} ({0}, which starts that VM, or several: {0}+NAME+NAME)", dom0::NAME));
    names.extend(build::selftest_names()?);
    Ok(names)
}

fn descriptions() -> Result<Vec<PathBuf>> {
    let folder = paths::root().join("guest-images");
    let entries = std::fs::read_dir(&folder).context(format_args!("reading {}", paths::shown(&folder)))?;
    let mut files: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path().join("guest.toml"))
        .filter(|file| file.is_file())
        .collect();
    files.sort();
    Ok(files)
}

fn read_description(path: &Path) -> Result<Description> {
    toml::from_str(&paths::read(path)?)
        .context(format_args!("{} is not a guest description", paths::shown(path)))
}

fn from_description(path: &Path) -> Result<Guest> {
    let description = read_description(path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let kernel = match &description.kernel {
        KernelSource::Debian(package) => debian::kernel(package)?,
        KernelSource::Bzimage(package) => debian::bzimage(package)?,
        KernelSource::File(file) => existing(folder.join(file), path)?,
        KernelSource::Package(PackageFile { debian, file }) => {
            existing(debian::unpack(debian)?.join(file), path)?
        }
    };
    let initrd = match &description.initrd {
        None => None,
        Some(InitrdSource::Busybox(contents)) => {
            let kernel = match &description.kernel {
                KernelSource::Debian(package) | KernelSource::Bzimage(package) => Some(package.as_str()),
                KernelSource::File(_) | KernelSource::Package(_) => None,
            };
            Some(initramfs::build(&description.name, folder, contents, kernel)?)
        }
        Some(InitrdSource::Package(PackageFile { debian, file })) => {
            Some(existing(debian::unpack(debian)?.join(file), path)?)
        }
        Some(InitrdSource::File(file)) => Some(existing(folder.join(file), path)?),
    };
    let mut modules = description.module;
    for module in &mut modules {
        module.file = match (&module.blank, &module.bootable, &module.debian) {
            (Some(size), _, _) => blank(size)?,
            (None, Some(bootable), _) => bootable.make(&description.name, folder)?,
            (None, None, Some(disk)) => disk.make(&description.name)?,
            (None, None, None) => existing(folder.join(&module.file), path)?,
        };
    }
    Ok(Guest {
        name: description.name,
        cpus: description.cpus,
        memory: description.memory,
        settings: description.settings,
        kernel,
        initrd,
        modules,
        cmdline: description.cmdline,
        selftest: false,
    })
}

/// A file of zeros.
fn blank(size: &str) -> Result<PathBuf> {
    let bytes = machine::mebibytes(size)? as usize * (1 << 20);
    let file = paths::target().join("guests/blank").join(size);
    paths::write(&file, &vec![0; bytes])?;
    Ok(file)
}

fn existing(file: PathBuf, named_in: &Path) -> Result<PathBuf> {
    if file.is_file() {
        return Ok(file);
    }
    Err(Failure::new(format!("{} names {}, which is not there", paths::shown(named_in), paths::shown(&file))))
}

fn selftest(name: &str) -> Result<Guest> {
    build::selftests()?;
    let kernel = paths::target().join("guests/selftest").join(name);
    let binary = paths::read_bytes(&build::selftest_binary(name))?;
    paths::write(&kernel, &compact(&binary).context(format_args!("the selftest {name}"))?)?;
    Ok(Guest {
        name: name.replace('_', "-"),
        cpus: 1,
        memory: SELFTEST_MEMORY.to_owned(),
        settings: String::new(),
        kernel,
        initrd: None,
        modules: Vec::new(),
        cmdline: String::new(),
        selftest: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_descriptions_can_be_read() {
        let names: Vec<_> = descriptions()
            .expect("folder")
            .iter()
            .map(|path| read_description(path).expect("valid").name)
            .collect();
        assert!(names.iter().any(|name| name == DEFAULT), "{names:?}");
    }

    #[test]
    fn a_misspelt_field_is_an_error() {
        let text = "name='x'\nabout='x'\nmemory='1M'\ncpus=1\nmemroy='2M'\n[kernel]\nfile='x'\n";
        assert!(toml::from_str::<Description>(text).is_err());
    }
}
