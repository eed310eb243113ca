//! The I/O APIC: edges from the PIT, levels from the UART's transmitter interrupt.

use selftest::apic::{self, register};
use selftest::cpu;
use selftest::interrupt::{self, Acknowledge, count};
use selftest::ioapic::{
    ID, LEVEL, LOGICAL, MASKED, PENDING, REMOTE_IRR, VERSION, pins, read, redirection, route, set_masked,
    write,
};
use selftest::uart::{self, ENABLE_TRANSMIT, INTERRUPT_ENABLE, MODEM_CONTROL, OUT2};
use selftest::{Global, Test, TestResult, acpi, check, check_eq, need, pit, platform, tests, tsc};

pub(crate) const TESTS: &[Test] = tests![
    ioapic_version,
    ioapic_id_round_trip,
    ioapic_select_register,
    ioapic_entries_round_trip,
    ioapic_status_bits_are_read_only,
    ioapic_edge,
    ioapic_edge_masked_is_lost,
    ioapic_periodic_edges,
    ioapic_vector_change,
    ioapic_logical_destination,
    ioapic_foreign_destination,
    ioapic_level_repeats_until_lowered,
    ioapic_level_remote_irr,
    ioapic_level_masked_waits,
    ioapic_trigger_mode_register,
    ioapic_edge_in_halt,
];

const VECTOR: u8 = 0x51;

fn timer_pin() -> u32 {
    acpi::isa_gsi(0)
}

fn serial_pin() -> u32 {
    acpi::isa_gsi(uart::LINE)
}

fn timer_edge(us: u64) {
    pit::program(0, 0, (pit::HZ * us / 1_000_000) as u16);
}

fn raise_serial() {
    uart::write(INTERRUPT_ENABLE, 0);
    uart::write(MODEM_CONTROL, OUT2);
    uart::write(INTERRUPT_ENABLE, ENABLE_TRANSMIT);
}

fn lower_serial() {
    uart::write(INTERRUPT_ENABLE, 0);
    uart::read(uart::IDENTIFICATION);
}

fn wait_for(wanted: u32) -> bool {
    interrupt::enabled(|| tsc::wait_us(200_000, || count(VECTOR) >= wanted))
}

fn listen(us: u64) {
    interrupt::enabled(|| tsc::delay_us(us));
}

fn ioapic_version() -> TestResult {
    let version = read(VERSION);
    check!(matches!(version & 0xff, 0x11..=0x2f), "version {version:#x}");
    check!(pins() >= 24, "{} pins", pins());
    Ok(())
}

fn ioapic_id_round_trip() -> TestResult {
    let before = read(ID);
    for id in [3, 15] {
        write(ID, id << 24);
        let after = read(ID);
        write(ID, before);
        check_eq!(after & 0x0fff_ffff, id << 24, "id register");
    }
    Ok(())
}

fn ioapic_select_register() -> TestResult {
    for index in [0, 1, 0x10, 0x3f] {
        cpu::write32(selftest::ioapic::SELECT, index);
        check_eq!(cpu::read32(selftest::ioapic::SELECT) & 0xff, index, "index register");
    }
    Ok(())
}

fn ioapic_entries_round_trip() -> TestResult {
    for pin in 0..pins() {
        for low in [
            MASKED | 0x31,
            MASKED | LEVEL | LOGICAL | 0xfe,
            MASKED | selftest::ioapic::ACTIVE_LOW | 0x100 | 0x77,
        ] {
            write(redirection(pin), low);
            write(redirection(pin) + 1, 0x5a << 24);
            check_eq!(read(redirection(pin)), low, "low half of pin {pin}");
            check_eq!(read(redirection(pin) + 1) & 0xff00_0000, 0x5a00_0000, "high half of pin {pin}");
        }
        write(redirection(pin), MASKED);
    }
    Ok(())
}

