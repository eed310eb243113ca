//! Scenarios about time, interrupts and the paravirtual interface.

use crate::linux::{DEMO, READY};
use crate::log::Log;
use crate::report;
use crate::scenario::{BOCHS_SVM, BOCHS_VMX, Check, Guest, QEMU_SVM, QEMU_SVM_COUNTED, Scenario, Step, Tier};

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
    let mut scenarios = vec![
        guests(),
        busy(2, Tier::Ci, vec![QEMU_SVM_COUNTED, BOCHS_VMX]),
        busy(60, Tier::Full, vec![BOCHS_VMX]),
    ];
    scenarios.extend([scaled(), unscaled(), idle(), nmis("exceptions"), nmis("exits")]);
    scenarios.push(linux(8, Tier::Ci, QEMU_SVM_COUNTED));
    scenarios.push(linux(60, Tier::Full, BOCHS_VMX));
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

/// Stock Linux with the interface, and its watchdog for clock sources, which a TSC without TSC_ADJUST gets.
fn linux(seconds: u32, tier: Tier, machine: &'static str) -> Scenario {
    let job =
        format!("clearcpuid=tsc_adjust cpuidle_haltpoll.force=Y basalt.run=\"/jobs/paravirtual {seconds}\"");
    Scenario {
        name: format!("time-linux-{seconds}"),
        about: format!(
            "stock Linux with 4 vCPUs on 2 busy CPUs uses the paravirtual interface, {seconds} seconds long"
        ),
        tier,
        machines: vec![machine],
        cpus: Some(2),
        options: String::new(),
        guests: vec![
            Guest::new(DEMO).cpus(4).append(&job),
            Guest::new(LOAD).in_vm("spin").cpus(2).append("load=spin"),
        ],
        steps: vec![
            Step::vm(DEMO, READY).within(180),
            Step::results(DEMO).within(240),
            Step::end(DEMO).within(60),
        ],
        checks: vec![Check { name: "the guest's steal time is the scheduler's", holds: steal_agrees }],
    }
}

/// What the guest says in hundredths of a second, and what the scheduler says in ticks. The guest does not count before its
/// kernel looks, nor while a processor of its is idle.
fn steal_agrees(log: &Log) -> Result<(), String> {
    const NEAR: f64 = 0.25;
    let told =
        log.vm(DEMO).find_map(|line| line.strip_prefix("stolen ")?.strip_suffix(" cs")?.parse::<f64>().ok());
    let ticks = report::ticks(log, DEMO).ok_or("no report of the VM's end")?.steal;
    let megahertz = log
        .kernel()
        .find_map(|line| line.split_once("clock: TSC at ")?.1.split_once(" MHz")?.0.parse::<f64>().ok());
    let (Some(told), Some(megahertz)) = (told, megahertz) else {
        return Err("the guest or the kernel does not say".to_owned());
    };
    #[expect(clippy::cast_precision_loss, reason = "seconds for a comparison")]
    let (guest, scheduler) = (told / 100.0, ticks as f64 / megahertz / 1e6);
    if (guest / scheduler - 1.0).abs() > NEAR {
        return Err(format!("{guest:.2} s by the guest, {scheduler:.2} s by the scheduler"));
    }
    Ok(())
}

/// How often the times are told while a guest is idle, in seconds.
const PERIOD: usize = 10;
/// The tellings between which it is looked at: from 30 s after the boot, which takes less than 10, for 60 s.
const IDLE: (usize, usize) = (4, 10);
/// The guest's vCPUs, and what an idle one may do in a second.
const VCPUS: u32 = 2;
const WAKE_UPS: f64 = 5.0;
const EXITS: f64 = 20.0;

/// A stock Linux that has nothing to do.
fn idle() -> Scenario {
    let mut steps = vec![Step::vm(DEMO, READY).within(180)];
    steps.extend((0..IDLE.1).map(|_| Step::kernel("times of 1 VMs told").within(180)));
    Scenario {
        name: "time-idle".to_owned(),
        about: "an idle stock Linux wakes up and exits seldom".to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM_COUNTED],
        cpus: None,
        options: format!("times={PERIOD}"),
        guests: vec![Guest::new(DEMO).cpus(VCPUS).append("basalt.run=\"sleep 1000\"")],
        steps,
        checks: vec![
            Check { name: "the boot took less than 10 s", holds: boots_soon },
            Check { name: "a vCPU has at most 5 wake-ups and 20 exits a second", holds: is_idle },
        ],
    }
}

