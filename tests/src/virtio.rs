//! Scenarios about virtio devices.

use crate::linux::READY;
use crate::scenario::{BOCHS_SVM, BOCHS_VMX, Guest, QEMU_SVM, Scenario, Step, Tier};

/// Stock Linux with two disks.
const DISK: &str = "disk";

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    vec![
        reboot(),
        disks("virtio-disks", Tier::Ci, vec![QEMU_SVM, BOCHS_VMX]),
        disks("virtio-everywhere", Tier::Full, vec![BOCHS_SVM]),
    ]
}

fn disks(name: &str, tier: Tier, machines: Vec<&'static str>) -> Scenario {
    Scenario {
        name: name.to_owned(),
        about: "stock Linux finds its disks, and what it writes is what it reads".to_owned(),
        tier,
        machines,
        cpus: None,
        options: String::new(),
        guests: vec![Guest::new(DISK).append("basalt.run=/jobs/disks")],
        steps: vec![
            Step::vm(DISK, READY).within(180),
            Step::results(DISK).within(180),
            Step::vm(DISK, "basalt-demo job done: 0").within(60),
            Step::end(DISK).within(60),
        ],
        checks: vec![],
    }
}

/// The guest restarts while both of its disks are busy.
fn reboot() -> Scenario {
    let job =
        "basalt.run=\"dd if=/dev/zero of=/dev/vda bs=64k & dd if=/dev/vdb of=/dev/null bs=4k & reboot\"";
    Scenario {
        name: "virtio-reboot".to_owned(),
        about: "stock Linux restarts in the middle of reads and writes, and finds its disks again".to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM],
        cpus: None,
        options: String::new(),
        guests: vec![Guest::new(DISK).append(job)],
        steps: (0..4).map(|_| Step::vm(DISK, READY).within(180)).collect(),
        checks: vec![],
    }
}
