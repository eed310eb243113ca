//! The 16550A on COM1: identification, loopback, FIFOs, interrupts. Nothing is printed while a test has it.

use selftest::interrupt::{self, Acknowledge, count};
use selftest::uart::{
    DATA, DATA_READY, ENABLE_LINE, ENABLE_RECEIVE, ENABLE_TRANSMIT, HOLDING_EMPTY, IDENTIFICATION,
    INTERRUPT_ENABLE, LINE, LINE_CONTROL, LINE_STATUS, LOOPBACK, MODEM_CONTROL, MODEM_STATUS, NONE_PENDING,
    OUT2, OVERRUN, SCRATCH, read, write,
};
use selftest::{Test, TestResult, acpi, check, check_eq, ioapic, need, pic, platform, tests, tsc};

use crate::pic::connect;

pub(crate) const TESTS: &[Test] = tests![
    uart_scratch,
    uart_identifies_as_16550a,
    uart_divisor_latch,
    uart_line_control_round_trip,
    uart_interrupt_enable_round_trip,
    uart_loopback_modem_lines,
    uart_loopback_data,
    uart_loopback_fifo_order,
    uart_loopback_overrun,
    uart_fifo_reset,
    uart_receive_identification,
    uart_fifo_trigger_and_timeout,
    uart_identification_priority,
    uart_transmit_interrupt,
    uart_transmit_interrupt_through_ioapic,
    uart_out2_gates_the_line,
];

const SERIAL: u8 = pic::BASE + LINE;
const DLAB: u8 = 0x80;
const FIFO_ON: u8 = 1;
const FIFO_CLEAR: u8 = 6;
/// Interrupt identifications (low four bits).
const RECEIVED: u8 = 4;
const TIMEOUT: u8 = 12;
const LINE_PENDING: u8 = 6;
const TRANSMIT_EMPTY: u8 = 2;

/// In loopback mode with empty FIFOs of the given control.
fn loopback(fifo: u8) {
    write(INTERRUPT_ENABLE, 0);
    write(MODEM_CONTROL, LOOPBACK);
    write(IDENTIFICATION, fifo | FIFO_CLEAR);
    read(LINE_STATUS);
    read(DATA);
}

/// Sends a byte and waits until it is out.
fn send(byte: u8) -> bool {
    write(DATA, byte);
    tsc::wait_us(5000, || read(LINE_STATUS) & 0x60 == 0x60)
}

fn received() -> bool {
    tsc::wait_us(5000, || read(LINE_STATUS) & DATA_READY != 0)
}

fn identification() -> u8 {
    read(IDENTIFICATION) & 15
}

fn uart_scratch() -> TestResult {
    for value in [0, 0xff, 0x5a] {
        write(SCRATCH, value);
        check_eq!(read(SCRATCH), value, "scratch register");
    }
    Ok(())
}

fn uart_identifies_as_16550a() -> TestResult {
    write(IDENTIFICATION, FIFO_ON);
    check_eq!(read(IDENTIFICATION) & 0xc0, 0xc0, "FIFO bits with FIFOs on");
    write(IDENTIFICATION, 0);
    check_eq!(read(IDENTIFICATION) & 0xc0, 0, "FIFO bits with FIFOs off");
    Ok(())
}

fn uart_divisor_latch() -> TestResult {
    write(LINE_CONTROL, DLAB | 3);
    for divisor in [0x1234_u16, 1, 12] {
        write(DATA, divisor as u8);
        write(INTERRUPT_ENABLE, (divisor >> 8) as u8);
        let read_back = u16::from(read(DATA)) | u16::from(read(INTERRUPT_ENABLE)) << 8;
        check_eq!(read_back, divisor, "divisor");
    }
    write(DATA, 1);
    write(INTERRUPT_ENABLE, 0);
    write(LINE_CONTROL, 3);
    check_eq!(read(INTERRUPT_ENABLE), 0, "interrupt enable behind the divisor");
    Ok(())
}

