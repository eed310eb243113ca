use super::*;
use proptest::prelude::*;
extern crate std;
use std::collections::VecDeque;
use std::vec::Vec;

/// A console that takes `room` bytes.
#[derive(Default)]
struct Console {
    taken: Vec<u8>,
    room: usize,
}

impl ConsoleSink for Console {
    fn put(&mut self, byte: u8) -> bool {
        let takes = self.room > 0;
        if takes {
            self.room -= 1;
            self.taken.push(byte);
        }
        takes
    }
}

fn console(room: usize) -> Console {
    Console { taken: Vec::new(), room }
}

fn write(uart: &mut Uart, offset: u16, value: u8) {
    uart.write(offset, value, &mut console(usize::MAX)).unwrap();
}

fn read(uart: &mut Uart, offset: u16) -> u8 {
    uart.read(offset).unwrap()
}

#[test]
fn software_detects_a_16550a() {
    let mut uart = Uart::new();
    write(&mut uart, offset::INTERRUPT_ENABLE, 0xff);
    assert_eq!(read(&mut uart, offset::INTERRUPT_ENABLE), 0x0f);
    write(&mut uart, offset::INTERRUPT_ENABLE, 0);
    write(&mut uart, offset::INTERRUPT_ID_OR_FIFO_CONTROL, FIFO_ENABLE | 1 << 5);
    assert_eq!(read(&mut uart, offset::INTERRUPT_ID_OR_FIFO_CONTROL), 0xc1);
    write(&mut uart, offset::SCRATCH, 0xa5);
    assert_eq!(read(&mut uart, offset::SCRATCH), 0xa5);
    write(&mut uart, offset::LINE_CONTROL, 0x83);
    write(&mut uart, offset::DATA, 0x34);
    write(&mut uart, offset::INTERRUPT_ENABLE, 0x12);
    assert_eq!((read(&mut uart, offset::DATA), read(&mut uart, offset::INTERRUPT_ENABLE)), (0x34, 0x12));
    write(&mut uart, offset::LINE_CONTROL, 0x03);
    assert_eq!(read(&mut uart, offset::INTERRUPT_ENABLE), 0);
}

#[test]
fn loopback_routes_modem_lines_and_data() {
    let mut uart = Uart::new();
    write(&mut uart, offset::MODEM_CONTROL, 0x1a);
    assert_eq!(read(&mut uart, offset::MODEM_STATUS) & 0xf0, 0x90);
    // The first read reported DSR dropping; then the deltas are gone.
    assert_eq!(read(&mut uart, offset::MODEM_STATUS), 0x90);
    write(&mut uart, offset::DATA, b'x');
    assert!(!uart.receive(b'y'));
    assert_eq!(read(&mut uart, offset::LINE_STATUS) & LINE_STATUS_DATA_READY, LINE_STATUS_DATA_READY);
    write(&mut uart, offset::DATA, b'z');
    assert_eq!(read(&mut uart, offset::LINE_STATUS) & LINE_STATUS_OVERRUN, LINE_STATUS_OVERRUN);
    assert_eq!(read(&mut uart, offset::LINE_STATUS) & LINE_STATUS_OVERRUN, 0);
    assert_eq!(read(&mut uart, offset::DATA), b'x');
    write(&mut uart, offset::MODEM_CONTROL, 0x0b);
    assert_eq!(read(&mut uart, offset::MODEM_STATUS), 0xb0 | 0x02);
}

#[test]
fn transmitter_interrupt_comes_back_on_enable_and_goes_on_identification() {
    let mut uart = Uart::new();
    write(&mut uart, offset::MODEM_CONTROL, 0x08);
    assert!(!uart.irq());
    write(&mut uart, offset::INTERRUPT_ENABLE, 0x02);
    assert!(uart.irq());
    assert_eq!(read(&mut uart, offset::INTERRUPT_ID_OR_FIFO_CONTROL), INTERRUPT_TRANSMITTER_EMPTY);
    assert!(!uart.irq());
    write(&mut uart, offset::INTERRUPT_ENABLE, 0);
    write(&mut uart, offset::INTERRUPT_ENABLE, 0x02);
    assert!(uart.irq());
    write(&mut uart, offset::MODEM_CONTROL, 0);
    assert!(!uart.irq(), "OUT2 gates the line");
}

