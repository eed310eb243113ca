//! The management domain's files: Debian's stock kernel, and an initial file system with `basaltd` as its first process, the modules of
//! `guest-images/dom0/modules.list`, and busybox for people.

mod modules;
mod vms;

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Guest, debian, initramfs};
use crate::failure::{Context, Failure, Result};
use crate::{build, packages, paths, process, progress};

/// The domain's name, as a guest and as a VM.
pub(super) const NAME: &str = "dom0";
const MEMORY: &str = "256M";
const KERNEL_PACKAGE: &str = "linux-image-amd64";
const PROGRAM: &str = "basaltd";
const MODULES: &str = "guest-images/dom0/modules.list";
/// Folders beyond those that busybox brings.
const FOLDERS: [&str; 7] = ["sbin", "data", "lib", "lib/modules", "usr", "usr/share", "usr/share/basalt"];
/// Firmware of VMs that boot from their disks: a file of a Debian package, and where it lies.
const FIRMWARE: (&str, &str, &str) =
    ("seabios", "usr/share/seabios/bios-256k.bin", "usr/share/basalt/bios.bin");
/// The kernel asks this program for modules.
const MODPROBE: &str = "sbin/modprobe";
/// What kernel and initial file system may take at most, both packed: a node boots from small and slow sticks, too.
const LARGEST: u64 = 32 << 20;
/// The highest level makes the file 11 % smaller and takes thirty times as long.
const COMPRESSION: &str = "-9";

/// The files.
pub(crate) struct Dom0 {
    /// The kernel, unpacked: an ELF file.
    pub(crate) kernel: PathBuf,
    /// The initial file system, packed by zstd.
    pub(crate) initrd: PathBuf,
}

impl Dom0 {
    /// Makes them, unless they are there already and made from the same things.
    ///
    /// # Errors
    /// A name in the list of modules that the kernel does not know; files that are too large together; what fetching and compiling may fail by.
    pub(crate) fn make() -> Result<Self> {
        let folder = paths::target().join("guests/dom0");
        let dom0 = Self { kernel: folder.join("vmlinux"), initrd: folder.join("initrd") };
        let unpacked = debian::kernel(KERNEL_PACKAGE)?;
        paths::write(&dom0.kernel, &paths::read_bytes(&unpacked)?)?;
        let archive = archive()?;
        // What the file was packed from lies beside it, and tells whether that has changed.
        let source = folder.join("initrd.cpio");
        if !dom0.initrd.is_file()
            || std::fs::read(&source).is_ok_and(|old| old != archive)
            || !source.is_file()
        {
            packages::ensure(packages::ZSTD)?;
            paths::write(&source, &archive)?;
            progress::step(&format!("making {}", paths::shown(&dom0.initrd)), || {
                pack(&source, &dom0.initrd)
            })?;
        }
        dom0.weigh()?;
        Ok(dom0)
    }

    /// The same with VMs that it makes and starts: their folders come with the initial file system, as a second archive behind the first.
    ///
    /// # Errors
    /// A guest that only the boot line can start.
    pub(crate) fn with(self, guests: &[Guest]) -> Result<Self> {
        let names: Vec<_> = guests.iter().map(|guest| guest.name.as_str()).collect();
        let source = paths::target().join("guests/dom0").join(format!("vms-{}.cpio", names.join("-")));
        let (packed, whole) = (source.with_extension("zst"), source.with_extension("initrd"));
        let archive = vms::archive(guests)?;
        if std::fs::read(&source).ok().as_deref() != Some(&archive) || !packed.is_file() {
            packages::ensure(packages::ZSTD)?;
            paths::write(&source, &archive)?;
            progress::step(&format!("packing {}", names.join(", ")), || pack(&source, &packed))?;
        }
        let mut both = paths::read_bytes(&self.initrd)?;
        // Archives begin at whole words.
        both.resize(both.len().next_multiple_of(4), 0);
        both.extend(paths::read_bytes(&packed)?);
        if std::fs::read(&whole).ok().as_deref() != Some(&both) {
            paths::write(&whole, &both)?;
        }
        Ok(Self { initrd: whole, ..self })
    }

    /// The domain as a guest: the VM that has the machine's own devices.
    pub(crate) fn guest(self) -> Guest {
        Guest {
            name: NAME.to_owned(),
            cpus: 1,
            memory: MEMORY.to_owned(),
            settings: "hardware".to_owned(),
            kernel: self.kernel,
            initrd: Some(self.initrd),
            modules: Vec::new(),
            cmdline: "console=ttyS0".to_owned(),
            selftest: false,
        }
    }

    /// Tells how large the files are, packed.
    fn weigh(&self) -> Result<()> {
        let length = |file: &Path| {
            let metadata = std::fs::metadata(file);
            metadata.map(|metadata| metadata.len()).context(format_args!("reading {}", paths::shown(file)))
        };
        let kernel = length(&debian::bzimage(KERNEL_PACKAGE)?)?;
        let initrd = length(&self.initrd)?;
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let sum = kernel + initrd;
        progress::note(&format!(
            "dom0 has {:.1} MiB, packed: kernel {:.1}, initrd {:.1}; {:.0} are allowed",
            mebibytes(sum),
            mebibytes(kernel),
            mebibytes(initrd),
            mebibytes(LARGEST)
        ));
        if sum <= LARGEST {
            return Ok(());
        }
        Err(Failure::new("dom0 is too large").next(format!("take modules out of {MODULES}")))
    }
}

fn archive() -> Result<Vec<u8>> {
    let program = paths::read_bytes(&build::linux_program(PROGRAM)?)?;
    let mut archive = initramfs::busybox()?;
    FOLDERS.iter().for_each(|folder| archive.folder(folder));
    archive.program("init", &program);
    archive.link(MODPROBE, "/init");
    let (package, file, place) = FIRMWARE;
    archive.file(place, &paths::read_bytes(&debian::unpack(package)?.join(file))?);
    modules::add(&mut archive, &debian::unpack_kernel(KERNEL_PACKAGE)?, MODULES)?;
    Ok(archive.finish())
}

fn pack(source: &Path, packed: &Path) -> Result<()> {
    let new = packed.with_added_extension(format!("{}.tmp", std::process::id()));
    let mut command = Command::new("zstd");
    command.args(["--quiet", "--force", "--threads=0", COMPRESSION, "-o"]).arg(&new).arg(source);
    process::output(&mut command)?;
    std::fs::rename(&new, packed).context(format_args!("writing {}", paths::shown(packed)))
}
