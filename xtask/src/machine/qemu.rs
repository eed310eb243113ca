//! Machines in QEMU.

use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use super::Hardware;
use crate::failure::{Context, Failure, Result};
use crate::{image, packages};

const PROGRAM: &str = "qemu-system-x86_64";
const TCG: &str = "tcg";
const KVM: &str = "kvm";

/// The part of a profile that QEMU understands.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    accel: String,
    machine: String,
    cpu: String,
    /// Time is the number of instructions executed: what runs once runs the same again, however busy the host is.
    #[serde(default)]
    counted: bool,
    #[serde(default)]
    firmware: Firmware,
    #[serde(default)]
    bus: Bus,
    #[serde(default)]
    boot: Boot,
    /// At the end of the command line.
    #[serde(skip)]
    more: Vec<String>,
}

/// How the kernel gets into memory.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Boot {
    /// From the image, by the firmware and GRUB.
    #[default]
    Image,
    /// By QEMU, which enters it by the PVH protocol.
    Pvh,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Firmware {
    /// A BIOS.
    #[default]
    Seabios,
    /// UEFI.
    Ovmf,
}

/// What the image is for the machine.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Bus {
    #[default]
    Cd,
    /// A stick on an xHCI controller.
    Usb,
    /// A disk on an AHCI controller.
    Sata,
    Nvme,
}

impl Bus {
    /// Devices that give the machine the drive `boot`.
    fn devices(self) -> &'static [&'static str] {
        match self {
            Self::Cd => &["ide-cd,drive=boot,bootindex=0"],
            Self::Usb => &["qemu-xhci", "usb-storage,drive=boot,bootindex=0"],
            Self::Sata => &["ahci,id=sata", "ide-hd,drive=boot,bus=sata.0,bootindex=0"],
            Self::Nvme => &["nvme,serial=basalt,drive=boot,bootindex=0"],
        }
    }
}

/// OVMF's code, and a template for its variables, which it writes.
const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE.fd";
const OVMF_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS.fd";

impl Settings {
    /// What comes later on the command line counts.
    pub(super) fn alter(&mut self, cpu: Option<&str>, arguments: Vec<String>) {
        if let Some(cpu) = cpu {
            cpu.clone_into(&mut self.cpu);
        }
        self.more = arguments;
    }

    pub(super) fn ensure(&self) -> Result<()> {
        packages::ensure(packages::QEMU)?;
        if self.firmware == Firmware::Ovmf {
            packages::ensure(packages::OVMF)?;
        }
        match why_kvm_does_not_nest() {
            Some(why) if self.accel == KVM => Err(Failure::new(format!("this machine cannot nest: {why}"))
                .next("use `--machine qemu-svm` or `--machine bochs-vmx`, which need no hardware")),
            _ => Ok(()),
        }
    }

    pub(super) fn command(&self, hardware: &Hardware<'_>) -> Result<Command> {
        let mut command = Command::new(PROGRAM);
        command
            .args(["-nodefaults", "-display", "none", "-vga", "std", "-no-reboot"])
            .args(["-accel", &self.accel, "-machine", &self.machine, "-cpu", &self.cpu])
            .args(["-smp", &hardware.cpus.to_string(), "-m", &hardware.memory_mib.to_string()])
            .arg("-chardev")
            .arg(format!("socket,id=com1,host=127.0.0.1,port={},server=off", hardware.serial_port))
            .args(["-serial", "chardev:com1"])
            .arg("-chardev")
            .arg(format!("socket,id=control,host=127.0.0.1,port={},server=off", hardware.control_port))
            .args(["-mon", "chardev=control,mode=control"]);
        match self.boot {
            Boot::Image => self.drive(hardware.image, &mut command),
            Boot::Pvh => {
                command.arg("-kernel").arg(image::small_kernel_path()).arg("-initrd").arg(hardware.image);
            }
        }
        if self.firmware == Firmware::Ovmf {
            let variables = hardware.folder.join("variables.fd");
            std::fs::copy(OVMF_VARIABLES, &variables).context("copying OVMF's variables")?;
            command
                .args(["-drive", &format!("if=pflash,format=raw,readonly=on,file={OVMF_CODE}")])
                .args(["-drive", &format!("if=pflash,format=raw,file={}", escaped(&variables))]);
        }
        if self.counted {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        if self.accel == TCG {
            command.args(["-rtc", "base=utc,clock=vm"]);
        }
        command.args(&self.more);
        Ok(command)
    }

    /// Gives the machine the drive that it boots from. It may write: into a copy that is thrown away.
    fn drive(&self, image: &Path, command: &mut Command) {
        command.arg("-drive").arg(format!("if=none,id=boot,file={},format=raw,snapshot=on", escaped(image)));
        for device in self.bus.devices() {
            command.args(["-device", device]);
        }
    }

    pub(super) fn boots_archive(&self) -> bool {
        self.boot == Boot::Pvh
    }
}

/// QEMU separates options by commas; a comma in a path is doubled.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Why guests of this machine's KVM would not be offered virtualization; `None` when they would.
pub(super) fn why_kvm_does_not_nest() -> Option<String> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag| flags.split_ascii_whitespace().any(|word| word == flag);
    let module = match (has("vmx"), has("svm")) {
        (true, _) => "kvm_intel",
        (_, true) => "kvm_amd",
        _ => return Some("its CPU offers neither vmx nor svm".to_owned()),
    };
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Some(format!("/dev/kvm cannot be opened ({error})"));
    }
    let parameter = format!("/sys/module/{module}/parameters/nested");
    match std::fs::read_to_string(&parameter).unwrap_or_default().trim() {
        "1" | "Y" => None,
        _ => Some(format!("{parameter} is not 1")),
    }
}
