//! The 8259A pair through the virtual wire (LINT0 as ExtINT). PIT, UART and RTC raise lines 0, 4 and 8.

use selftest::cpu::{self, inb, outb};
use selftest::interrupt::{self, Acknowledge, count, log};
use selftest::uart::{self, ENABLE_TRANSMIT, INTERRUPT_ENABLE, MODEM_CONTROL, OUT2};
use selftest::{Global, Test, TestResult, apic, check, check_eq, need, pic, pit, platform, rtc, tests, tsc};

pub(crate) const TESTS: &[Test] = tests![
    pic_mask_round_trip,
    pic_delivers_timer,
    pic_vector_base_follows_icw2,
    pic_initialization_clears_the_mask,
    pic_mask_holds_the_request,
    pic_lint0_mask_holds_the_request,
    pic_in_service_blocks_the_line,
    pic_specific_eoi,
    pic_auto_eoi,
    pic_priorities,
    pic_slave_through_cascade,
    pic_poll,
    pic_special_mask_mode,
    pic_rotation,
    pic_interrupt_in_halt,
    elcr_round_trip,
];

const TIMER: u8 = 0;
const SERIAL: u8 = uart::LINE;
const CLOCK: u8 = 8;

const fn vector(line: u8) -> u8 {
    pic::BASE + line
}

/// Lets the pair interrupt through LINT0 and expects those lines.
pub(crate) fn connect(lines: &[u8]) {
    apic::write(apic::register::LVT_LINT0, apic::DELIVERY_EXTINT);
    for &line in lines {
        interrupt::expect(vector(line), Acknowledge::Pic);
    }
    pic::unmask_only(lines.iter().fold(0, |mask, &line| mask | 1 << line));
}

/// One edge on line 0 after that many microseconds (mode 0, whose output starts low).
fn timer_edge(us: u64) {
    pit::program(0, 0, (pit::HZ * us / 1_000_000) as u16);
}

/// Raises the serial line by an empty transmitter; returns a moment later.
fn raise_serial() {
    uart::write(INTERRUPT_ENABLE, 0);
    uart::write(MODEM_CONTROL, OUT2);
    uart::write(INTERRUPT_ENABLE, ENABLE_TRANSMIT);
}

fn lower_serial() {
    uart::write(INTERRUPT_ENABLE, 0);
    uart::read(uart::IDENTIFICATION);
}

fn wait_for(line: u8, wanted: u32) -> bool {
    interrupt::enabled(|| tsc::wait_us(200_000, || count(vector(line)) >= wanted))
}

fn request_comes(line: u8) -> bool {
    tsc::wait_us(200_000, || pic::irr() & 1 << line != 0)
}

fn pic_mask_round_trip() -> TestResult {
    for mask in [0xffff, 0x0000, 0xa55a, 0x1234] {
        pic::set_mask(mask);
        check_eq!(pic::mask(), mask, "mask registers");
    }
    pic::set_mask(0xffff);
    Ok(())
}

fn pic_delivers_timer() -> TestResult {
    connect(&[TIMER]);
    for i in 1..=5 {
        timer_edge(500);
        check!(wait_for(TIMER, i), "interrupt {i} did not come");
    }
    check_eq!(count(vector(TIMER)), 5, "interrupts");
    check_eq!(pic::isr(), 0, "in service");
    Ok(())
}

fn pic_vector_base_follows_icw2() -> TestResult {
    pic::init(0x60, 0);
    interrupt::on(0x60, Acknowledge::Nothing, |_| pic::eoi(0));
    apic::write(apic::register::LVT_LINT0, apic::DELIVERY_EXTINT);
    pic::unmask_only(1);
    timer_edge(500);
    interrupt::enabled(|| tsc::wait_us(200_000, || count(0x60) > 0));
    check_eq!(count(0x60), 1, "interrupts by the new vector");
    Ok(())
}

fn pic_initialization_clears_the_mask() -> TestResult {
    pic::set_mask(0xffff);
    pic::init(pic::BASE, 0);
    let mask = pic::mask();
    pic::set_mask(0xffff);
    check_eq!(mask, 0, "mask registers after ICW1");
    Ok(())
}

