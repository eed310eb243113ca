//! Disks with an installed Debian that a guest's firmware boots: built from packages, with GRUB in the gap before the one partition.
//!
//! No loop device and no mount outside mmdebstrap's own name space is needed, so users who are not root can build one as well: the
//! system comes as an archive, and is unpacked and put into the file system with owners that only fakeroot knows of.

mod boot_area;
mod mirror;
mod overlay;

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use boot_area::{PARTITION_START, SECTOR};

use super::debian;
use crate::failure::{Context, Failure, Result};
use crate::{machine, packages, paths, process, progress};

/// GRUB's boot sector and modules on this machine.
const GRUB: &str = "/usr/lib/grub/i386-pc";
/// What GRUB must have in its core to read the rest of itself from the partition.
const GRUB_CORE: [&str; 3] = ["biosdisk", "part_msdos", "ext2"];
const GRUB_PREFIX: &str = "(hd0,msdos1)/boot/grub";
/// What the kernel finds its root by.
const UUID: &str = "62617361-6c74-4465-8269-616e64697363";
/// Files that nothing in a test guest reads: `/lib/udev/hwdb.d` is also in `hwdb.bin`.
const LEFT_OUT: [&str; 6] = [
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
    "/usr/lib/x86_64-linux-gnu/gconv/*",
    "/lib/udev/hwdb.d/*",
];
/// Without it, Debian's own way to merged folders brings all of Perl along.
const MERGED_FOLDERS: &str = "/usr/share/mmdebstrap/hooks/merged-usr";
/// Makes the file system, in the blocks of the image behind the boot area. What is in `/dev` comes from the kernel. Fakeroot does not
/// let its root read what only root may read.
const FILL: &str = "mkdir tree && tar --extract --file system.tar --directory tree --exclude './dev/*' && \
    find tree -type f ! -perm -u+r -exec chmod u+r {} + && \
    mkfs.ext4 -q -F -b 4096 -m 0 -J size=4 -U \"$1\" -d tree -E \"offset=$2,lazy_itable_init=0,lazy_journal_init=0\" disk \"$3k\"";

/// The system on the disk.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DebianDisk {
    /// Debian's name of the release.
    suite: String,
    /// How much of it is installed, as mmdebstrap calls it.
    variant: String,
    /// Packages beside those, among them a kernel and initramfs-tools.
    packages: Vec<String>,
    /// Modules of the kernel in the initial file system, with those that they need.
    drivers: Vec<String>,
    /// The machine's name.
    hostname: String,
    /// The kernel's command line behind that which says where the root is.
    cmdline: String,
    /// The disk's size.
    size: String,
}

impl DebianDisk {
    /// Makes the disk of the guest of that name, unless it is there already and made from the same description. Gives its file.
    pub(super) fn make(&self, name: &str) -> Result<PathBuf> {
        let disk = paths::target().join("guests/debian-disk").join(format!("{name}.img"));
        let stamp_path = disk.with_extension("stamp");
        let stamp = self.stamp();
        if disk.is_file() && std::fs::read_to_string(&stamp_path).is_ok_and(|old| old == stamp) {
            return Ok(disk);
        }
        let blocks = boot_area::file_system_kibibytes(machine::mebibytes(&self.size)?)?;
        packages::ensure(packages::DEBIAN_DISK)?;
        if !packages::can_install() {
            packages::ensure(packages::USER_NAMESPACE)?;
        }
        let work = disk.with_extension(format!("{}.work", std::process::id()));
        paths::create_dir(&work)?;
        let built = self.build(&work, blocks).and_then(|()| {
            std::fs::rename(work.join("disk"), &disk).context(format_args!("writing {}", paths::shown(&disk)))
        });
        std::fs::remove_dir_all(&work).context(format_args!("removing {}", paths::shown(&work)))?;
        built?;
        paths::write(&stamp_path, stamp.as_bytes())?;
        Ok(disk)
    }

    fn build(&self, work: &Path, blocks: u32) -> Result<()> {
        overlay::write(self, work)?;
        let step = format!("installing Debian {} into a disk image (takes a minute or two)", self.suite);
        progress::step(&step, || self.bootstrap(work))?;
        progress::step("filling the disk image's file system", || fill(work, blocks))?;
        write_boot_area(work)
    }

