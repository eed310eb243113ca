//! Machines in QEMU.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use super::Hardware;
use super::node::{self, DataDisk, Nic};
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
    /// A disk for the management domain's data.
    data: Option<DataDisk>,
    /// A network card for it.
    nic: Option<Nic>,
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
            Some(NoNesting { why, remedy }) if self.accel == KVM => {
                Err(Failure::new(format!("this machine's KVM offers its guests no virtualization: {why}"))
                    .next(format!(
                        "{remedy}; or take `--machine qemu-svm` or `bochs-vmx`, which need no hardware"
                    )))
            }
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
        if let Some(data) = self.data {
            command.args(data.arguments(&escaped(&node::make_data_disk(hardware.folder)?)));
        }
        if let Some(nic) = self.nic {
            command.args(nic.arguments(hardware.forwards));
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

    /// Time is the number of instructions executed.
    pub(super) fn is_counted(&self) -> bool {
        self.counted
    }

    pub(super) fn boots_archive(&self) -> bool {
        self.boot == Boot::Pvh
    }
}

/// QEMU separates options by commas; a comma in a path is doubled.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Why guests of this machine's KVM would not be offered virtualization, and what helps.
#[derive(Debug, PartialEq)]
pub(super) struct NoNesting {
    pub(super) why: String,
    pub(super) remedy: String,
}

/// `None` where guests of this machine's KVM are offered virtualization.
pub(super) fn why_kvm_does_not_nest() -> Option<NoNesting> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let open = || std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").map(drop);
    obstacle(&cpuinfo, open, |parameter| std::fs::read_to_string(parameter).unwrap_or_default())
}

fn obstacle(
    cpuinfo: &str,
    open_kvm: impl Fn() -> std::io::Result<()>,
    read: impl Fn(&str) -> String,
) -> Option<NoNesting> {
    let obstacle = |why: String, remedy: String| Some(NoNesting { why, remedy });
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag| flags.split_ascii_whitespace().any(|word| word == flag);
    let module = match (has("vmx"), has("svm")) {
        (true, _) => "kvm_intel",
        (_, true) => "kvm_amd",
        _ => {
            return obstacle(
                "its CPU offers neither vmx nor svm".to_owned(),
                "switch virtualization on in the firmware's set-up; if this is a virtual machine itself, its host must nest"
                    .to_owned(),
            );
        }
    };
    if let Err(error) = open_kvm() {
        let remedy = match error.kind() {
            ErrorKind::NotFound => format!("as root: `modprobe {module}`"),
            ErrorKind::PermissionDenied => {
                "join the group that /dev/kvm belongs to, usually `kvm`".to_owned()
            }
            _ => "see what `dmesg` says of kvm".to_owned(),
        };
        return obstacle(format!("/dev/kvm cannot be opened ({error})"), remedy);
    }
    let parameter = format!("/sys/module/{module}/parameters/nested");
    match read(&parameter).trim() {
        "1" | "Y" => None,
        _ => obstacle(
            format!("{parameter} is not 1"),
            format!("with all VMs shut down, as root: `modprobe -r {module} && modprobe {module} nested=1`"),
        ),
    }
}

#[cfg(test)]
mod nesting_tests {
    use super::*;

    fn found(flags: &str, kvm: Option<ErrorKind>, nested: &str) -> Option<NoNesting> {
        let cpuinfo = format!("processor : 0\nflags\t\t: fpu {flags} lm\n");
        obstacle(&cpuinfo, || kvm.map_or(Ok(()), |kind| Err(kind.into())), |_| nested.to_owned())
    }

    #[test]
    fn each_obstacle_has_its_remedy() {
        assert_eq!(found("vmx", None, "Y\n"), None);
        assert_eq!(found("svm", None, "1\n"), None);
        for (flags, kvm, nested, why, remedy) in [
            ("sse", None, "1", "neither vmx nor svm", "firmware's set-up"),
            ("vmx", Some(ErrorKind::NotFound), "1", "/dev/kvm", "modprobe kvm_intel"),
            ("svm", Some(ErrorKind::PermissionDenied), "1", "/dev/kvm", "group"),
            ("svm", None, "0", "kvm_amd/parameters/nested", "modprobe kvm_amd nested=1"),
            ("vmx", None, "", "kvm_intel/parameters/nested", "nested=1"),
        ] {
            let found = found(flags, kvm, nested).expect("an obstacle");
            assert!(found.why.contains(why) && found.remedy.contains(remedy), "{found:?}");
        }
    }
}
