//! Scenarios that hunt for one VM's values in another.

use crate::scenario::{BOCHS_VMX, Guest, QEMU_MAX_COUNTED, QEMU_SVM_COUNTED, Scenario, Step, Tier};

const LEAK: &str = "leak";
/// The VMs that mark their registers and memory, and those that keep theirs as they got them.
const MARKERS: [&str; 2] = ["red", "blue"];
const HUNTER: &str = "hunter";
/// It starts when a marker has ended, and gets its memory.
const HEIR: &str = "heir";

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    let mut guests: Vec<_> = MARKERS
        .iter()
        .zip(1..)
        .map(|(vm, seed)| {
            Guest::new(LEAK).in_vm(vm).cpus(2).append(&format!("leak=marker rounds=15 seed={seed}"))
        })
        .collect();
    guests.push(Guest::new(LEAK).in_vm(HUNTER).cpus(2).append("leak=hunter rounds=15"));
    guests.push(Guest::new(LEAK).in_vm(HEIR).settings("start=no").append("leak=hunter rounds=1"));
    let mut steps: Vec<_> = MARKERS.iter().map(|vm| Step::results(vm).within(240)).collect();
    steps.push(Step::end(MARKERS[0]).within(60).then_send("\x01:start heir\r\r"));
    steps.extend([HUNTER, HEIR].map(|vm| Step::results(vm).within(240)));
    vec![Scenario {
        name: "smp-leaks".to_owned(),
        about: "no register or byte of one VM is found in another, whatever makes a CPU switch between them"
            .to_owned(),
        tier: Tier::Ci,
        // By real time, a busy host decides where the VMs are interrupted: `--machine qemu-q35-bios-cd-max`.
        machines: vec![QEMU_SVM_COUNTED, QEMU_MAX_COUNTED, BOCHS_VMX],
        cpus: None,
        options: String::new(),
        guests,
        steps,
        checks: vec![],
    }]
}
