//! The boots that are made, each perhaps more than once with something switched off or left on.

use ::tests::exits::{self, BENCH, WITH_EVERYTHING, WITHOUT_MITIGATIONS};
use ::tests::linux::{self, DEMO};
use ::tests::scenario::{Guest, Scenario, Step, Tier};

use super::{devices, load, node};

/// A machine, and the boots that are made on it where none is asked for.
pub(super) struct Usual {
    pub(super) machine: &'static str,
    pub(super) has: fn(boot: &str) -> bool,
}

/// The machines whose time-stamp counter counts instructions. On the last one KVM and Xen were measured, too, but only what exits cost;
/// and of 4 GiB Bochs' firmware shows three.
pub(super) const USUAL: [Usual; 3] = [
    Usual { machine: "bochs-vmx", has: |boot| boot != MANY },
    Usual { machine: "bochs-svm", has: |boot| ![MANY, node::NODE].contains(&boot) },
    Usual {
        machine: "qemu-svm-counted",
        has: |boot| [BENCH, "bench-default_mitigations", MANY].contains(&boot),
    },
];

/// What a boot is made with, and which of its rows are of interest then.
#[derive(Clone, Copy)]
pub(super) struct Variant {
    /// The end of the boot's name behind `-`, and of its rows' names behind `_`.
    pub(super) end: &'static str,
    /// Options for Basalt.
    options: &'static [&'static str],
    /// Settings of the VMs.
    settings: &'static str,
    /// Its rows: others are left out.
    pub(super) keeps: fn(&str) -> bool,
}

/// What everything is measured with, as that with which it is compared was.
const MAIN: Variant = Variant { end: "", options: &[WITHOUT_MITIGATIONS], settings: "", keeps: |_| true };
/// The end of [`DEFAULTS`].
pub(super) const DEFAULTS_END: &str = "default_mitigations";
/// As a user boots.
const DEFAULTS: Variant = Variant { end: DEFAULTS_END, options: &[], settings: "", keeps: |_| true };
/// The end of [`NO_DELIVERY`].
pub(super) const WITHOUT_DELIVERY: &str = "without_virtual_interrupts";
/// What interrupts cost with less, by the CPU or by the paravirtual interface.
const NO_DELIVERY: Variant = Variant {
    end: WITHOUT_DELIVERY,
    options: &[WITHOUT_MITIGATIONS, "without=virtual-interrupts"],
    settings: "",
    keeps: is_of_interrupts,
};
const BY_SOFTWARE: Variant = Variant {
    end: "without_apic_virtualization",
    options: &[WITHOUT_MITIGATIONS, "without=task-priority,virtual-interrupts"],
    settings: "",
    keeps: is_of_interrupts,
};
const NO_PARAVIRTUAL: Variant = Variant {
    end: "without_paravirtual",
    options: &[WITHOUT_MITIGATIONS],
    settings: "paravirtual=none",
    keeps: is_of_interrupts,
};
/// Everything that spares exits of interrupts and time switched off, for a Linux boot by reasons.
const PLAIN: Variant = Variant {
    end: "without_all",
    options: &[WITHOUT_MITIGATIONS, "without=task-priority,virtual-interrupts", "poll=0"],
    settings: "paravirtual=none",
    keeps: |name| is_of_interrupts(name) || name.starts_with("linux_boot_exits_"),
};
const VARIANTS: [Variant; 5] = [DEFAULTS, NO_DELIVERY, BY_SOFTWARE, NO_PARAVIRTUAL, PLAIN];

/// Whether a row is looked at where interrupts are delivered in other ways.
fn is_of_interrupts(name: &str) -> bool {
    const ROWS: [&str; 7] = [
        "self_ipi",
        "eoi",
        "hlt_wake",
        "tsc_deadline",
        "linux_boot_exits",
        "idle_exits_per_second",
        "idle_wake_ups_per_second",
    ];
    ROWS.contains(&name)
}

impl Variant {
    fn of(self, mut scenario: Scenario) -> Scenario {
        if !self.end.is_empty() {
            scenario.name += &format!("-{}", self.end);
        }
        let options = std::iter::once(scenario.options.as_str()).chain(self.options.iter().copied());
        scenario.options = options.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        for guest in &mut scenario.guests {
            guest.settings = format!("{} {}", guest.settings, self.settings).trim().to_owned();
        }
        scenario
    }

    /// The boot whose name this is, without the variant, and that.
    pub(super) fn split(boot: &str) -> (&str, Self) {
        let split = |variant: Self| Some((boot.strip_suffix(variant.end)?.strip_suffix('-')?, variant));
        VARIANTS.into_iter().find_map(split).unwrap_or((boot, MAIN))
    }
}

