//! Scenarios about time, interrupts and the paravirtual interface.

use crate::scenario::{BOCHS_SVM, BOCHS_VMX, Guest, QEMU_SVM, QEMU_SVM_COUNTED, Scenario, Step, Tier};

/// The guest that tests clocks and the paravirtual interface from inside.
const TIME: &str = "time";
/// The guests that test the local APIC.
const APIC: [&str; 2] = ["apic", "smp"];
/// A guest that says a line a second.
const SPIN: &str = "spin";
/// A guest that wants all CPUs.
const LOAD: &str = "load";

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    let mut scenarios =
        vec![guests(), busy(2, Tier::Ci, vec![QEMU_SVM, BOCHS_VMX]), busy(60, Tier::Full, vec![BOCHS_VMX])];
    scenarios.extend([scaled(), unscaled()]);
    scenarios.extend(WAYS.into_iter().map(|(way, without, tier)| apic(way, without, tier)));
    scenarios
}

/// Alone on the machine.
fn guests() -> Scenario {
    Scenario {
        name: "time-guests".to_owned(),
        about: "a VM's clocks agree, and the paravirtual interface does what it says".to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM_COUNTED, BOCHS_VMX, BOCHS_SVM],
        cpus: None,
        options: String::new(),
        guests: vec![Guest::new(TIME).cpus(4)],
        steps: vec![Step::results(TIME).within(120), Step::end(TIME)],
        checks: vec![],
    }
}

/// Four vCPUs on two CPUs that others want, too.
fn busy(seconds: u32, tier: Tier, machines: Vec<&'static str>) -> Scenario {
    Scenario {
        name: format!("time-busy-{seconds}"),
        about: format!("4 virtual CPUs on 2 busy CPUs keep time for {seconds} seconds"),
        tier,
        machines,
        cpus: Some(2),
        options: String::new(),
        guests: vec![
            Guest::new(TIME).cpus(4).append(&format!("seconds={seconds} steal=some")),
            Guest::new(LOAD).in_vm("spin").cpus(2).append("load=spin"),
        ],
        steps: vec![Step::results(TIME).within(400), Step::end(TIME)],
        checks: vec![],
    }
}

/// A VM whose TSC runs faster than the machine's.
fn scaled() -> Scenario {
    let mut scenario = guests();
    for guest in &mut scenario.guests {
        guest.settings += "tsc-khz=330000";
        guest.append += "tsc-khz=330000";
    }
    Scenario {
        name: "time-scaled".to_owned(),
        about: "a VM's TSC has the rate that its line says, and its clocks agree with it".to_owned(),
        machines: vec![BOCHS_VMX],
        ..scenario
    }
}

/// The same on a CPU that cannot do that.
fn unscaled() -> Scenario {
    Scenario {
        name: "time-unscaled".to_owned(),
        about: "where the CPU cannot scale its TSC, a VM that asks for it is refused, and others start"
            .to_owned(),
        tier: Tier::Full,
        machines: vec![QEMU_SVM],
        cpus: None,
        options: String::new(),
        guests: vec![
            Guest::new(SPIN).in_vm("other-rate").settings("tsc-khz=330000"),
            Guest::new(SPIN).append("beats=1"),
        ],
        steps: vec![
            Step::kernel("vm other-rate: not started: tsc-khz=330000: this CPU cannot scale its TSC"),
            Step::end(SPIN),
        ],
        checks: vec![],
    }
}

/// What CPUs do of local APICs, switched off part by part.
const WAYS: [(&str, &str, Tier); 7] = [
    ("none", "task-priority,virtual-interrupts", Tier::Ci),
    ("no-delivery", "virtual-interrupts", Tier::Ci),
    ("no-priority", "task-priority", Tier::Full),
    ("no-registers", "apic-registers", Tier::Full),
    ("no-accesses", "apic-accesses", Tier::Full),
    ("no-x2apic", "x2apic", Tier::Full),
    ("priority-only", "apic-accesses,x2apic,virtual-interrupts", Tier::Full),
];

/// The local APIC's tests with all of it and with less give the same results.
fn apic(way: &str, without: &str, tier: Tier) -> Scenario {
    Scenario {
        name: format!("time-apic-{way}"),
        about: format!(
            "local APICs are the same to guests where the CPU does less of them: without={without}"
        ),
        tier,
        machines: if tier == Tier::Ci { vec![BOCHS_VMX] } else { vec![BOCHS_VMX, BOCHS_SVM] },
        cpus: None,
        options: format!("without={without}"),
        guests: vec![Guest::new(APIC[0]), Guest::new(APIC[1]).cpus(4).append("cpus=4")],
        steps: vec![
            Step::results(APIC[0]).within(240),
            Step::results(APIC[1]).within(240),
            Step::end(APIC[0]),
            Step::end(APIC[1]),
        ],
        checks: vec![],
    }
}
