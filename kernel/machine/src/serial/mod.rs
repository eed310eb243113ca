//! The first serial port as the machine's console: 115200 baud, 8 data bits, no parity, 1 stop bit.
//!
//! Bytes are queued and go out when the port takes them: a byte takes 87 µs there, and nobody waits for it. While the kernel
//! comes up, whoever queues some gives the port what it takes; afterwards its interrupt does. Incoming bytes likewise. Last
//! words wait until the port has taken them and all before them. A machine without the port is fine: output vanishes.
//!
//! Source: 16550 UART data sheet, as `uart_16550` implements it. One lock around port and queues.

// UNSAFETY: the port's registers are claimed by number.
#![allow(unsafe_code)]

mod queue;

use spin::Mutex;
use uart_16550::backend::PioBackend;

use uart_16550::spec::registers::{FifoTriggerLevel, IER, ISR, LSR};
use uart_16550::{BaudRate, Config, Uart16550};

use self::queue::Queue;
use crate::fault::{self, Fault};

/// COM1's first I/O port.
const COM1: u16 = 0x3f8;
/// Looks at a transmitter that does not get ready before it is taken for dead: a byte takes 87 µs, a look
/// about 1 µs.
const PATIENCE: u32 = 100_000;
const TRANSMIT_BYTES: usize = 4096;
const RECEIVE_BYTES: usize = 512;
/// Bytes that the port takes at once.
const FIFO_BYTES: usize = 16;
/// Bytes that are taken in at once; the port holds 16.
const RECEIVE_BURST: usize = 16;
/// Times that one interrupt looks for more to do.
const SERVICE_ROUNDS: usize = 8;

struct Console {
    uart: Option<Uart16550<PioBackend>>,
    /// Its interrupts are routed to [`handle_interrupt`].
    interrupts: bool,
    outgoing: Queue<TRANSMIT_BYTES>,
    incoming: Queue<RECEIVE_BYTES>,
}

static CONSOLE: Mutex<Console> =
    Mutex::new(Console { uart: None, interrupts: false, outgoing: Queue::new(), incoming: Queue::new() });

fn claim() -> Option<Uart16550<PioBackend>> {
    if fault::is(Fault::NoSerial) {
        return None;
    }
    // SAFETY: COM1's ports belong to the kernel; two claims at once exist only in a panic, which ends the
    // other.
    unsafe { Uart16550::new_port(COM1) }.ok()
}

/// Initialises the port. False where there is none.
pub fn start() -> bool {
    let config = Config {
        baud_rate: BaudRate::Baud115200,
        fifo_trigger_level: Some(FifoTriggerLevel::One),
        ..Config::DEFAULT
    };
    let uart = claim().and_then(|mut uart| uart.init(config).ok().map(|()| uart));
    let found = uart.is_some();
    CONSOLE.lock().uart = uart;
    found
}

/// Whether the machine has the port.
pub(crate) fn is_there() -> bool {
    CONSOLE.lock().uart.is_some()
}

/// Queues bytes. Waits for the port where there is no room for all of them, and with `wait` until it has taken them.
pub(crate) fn write_all(bytes: &[u8], wait: bool) {
    let mut console = CONSOLE.lock();
    for byte in bytes {
        if console.uart.is_none() {
            return;
        }
        while !console.outgoing.push(*byte) {
            if !console.flush_some() {
                console.uart = None;
                return;
            }
        }
    }
    if wait {
        console.flush();
    }
    console.transmit();
}

/// Sends bytes although the lock may be held: for the last words of a panic.
pub(crate) fn write_in_panic(bytes: &[u8]) {
    match CONSOLE.try_lock() {
        Some(mut console) => {
            console.flush();
            if let Some(uart) = console.uart.as_mut() {
                send(uart, bytes);
            }
        }
        None => {
            if let Some(mut uart) = claim() {
                send(&mut uart, bytes);
            }
        }
    }
}

