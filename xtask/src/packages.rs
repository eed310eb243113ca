//! The tools from outside that a job needs, and the Debian packages that hold them: installed as root,
//! named otherwise.

use std::path::Path;
use std::process::Command;

use crate::failure::{Failure, Result};
use crate::{process, progress};

/// Something that must be on the machine.
pub(crate) struct Tool {
    probe: Probe,
    package: &'static str,
}

enum Probe {
    Program(&'static str),
    File(&'static str),
}

const fn program(name: &'static str, package: &'static str) -> Tool {
    Tool { probe: Probe::Program(name), package }
}

const fn file(path: &'static str, package: &'static str) -> Tool {
    Tool { probe: Probe::File(path), package }
}

/// For making bootable images.
pub(crate) const IMAGE: &[Tool] = &[
    program("grub-mkrescue", "grub-common"),
    file("/usr/lib/grub/i386-pc/boot_hybrid.img", "grub-pc-bin"),
    file("/usr/lib/grub/x86_64-efi/kernel.img", "grub-efi-amd64-bin"),
    program("xorriso", "xorriso"),
    program("mformat", "mtools"),
];

/// For taking the demonstration guest out of Debian's packages.
pub(crate) const DEBIAN_GUEST: &[Tool] =
    &[program("apt-get", "apt"), program("dpkg-deb", "dpkg"), program("xz", "xz-utils")];

/// For disks with an empty file system.
pub(crate) const FILE_SYSTEM: &[Tool] = &[program("mkfs.ext4", "e2fsprogs")];

/// For disks with an installed Debian.
pub(crate) const DEBIAN_DISK: &[Tool] = &[
    program("mmdebstrap", "mmdebstrap"),
    program("fakeroot", "fakeroot"),
    program("mkfs.ext4", "e2fsprogs"),
    program("grub-mkimage", "grub-common"),
    file("/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin"),
    file("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"),
];

/// For being root in a name space of one's own.
pub(crate) const USER_NAMESPACE: &[Tool] = &[program("newuidmap", "uidmap")];

/// For machines in QEMU.
pub(crate) const QEMU: &[Tool] =
    &[program("qemu-system-x86_64", "qemu-system-x86"), program("setpriv", "util-linux")];

/// UEFI for machines in QEMU.
pub(crate) const OVMF: &[Tool] = &[file("/usr/share/OVMF/OVMF_CODE.fd", "ovmf")];

/// For machines in Bochs.
pub(crate) const BOCHS: &[Tool] = &[
    program("bochs", "bochs"),
    file("/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_x_gui.so", "bochs-x"),
    program("Xvfb", "xvfb"),
    file("/usr/share/bochs/BIOS-bochs-latest", "bochsbios"),
    file("/usr/share/vgabios/vgabios.bin", "vgabios"),
    program("setpriv", "util-linux"),
];

/// Debian's compiler with its library sources, where rustup cannot add the bare-metal target.
pub(crate) const DEBIAN_RUST: &[Tool] = &[
    file("/usr/bin/rustc", "rustc-web"),
    file("/usr/lib/rustlib/src/rust/library/core/Cargo.toml", "rust-web-src"),
];

/// Debian's linker, where the toolchain brings none.
pub(crate) const LINKER: &[Tool] = &[program("ld.lld", "lld")];

/// A compiler for the fuzzing engine.
pub(crate) const CPP: &[Tool] = &[program("c++", "g++")];

/// A decompressor for a distribution kernel's payload.
pub(crate) const ZSTD: &[Tool] = &[program("zstd", "zstd")];
/// As [`ZSTD`].
pub(crate) const LZ4: &[Tool] = &[program("lz4", "lz4")];
/// As [`ZSTD`].
pub(crate) const BZIP2: &[Tool] = &[program("bzip2", "bzip2")];

/// Sees to it that the tools are there: installs what is missing when it may, and otherwise names the
/// command that does.
pub(crate) fn ensure(tools: &[Tool]) -> Result<()> {
    let packages = missing(tools);
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    let by_hand =
        format!("install them: sudo apt-get update && sudo apt-get install --no-install-recommends {list}");
    if process::find("apt-get").is_none() {
        return Err(Failure::new(format!("these tools are missing (named as Debian's packages): {list}"))
            .next("install them with your system's package manager"));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new(format!("packages are missing: {list}")).next(by_hand));
    }
    install(&packages).map_err(|failure| failure.next(by_hand))?;
    let left = missing(tools);
    if left.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("installed, but still not found: {}", left.join(" ")))
        .next("the packages of this system lay their files out in another way; tell us which system it is"))
}

/// True when the tools are on the machine.
pub(crate) fn present(tools: &[Tool]) -> bool {
    missing(tools).is_empty()
}

/// True when xtask can install packages here: as root, on a system with apt.
pub(crate) fn can_install() -> bool {
    rustix::process::geteuid().is_root() && process::find("apt-get").is_some()
}

fn missing(tools: &[Tool]) -> Vec<&'static str> {
    let mut packages: Vec<_> = tools
        .iter()
        .filter(|tool| match tool.probe {
            Probe::Program(name) => process::find(name).is_none(),
            Probe::File(path) => !Path::new(path).exists(),
        })
        .flat_map(|tool| tool.package.split(' '))
        .collect();
    packages.dedup();
    packages
}

fn install(packages: &[&str]) -> Result<()> {
    progress::step("reading the package lists", || {
        process::output(Command::new("apt-get").args(["update", "-q"])).map(drop)
    })?;
    progress::step(&format!("installing {}", packages.join(" ")), || {
        process::output(
            Command::new("apt-get")
                .args(["install", "-q", "-y", "--no-install-recommends"])
                .args(packages)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
        .map(drop)
    })
}