fn ioapic_status_bits_are_read_only() -> TestResult {
    let pin = pins() - 1;
    write(redirection(pin), MASKED | LEVEL | REMOTE_IRR | PENDING);
    check_eq!(read(redirection(pin)), MASKED | LEVEL, "low half");
    write(redirection(pin), u32::MAX);
    check_eq!(read(redirection(pin)) & (REMOTE_IRR | PENDING), 0, "status bits");
    Ok(())
}

fn ioapic_edge() -> TestResult {
    interrupt::expect(VECTOR, Acknowledge::LocalApic);
    route(timer_pin(), u32::from(VECTOR));
    for i in 1..=5 {
        timer_edge(300);
        check!(wait_for(i), "interrupt {i} did not come");
    }
    listen(1000);
    check_eq!(count(VECTOR), 5, "interrupts");
    check_eq!(read(redirection(timer_pin())) & (REMOTE_IRR | PENDING), 0, "status bits");
    Ok(())
}

fn ioapic_edge_masked_is_lost() -> TestResult {
    need!(!platform::bare(), "Bochs keeps such an edge");
    interrupt::expect(VECTOR, Acknowledge::LocalApic);
    route(timer_pin(), u32::from(VECTOR) | MASKED);
    timer_edge(200);
    listen(2000);
    set_masked(timer_pin(), false);
    listen(500);
    check_eq!(count(VECTOR), 0, "interrupts");
    timer_edge(200);
    check!(wait_for(1), "no interrupt after unmasking");
    Ok(())
}

fn ioapic_periodic_edges() -> TestResult {
    interrupt::expect(VECTOR, Acknowledge::LocalApic);
    route(timer_pin(), u32::from(VECTOR));
    pit::program(0, 2, (pit::HZ / 1000) as u16);
    let start = cpu::rdtsc();
    listen(20_000);
    pit::baseline();
    let periods = (cpu::rdtsc() - start) * 1000 / tsc::frequency();
    let fired = u64::from(count(VECTOR));
    check!(
        fired >= platform::least_ticks(periods) && fired <= periods + 2,
        "{fired} interrupts in {periods} periods"
    );
    Ok(())
}

fn ioapic_vector_change() -> TestResult {
    interrupt::expect(VECTOR, Acknowledge::LocalApic);
    interrupt::expect(VECTOR + 0x20, Acknowledge::LocalApic);
    route(timer_pin(), u32::from(VECTOR));
    timer_edge(200);
    check!(wait_for(1), "no interrupt");
    write(redirection(timer_pin()), u32::from(VECTOR) + 0x20);
    timer_edge(200);
    interrupt::enabled(|| tsc::wait_us(200_000, || count(VECTOR + 0x20) > 0));
    check_eq!(count(VECTOR), 1, "interrupts by the old vector");
    check_eq!(count(VECTOR + 0x20), 1, "interrupts by the new vector");
    Ok(())
}

fn ioapic_logical_destination() -> TestResult {
    interrupt::expect(VECTOR, Acknowledge::LocalApic);
    apic::write(register::LDR, 0x10 << 24);
    route(timer_pin(), u32::from(VECTOR) | MASKED);
    for (destination, expected) in [(0x10, 1), (0xff, 1), (0x20, 0)] {
        let before = count(VECTOR);
        write(redirection(timer_pin()) + 1, destination << 24);
        write(redirection(timer_pin()), u32::from(VECTOR) | LOGICAL);
        timer_edge(200);
        listen(2000);
        check_eq!(count(VECTOR) - before, expected, "interrupts to logical {destination:#x}");
    }
    Ok(())
}

fn ioapic_foreign_destination() -> TestResult {
    interrupt::expect(VECTOR, Acknowledge::LocalApic);
    route(timer_pin(), u32::from(VECTOR) | MASKED);
    write(redirection(timer_pin()) + 1, u32::from(apic::id() ^ 5) << 24);
    write(redirection(timer_pin()), u32::from(VECTOR));
    timer_edge(200);
    listen(2000);
    check_eq!(count(VECTOR), 0, "interrupts");
    Ok(())
}

