//! The files that the system has from us: what an administrator or an installer would have written.

use std::path::Path;
use std::process::Command;

use super::{DebianDisk, GRUB, UUID};
use crate::failure::{Context, Result};
use crate::{paths, process};

/// GRUB's modules and the lists of what is in them.
const GRUB_FILES: [&str; 2] = ["mod", "lst"];

/// Writes `overlay.tar`. All in it belongs to root, whoever makes it.
pub(super) fn write(disk: &DebianDisk, work: &Path) -> Result<()> {
    let folder = work.join("overlay");
    for (path, text) in files(disk) {
        paths::write(&folder.join(path), text.as_bytes())?;
    }
    let modules = folder.join("boot/grub/i386-pc");
    paths::create_dir(&modules)?;
    for file in std::fs::read_dir(GRUB).context(format_args!("reading {GRUB}"))?.flatten() {
        let file = file.path();
        let kind = file.extension().unwrap_or_default();
        if let Some(name) = file.file_name().filter(|_| GRUB_FILES.iter().any(|known| *known == kind)) {
            let copied = std::fs::copy(&file, modules.join(name));
            copied.context(format_args!("copying {}", paths::shown(&file)))?;
        }
    }
    let mut command = Command::new("tar");
    command.args(["--create", "--file=overlay.tar", "--owner=0", "--group=0", "--mode=u=rwX,go=rX"]);
    command.args(["--directory=overlay", "."]).current_dir(work);
    process::output(&mut command).map(drop)
}

/// Their paths and contents, but for GRUB's modules.
pub(super) fn files(disk: &DebianDisk) -> [(&'static str, String); 6] {
    let DebianDisk { hostname, drivers, .. } = disk;
    [
        ("etc/hostname", format!("{hostname}\n")),
        ("etc/hosts", format!("127.0.0.1 localhost {hostname}\n")),
        ("etc/fstab", format!("UUID={UUID} / ext4 errors=remount-ro 0 1\n")),
        // Of the machine that builds it the initial file system must know nothing.
        ("etc/initramfs-tools/conf.d/basalt", "MODULES=list\nCOMPRESS=gzip\n".to_owned()),
        ("usr/share/initramfs-tools/modules.d/basalt", drivers.join("\n") + "\n"),
        ("boot/grub/grub.cfg", menu(&disk.cmdline)),
    ]
}

fn menu(cmdline: &str) -> String {
    format!(
        "serial --unit=0 --speed=115200\n\
         terminal_input serial\n\
         terminal_output serial\n\
         set timeout=0\n\
         menuentry Debian {{\n\
         \x20   echo \"GRUB loads the kernel from the disk's own file system\"\n\
         \x20   linux /vmlinuz root=UUID={UUID} ro {cmdline}\n\
         \x20   initrd /initrd.img\n\
         }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_where_the_file_system_is() {
        let files = files(&super::super::tests::disk());
        let text = |wanted| &files.iter().find(|(path, _)| *path == wanted).expect("there").1;
        assert!(text("boot/grub/grub.cfg").contains(&format!("root=UUID={UUID} ro console=ttyS0\n")));
        assert!(text("etc/fstab").starts_with(&format!("UUID={UUID} / ")));
        assert_eq!(text("usr/share/initramfs-tools/modules.d/basalt"), "virtio_blk\next4\n");
    }
}
