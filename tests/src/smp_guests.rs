//! Scenarios with VMs of several virtual CPUs.

use crate::log::Log;
use crate::scenario::{BOCHS_SVM, BOCHS_VMX, Check, Guest, QEMU_SVM_COUNTED, Scenario, Step, Tier};

/// The guest that tests processors from inside.
const SMP: &str = "smp";
/// The numbers of virtual CPUs, and the VM of each.
const SIZES: [(u32, &str); 3] = [(2, "two"), (4, "four"), (8, "eight")];
/// A bound on the tests' time in one VM.
const SECONDS: u64 = 240;

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    let mut scenarios: Vec<_> = SIZES.into_iter().map(|(cpus, vm)| guests(cpus, vm)).collect();
    scenarios.push(ends(&STOPS));
    // The largest again, on machines with several CPUs, between which vCPUs move.
    for (cpus, machines) in [(2, vec![QEMU_SVM_COUNTED, BOCHS_VMX]), (4, vec![BOCHS_VMX, BOCHS_SVM])] {
        let name = format!("smp-guests-8-on-{cpus}");
        let about = format!("8 virtual CPUs on {cpus} CPUs find messages, memory and time as they should be");
        let tier = if cpus == 2 { Tier::Ci } else { Tier::Full };
        let mut scenario = guests(8, "eight");
        for guest in &mut scenario.guests {
            guest.append += &format!(" host-cpus={cpus}");
        }
        scenarios.push(Scenario { name, about, tier, machines, cpus: Some(cpus), ..scenario });
    }
    // The same on the other bench for SVM, which takes longer.
    let more: Vec<_> =
        SIZES.into_iter().map(|(cpus, vm)| guests(cpus, vm)).chain([ends(&STOPS_BUT_TRIPLE)]).collect();
    scenarios.extend(more.into_iter().map(|scenario| Scenario {
        name: scenario.name.replace("smp-guests", "smp-guests-full"),
        tier: Tier::Full,
        machines: vec![BOCHS_SVM],
        ..scenario
    }));
    scenarios
}

fn guests(cpus: u32, vm: &str) -> Scenario {
    Scenario {
        name: format!("smp-guests-{cpus}"),
        about: format!("{cpus} virtual CPUs come up, and find messages, memory and time as they should be"),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM_COUNTED, BOCHS_VMX],
        cpus: None,
        options: String::new(),
        guests: vec![Guest::new(SMP).in_vm(vm).cpus(cpus).append(&format!("cpus={cpus}"))],
        steps: vec![Step::results(vm).within(SECONDS), Step::end(vm)],
        checks: vec![],
    }
}

/// The VMs that end in a way, and the line that tells why.
const STOPS: [(&str, &str); 3] = [
    ("triple", "stopped: triple fault (vCPU 1)"),
    ("halt", "stopped: HLT with interrupts off (vCPU 1)"),
    ("init", "stopped: HLT with interrupts off (vCPU 1)"),
];

/// Those for Bochs' SVM, which stops in its own debugger where a guest triple-faults.
const STOPS_BUT_TRIPLE: [(&str, &str); 2] = [STOPS[1], STOPS[2]];

fn ends(stops: &[(&str, &str)]) -> Scenario {
    let mut guests = vec![Guest::new(SMP).in_vm("reset").cpus(5).append("end=reset")];
    let mut steps = vec![Step::results("reset").within(SECONDS), Step::end("reset")];
    for (vm, _) in stops.iter().copied() {
        guests.push(Guest::new(SMP).in_vm(vm).cpus(5).append(&format!("end={vm}")));
        steps.push(Step::end(vm).within(60));
    }
    Scenario {
        name: "smp-guests-end".to_owned(),
        about: "VMs are reset and stopped with their virtual CPUs running, spinning, asleep".to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM_COUNTED, BOCHS_VMX],
        cpus: None,
        options: String::new(),
        guests,
        steps,
        checks: vec![
            Check { name: "each stop has its reason, vCPU and registers", holds: stops_are_explained },
            Check { name: "no VM ends while a vCPU is awake", holds: sleepers_end_last },
        ],
    }
}

fn stops_are_explained(log: &Log) -> Result<(), String> {
    let starts = |vm: &str| log.kernel().any(|line| line.contains(&format!("vm {vm}: starting")));
    for (vm, reason) in STOPS.into_iter().filter(|(vm, _)| starts(vm)) {
        for wanted in [format!("vm {vm}: {reason}"), format!("vm {vm}: RIP=")] {
            if !log.kernel().any(|line| line.contains(&wanted)) {
                return Err(format!("no line with \"{wanted}\""));
            }
        }
    }
    Ok(())
}

fn sleepers_end_last(log: &Log) -> Result<(), String> {
    for vm in ["halt", "init"] {
        for wanted in ["halt: processors 0 and 1 are awake", "halt: processor 1 is the last one"] {
            if !log.vm(vm).any(|line| line.contains(wanted)) {
                return Err(format!("VM {vm} did not say \"{wanted}\""));
            }
        }
    }
    Ok(())
}
