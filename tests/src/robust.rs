//! Scenarios in which one VM fails and the others must not notice.

use crate::linux::{DEMO, READY};
use crate::scenario::{Damage, Guest, QEMU_SVM, Scenario, Step, Tier};

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    vec![broken_images(), triple_fault()]
}

fn broken_images() -> Scenario {
    Scenario {
        name: "broken-images".to_owned(),
        about: "VMs with a truncated and a senseless kernel are refused; the third one starts".to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM],
        options: String::new(),
        guests: vec![
            Guest::new(DEMO).in_vm("truncated").damaged(Damage::Truncated),
            Guest::new(DEMO).in_vm("garbage").damaged(Damage::Garbage),
            Guest::new(DEMO).append("basalt.run=true"),
        ],
        steps: vec![
            Step::kernel("vm truncated:"),
            Step::kernel("vm garbage:"),
            Step::vm(DEMO, READY).within(180),
            Step::end(DEMO).within(60),
        ],
        checks: vec![],
    }
}

/// `reboot=t` makes Linux reboot by a triple fault.
fn triple_fault() -> Scenario {
    Scenario {
        name: "triple-fault".to_owned(),
        about: "a VM that triple-faults is stopped; its neighbour runs on to its own end".to_owned(),
        tier: Tier::Full,
        machines: vec![QEMU_SVM],
        options: String::new(),
        guests: vec![
            Guest::new(DEMO).in_vm("crash").append("reboot=t basalt.run=reboot"),
            Guest::new(DEMO).append("basalt.run=\"sleep 20\""),
        ],
        steps: vec![Step::end("crash").within(300), Step::end(DEMO).within(300)],
        checks: vec![],
    }
}