/// A boot, and what it is made with, each time.
type Boot = (fn() -> Scenario, &'static [Variant]);

/// All boots that are made.
pub(crate) fn boots() -> Vec<Scenario> {
    let all: [Boot; 12] = [
        (exits::boot, &[MAIN, DEFAULTS, NO_DELIVERY, BY_SOFTWARE, NO_PARAVIRTUAL]),
        (same_cpu, &[MAIN]),
        (other_cpu, &[MAIN]),
        (balloon, &[MAIN]),
        (life_small, &[MAIN]),
        (life_large, &[MAIN]),
        (bring_up, &[MAIN]),
        (sizes, &[MAIN]),
        (many, &[MAIN]),
        (linux_boot, &[MAIN, NO_DELIVERY, BY_SOFTWARE, NO_PARAVIRTUAL, PLAIN]),
        (idle, &[MAIN, NO_PARAVIRTUAL]),
        (node::boot, &[MAIN]),
    ];
    let boots = all.into_iter().flat_map(|(make, variants)| variants.iter().map(move |one| one.of(make())));
    let pairs = load::scenarios().into_iter().chain(devices::scenarios());
    boots.chain(pairs.map(|scenario| MAIN.of(scenario))).collect()
}

/// What the rest is compared with: the guest that measures all exits.
pub(super) fn exit_costs() -> Scenario {
    MAIN.of(exits::boot())
}

/// An idle stock Linux with two vCPUs, for some telling of the times.
fn idle() -> Scenario {
    const TELLINGS: usize = 8;
    let guest = Guest::new(DEMO).cpus(IDLE_VCPUS).append("basalt.run=\"sleep 1000\"");
    let mut steps = vec![Step::vm(DEMO, linux::READY).within(300)];
    steps.extend((0..TELLINGS).map(|_| Step::kernel("times of 1 VMs told").within(120)));
    Scenario { options: format!("times={TELLING_SECONDS}"), ..scenario("bench-idle", guest, steps) }
}

/// vCPUs of the idle Linux, and between which tellings it is looked at: from 30 s after its boot on.
pub(super) const IDLE_VCPUS: u32 = 2;
pub(super) const IDLE: (usize, usize) = (6, 8);
pub(super) const TELLING_SECONDS: usize = 10;

pub(super) fn with_everything(scenario: Scenario) -> Scenario {
    Scenario { options: WITH_EVERYTHING.to_owned(), ..scenario }
}

/// Messages between two vCPUs, where they share a CPU and where each has its own.
fn same_cpu() -> Scenario {
    let guest = Guest::new(BENCH).cpus(2).append("only=switch share=yes");
    let steps = vec![Step::vm(BENCH, "selftest bench done:").within(300)];
    Scenario { cpus: Some(1), ..with_everything(scenario("bench-same-cpu", guest, steps)) }
}

fn other_cpu() -> Scenario {
    let guest = Guest::new(BENCH).cpus(2).append("only=switch");
    let steps = vec![Step::vm(BENCH, "selftest bench done:").within(300)];
    Scenario { cpus: Some(2), ..with_everything(scenario("bench-other-cpu", guest, steps)) }
}

/// The lives of a VM of that size, begin of the boot's name.
pub(super) const LIFE: &str = "bench-life-";

/// A VM that is asked for at the prompt, made, and destroyed.
fn life_small() -> Scenario {
    life("16_mib", "memory=16M start=no")
}

fn life_large() -> Scenario {
    life("1_gib", "memory=1G start=no")
}

fn life(size: &str, settings: &str) -> Scenario {
    let guest = Guest::new(BENCH).settings(settings).append("only=start");
    let steps = vec![
        Step::kernel("console ready").then_send("\x01:start bench\r\r"),
        Step::vm(BENCH, "selftest bench done:").within(300),
        Step::kernel("all VMs have ended").within(120),
    ];
    scenario(&format!("{LIFE}{size}"), guest, steps)
}

/// Memory that was given back, touched again.
fn balloon() -> Scenario {
    let steps = vec![Step::vm(BENCH, "selftest bench done:").within(300)];
    with_everything(scenario("bench-balloon", Guest::new(BENCH).append("only=nested_fault"), steps))
}

/// One small VM on a machine of 1 GiB: what it takes until that runs, and what Basalt has for itself.
fn bring_up() -> Scenario {
    let guest = Guest::new(BENCH).settings("memory=16M").append("only=start");
    let done = Step::vm(BENCH, "selftest bench done:").within(300);
    // The kernel tells when it next has time, which may be later; that all of it is there, the VM's end shows.
    let told = Step::kernel("bring-up: total").within(60).anywhere();
    scenario(BRING_UP, guest, vec![done, told, Step::end(BENCH).within(60).anywhere()])
}

/// A VM of a size.
pub(super) struct Sized {
    pub(super) vm: &'static str,
    cpus: u32,
    settings: &'static str,
    /// What starts it, at the prompt.
    start: &'static str,
    /// The rows of what it costs.
    pub(super) own: Option<&'static str>,
    pub(super) tables: Option<&'static str>,
}

/// VMs that differ in what Basalt needs for them: the rows of all their own memory, or of their nested tables.
pub(super) const SIZES: [Sized; 3] = [
    Sized {
        vm: "one",
        cpus: 1,
        settings: "memory=128M start=no",
        start: "\x01:start one\r\r",
        own: Some("vm_overhead_1_vcpu_128_mib"),
        tables: None,
    },
    Sized {
        vm: "four",
        cpus: 4,
        settings: "memory=2G start=no",
        start: "\x01:start four\r\r",
        own: Some("vm_overhead_4_vcpu_2_gib"),
        tables: None,
    },
    Sized {
        vm: "tables",
        cpus: 1,
        settings: "memory=1G start=no",
        start: "\x01:start tables\r\r",
        own: None,
        tables: Some("vm_nested_tables_1_gib"),
    },
];

/// One after the other, each with all of the memory.
fn sizes() -> Scenario {
    let guest = |size: &Sized| {
        let guest = Guest::new(BENCH).in_vm(size.vm).cpus(size.cpus).append("only=start");
        guest.settings(size.settings)
    };
    let mut made = scenario(SIZES_BOOT, guest(&SIZES[0]), vec![]);
    made.guests = SIZES.iter().map(guest).collect();
    let ended = |size: &Sized| Step::kernel("all VMs have ended").within(300).then_send(size.start);
    made.steps = SIZES.iter().map(ended).collect();
    made.steps.push(Step::kernel("all VMs have ended").within(300));
    made
}

/// As many VMs of 32 MiB as 4 GiB hold at most, idle. Who is one too many is not started.
fn many() -> Scenario {
    let guest = Guest::new("spin").in_vm("vm").settings("memory=32M count=128").append("beats=none");
    let steps = vec![Step::kernel("not started").within(300), Step::kernel(" VMs told").within(300)];
    // All that are going to run do by the time when the times are told first.
    Scenario { options: "times=60".to_owned(), ..scenario(MANY, guest, steps) }
}

/// Boots whose figures are lines of the kernel's log that not every kernel writes.
pub(super) const TOLD_BY_KERNEL: [&str; 2] = [BRING_UP, SIZES_BOOT];
pub(super) const BRING_UP: &str = "bench-bring-up";
pub(super) const SIZES_BOOT: &str = "bench-sizes";
pub(super) const MANY: &str = "bench-many";

/// The machine's memory for a boot, where the profile's does not do.
pub(crate) fn machine_memory(boot: &str) -> Option<&'static str> {
    match boot {
        "bench-life-1_gib" => Some("2G"),
        SIZES_BOOT | MANY => Some("4G"),
        _ => None,
    }
}

