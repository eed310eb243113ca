//! Machines in QEMU.

use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use super::Hardware;
use crate::failure::{Failure, Result};
use crate::packages;

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
}

impl Settings {
    pub(super) fn ensure(&self) -> Result<()> {
        packages::ensure(packages::QEMU)?;
        match why_kvm_does_not_nest() {
            Some(why) if self.accel == KVM => Err(Failure::new(format!("this machine cannot nest: {why}"))
                .next("use `--machine qemu-svm` or `--machine bochs-vmx`, which need no hardware")),
            _ => Ok(()),
        }
    }

    pub(super) fn command(&self, hardware: &Hardware<'_>) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(["-nodefaults", "-display", "none", "-vga", "std", "-no-reboot"])
            .args(["-accel", &self.accel, "-machine", &self.machine, "-cpu", &self.cpu])
            .args(["-smp", &hardware.cpus.to_string(), "-m", &hardware.memory_mib.to_string()])
            .arg("-chardev")
            .arg(format!("socket,id=com1,host=127.0.0.1,port={},server=off", hardware.serial_port))
            .args(["-serial", "chardev:com1"])
            .arg("-drive")
            .arg(format!("file={},format=raw,media=cdrom,readonly=on", escaped(hardware.image)));
        if self.counted {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        if self.accel == TCG {
            command.args(["-rtc", "base=utc,clock=vm"]);
        }
        command
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