fn boots_soon(log: &Log) -> Result<(), String> {
    let line =
        log.vm(DEMO).find_map(|line| line.split_once(", up for ")?.1.strip_suffix(" s")?.parse::<f64>().ok());
    match line {
        Some(seconds) if seconds < 9.0 => Ok(()),
        other => Err(format!("{other:?} s")),
    }
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn is_idle(log: &Log) -> Result<(), String> {
    let tellings = report::tellings(log, DEMO);
    // The first one is number 1.
    let (Some(first), Some(last)) = (tellings.get(IDLE.0 - 1), tellings.get(IDLE.1 - 1)) else {
        return Err(format!("only {} tellings", tellings.len()));
    };
    let seconds = ((IDLE.1 - IDLE.0) * PERIOD) as f64 * f64::from(VCPUS);
    let (exits, wakes) =
        ((last.exits - first.exits) as f64 / seconds, (last.wake_ups - first.wake_ups) as f64 / seconds);
    if exits > EXITS || wakes > WAKE_UPS {
        return Err(format!("{wakes:.2} wake-ups and {exits:.2} exits a second"));
    }
    Ok(())
}

/// Non-maskable interrupts of the host's come at every point of the kernel and of its guest, which does not notice. Each guest has the machine to
/// itself: an entry of Bochs' leaves virtual NMIs blocked where the VM before was in its handler, though this VM's state says that they are not.
fn nmis(guest: &str) -> Scenario {
    Scenario {
        name: format!("time-nmis-{guest}"),
        about: format!(
            "a thousand NMIs a second of the host's do not harm the guest {guest}, and are told of in reason"
        ),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM_COUNTED, BOCHS_VMX],
        cpus: None,
        options: "fault=nmi-storm".to_owned(),
        guests: vec![Guest::new(guest)],
        steps: vec![Step::results(guest).within(240), Step::end(guest)],
        checks: vec![Check {
            name: "there were more than a hundred, told at most a dozen times",
            holds: nmis_are_told,
        }],
    }
}

fn nmis_are_told(log: &Log) -> Result<(), String> {
    let told: Vec<u32> = log
        .kernel()
        .filter_map(|line| line.split_once(" non-maskable interrupts that Basalt did not send"))
        .filter_map(|(before, _)| before.rsplit_once(' ')?.1.parse().ok())
        .collect();
    // Between two tellings their number doubles.
    match told.iter().max() {
        Some(most) if *most >= 100 && told.len() <= 12 => Ok(()),
        _ => Err(format!("told at {told:?}")),
    }
}

/// What CPUs do of local APICs, all of it and part by part.
const WAYS: [(&str, &str, Tier); 8] = [
    ("all", "nothing", Tier::Ci),
    ("none", "task-priority,virtual-interrupts", Tier::Ci),
    ("no-delivery", "virtual-interrupts", Tier::Full),
    ("no-priority", "task-priority", Tier::Full),
    ("no-registers", "apic-registers", Tier::Full),
    ("no-accesses", "apic-accesses", Tier::Full),
    ("no-x2apic", "x2apic", Tier::Full),
    ("priority-only", "apic-accesses,x2apic,virtual-interrupts", Tier::Full),
];

/// The local APIC's tests with all of it and with less give the same results.
fn apic(way: &str, without: &str, tier: Tier) -> Scenario {
    // Where its CPU delivers virtual interrupts itself, Bochs delivers one now and then that the guest has masked.
    let masked = if without.contains("virtual-interrupts") { "" } else { "masked=delivered" };
    Scenario {
        name: format!("time-apic-{way}"),
        about: format!(
            "local APICs are the same to guests where the CPU does less of them: without={without}"
        ),
        tier,
        machines: if tier == Tier::Ci { vec![BOCHS_VMX] } else { vec![BOCHS_VMX, BOCHS_SVM] },
        cpus: None,
        options: format!("without=nothing without={without}"),
        guests: vec![
            Guest::new(APIC[0]).append(masked),
            Guest::new(APIC[1]).cpus(4).append(&format!("cpus=4 {masked}")),
        ],
        steps: vec![
            Step::results(APIC[0]).within(240),
            Step::results(APIC[1]).within(240),
            Step::end(APIC[0]),
            Step::end(APIC[1]),
        ],
        checks: vec![],
    }
}
