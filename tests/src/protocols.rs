//! Scenarios with guests that are started in other ways than Linux usually is, or have devices that a VM's line switches on.

use crate::linux::{DEMO, READY};
use crate::scenario::{BOCHS_VMX, Guest, QEMU_SVM, QEMU_SVM_COUNTED, Scenario, Step, Tier};

/// The selftest guest that looks at how it was started.
const ENTRY: &str = "entry";

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    vec![entry(), linux_pvh()]
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
