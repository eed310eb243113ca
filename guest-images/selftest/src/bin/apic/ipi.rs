//! The interrupt command register, one processor talking to itself (SDM vol. 3, "Issuing Interprocessor Interrupts").

use selftest::apic::{
    ASSERT, DELIVERY_PENDING, LOGICAL, MASKED, TO_ALL, TO_OTHERS, TO_SELF, id, read, register, send, write,
};
use selftest::exception::{self, vector::NMI};
use selftest::interrupt::{self, Acknowledge, count};
use selftest::{Global, Test, TestResult, check, check_eq, cpu, need, platform, tests, tsc};

pub(crate) const TESTS: &[Test] = tests![
    ipi_to_self_by_shorthand,
    ipi_to_all_by_shorthand,
    ipi_to_others_reaches_nobody,
    ipi_by_physical_id,
    ipi_to_missing_id_reaches_nobody,
    ipi_by_flat_logical_id,
    ipi_by_cluster_logical_id,
    ipi_command_reads_back,
    ipi_lowest_priority_to_self,
    ipi_of_illegal_vector_sets_esr,
    ipi_of_illegal_vector_raises_error_interrupt,
    nmi_ipi,
    nmi_ipi_while_software_disabled,
    init_deassert_is_ignored,
    self_ipis_in_a_row,
];

const VECTOR: u8 = 0x43;
/// ICR: lowest-priority delivery.
const LOWEST_PRIORITY: u32 = 1 << 8;
/// ICR: INIT, level de-assert.
const INIT_DEASSERT: u32 = 5 << 8 | 1 << 15;
/// ESR: send illegal vector.
const SEND_ILLEGAL: u32 = 1 << 5;

/// Sends and counts what arrives within a short time.
fn arrivals(destination: u8, command: u32) -> u32 {
    interrupt::expect(VECTOR, Acknowledge::LocalApic);
    let before = count(VECTOR);
    send(destination, command | u32::from(VECTOR));
    interrupt::enabled(|| tsc::wait_us(300, || false));
    count(VECTOR) - before
}

fn ipi_to_self_by_shorthand() -> TestResult {
    for destination in [0, 1, 0xff] {
        check_eq!(arrivals(destination, TO_SELF), 1, "arrivals with destination {destination:#x}");
    }
    Ok(())
}

fn ipi_to_all_by_shorthand() -> TestResult {
    check_eq!(arrivals(0, TO_ALL), 1, "arrivals");
    Ok(())
}

fn ipi_to_others_reaches_nobody() -> TestResult {
    check_eq!(arrivals(0, TO_OTHERS), 0, "arrivals");
    check_eq!(read(register::ICR_LOW) & DELIVERY_PENDING, 0, "delivery status");
    Ok(())
}

fn ipi_by_physical_id() -> TestResult {
    check_eq!(arrivals(id(), 0), 1, "arrivals by the own id");
    check_eq!(arrivals(0xff, 0), 1, "arrivals by broadcast");
    Ok(())
}

fn ipi_to_missing_id_reaches_nobody() -> TestResult {
    for destination in [id() ^ 1, id() ^ 0x40, 0xee] {
        check_eq!(arrivals(destination, 0), 0, "arrivals by id {destination:#x}");
        check_eq!(read(register::ICR_LOW) & DELIVERY_PENDING, 0, "delivery status");
    }
    Ok(())
}

fn ipi_by_flat_logical_id() -> TestResult {
    write(register::DFR, u32::MAX);
    write(register::LDR, 0x04 << 24);
    for (destination, expected) in [(0x04, 1), (0x0c, 1), (0xff, 1), (0x08, 0), (0x00, 0), (0xfb, 0)] {
        check_eq!(arrivals(destination, LOGICAL), expected, "arrivals by flat logical id {destination:#x}");
    }
    Ok(())
}