fn pic_mask_holds_the_request() -> TestResult {
    connect(&[TIMER]);
    pic::set_mask(0xffff);
    timer_edge(300);
    check!(request_comes(TIMER), "no request");
    interrupt::enabled(|| tsc::delay_us(500));
    check_eq!(count(vector(TIMER)), 0, "interrupts while masked");
    pic::unmask_only(1 << TIMER);
    check!(wait_for(TIMER, 1), "no interrupt after unmasking");
    check_eq!(pic::irr() & 1, 0, "request after the interrupt");
    Ok(())
}

fn pic_lint0_mask_holds_the_request() -> TestResult {
    need!(!platform::bare(), "Bochs ignores LINT0's mask");
    connect(&[TIMER]);
    apic::write(apic::register::LVT_LINT0, apic::DELIVERY_EXTINT | apic::MASKED);
    timer_edge(300);
    check!(request_comes(TIMER), "no request");
    interrupt::enabled(|| tsc::delay_us(500));
    check_eq!(count(vector(TIMER)), 0, "interrupts with LINT0 masked");
    apic::write(apic::register::LVT_LINT0, apic::DELIVERY_EXTINT);
    check!(wait_for(TIMER, 1), "no interrupt after unmasking LINT0");
    Ok(())
}

fn pic_in_service_blocks_the_line() -> TestResult {
    connect(&[TIMER]);
    interrupt::expect(vector(TIMER), Acknowledge::Nothing);
    timer_edge(300);
    check!(wait_for(TIMER, 1), "no interrupt");
    check_eq!(pic::isr(), 1, "in service");
    timer_edge(300);
    check!(request_comes(TIMER), "no second request");
    interrupt::enabled(|| tsc::delay_us(500));
    check_eq!(count(vector(TIMER)), 1, "interrupts before EOI");
    pic::eoi(TIMER);
    check!(wait_for(TIMER, 2), "no interrupt after EOI");
    pic::eoi(TIMER);
    check_eq!(pic::isr(), 0, "in service after EOI");
    Ok(())
}

fn pic_specific_eoi() -> TestResult {
    connect(&[TIMER]);
    interrupt::expect(vector(TIMER), Acknowledge::Nothing);
    timer_edge(300);
    check!(wait_for(TIMER, 1), "no interrupt");
    pic::specific_eoi(3);
    check_eq!(pic::isr(), 1, "in service after another line's EOI");
    pic::specific_eoi(TIMER);
    check_eq!(pic::isr(), 0, "in service after the line's EOI");
    Ok(())
}

fn pic_auto_eoi() -> TestResult {
    const AUTO_EOI: u8 = 2;
    pic::init(pic::BASE, AUTO_EOI);
    connect(&[TIMER]);
    interrupt::expect(vector(TIMER), Acknowledge::Nothing);
    for i in 1..=3 {
        timer_edge(300);
        check!(wait_for(TIMER, i), "interrupt {i} did not come");
        check_eq!(pic::isr(), 0, "in service");
    }
    Ok(())
}

fn pic_priorities() -> TestResult {
    // Line 4 in service lets line 0 through, and not the other way round.
    static NESTED: Global<[u32; 2]> = Global::new([0; 2]);
    NESTED.set([0; 2]);
    connect(&[TIMER, SERIAL]);
    interrupt::on(vector(SERIAL), Acknowledge::Pic, |_| {
        lower_serial();
        timer_edge(300);
        interrupt::enabled(|| tsc::wait_us(100_000, || count(vector(TIMER)) > 0));
        NESTED.set([count(vector(TIMER)), 0]);
    });
    raise_serial();
    check!(wait_for(SERIAL, 1), "no serial interrupt");
    check_eq!(NESTED.get()[0], 1, "timer interrupts inside the serial handler");
    interrupt::on(vector(SERIAL), Acknowledge::Pic, |_| lower_serial());
    interrupt::on(vector(TIMER), Acknowledge::Pic, |_| {
        raise_serial();
        interrupt::enabled(|| tsc::delay_us(1000));
        NESTED.set([0, count(vector(SERIAL))]);
    });
    timer_edge(300);
    check!(wait_for(TIMER, 2), "no timer interrupt");
    check_eq!(NESTED.get()[1], 1, "serial interrupts up to the end of the timer handler");
    check!(wait_for(SERIAL, 2), "the serial interrupt was lost");
    Ok(())
}

