//! Disks that a guest's firmware boots: GRUB, a kernel and an initial file system, in the form of a CD that is a disk as well.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::{debian, initramfs};
use crate::failure::{Context, Result};
use crate::image::GRUB_PARTITIONS;
use crate::{packages, paths, process, progress};

/// What GRUB needs beyond what grub-mkrescue puts into its core.
const MODULES: &str = "linux normal configfile iso9660 serial terminal echo";

/// What is on the disk.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bootable {
    /// The Debian package of the kernel.
    kernel: String,
    /// The kernel's command line.
    cmdline: String,
    /// The initial file system.
    busybox: initramfs::Contents,
}

impl Bootable {
    /// Makes the disk of the guest that is described in `folder`. Gives its file.
    pub(super) fn make(&self, name: &str, folder: &Path) -> Result<PathBuf> {
        packages::ensure(packages::IMAGE)?;
        let kernel = debian::bzimage(&self.kernel)?;
        let initrd = initramfs::build(name, folder, &self.busybox, Some(&self.kernel))?;
        let disk = paths::target().join("guests/bootable").join(format!("{name}.img"));
        let tree = disk.with_extension("tree");
        paths::write(&tree.join("boot/grub/grub.cfg"), self.menu().as_bytes())?;
        for (path, file) in [("vmlinuz", &kernel), ("initrd", &initrd)] {
            let copied = std::fs::copy(file, tree.join(path));
            copied.context(format_args!("copying {}", paths::shown(file)))?;
        }
        progress::step(&format!("making {}", paths::shown(&disk)), || {
            process::output(
                Command::new("grub-mkrescue")
                    .arg("--output")
                    .arg(&disk)
                    .arg(format!("--install-modules={MODULES} {GRUB_PARTITIONS}"))
                    .args(["--locales=", "--fonts=", "--themes=", "--compress=no"])
                    .arg(&tree),
            )
        })?;
        std::fs::remove_dir_all(&tree).context(format_args!("removing {}", paths::shown(&tree)))?;
        Ok(disk)
    }

    fn menu(&self) -> String {
        format!(
            "serial --unit=0 --speed=115200\n\
             terminal_input serial\n\
             terminal_output serial\n\
             set timeout=0\n\
             menuentry linux {{\n\
             \x20   echo \"GRUB starts the kernel from the disk\"\n\
             \x20   linux /vmlinuz {}\n\
             \x20   initrd /initrd\n\
             }}\n",
            self.cmdline
        )
    }
}
