//! Scenarios with machines that are unusual: in their interrupt controllers, in size, in the width of linear addresses, in what guests can make them speculate.

use crate::linux::{DEMO, READY};
use crate::log::Log;
use crate::scenario::{BOCHS_ICELAKE, BOCHS_VMX, Check, Guest, QEMU_LARGE, QEMU_MAX, Scenario, Step, Tier};
use crate::selftest;

/// A selftest guest that waits for timers and halts.
const EXITS: &str = "exits";
/// The selftest guest of the local APIC.
const APIC: &str = "apic";

/// The selftest guest that runs in all modes of the CPU.
const MODES: &str = "modes";

/// The demonstration guest's kernel as Debian packs it: only its decompressor switches five levels on.
const PACKED: &str = "bzimage";

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    vec![x2apic(), mitigations(), large(), five_levels(), linux_five_levels()]
}

/// QEMU without acceleration has no x2APIC mode.
fn x2apic() -> Scenario {
    Scenario {
        name: "host-x2apic".to_owned(),
        about: "with the host's local APIC in x2APIC mode a test guest runs as ever".to_owned(),
        tier: Tier::Ci,
        machines: vec![BOCHS_VMX],
        cpus: None,
        options: "apic=x2apic".to_owned(),
        guests: vec![Guest::new(EXITS)],
        steps: vec![
            Step::kernel("in x2APIC mode"),
            Step::results(EXITS).within(240),
            Step::end(EXITS).within(60),
        ],
        checks: vec![],
    }
}

/// The other emulated CPUs have neither IBRS nor IBPB, so that on them other measures are taken, in all scenarios.
fn mitigations() -> Scenario {
    Scenario {
        name: "host-mitigations".to_owned(),
        about: "on a CPU with IBRS and IBPB the kernel uses them, and two test guests as well".to_owned(),
        tier: Tier::Ci,
        machines: vec![BOCHS_ICELAKE],
        cpus: None,
        options: String::new(),
        guests: vec![Guest::new(EXITS), Guest::new(APIC)],
        steps: vec![
            Step::kernel("Spectre v2: IBPB, enhanced IBRS"),
            Step::results(EXITS).within(240),
            Step::results(APIC).within(240),
            Step::end(EXITS).within(60),
        ],
        checks: vec![],
    }
}

/// The guest is larger than all memory below 4 GiB, so that some of its memory lies above.
fn large() -> Scenario {
    Scenario {
        name: "host-large".to_owned(),
        about: "a host with 6 GiB and 255 CPUs runs a guest of 3 GiB on one of them".to_owned(),
        tier: Tier::Full,
        machines: vec![QEMU_LARGE],
        cpus: None,
        options: String::new(),
        guests: vec![Guest {
            memory: Some("3G"),
            ..Guest::new(DEMO).append("basalt.run=\"free -m; poweroff\"")
        }],
        steps: vec![Step::vm(DEMO, READY).within(240), Step::end(DEMO).within(60)],
        checks: vec![
            Check { name: "all CPUs are listed", holds: |log| said(log, "255 CPUs") },
            Check { name: "all memory is found", holds: |log| said(log, " 6143 MiB of memory") },
        ],
    }
}

/// On machines without, the same test guest skips these tests.
fn five_levels() -> Scenario {
    Scenario {
        name: "five-levels".to_owned(),
        about: "on a CPU with 57-bit linear addresses a test guest uses five levels of page tables"
            .to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_MAX],
        cpus: None,
        options: String::new(),
        guests: vec![Guest::new(MODES)],
        steps: vec![Step::results(MODES).within(120), Step::end(MODES).within(60)],
        checks: vec![Check { name: "tests with five levels have run", holds: ran_with_five_levels }],
    }
}

fn ran_with_five_levels(log: &Log) -> Result<(), String> {
    const TEST: &str = "wide_addresses_reach_their_frames";
    match selftest::results(log, MODES).passed.iter().any(|name| name == TEST) {
        true => Ok(()),
        false => Err(format!("{TEST} has not")),
    }
}

/// Linux shows the flag only where it uses five levels.
fn linux_five_levels() -> Scenario {
    Scenario {
        name: "linux-five-levels".to_owned(),
        about: "Debian's stock bzImage unpacks itself, switches five levels on and passes its self-check"
            .to_owned(),
        tier: Tier::Full,
        machines: vec![QEMU_MAX],
        cpus: None,
        options: String::new(),
        guests: vec![
            Guest::new(PACKED).append(
                "basalt.run=\"echo flags la57: $(grep -c -w la57 /proc/cpuinfo); sh /jobs/selfcheck\"",
            ),
        ],
        steps: vec![
            Step::vm(PACKED, READY).within(300),
            Step::vm(PACKED, "flags la57: 1").within(60),
            Step::results(PACKED).within(60),
            Step::end(PACKED).within(60),
        ],
        checks: vec![],
    }
}

fn said(log: &Log, text: &str) -> Result<(), String> {
    match log.kernel().any(|line| line.contains(text)) {
        true => Ok(()),
        false => Err(format!("the kernel did not say `{text}`")),
    }
}
