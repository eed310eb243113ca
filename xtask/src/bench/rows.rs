//! The rows that a boot's log gives.

use ::tests::exits::{self, BENCH};
use ::tests::footprint;
use ::tests::linux::DEMO;
use ::tests::log::Log;
use ::tests::report;

use super::boots::{
    BRING_UP, IDLE, IDLE_VCPUS, LIFE, MANY, SIZES, SIZES_BOOT, TELLING_SECONDS, Variant, WITHOUT_DELIVERY,
};
use super::node;
use super::{Counted, Row};

/// How many reasons of a Linux boot's exits are listed, the most frequent first.
const LISTED_EXITS: usize = 12;
/// What the guests and Basalt call the time-stamp counter's units, and what they are where that counts instructions.
pub(super) const TICKS: &str = "ticks";
const KIB: &str = "KiB";
pub(super) const INSTRUCTIONS: &str = "instructions";
/// An interrupt to itself without the CPU's delivery: the name has no end, as it says so itself.
const SELF_IPI: &str = "self_ipi";

/// The rows of a boot of that name.
pub(super) fn rows_of(machine: &Counted<'_>, boot: &str, log: &Log) -> Vec<Row> {
    let (name, variant) = Variant::split(boot);
    let mut rows = all_rows_of(machine.name, name, log);
    rows.retain(|row| (variant.keeps)(&row.name));
    for row in &mut rows {
        let says_so = variant.end.is_empty() || variant.end == WITHOUT_DELIVERY && row.name == SELF_IPI;
        if !says_so {
            row.name += &format!("_{}", variant.end);
        }
        if row.unit == TICKS {
            Counted::unit(machine.counts_instructions).clone_into(&mut row.unit);
        }
    }
    rows
}

#[expect(clippy::cast_precision_loss, reason = "a small count")]
fn all_rows_of(machine: &str, boot: &str, log: &Log) -> Vec<Row> {
    let row = |name: &str, value: f64, unit: &str| Row::new(name, machine, value, unit);
    if let Some(size) = boot.strip_prefix(LIFE) {
        return life(machine, size, log);
    }
    match boot {
        BRING_UP => bring_up(machine, log),
        SIZES_BOOT => sizes(machine, log),
        MANY => {
            let count = footprint::started_vms(log);
            let row = |count: usize| row("vms_of_32_mib_in_4_gib", count as f64, "VMs");
            (count > 0).then(|| row(count)).into_iter().collect()
        }
        "bench-idle" => idle(machine, log),
        node::NODE => node::rows(log).into_iter().map(|(name, ticks)| row(name, ticks, TICKS)).collect(),
        "bench-linux" => linux(machine, log),
        _ => {
            let measured = exits::measurements(log).into_iter();
            measured.map(|found| row(&found.name, found.value, &found.unit)).collect()
        }
    }
}

/// What a VM of that size took. Its own time begins with its start, so its counter at its entry is what was left then.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn life(machine: &str, size: &str, log: &Log) -> Vec<Row> {
    let cost = report::life(log, BENCH);
    let entry = exits::measurements(log).into_iter().find(|found| found.name == "first_instruction");
    let to_first = cost.to_begin.zip(entry).map(|(before, entry)| before as f64 + entry.value);
    let rows = [
        ("create", cost.create.map(|ticks| ticks as f64)),
        ("create_to_first_instruction", to_first),
        ("create_memory", cost.memory.map(|ticks| ticks as f64)),
        ("destroy", cost.destroy.map(|ticks| ticks as f64)),
    ];
    let found = rows.into_iter().filter_map(|(what, ticks)| Some((what, ticks?)));
    found.map(|(what, ticks)| Row::new(&format!("vm_{what}_{size}"), machine, ticks, TICKS)).collect()
}