fn uart_line_control_round_trip() -> TestResult {
    for value in [0x03, 0x1f, 0x00, 0x03] {
        write(LINE_CONTROL, value);
        check_eq!(read(LINE_CONTROL), value, "line control");
    }
    Ok(())
}

fn uart_interrupt_enable_round_trip() -> TestResult {
    for value in [0x0f, 0x05, 0x00] {
        write(INTERRUPT_ENABLE, value);
        check_eq!(read(INTERRUPT_ENABLE), value, "interrupt enable");
    }
    Ok(())
}

fn uart_loopback_modem_lines() -> TestResult {
    // DTR, RTS, OUT1, OUT2 appear as DSR, CTS, RI, DCD.
    for (outputs, inputs) in [(0, 0), (1, 0x20), (2, 0x10), (4, 0x40), (8, 0x80), (15, 0xf0)] {
        write(MODEM_CONTROL, LOOPBACK | outputs);
        check_eq!(read(MODEM_STATUS) & 0xf0, inputs, "modem status with outputs {outputs:#x}");
    }
    Ok(())
}

fn uart_loopback_data() -> TestResult {
    loopback(0);
    for byte in [0x00, 0x55, 0xff, b'A'] {
        check!(send(byte), "the transmitter stays busy");
        check!(received(), "nothing received");
        check_eq!(read(DATA), byte, "received byte");
        check_eq!(read(LINE_STATUS) & DATA_READY, 0, "data ready after reading");
    }
    Ok(())
}

fn uart_loopback_fifo_order() -> TestResult {
    loopback(FIFO_ON);
    for byte in 0..16 {
        check!(send(byte + 0x30), "the transmitter stays busy");
    }
    for byte in 0..16 {
        check!(read(LINE_STATUS) & DATA_READY != 0, "only {byte} bytes received");
        check_eq!(read(DATA), byte + 0x30, "byte {byte}");
    }
    check_eq!(read(LINE_STATUS) & (DATA_READY | OVERRUN), 0, "line status at the end");
    Ok(())
}

/// Sends 17 bytes into the FIFO of 16, and does not read the line status after the last.
fn overrun() -> TestResult {
    for byte in 0..16 {
        check!(send(byte), "the transmitter stays busy");
    }
    write(DATA, 16);
    tsc::delay_us(1000);
    Ok(())
}

fn uart_loopback_overrun() -> TestResult {
    loopback(FIFO_ON);
    overrun()?;
    check!(read(LINE_STATUS) & OVERRUN != 0, "no overrun after 17 bytes");
    check_eq!(read(LINE_STATUS) & OVERRUN, 0, "overrun read again");
    check_eq!(read(DATA), 0, "first byte");
    Ok(())
}

fn uart_fifo_reset() -> TestResult {
    need!(!platform::bare(), "Bochs keeps the byte");
    loopback(FIFO_ON);
    for byte in 0..5 {
        check!(send(byte), "the transmitter stays busy");
    }
    check!(received(), "nothing received");
    write(IDENTIFICATION, FIFO_ON | 2);
    check_eq!(read(LINE_STATUS) & DATA_READY, 0, "data ready after the reset");
    Ok(())
}

fn uart_receive_identification() -> TestResult {
    loopback(0);
    check_eq!(identification(), NONE_PENDING, "before");
    check!(send(0x42) && received(), "nothing received");
    check_eq!(identification(), NONE_PENDING, "received, not enabled");
    write(INTERRUPT_ENABLE, ENABLE_RECEIVE);
    check_eq!(identification(), RECEIVED, "received and enabled");
    read(DATA);
    check_eq!(identification(), NONE_PENDING, "after reading the byte");
    Ok(())
}

