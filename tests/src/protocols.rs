//! Scenarios with guests that are started in other ways than Linux usually is, or have devices that a VM's line switches on.

use crate::linux::{DEMO, READY};
use crate::log::Log;
use crate::scenario::{BOCHS_VMX, Check, Guest, QEMU_SVM, QEMU_SVM_COUNTED, Scenario, Step, Tier};

/// The selftest guest that looks at how it was started.
const ENTRY: &str = "entry";

/// The selftest guest that uses the devices a VM's line switches on.
const FIRMWARE: &str = "firmware";

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    vec![entry(), linux_pvh(), firmware(), memtest()]
}

fn entry() -> Scenario {
    let by = |protocol: &str| {
        Guest::new(ENTRY)
            .in_vm(protocol)
            .settings(&format!("protocol={protocol}"))
            .append(&format!("protocol={protocol} modules={}", 1 + usize::from(protocol != "linux")))
            .module("initrd", "content of module 0")
    };
    let with_module = |guest: Guest| guest.module("module -- a line -- of its own", "content of module 1");
    Scenario {
        name: "boot-protocols".to_owned(),
        about: "a test guest is entered by Linux' protocol, PVH and Multiboot, with modules".to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM_COUNTED, BOCHS_VMX],
        cpus: None,
        options: String::new(),
        guests: vec![by("linux"), with_module(by("pvh")), with_module(by("multiboot"))],
        steps: ["linux", "pvh", "multiboot"].iter().map(|vm| Step::results(vm).within(240)).collect(),
        checks: vec![],
    }
}

fn linux_pvh() -> Scenario {
    Scenario {
        name: "guest-pvh".to_owned(),
        about: "Debian's stock kernel is entered by PVH and boots to its shell".to_owned(),
        tier: Tier::Full,
        machines: vec![QEMU_SVM],
        cpus: None,
        options: String::new(),
        guests: vec![
            Guest::new(DEMO)
                .settings("protocol=pvh")
                .append("basalt.run=\"echo loader-$(cat /proc/sys/kernel/bootloader_type)\""),
        ],
        // Linux' own code for PVH, where it does not find Xen, says that the loader was of type 0xb0.
        steps: vec![
            Step::vm(DEMO, READY).within(180),
            Step::vm(DEMO, "loader-176").within(60),
            Step::end(DEMO).within(60),
        ],
        checks: vec![],
    }
}

fn firmware() -> Scenario {
    Scenario {
        name: "firmware-devices".to_owned(),
        about: "a test guest uses fw_cfg, the console at port 0xe9 and the debug-exit port".to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM_COUNTED, BOCHS_VMX],
        cpus: None,
        options: String::new(),
        guests: vec![
            Guest::new(FIRMWARE)
                .settings("e9 debug-exit=0x501")
                .module("fwcfg=opt/test", "content of a file for the firmware"),
        ],
        steps: vec![Step::results(FIRMWARE).within(240), Step::end(FIRMWARE)],
        checks: vec![
            Check { name: "the console at port 0xe9 was heard", holds: debug_console_was_heard },
            Check { name: "the debug exit is told", holds: debug_exit_is_told },
        ],
    }
}

fn debug_console_was_heard(log: &Log) -> Result<(), String> {
    for text in ["hello by port e9", "hello by a string"] {
        if !log.vm(FIRMWARE).any(|line| line == text) {
            return Err(format!("no line \"{text}\""));
        }
    }
    Ok(())
}

fn debug_exit_is_told(log: &Log) -> Result<(), String> {
    let told = log.kernel().any(|line| line.contains("vm firmware: stopped: debug exit with 0x1234"));
    told.then_some(()).ok_or_else(|| "no such line".to_owned())
}

/// Both come from Debian's package: the 64-bit one, and the 32-bit one by the 32-bit entry of Linux' protocol.
fn memtest() -> Scenario {
    let names = ["memtest", "memtest32"];
    let steps = names.iter().flat_map(|vm| {
        let title = Step::vm(vm, "Memtest86+ v").anywhere().within(120);
        [title]
            .into_iter()
            .chain(["Pass  ", "Test #", "Errors: 0"].map(|text| Step::vm(vm, text).within(120)))
    });
    Scenario {
        name: "memtest".to_owned(),
        about: "Memtest86+, 64 and 32 bits, shows its VGA text screen and begins a pass".to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM],
        cpus: None,
        options: String::new(),
        guests: names.map(Guest::new).into(),
        steps: steps.collect(),
        checks: vec![],
    }
}