/// What came before the first guest, and the kernel's own memory then.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn bring_up(machine: &str, log: &Log) -> Vec<Row> {
    let mut rows = Vec::new();
    if let Some(sum) = footprint::bring_up(log) {
        rows.push(Row::new("bring_up", machine, sum.total as f64, TICKS));
        let parts = sum.parts.iter();
        rows.extend(
            parts.map(|(name, ticks)| Row::new(&part("bring_up", name), machine, *ticks as f64, TICKS)),
        );
    }
    if let Some(sum) = footprint::kernel_memory(log) {
        rows.push(Row::new("kernel_memory_kib", machine, sum.total as f64, KIB));
        let parts = sum.parts.iter();
        rows.extend(
            parts.map(|(name, kib)| Row::new(&part("kernel_memory_kib", name), machine, *kib as f64, KIB)),
        );
    }
    rows
}

fn part(whole: &str, name: &str) -> String {
    format!("{whole}_{}", name.replace([' ', '-'], "_"))
}

/// What VMs cost beside their guests' memory.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn sizes(machine: &str, log: &Log) -> Vec<Row> {
    let rows = SIZES.iter().filter_map(|size| {
        let (own, tables) = footprint::vm_memory(log, size.vm)?;
        let row = |name: &str, kib: u64| Row::new(name, machine, kib as f64, KIB);
        Some([size.own.map(|name| row(name, own)), size.tables.map(|name| row(name, tables))])
    });
    rows.flatten().flatten().collect()
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn idle(machine: &str, log: &Log) -> Vec<Row> {
    let tellings = report::tellings(log, DEMO);
    let (Some(first), Some(last)) = (tellings.get(IDLE.0 - 1), tellings.get(IDLE.1 - 1)) else {
        return Vec::new();
    };
    let seconds = ((IDLE.1 - IDLE.0) * TELLING_SECONDS) as f64 * f64::from(IDLE_VCPUS);
    let rate = |first: u64, last: u64| (last.saturating_sub(first)) as f64 / seconds;
    vec![
        Row::new("idle_exits_per_second", machine, rate(first.exits, last.exits), "a vCPU"),
        Row::new("idle_wake_ups_per_second", machine, rate(first.wake_ups, last.wake_ups), "a vCPU"),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn linux(machine: &str, log: &Log) -> Vec<Row> {
    let exits = report::exits(log, DEMO);
    let mut rows = Vec::new();
    if let Some(ticks) = report::ticks(log, DEMO) {
        let total: u64 = exits.iter().map(|(_, count)| count).sum();
        rows.push(Row::new("linux_boot_root_share", machine, ticks.root_percent(), "percent"));
        rows.push(Row::new("linux_boot_guest", machine, ticks.guest as f64, TICKS));
        rows.push(Row::new("linux_boot_root", machine, ticks.root as f64, TICKS));
        rows.push(Row::new("linux_boot_exits", machine, total as f64, "exits"));
    }
    let by_reason = exits.into_iter().take(LISTED_EXITS);
    rows.extend(by_reason.map(|(reason, count)| {
        let name = format!("linux_boot_exits_{}", reason.replace(' ', "_"));
        Row::new(&name, machine, count as f64, "exits")
    }));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOCHS: Counted<'_> = Counted { name: "bochs-vmx", counts_instructions: true };

    fn log(text: &str) -> Log {
        Log::from(text)
    }

    #[test]
    fn a_linux_boot_gives_its_exits_and_its_share() {
        let log = log("[ 9.0] info hv: vm demo: exits port io 30\n[ 9.0] info hv: vm demo: exits cpuid 70\n\
            [ 9.0] info hv: vm demo: ticks guest 900 root 100 idle 5 steal 0 charged 1000 throttled 0\n");
        let rows = rows_of(&BOCHS, "bench-linux", &log);
        let value = |name: &str| rows.iter().find(|row| row.name == name).map(|row| row.value);
        assert_eq!(value("linux_boot_root_share"), Some(10.0));
        assert_eq!(value("linux_boot_exits"), Some(100.0));
        assert_eq!(value("linux_boot_exits_port_io"), Some(30.0));
        let rows = rows_of(&BOCHS, "bench-linux-without_all", &log);
        let names: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
        let exits = ["", "_cpuid", "_port_io"].map(|reason| format!("linux_boot_exits{reason}_without_all"));
        assert_eq!(names, exits);
    }

    #[test]
    fn a_vms_life_is_counted_to_its_first_instruction() {
        let log = log("[ 1.0] INFO  cpu: vm bench: started, 5000 ticks of work\n\
            [bench] bench first_instruction 600 ticks\n\
            [ 1.0] INFO  report: vm bench: start took 7000 ticks to its own time's begin, 4000 of them for memory\n");
        let rows = rows_of(&BOCHS, "bench-life-1_gib", &log).into_iter();
        let found: Vec<_> = rows.map(|row| (row.name, row.value)).collect();
        let wanted = [
            ("vm_create_1_gib", 5000.0),
            ("vm_create_to_first_instruction_1_gib", 7600.0),
            ("vm_create_memory_1_gib", 4000.0),
        ];
        assert_eq!(found, wanted.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn memory_and_bring_up_are_told_by_the_kernel() {
        let log = log("[ 0.2] INFO  bring-up: total 900 scrubbing 500 calibration 20 ticks\n\
            [ 0.2] INFO  memory: the kernel has 4100 KiB: image 800 frame-table 2048 other 9 KiB\n\
            [ 0.3] INFO  work: vm one: 96 KiB of its own, 16 KiB nested tables\n\
            [ 0.3] INFO  work: vm tables: 90 KiB of its own, 12 KiB nested tables\n\
            [ 0.3] INFO  work: vm one: started, 9 ticks of work\n");
        let found = |boot: &str| {
            let rows = rows_of(&BOCHS, boot, &log).into_iter();
            rows.map(|row| format!("{} {} {}", row.name, row.value, row.unit)).collect::<Vec<_>>()
        };
        let bring_up = [
            "bring_up 900 instructions",
            "bring_up_scrubbing 500 instructions",
            "bring_up_calibration 20 instructions",
            "kernel_memory_kib 4100 KiB",
            "kernel_memory_kib_image 800 KiB",
            "kernel_memory_kib_frame_table 2048 KiB",
            "kernel_memory_kib_other 9 KiB",
        ];
        assert_eq!(found("bench-bring-up"), bring_up);
        assert_eq!(
            found("bench-sizes"),
            ["vm_overhead_1_vcpu_128_mib 96 KiB", "vm_nested_tables_1_gib 12 KiB"]
        );
        assert_eq!(found("bench-many"), ["vms_of_32_mib_in_4_gib 1 VMs"]);
    }

    #[test]
    fn rows_are_named_by_what_they_were_measured_with_and_in_what_the_machine_counts() {
        let log =
            log("[bench] bench cpuid 222 ticks (least 222)\n[bench] bench self_ipi 900 ticks (least 900)\n\
            [bench] bench eoi 450 ticks (least 450)\n");
        let found = |machine: &Counted<'_>, boot: &str| {
            let rows = rows_of(machine, boot, &log).into_iter();
            rows.map(|row| format!("{} {}", row.name, row.unit)).collect::<Vec<_>>()
        };
        let main = ["cpuid instructions", "self_ipi instructions", "eoi instructions"];
        assert_eq!(found(&BOCHS, "bench"), main);
        assert_eq!(
            found(&BOCHS, "bench-without_virtual_interrupts"),
            ["self_ipi instructions", "eoi_without_virtual_interrupts instructions"]
        );
        assert_eq!(found(&BOCHS, "bench-default_mitigations")[0], "cpuid_default_mitigations instructions");
        let kvm = Counted { name: "kvm", counts_instructions: false };
        assert_eq!(found(&kvm, "bench")[0], "cpuid ticks");
    }
}