/// False where the transmitter is stuck.
fn send(uart: &mut Uart16550<PioBackend>, mut bytes: &[u8]) -> bool {
    let mut patience = PATIENCE;
    while !bytes.is_empty() {
        let sent = uart.send_bytes(bytes);
        bytes = &bytes[sent..];
        patience = if sent == 0 { patience - 1 } else { PATIENCE };
        if patience == 0 {
            return false;
        }
    }
    true
}

/// Sends what is queued and waits until the last bit has left the port.
pub(crate) fn drain() {
    // The lock can be held only where a panic interrupted its holder, and then what is queued is lost.
    let Some(mut console) = CONSOLE.try_lock() else { return };
    console.flush();
    let Some(uart) = console.uart.as_mut() else { return };
    for _ in 0..PATIENCE {
        if uart.lsr().contains(LSR::TRANSMITTER_EMPTY) {
            return;
        }
    }
}

/// Turns on the port's interrupts. The interrupt must be routed to [`handle_interrupt`].
pub(crate) fn enable_interrupts() {
    let mut console = CONSOLE.lock();
    if let Some(uart) = console.uart.as_mut() {
        uart.enable_interrupts(IER::DATA_READY);
        console.interrupts = true;
        console.transmit();
    }
}

/// Queues the bytes for which there is room now, and tells how many those are. Without a port all of them are dropped.
pub(crate) fn write(bytes: &[u8]) -> usize {
    let mut console = CONSOLE.lock();
    if console.uart.is_none() {
        return bytes.len();
    }
    let idle = console.outgoing.is_empty();
    let taken = bytes.iter().take_while(|byte| console.outgoing.push(**byte)).count();
    if idle {
        console.transmit();
    }
    taken
}

/// The next byte that came in.
pub(crate) fn read() -> Option<u8> {
    CONSOLE.lock().incoming.pop()
}

/// Serves the port's interrupt. Its line is edge triggered: the port must have nothing left to say before
/// the next edge can come.
pub(crate) fn handle_interrupt() {
    let mut console = CONSOLE.lock();
    for _ in 0..SERVICE_ROUNDS {
        console.receive();
        console.transmit();
        // A clear bit means that something is pending.
        let pending = |uart: &mut Uart16550<PioBackend>| !uart.isr().contains(ISR::INTERRUPT_STATUS);
        if !console.uart.as_mut().is_some_and(pending) {
            return;
        }
    }
}

impl Console {
    fn receive(&mut self) {
        let Some(uart) = self.uart.as_mut() else { return };
        for _ in 0..RECEIVE_BURST {
            let Ok(byte) = uart.try_receive_byte() else { return };
            // Where nobody reads, the oldest bytes win: they are what a person typed first.
            self.incoming.push(byte);
        }
    }

    /// Sends what is queued, waiting for the transmitter.
    fn flush(&mut self) {
        while !self.outgoing.is_empty() && self.flush_some() {}
    }

    /// Sends as much of it as the port takes at once, waiting for the transmitter. False where that is stuck.
    fn flush_some(&mut self) -> bool {
        let Some(uart) = self.uart.as_mut() else { return false };
        let front = self.outgoing.front();
        let some = front.get(..FIFO_BYTES).unwrap_or(front);
        let sends = send(uart, some);
        let sent = some.len();
        if sends {
            self.outgoing.discard(sent);
        }
        sends
    }

    /// Gives the port what it takes, and asks for an interrupt while something is left.
    fn transmit(&mut self) {
        let Some(uart) = self.uart.as_mut() else { return };
        let sent = uart.send_bytes(self.outgoing.front());
        self.outgoing.discard(sent);
        let wanted = self.interrupts && !self.outgoing.is_empty();
        if wanted != uart.config().interrupts.contains(IER::THR_EMPTY) {
            if wanted {
                uart.enable_interrupts(IER::THR_EMPTY);
            } else {
                uart.disable_interrupts(IER::THR_EMPTY);
            }
        }
    }
}