fn pic_slave_through_cascade() -> TestResult {
    static IN_SERVICE: Global<u16> = Global::new(0);
    rtc::baseline();
    connect(&[CLOCK]);
    interrupt::on(vector(CLOCK), Acknowledge::Pic, |_| {
        IN_SERVICE.set(pic::isr());
        rtc::read(rtc::STATUS_C);
    });
    rtc::write(rtc::STATUS_B, rtc::HOURS_24 | rtc::PERIODIC_INTERRUPT);
    let came = wait_for(CLOCK, 5);
    rtc::baseline();
    check!(came, "{} of 5 clock interrupts", count(vector(CLOCK)));
    check_eq!(IN_SERVICE.get(), 1 << CLOCK | 1 << 2, "in service in the handler");
    check_eq!(pic::isr(), 0, "in service after EOI");
    Ok(())
}

fn pic_poll() -> TestResult {
    need!(!platform::bare(), "Bochs answers without the request bit");
    const POLL: u8 = 0x0c;
    // Not delivered to the processor, but taken by polling.
    pic::unmask_only(1 << TIMER);
    timer_edge(300);
    check!(request_comes(TIMER), "no request");
    outb(pic::MASTER, POLL);
    let answer = inb(pic::MASTER);
    check_eq!(answer & 0x87, 0x80 | TIMER, "poll answer");
    check_eq!(pic::isr() & 0xff, 1 << TIMER, "in service after the poll");
    check_eq!(pic::irr() & 1 << TIMER, 0, "request after the poll");
    pic::eoi(TIMER);
    check_eq!(pic::isr(), 0, "in service after EOI");
    Ok(())
}

fn pic_special_mask_mode() -> TestResult {
    const SET_SPECIAL_MASK: u8 = 0x68;
    const CLEAR_SPECIAL_MASK: u8 = 0x48;
    connect(&[TIMER, SERIAL]);
    interrupt::expect(vector(TIMER), Acknowledge::Nothing);
    interrupt::on(vector(SERIAL), Acknowledge::Nothing, |_| lower_serial());
    timer_edge(300);
    check!(wait_for(TIMER, 1), "no timer interrupt");
    raise_serial();
    interrupt::enabled(|| tsc::delay_us(300));
    check_eq!(count(vector(SERIAL)), 0, "serial interrupts behind the timer in service");
    // Masked in special mask mode, line 0 blocks nobody.
    outb(pic::MASTER, SET_SPECIAL_MASK);
    pic::unmask_only(1 << SERIAL);
    let came = wait_for(SERIAL, 1);
    outb(pic::MASTER, CLEAR_SPECIAL_MASK);
    pic::specific_eoi(SERIAL);
    pic::specific_eoi(TIMER);
    check!(came, "no serial interrupt in special mask mode");
    check_eq!(pic::isr(), 0, "in service");
    Ok(())
}

fn pic_rotation() -> TestResult {
    const SET_PRIORITY: u8 = 0xc0;
    // Line 3 becomes the lowest, so line 4 is the highest and goes before line 0.
    connect(&[TIMER, SERIAL]);
    interrupt::on(vector(SERIAL), Acknowledge::Pic, |_| lower_serial());
    outb(pic::MASTER, SET_PRIORITY | 3);
    timer_edge(300);
    raise_serial();
    check!(request_comes(TIMER) && request_comes(SERIAL), "no requests");
    interrupt::enabled(|| tsc::wait_us(100_000, || count(vector(TIMER)) > 0));
    check!(log() == [vector(SERIAL), vector(TIMER)], "vectors {:x?}", log());
    Ok(())
}

fn pic_interrupt_in_halt() -> TestResult {
    connect(&[TIMER]);
    pit::program(0, 2, (pit::HZ / 1000) as u16);
    for _ in 0..20 {
        cpu::wait_for_interrupt();
    }
    pit::baseline();
    check!(count(vector(TIMER)) >= 20, "{} interrupts in 20 halts", count(vector(TIMER)));
    Ok(())
}

fn elcr_round_trip() -> TestResult {
    let read = || u16::from(inb(pic::ELCR)) | u16::from(inb(pic::ELCR + 1)) << 8;
    let write = |value: u16| {
        outb(pic::ELCR, value as u8);
        outb(pic::ELCR + 1, (value >> 8) as u8);
    };
    let before = read();
    for value in [0x0c00, 0xdef8, 0] {
        write(value);
        let after = read();
        write(before);
        check_eq!(after, value, "ELCR");
    }
    // Lines 0, 1, 2, 8 and 13 are always edge-triggered.
    write(0xffff);
    let after = read();
    write(before);
    check_eq!(after & 0x2107, 0, "ELCR bits of the fixed lines");
    Ok(())
}
