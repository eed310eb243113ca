//! Scenarios with machines that are unusual: in their interrupt controllers, in size.

use crate::linux::{DEMO, READY};
use crate::log::Log;
use crate::scenario::{BOCHS_VMX, Check, Guest, QEMU_LARGE, Scenario, Step, Tier};

/// A selftest guest that waits for timers and halts.
const EXITS: &str = "exits";

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    vec![x2apic(), large()]
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

fn said(log: &Log, text: &str) -> Result<(), String> {
    match log.kernel().any(|line| line.contains(text)) {
        true => Ok(()),
        false => Err(format!("the kernel did not say `{text}`")),
    }
}
