//! Destinations in xAPIC mode (SDM vol. 3, "Determining IPI Destination").

use selftest::apic::{self, LOGICAL, TO_ALL, TO_OTHERS, TO_SELF, register};
use selftest::smp;
use selftest::{Test, TestResult, check, tests};

use crate::message::{check_one_receiver, check_receivers, prepare};

pub(crate) const TESTS: &[Test] = tests![
    physical_ids,
    missing_ids_reach_nobody,
    broadcasts,
    flat_logical_ids,
    cluster_logical_ids,
    lowest_priority_reaches_one,
    lowest_priority_takes_enabled_ones_only,
];

/// The destination format register's models.
const FLAT: u32 = 0xffff_ffff;
const CLUSTER: u32 = 0x0fff_ffff;

/// A bit for each processor.
pub(crate) fn all() -> u64 {
    (1 << smp::count()) - 1
}

fn physical_ids() -> TestResult {
    prepare()?;
    for cpu in 0..smp::count() {
        check_receivers("by id", smp::id_of(cpu), 0, 1 << cpu)?;
    }
    Ok(())
}

fn missing_ids_reach_nobody() -> TestResult {
    prepare()?;
    let missing = (0..0xff).filter(|id| (0..smp::count()).all(|cpu| smp::id_of(cpu) != *id));
    for id in missing.step_by(50) {
        check_receivers("by an id that is missing", id, 0, 0)?;
    }
    Ok(())
}

fn broadcasts() -> TestResult {
    prepare()?;
    check_receivers("broadcast by id", 0xff, 0, all())?;
    check_receivers("all including self", 0, TO_ALL, all())?;
    check_receivers("all excluding self", 0, TO_OTHERS, all() & !1)?;
    check_receivers("self", 0, TO_SELF, 1)
}

/// All processors take this model, and the logical id that their number stands for in it.
fn take_model(format: u32) -> TestResult {
    prepare()?;
    let job: smp::Job = match format {
        FLAT => || take_logical_id(FLAT, flat_id(smp::current())),
        _ => || take_logical_id(CLUSTER, cluster_id(smp::current())),
    };
    smp::call_all(job)
}

fn take_logical_id(format: u32, id: u8) {
    apic::write(register::DFR, format);
    apic::write(register::LDR, u32::from(id) << 24);
}

/// From the ninth on processors share the bits of the first eight.
const fn flat_id(cpu: usize) -> u8 {
    1 << (cpu % 8)
}

/// Three in a cluster, so that small machines have two.
const fn cluster_id(cpu: usize) -> u8 {
    (cpu as u8 / 3) << 4 | 1 << (cpu % 3)
}

/// Those whose logical id matches.
fn matching(matches: impl Fn(usize) -> bool) -> u64 {
    (0..smp::count()).filter(|&cpu| matches(cpu)).fold(0, |all, cpu| all | 1 << cpu)
}

fn flat_logical_ids() -> TestResult {
    take_model(FLAT)?;
    for destination in [0x01, 0x02, 0x03, 0x05, 0x0a, 0x80, 0xaa, 0xfe, 0xff, 0x00] {
        let receivers = matching(|cpu| flat_id(cpu) & destination != 0);
        check_receivers("flat logical id", destination.into(), LOGICAL, receivers)?;
    }
    Ok(())
}

fn cluster_logical_ids() -> TestResult {
    take_model(CLUSTER)?;
    for destination in [0x01, 0x02, 0x07, 0x11, 0x12, 0x17, 0x23, 0x31, 0x20, 0xff_u8] {
        let receivers = matching(|cpu| {
            let id = cluster_id(cpu);
            destination == 0xff || id >> 4 == destination >> 4 && id & destination & 0xf != 0
        });
        check_receivers("cluster logical id", destination.into(), LOGICAL, receivers)?;
    }
    Ok(())
}

fn lowest_priority_reaches_one() -> TestResult {
    take_model(FLAT)?;
    for destination in [0xff, 0x03, 0x01, 0x02] {
        let receivers = matching(|cpu| flat_id(cpu) & destination != 0);
        for _ in 0..8 {
            check_one_receiver("flat logical id", destination.into(), LOGICAL, receivers)?;
        }
    }
    take_model(CLUSTER)?;
    for _ in 0..4 {
        check_one_receiver("cluster logical id", 0x07, LOGICAL, all() & 7)?;
        check_one_receiver("id", smp::id_of(0), 0, 1)?;
    }
    Ok(())
}

fn lowest_priority_takes_enabled_ones_only() -> TestResult {
    take_model(FLAT)?;
    for disabled in 1..smp::count() {
        // It has nothing to do meanwhile: a job could not be announced to it.
        smp::call(disabled, || apic::write(register::SVR, u32::from(apic::SPURIOUS_VECTOR)))?;
        for _ in 0..smp::count() + 1 {
            let chosen = check_one_receiver("flat logical id", 0xff, LOGICAL, all() & !(1 << disabled))?;
            check!(chosen != disabled, "the disabled processor {chosen} was chosen");
        }
        smp::start_at(disabled, smp::START_PAGE)?;
        smp::call(disabled, || {
            selftest::interrupt::expect(crate::message::VECTOR, selftest::interrupt::Acknowledge::LocalApic);
            take_logical_id(FLAT, flat_id(smp::current()));
        })?;
    }
    Ok(())
}
