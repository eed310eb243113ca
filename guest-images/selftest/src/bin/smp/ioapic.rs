//! Where the I/O APIC sends interrupts: any processor, by id and by logical destination (Intel 82093AA data sheet,
//! "I/O redirection table registers").

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use selftest::apic::{self, DELIVERY_LOWEST, DELIVERY_NMI, register};
use selftest::exception::{self, vector::NMI};
use selftest::interrupt::{self, Acknowledge, count_on};
use selftest::ioapic::{LEVEL, LOGICAL, MASKED, REMOTE_IRR, read, redirection, set_masked, write};
use selftest::smp::{self, MAX_CPUS, PATIENCE_US};
use selftest::uart::{self, ENABLE_TRANSMIT, INTERRUPT_ENABLE, MODEM_CONTROL, OUT2};
use selftest::{Test, TestResult, acpi, check, check_eq, need, pit, tests};

use crate::message::{VECTOR, prepare, total};

pub(crate) const TESTS: &[Test] = tests![
    edge_to_each_processor,
    edge_to_several_processors,
    edge_to_the_lowest_priority,
    nmi_from_a_device,
    level_ends_with_the_receivers_eoi,
    destination_changes_take_effect,
];

/// How long the timer waits before its edge.
const EDGE_US: u64 = 500;

fn timer_pin() -> u32 {
    acpi::isa_gsi(0)
}

/// Programs a pin. `destination` is an APIC id or, with [`LOGICAL`], a flat logical id.
fn route(pin: u32, destination: u32, flags: u32) {
    write(redirection(pin), MASKED);
    write(redirection(pin) + 1, destination << 24);
    write(redirection(pin), flags);
}

fn edge() {
    pit::program(0, 0, (pit::HZ * EDGE_US / 1_000_000) as u16);
}

fn edge_to_each_processor() -> TestResult {
    prepare()?;
    for cpu in 0..smp::count() {
        route(timer_pin(), smp::id_of(cpu), VECTOR.into());
        for round in 1..=3 {
            edge();
            check!(
                smp::wait_us(PATIENCE_US, || count_on(cpu, VECTOR) == round),
                "edge {round} does not reach processor {cpu}"
            );
        }
        check_eq!(total() as usize, 3 * (cpu + 1), "arrivals in all");
    }
    Ok(())
}

/// Each processor takes the flat logical id of its number.
fn take_logical_ids() -> TestResult {
    prepare()?;
    smp::call_all(|| apic::write(register::LDR, 1 << (smp::current() % 8) << 24))
}

fn edge_to_several_processors() -> TestResult {
    need!(smp::count() <= 8, "more than eight processors");
    take_logical_ids()?;
    for destination in [0x01, 0x03, 0x0a, 0xff_u32] {
        let before: [u32; MAX_CPUS] = core::array::from_fn(|cpu| count_on(cpu, VECTOR));
        let receivers = destination & ((1 << smp::count()) - 1);
        let wanted = total() + receivers.count_ones();
        route(timer_pin(), destination, LOGICAL | u32::from(VECTOR));
        edge();
        smp::wait_us(PATIENCE_US, || receivers != 0 && total() >= wanted);
        smp::rest_us(200);
        for cpu in 0..smp::count() {
            let expected = receivers >> cpu & 1;
            check_eq!(
                count_on(cpu, VECTOR) - before[cpu],
                expected,
                "logical destination {destination:#x}: arrivals at processor {cpu}"
            );
        }
    }
    Ok(())
}

fn edge_to_the_lowest_priority() -> TestResult {
    const EDGES: u32 = 12;
    take_logical_ids()?;
    route(timer_pin(), 0xff, LOGICAL | DELIVERY_LOWEST | u32::from(VECTOR));
    for wanted in 1..=EDGES {
        edge();
        smp::wait_us(PATIENCE_US, || total() >= wanted);
        smp::rest_us(200);
        check_eq!(total(), wanted, "arrivals in all");
    }
    Ok(())
}

static NMIS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

fn nmi_from_a_device() -> TestResult {
    prepare()?;
    NMIS.iter().for_each(|count| count.store(0, SeqCst));
    let nmis = |cpu: usize| NMIS[cpu].load(SeqCst);
    smp::call_all(|| {
        exception::on(NMI, |_| {
            NMIS[smp::current()].fetch_add(1, SeqCst);
        });
    })?;
    for cpu in 0..smp::count() {
        route(timer_pin(), smp::id_of(cpu), DELIVERY_NMI);
        edge();
        check!(smp::wait_us(PATIENCE_US, || nmis(cpu) == 1), "the NMI does not reach processor {cpu}");
    }
    write(redirection(timer_pin()), MASKED);
    check!((0..smp::count()).all(|cpu| nmis(cpu) == 1), "a processor had more than one NMI");
    Ok(())
}

/// The serial port's transmitter holds the line until its cause is read: each EOI of the receiver asks again.
fn level_ends_with_the_receivers_eoi() -> TestResult {
    prepare()?;
    let pin = acpi::isa_gsi(uart::LINE);
    for cpu in 0..smp::count() {
        smp::call_on(cpu, || {
            interrupt::on(VECTOR, Acknowledge::LocalApic, |_| {
                // The third time the cause is taken away.
                if interrupt::count(VECTOR).is_multiple_of(3) {
                    uart::write(INTERRUPT_ENABLE, 0);
                    uart::read(uart::IDENTIFICATION);
                }
            });
        })?;
        uart::write(INTERRUPT_ENABLE, 0);
        uart::write(MODEM_CONTROL, OUT2);
        route(pin, smp::id_of(cpu), LEVEL | u32::from(VECTOR));
        uart::write(INTERRUPT_ENABLE, ENABLE_TRANSMIT);
        let came = smp::wait_us(PATIENCE_US, || count_on(cpu, VECTOR) == 3);
        smp::rest_us(500);
        let entry = read(redirection(pin));
        route(pin, 0, MASKED);
        uart::write(INTERRUPT_ENABLE, 0);
        check!(came, "processor {cpu} had {} interrupts instead of 3", count_on(cpu, VECTOR));
        check_eq!(count_on(cpu, VECTOR), 3, "interrupts at processor {cpu}");
        check_eq!(entry & REMOTE_IRR, 0, "remote IRR after the last EOI");
    }
    Ok(())
}

fn destination_changes_take_effect() -> TestResult {
    need!(smp::count() > 1, "one processor");
    prepare()?;
    route(timer_pin(), smp::id_of(0), MASKED | u32::from(VECTOR));
    set_masked(timer_pin(), false);
    for round in 0..8 {
        let cpu = round % smp::count();
        write(redirection(timer_pin()) + 1, smp::id_of(cpu) << 24);
        let before = count_on(cpu, VECTOR);
        edge();
        check!(
            smp::wait_us(PATIENCE_US, || count_on(cpu, VECTOR) == before + 1),
            "round {round}: the edge does not reach processor {cpu}"
        );
        check_eq!(total() as usize, round + 1, "arrivals in all");
    }
    Ok(())
}