fn linux_boot() -> Scenario {
    let guest = Guest::new(DEMO).append("basalt.run=true");
    let steps = vec![Step::vm(DEMO, linux::READY).within(300), Step::end(DEMO).within(60)];
    with_everything(scenario("bench-linux", guest, steps))
}

pub(super) fn scenario(name: &str, guest: Guest, steps: Vec<Step>) -> Scenario {
    Scenario {
        name: name.to_owned(),
        about: String::new(),
        tier: Tier::Full,
        machines: vec![],
        cpus: None,
        options: String::new(),
        guests: vec![guest],
        steps,
        checks: vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_boots_say_their_variants() {
        let boots = boots();
        let find = |name: &str| boots.iter().find(|boot| boot.name == name).expect(name);
        assert_eq!(find("bench").options, "without=nothing mitigations=off");
        assert_eq!(find("bench-default_mitigations").options, "without=nothing");
        assert_eq!(find("bench-linux-without_paravirtual").guests[0].settings, "paravirtual=none");
        assert!(find("bench-device-packet_64").options.ends_with("mitigations=off"));
        let split = |name| {
            let (boot, variant) = Variant::split(name);
            (boot, variant.end)
        };
        assert_eq!(split("bench-linux-without_all"), ("bench-linux", "without_all"));
        assert_eq!(split("bench-same-cpu"), ("bench-same-cpu", ""));
        let counted = USUAL.iter().find(|usual| usual.machine == "qemu-svm-counted").expect("there");
        assert_eq!(boots.iter().filter(|boot| (counted.has)(&boot.name)).count(), 3);
    }
}