fn ipi_by_cluster_logical_id() -> TestResult {
    write(register::DFR, 0x0fff_ffff);
    write(register::LDR, 0x21 << 24);
    for (destination, expected) in [(0x21, 1), (0x2f, 1), (0x22, 0), (0x31, 0), (0x01, 0)] {
        check_eq!(
            arrivals(destination, LOGICAL),
            expected,
            "arrivals by cluster logical id {destination:#x}"
        );
    }
    Ok(())
}

fn ipi_command_reads_back() -> TestResult {
    interrupt::expect(VECTOR, Acknowledge::LocalApic);
    write(register::ICR_HIGH, 0x5a << 24);
    check_eq!(read(register::ICR_HIGH) >> 24, 0x5a, "destination");
    let command = TO_SELF | ASSERT | u32::from(VECTOR);
    write(register::ICR_LOW, command);
    check_eq!(read(register::ICR_LOW), command, "command");
    cpu::take_interrupts();
    check_eq!(count(VECTOR), 1, "arrivals");
    Ok(())
}

fn ipi_lowest_priority_to_self() -> TestResult {
    write(register::LDR, 0x01 << 24);
    check_eq!(arrivals(0x01, LOGICAL | LOWEST_PRIORITY), 1, "arrivals");
    Ok(())
}

/// ESR is latched by a write.
fn errors() -> u32 {
    write(register::ESR, 0);
    read(register::ESR)
}

fn ipi_of_illegal_vector_sets_esr() -> TestResult {
    need!(platform::hypervisor(), "TCG and Bochs have no such errors");
    errors();
    check_eq!(errors(), 0, "ESR before");
    write(register::ICR_LOW, TO_SELF | ASSERT | 5);
    check!(errors() & SEND_ILLEGAL != 0, "send illegal vector is not set in the ESR");
    check_eq!(errors(), 0, "ESR read again");
    Ok(())
}

fn ipi_of_illegal_vector_raises_error_interrupt() -> TestResult {
    need!(platform::hypervisor(), "TCG and Bochs have no such errors");
    interrupt::expect(VECTOR, Acknowledge::LocalApic);
    errors();
    write(register::LVT_ERROR, u32::from(VECTOR));
    write(register::ICR_LOW, TO_SELF | ASSERT | 5);
    cpu::take_interrupts();
    write(register::LVT_ERROR, u32::from(VECTOR) | MASKED);
    check_eq!(count(VECTOR), 1, "error interrupts");
    errors();
    Ok(())
}

static NMIS: Global<u32> = Global::new(0);

fn send_nmi_and_count() -> u32 {
    NMIS.set(0);
    exception::on(NMI, |_| NMIS.set(NMIS.get() + 1));
    selftest::apic::send_nmi();
    tsc::wait_us(10_000, || NMIS.get() > 0);
    NMIS.get()
}

fn nmi_ipi() -> TestResult {
    check_eq!(send_nmi_and_count(), 1, "NMIs");
    Ok(())
}

fn nmi_ipi_while_software_disabled() -> TestResult {
    write(register::SVR, u32::from(selftest::apic::SPURIOUS_VECTOR));
    let nmis = send_nmi_and_count();
    write(register::SVR, u32::from(selftest::apic::SPURIOUS_VECTOR) | selftest::apic::SVR_ENABLE);
    check_eq!(nmis, 1, "NMIs");
    Ok(())
}

fn init_deassert_is_ignored() -> TestResult {
    // What old software sends to all before it starts processors; it must not reset the sender.
    write(register::ICR_HIGH, 0);
    write(register::ICR_LOW, TO_ALL | INIT_DEASSERT);
    check_eq!(arrivals(0, TO_SELF), 1, "arrivals afterwards");
    Ok(())
}

fn self_ipis_in_a_row() -> TestResult {
    interrupt::expect(VECTOR, Acknowledge::LocalApic);
    interrupt::enabled(|| {
        for i in 1..=2000 {
            send(0, TO_SELF | u32::from(VECTOR));
            tsc::wait_us(10_000, || count(VECTOR) == i);
        }
    });
    check_eq!(count(VECTOR), 2000, "arrivals");
    Ok(())
}