#[test]
fn a_full_console_holds_the_transmitter() {
    let mut uart = Uart::new();
    write(&mut uart, offset::MODEM_CONTROL, 0x08);
    write(&mut uart, offset::INTERRUPT_ID_OR_FIFO_CONTROL, FIFO_ENABLE);
    write(&mut uart, offset::INTERRUPT_ENABLE, 0x02);
    let mut sink = console(1);
    for byte in 0..20 {
        uart.write(offset::DATA, byte, &mut sink).unwrap();
    }
    assert_eq!(read(&mut uart, offset::LINE_STATUS), 0);
    assert!(uart.has_unsent() && !uart.irq());
    sink.room = 4;
    uart.flush(&mut sink);
    assert!(uart.has_unsent() && !uart.irq());
    sink.room = 100;
    uart.flush(&mut sink);
    // One went at once, sixteen waited, three were lost.
    assert_eq!(sink.taken, (0..17).collect::<Vec<u8>>());
    assert!(uart.irq());
    assert_eq!(read(&mut uart, offset::LINE_STATUS), 0x60);
}

#[test]
fn trigger_level_decides_between_data_and_timeout() {
    let mut uart = Uart::new();
    write(&mut uart, offset::INTERRUPT_ID_OR_FIFO_CONTROL, FIFO_ENABLE | 1 << FIFO_TRIGGER_SHIFT);
    write(&mut uart, offset::INTERRUPT_ENABLE, 0x01);
    for count in 1..=4 {
        assert!(uart.receive(count));
        let expected = if count < 4 { INTERRUPT_CHARACTER_TIMEOUT } else { INTERRUPT_RECEIVED_DATA };
        assert_eq!(read(&mut uart, offset::INTERRUPT_ID_OR_FIFO_CONTROL) & 0x0f, expected);
    }
    for count in 1..=4 {
        assert_eq!(read(&mut uart, offset::DATA), count);
    }
    assert_eq!(read(&mut uart, offset::INTERRUPT_ID_OR_FIFO_CONTROL) & 0x0f, INTERRUPT_NONE);
}

proptest! {
    /// Bytes come out in order, none twice, none lost unless refused.
    #[test]
    fn receiver_is_a_queue(steps in prop::collection::vec(any::<(bool, u8)>(), 0..200), fifo: bool) {
        let mut uart = Uart::new();
        if fifo {
            write(&mut uart, offset::INTERRUPT_ID_OR_FIFO_CONTROL, FIFO_ENABLE);
        }
        let depth = if fifo { FIFO_SIZE } else { 1 };
        let mut model = VecDeque::new();
        for (push, byte) in steps {
            prop_assert_eq!(uart.room(), depth - model.len());
            if push {
                let room = model.len() < depth;
                prop_assert_eq!(uart.receive(byte), room);
                if room {
                    model.push_back(byte);
                }
            } else {
                prop_assert_eq!(read(&mut uart, offset::LINE_STATUS) & 1 != 0, !model.is_empty());
                prop_assert_eq!(read(&mut uart, offset::DATA), model.pop_front().unwrap_or(0));
            }
        }
    }

    /// The line is asserted exactly when the identification register names an interrupt.
    #[test]
    fn line_follows_identification(steps in prop::collection::vec(any::<(u8, u8, u8)>(), 0..100)) {
        let mut uart = Uart::new();
        let mut sink = console(0);
        for (action, register, value) in steps {
            match action % 4 {
                0 => { uart.write(u16::from(register % 8), value, &mut sink).unwrap(); }
                1 => { uart.read(u16::from(register % 8)).unwrap(); }
                2 => { uart.receive(value); }
                _ => { sink.room = usize::from(value % 8); uart.flush(&mut sink); }
            }
            let gate = uart.modem_control & (ModemControl::OUT2 | ModemControl::LOOPBACK) == ModemControl::OUT2;
            prop_assert_eq!(uart.irq(), gate && uart.interrupt_id() != INTERRUPT_NONE);
            prop_assert!(uart.interrupt_enable.bits() <= 0x0f);
        }
    }
}