fn ioapic_level_repeats_until_lowered() -> TestResult {
    need!(!platform::bare(), "Bochs has no remote IRR");
    // Reading the identification would lower the line, so the handler lets it stand three times.
    interrupt::on(VECTOR, Acknowledge::LocalApic, |_| {
        if count(VECTOR) >= 3 {
            lower_serial();
        }
    });
    route(serial_pin(), u32::from(VECTOR) | LEVEL);
    raise_serial();
    check!(wait_for(3), "{} of 3 interrupts", count(VECTOR));
    listen(1000);
    check_eq!(count(VECTOR), 3, "interrupts");
    check_eq!(read(redirection(serial_pin())) & REMOTE_IRR, 0, "remote IRR at the end");
    Ok(())
}

fn ioapic_level_remote_irr() -> TestResult {
    need!(!platform::bare(), "Bochs has no remote IRR");
    static IN_HANDLER: Global<u32> = Global::new(0);
    interrupt::on(VECTOR, Acknowledge::Nothing, |_| IN_HANDLER.set(read(redirection(serial_pin()))));
    route(serial_pin(), u32::from(VECTOR) | LEVEL);
    raise_serial();
    check!(wait_for(1), "no interrupt");
    check!(IN_HANDLER.get() & REMOTE_IRR != 0, "remote IRR is clear in the handler");
    listen(500);
    check_eq!(count(VECTOR), 1, "interrupts before EOI");
    lower_serial();
    check!(read(redirection(serial_pin())) & REMOTE_IRR != 0, "remote IRR went with the line, not with EOI");
    apic::eoi();
    check_eq!(read(redirection(serial_pin())) & REMOTE_IRR, 0, "remote IRR after EOI");
    listen(500);
    check_eq!(count(VECTOR), 1, "interrupts");
    Ok(())
}

fn ioapic_level_masked_waits() -> TestResult {
    interrupt::on(VECTOR, Acknowledge::LocalApic, |_| lower_serial());
    route(serial_pin(), u32::from(VECTOR) | LEVEL | MASKED);
    raise_serial();
    listen(500);
    check_eq!(count(VECTOR), 0, "interrupts while masked");
    set_masked(serial_pin(), false);
    check!(wait_for(1), "no interrupt after unmasking");
    // Lowered before it is unmasked, it does not come.
    set_masked(serial_pin(), true);
    raise_serial();
    lower_serial();
    set_masked(serial_pin(), false);
    listen(500);
    check_eq!(count(VECTOR), 1, "interrupts");
    Ok(())
}

fn ioapic_trigger_mode_register() -> TestResult {
    static LEVEL_SEEN: Global<bool> = Global::new(false);
    static EDGE_SEEN: Global<bool> = Global::new(true);
    interrupt::on(VECTOR, Acknowledge::LocalApic, |_| {
        LEVEL_SEEN.set(apic::bit(register::TMR, VECTOR));
        lower_serial();
    });
    route(serial_pin(), u32::from(VECTOR) | LEVEL);
    raise_serial();
    check!(wait_for(1), "no level interrupt");
    set_masked(serial_pin(), true);
    interrupt::on(VECTOR, Acknowledge::LocalApic, |_| EDGE_SEEN.set(apic::bit(register::TMR, VECTOR)));
    route(timer_pin(), u32::from(VECTOR));
    timer_edge(200);
    check!(wait_for(2), "no edge interrupt");
    check!(LEVEL_SEEN.get(), "TMR is clear for a level interrupt");
    check!(!EDGE_SEEN.get(), "TMR is set for an edge interrupt");
    Ok(())
}

fn ioapic_edge_in_halt() -> TestResult {
    interrupt::expect(VECTOR, Acknowledge::LocalApic);
    route(timer_pin(), u32::from(VECTOR));
    pit::program(0, 2, (pit::HZ / 1000) as u16);
    for _ in 0..20 {
        cpu::wait_for_interrupt();
    }
    pit::baseline();
    check!(count(VECTOR) >= 20, "{} interrupts in 20 halts", count(VECTOR));
    Ok(())
}
