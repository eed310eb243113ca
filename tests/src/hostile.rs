//! Scenarios in which guests attack their virtio devices.

use std::sync::LazyLock;

use crate::scenario::{BOCHS_VMX, Guest, QEMU_SVM_COUNTED, Scenario, Step, Tier};

/// The guest that attacks.
const GUEST: &str = "hostile";
/// The VM that it attacks from.
const HOSTILE: &str = "hostile";

/// A disk without anything on it.
static BLANK: LazyLock<String> = LazyLock::new(|| "\0".repeat(1 << 20));

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    vec![alone()]
}

/// The guest with all devices.
fn attacker() -> Guest {
    Guest::new(GUEST)
        .in_vm(HOSTILE)
        .settings("net=nowhere console=virtio")
        .module("disk serial=target", &BLANK)
}

fn alone() -> Scenario {
    Scenario {
        name: "virtio-hostile".to_owned(),
        about: "a guest attacks each of its virtio devices, which are whole again after a reset".to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM_COUNTED, BOCHS_VMX],
        cpus: None,
        options: String::new(),
        guests: vec![attacker()],
        steps: vec![Step::results(HOSTILE).within(240), Step::end(HOSTILE).within(60)],
        checks: vec![],
    }
}
