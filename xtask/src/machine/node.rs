//! What a machine has for its management domain: a disk with a file system for the node's data, and a network card.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::Forward;
use crate::failure::Result;
use crate::{packages, paths, process};

/// The label by which the domain knows its disk.
const LABEL: &str = "BASALT-DATA";
/// Its size: the file has holes.
const BYTES: u64 = 4 << 30;

/// How the data disk is attached.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum DataDisk {
    /// On an NVMe controller.
    Nvme,
    /// On an AHCI controller.
    Ahci,
    /// On virtio.
    Virtio,
    /// On the board's IDE controller.
    Ide,
}

/// The network card, which leads to a network of the emulator's with DHCP.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Nic {
    /// Intel 82574.
    #[serde(rename = "e1000e")]
    E1000e,
    /// Intel 82540EM.
    #[serde(rename = "e1000")]
    E1000,
    /// virtio.
    #[serde(rename = "virtio-net")]
    Virtio,
}

impl Nic {
    /// The arguments that give it to QEMU, with ports of this computer that lead to it.
    pub(super) fn arguments(self, forwards: &[Forward]) -> [String; 4] {
        let device = match self {
            Self::E1000e => "e1000e",
            Self::E1000 => "e1000",
            Self::Virtio => "virtio-net-pci",
        };
        let forward = |Forward { here, there }: &Forward| format!(",hostfwd=tcp:127.0.0.1:{here}-:{there}");
        let forwards: String = forwards.iter().map(forward).collect();
        let (netdev, device) = (format!("user,id=lan{forwards}"), format!("{device},netdev=lan"));
        ["-netdev", &netdev, "-device", &device].map(str::to_owned)
    }
}

impl DataDisk {
    /// The arguments that give it to QEMU, where it is in this file. What is written goes into a copy that is thrown away.
    pub(super) fn arguments(self, file: &str) -> Vec<String> {
        let devices: &[&str] = match self {
            Self::Nvme => &["nvme,serial=data,drive=data"],
            Self::Ahci => &["ahci,id=data-bus", "ide-hd,drive=data,bus=data-bus.0"],
            Self::Virtio => &["virtio-blk-pci,drive=data"],
            Self::Ide => &["ide-hd,drive=data"],
        };
        let mut arguments =
            vec!["-drive".to_owned(), format!("if=none,id=data,file={file},format=raw,snapshot=on")];
        for device in devices {
            arguments.extend(["-device".to_owned(), (*device).to_owned()]);
        }
        arguments
    }
}

/// Makes the disk's content anew, in that folder.
pub(super) fn make_data_disk(folder: &Path) -> Result<PathBuf> {
    packages::ensure(packages::FILE_SYSTEM)?;
    let file = folder.join("data.img");
    paths::write(&file, &[])?;
    let mut command = Command::new("mkfs.ext4");
    // A journal of the usual size would be most of what is written.
    command
        .args(["-q", "-F", "-J", "size=16", "-E", "lazy_itable_init=1", "-L", LABEL])
        .arg(&file)
        .arg(format!("{}k", BYTES >> 10));
    process::run(&mut command)?;
    Ok(file)
}