fn uart_fifo_trigger_and_timeout() -> TestResult {
    const TRIGGER_14: u8 = 0xc0;
    loopback(FIFO_ON | TRIGGER_14);
    write(INTERRUPT_ENABLE, ENABLE_RECEIVE);
    check!(send(1) && received(), "nothing received");
    check!(tsc::wait_us(20_000, || identification() == TIMEOUT), "no timeout, but {:#x}", identification());
    check_eq!(read(DATA), 1, "received byte");
    check_eq!(identification(), NONE_PENDING, "after reading it");
    for byte in 1..=14 {
        check!(send(byte), "the transmitter stays busy");
    }
    check!(tsc::wait_us(5000, || identification() == RECEIVED), "14 bytes, but {:#x}", identification());
    write(IDENTIFICATION, FIFO_ON | FIFO_CLEAR);
    Ok(())
}

fn uart_identification_priority() -> TestResult {
    loopback(FIFO_ON);
    overrun()?;
    write(INTERRUPT_ENABLE, ENABLE_RECEIVE | ENABLE_TRANSMIT | ENABLE_LINE);
    check_eq!(identification(), LINE_PENDING, "line status first");
    read(LINE_STATUS);
    let next = identification();
    check!(next == RECEIVED || next == TIMEOUT, "then received data: {next:#x}");
    for _ in 0..16 {
        read(DATA);
    }
    need!(!platform::bare(), "Bochs forgets the empty transmitter by then");
    check_eq!(identification(), TRANSMIT_EMPTY, "then the empty transmitter");
    check_eq!(identification(), NONE_PENDING, "which reading clears");
    Ok(())
}

fn uart_transmit_interrupt() -> TestResult {
    connect(&[LINE]);
    interrupt::on(SERIAL, Acknowledge::Pic, |_| {
        read(IDENTIFICATION);
    });
    write(MODEM_CONTROL, OUT2);
    write(INTERRUPT_ENABLE, ENABLE_TRANSMIT);
    let wait = |wanted| interrupt::enabled(|| tsc::wait_us(100_000, || count(SERIAL) >= wanted));
    check!(wait(1), "no interrupt by the empty transmitter");
    interrupt::enabled(|| tsc::delay_us(500));
    check_eq!(count(SERIAL), 1, "interrupts after reading the identification");
    for i in 2..=5 {
        write(DATA, b'.');
        check!(wait(i), "no interrupt after byte {i}");
    }
    check!(read(LINE_STATUS) & HOLDING_EMPTY != 0, "the transmitter is not empty");
    write(INTERRUPT_ENABLE, 0);
    write(DATA, b'\n');
    interrupt::enabled(|| tsc::delay_us(1000));
    check_eq!(count(SERIAL), 5, "interrupts");
    Ok(())
}

fn uart_transmit_interrupt_through_ioapic() -> TestResult {
    const VECTOR: u8 = 0x58;
    interrupt::on(VECTOR, Acknowledge::LocalApic, |_| {
        read(IDENTIFICATION);
    });
    ioapic::route(acpi::isa_gsi(LINE), u32::from(VECTOR));
    write(MODEM_CONTROL, OUT2);
    for i in 1..=3 {
        write(INTERRUPT_ENABLE, 0);
        write(INTERRUPT_ENABLE, ENABLE_TRANSMIT);
        check!(interrupt::enabled(|| tsc::wait_us(100_000, || count(VECTOR) >= i)), "no interrupt {i}");
    }
    Ok(())
}

fn uart_out2_gates_the_line() -> TestResult {
    need!(platform::hypervisor(), "QEMU and Bochs do not model the gate");
    connect(&[LINE]);
    interrupt::on(SERIAL, Acknowledge::Pic, |_| write(INTERRUPT_ENABLE, 0));
    write(MODEM_CONTROL, 0);
    write(INTERRUPT_ENABLE, ENABLE_TRANSMIT);
    interrupt::enabled(|| tsc::delay_us(500));
    check_eq!(count(SERIAL), 0, "interrupts without OUT2");
    write(MODEM_CONTROL, OUT2);
    check!(interrupt::enabled(|| tsc::wait_us(100_000, || count(SERIAL) >= 1)), "no interrupt with OUT2");
    Ok(())
}
