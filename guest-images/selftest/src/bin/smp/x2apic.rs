//! Messages in x2APIC mode (SDM vol. 3, "Logical Destination Mode in x2APIC Mode", "SELF IPI Register").

use selftest::apic::{
    self, BASE_ENABLE, BASE_X2APIC, DELIVERY_NMI, LOGICAL, TO_ALL, TO_OTHERS, TO_SELF, read_x2, register,
    write_x2,
};
use selftest::cpu::{msr, rdmsr, wrmsr};
use selftest::interrupt::{self, Acknowledge};
use selftest::smp;
use selftest::{Test, TestResult, check_eq, need, platform, tests};

use crate::destination::all;
use crate::message::{VECTOR, check_one_receiver, check_receivers, prepare};

// Bare Bochs stays in x2APIC mode from the first test on.
pub(crate) const TESTS: &[Test] = tests![
    x2apic_physical_ids,
    x2apic_broadcasts,
    x2apic_logical_ids,
    x2apic_lowest_priority,
    x2apic_self_ipi_of_each,
    x2apic_mode_survives_init,
    x2apic_beside_xapic,
];

const BROADCAST: u32 = 0xffff_ffff;

fn enter() {
    wrmsr(msr::APIC_BASE, rdmsr(msr::APIC_BASE) | BASE_X2APIC);
}

/// All processors in x2APIC mode, all expecting the vector. Those that start go back to xAPIC mode first.
fn x2apic_on_all() -> TestResult {
    need!(apic::has_x2apic(), "no x2APIC mode");
    prepare()?;
    smp::call_all(enter)
}

fn x2apic_physical_ids() -> TestResult {
    x2apic_on_all()?;
    for cpu in 0..smp::count() {
        check_receivers("x2APIC id", smp::id_of(cpu), 0, 1 << cpu)?;
        // All 32 bits count.
        check_receivers("x2APIC id with bits above", 0x100 | smp::id_of(cpu), 0, 0)?;
    }
    check_receivers("an xAPIC's broadcast", 0xff, 0, 0)
}

fn x2apic_broadcasts() -> TestResult {
    x2apic_on_all()?;
    check_receivers("broadcast by id", BROADCAST, 0, all())?;
    check_receivers("logical broadcast", BROADCAST, LOGICAL, all())?;
    check_receivers("all including self", 0, TO_ALL, all())?;
    check_receivers("all excluding self", 0, TO_OTHERS, all() & !1)?;
    check_receivers("self", 0, TO_SELF, 1)
}

/// The cluster is the id without its last four bits; these name one of sixteen.
fn x2apic_logical_ids() -> TestResult {
    need!(platform::hypervisor(), "Bochs knows no logical id");
    x2apic_on_all()?;
    for (cluster, members) in
        [(0, 0x0001), (0, 0x0002), (0, 0x000a), (0, 0x00ff), (0, 0), (1, 0x0003), (2, 0xffff)]
    {
        let receivers = (0..smp::count()).filter(|&cpu| {
            let id = smp::id_of(cpu);
            id >> 4 == cluster && members >> (id & 0xf) & 1 != 0
        });
        let receivers = receivers.fold(0, |all, cpu| all | 1 << cpu);
        check_receivers("x2APIC logical id", cluster << 16 | members, LOGICAL, receivers)?;
    }
    Ok(())
}

fn x2apic_lowest_priority() -> TestResult {
    need!(platform::hypervisor(), "Bochs knows no logical id");
    x2apic_on_all()?;
    for _ in 0..8 {
        check_one_receiver("x2APIC logical id", 0xffff, LOGICAL, all() & 0xffff)?;
        check_one_receiver("x2APIC logical id", 0x0003, LOGICAL, all() & 3)?;
    }
    Ok(())
}

fn x2apic_self_ipi_of_each() -> TestResult {
    x2apic_on_all()?;
    smp::call_all(|| {
        for _ in 0..10 {
            write_x2(register::SELF_IPI, VECTOR.into());
            selftest::cpu::take_interrupts();
        }
    })?;
    for cpu in 0..smp::count() {
        check_eq!(interrupt::count_on(cpu, VECTOR), 10, "self-IPIs of processor {cpu}");
    }
    Ok(())
}

/// An INIT leaves IA32_APIC_BASE alone: start-up messages reach the processor by its x2APIC id, and its APIC is reset.
fn x2apic_mode_survives_init() -> TestResult {
    need!(platform::hypervisor() && smp::count() > 1, "bare, or one processor");
    x2apic_on_all()?;
    smp::call(1, || write_x2(register::TPR, 0x30))?;
    smp::start_at(1, smp::START_PAGE)?;
    check_eq!(
        smp::first_apic_base(1) & (BASE_X2APIC | BASE_ENABLE),
        BASE_X2APIC | BASE_ENABLE,
        "mode after INIT"
    );
    smp::call(1, || {
        enter();
        interrupt::expect(VECTOR, Acknowledge::LocalApic);
    })?;
    check_eq!(read_x2(register::TPR), 0, "TPR of the first processor");
    check_receivers("x2APIC id", smp::id_of(1), 0, 0b10)
}

/// Modes may differ for a while, as when an operating system changes them one processor after the other.
fn x2apic_beside_xapic() -> TestResult {
    need!(
        platform::hypervisor() && apic::has_x2apic() && smp::count() > 1,
        "bare, no x2APIC mode, or one processor"
    );
    prepare()?;
    smp::call(1, enter)?;
    for cpu in 0..smp::count() {
        check_receivers("id, from an xAPIC", smp::id_of(cpu), 0, 1 << cpu)?;
    }
    check_receivers("broadcast, from an xAPIC", 0xff, 0, all())?;
    enter();
    for cpu in 0..smp::count() {
        check_receivers("id, from an x2APIC", smp::id_of(cpu), 0, 1 << cpu)?;
    }
    check_receivers("broadcast, from an x2APIC", BROADCAST, 0, all())?;
    check_receivers("all excluding self, from an x2APIC", 0, TO_OTHERS, all() & !1)?;
    apic::send_any(u32::MAX - 1, DELIVERY_NMI);
    check_receivers("after a message to nobody", smp::id_of(1), 0, 0b10)
}