    /// Installs the system: gives `system.tar`.
    fn bootstrap(&self, work: &Path) -> Result<()> {
        if let Some(package) = self.packages.first() {
            debian::refresh_lists(package)?;
        }
        paths::write(&work.join("sources.list"), mirror::sources(&self.suite)?.as_bytes())?;
        let mut command = Command::new("mmdebstrap");
        command
            .current_dir(work)
            .args(["--format=tar", "--architectures=amd64"])
            .arg(format!("--variant={}", self.variant))
            .arg(format!("--include={}", self.packages.join(",")))
            .arg(format!("--hook-dir={MERGED_FOLDERS}"))
            .arg("--essential-hook=tar-in overlay.tar /")
            .arg("--customize-hook=chroot \"$1\" passwd --delete root");
        command.args(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")));
        command.args(mirror::proxies()?.iter().map(|option| format!("--aptopt={option}")));
        command.args([self.suite.as_str(), "system.tar", "sources.list"]);
        process::output(&mut command).map(drop).map_err(|failure| {
            failure.next(
                "check the network; without root this needs a range in /etc/subuid and /etc/subgid \
                (`man newuidmap`), or run it as root",
            )
        })
    }

    /// All that the disk is made from.
    fn stamp(&self) -> String {
        let mut stamp = format!("{self:?}\n{LEFT_OUT:?}\n{FILL}\n{GRUB_CORE:?} {GRUB_PREFIX}\n");
        for (path, text) in overlay::files(self) {
            // Writing to a string does not fail.
            let _ = writeln!(stamp, "{path}:\n{text}");
        }
        stamp
    }
}

/// Makes `disk` with its file system out of `system.tar`.
fn fill(work: &Path, blocks: u32) -> Result<()> {
    let disk = work.join("disk");
    let bytes = PARTITION_START + u64::from(blocks) * 1024;
    let file = File::create(&disk).context(format_args!("writing {}", paths::shown(&disk)))?;
    file.set_len(bytes).context(format_args!("writing {}", paths::shown(&disk)))?;
    let mut command = Command::new("fakeroot");
    command.current_dir(work).args(["--", "sh", "-c", FILL, "sh", UUID]);
    command.args([PARTITION_START.to_string(), blocks.to_string()]);
    // A user's path often lacks mkfs.
    command.env("PATH", process::search_path()?);
    process::output(&mut command).map(drop).map_err(|failure| {
        failure.next("a larger `size` in the guest's description, if there is no space left")
    })
}

/// Writes what is before the partition: boot sector, partition table and GRUB's core.
fn write_boot_area(work: &Path) -> Result<()> {
    process::output(
        Command::new("grub-mkimage")
            .current_dir(work)
            .args(["--format=i386-pc", "--output=core.img"])
            .arg(format!("--prefix={GRUB_PREFIX}"))
            .args(GRUB_CORE),
    )?;
    let disk = work.join("disk");
    let file = File::options().read(true).write(true).open(&disk);
    let file = file.context(format_args!("opening {}", paths::shown(&disk)))?;
    let length = file.metadata().context("reading the disk's size")?.len();
    let boot_sector = paths::read_bytes(&Path::new(GRUB).join("boot.img"))?;
    let core = paths::read_bytes(&work.join("core.img"))?;
    let area = boot_area::build(&boot_sector, &core, length / SECTOR as u64)
        .ok_or_else(|| Failure::new("GRUB or the partition does not fit on the disk"))?;
    file.write_all_at(&area, 0).context(format_args!("writing {}", paths::shown(&disk)))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn disk() -> DebianDisk {
        let text = "suite='bookworm'\nvariant='minbase'\npackages=['kernel']\ndrivers=['virtio_blk', 'ext4']\n\
            hostname='here'\ncmdline='console=ttyS0'\nsize='300M'\n";
        toml::from_str(text).expect("a description")
    }

    #[test]
    fn a_misspelt_field_is_an_error() {
        assert!(toml::from_str::<DebianDisk>("suite='bookworm'\nsuit='x'\n").is_err());
    }

    #[test]
    fn another_description_is_another_disk() {
        let mut other = disk();
        assert_eq!(disk().stamp(), other.stamp());
        other.drivers.push("virtio_scsi".to_owned());
        assert_ne!(disk().stamp(), other.stamp());
    }
}
