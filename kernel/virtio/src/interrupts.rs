//! How a function tells its driver something: by MSI-X, or by its interrupt line where that is off.
//!
//! Sources: VIRTIO 1.2, "ISR status capability", "MSI-X Vector Configuration"; PCI Local Bus Specification 3.0, "MSI-X Capability
//! and Table Structures".

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering::SeqCst};

use spin::Mutex;

use crate::MAX_QUEUES;

/// Vectors of a function: one for each queue, one for changes of its configuration.
pub(crate) const VECTORS: usize = MAX_QUEUES + 1;
/// The number that stands for none.
pub(crate) const NO_VECTOR: u16 = 0xffff;
/// Bytes of a vector's entry in the table.
const ENTRY_BYTES: u64 = 16;
/// An entry's last word: it is masked.
const MASKED: u32 = 1;

/// Bits of the ISR status.
const ISR_QUEUE: u8 = 1 << 0;
const ISR_CONFIGURATION: u8 = 1 << 1;

/// What there is to tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// Requests were given back.
    Queue,
    /// The device's configuration, or its state, has changed.
    Configuration,
}

/// The way of a function's interrupts to the VM.
pub trait Signals {
    /// Writes a message: see [`devices::msi`].
    fn message(&mut self, address: u64, data: u32);

    /// Drives the function's interrupt line.
    fn line(&mut self, high: bool);
}

/// What a function needs of the world beside its own VM.
pub trait Wires<I, M>: Signals {
    /// The time, in nanoseconds since the machine started.
    fn now(&mut self) -> vswitch::Nanos {
        0
    }

    /// Uses a device of some VM, with that VM's memory and the wires of that device. `None` where it cannot be reached now.
    fn reach<R>(
        &mut self,
        owner: usize,
        with: impl FnOnce(&crate::Function<I>, &M, &mut dyn Signals) -> R,
    ) -> Option<R> {
        let _ = (owner, with);
        None
    }

    /// Has the VM of a device look for what has come for it.
    fn call(&mut self, owner: usize) {
        let _ = owner;
    }

    /// Has the function's [`advance`](crate::Function::advance) called at this time, or soon after.
    fn wake_at(&mut self, at: vswitch::Nanos) {
        let _ = at;
    }
}

/// What the function's PCI configuration says about interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Switches {
    /// MSI-X is on.
    pub(crate) messages: bool,
    /// All of its vectors are masked.
    pub(crate) masked: bool,
    /// The line is not used.
    pub(crate) no_line: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    address: u64,
    data: u32,
    control: u32,
}

const RESET: Entry = Entry { address: 0, data: 0, control: MASKED };

#[derive(Debug)]
struct Table {
    switches: Switches,
    entries: [Entry; VECTORS],
    /// A bit for each vector that waits to be unmasked.
    pending: u32,
}

impl Table {
    /// The message of a vector, which waits where it is masked.
    fn fire(&mut self, vector: usize) -> Option<(u64, u32)> {
        let entry = self.entries.get(vector)?;
        if self.switches.masked || entry.control & MASKED != 0 {
            self.pending |= 1 << vector;
            return None;
        }
        self.pending &= !(1 << vector);
        Some((entry.address, entry.data))
    }

    /// The message of one vector that waits no more.
    fn next_due(&mut self) -> Option<(u64, u32)> {
        if !self.switches.messages || self.switches.masked {
            return None;
        }
        let due = |vector: &usize| {
            self.pending >> vector & 1 != 0
                && self.entries.get(*vector).is_some_and(|it| it.control & MASKED == 0)
        };
        let vector = (0..VECTORS).find(due)?;
        self.fire(vector)
    }
}

/// A function's interrupts.
#[derive(Debug)]
pub(crate) struct Interrupts {
    table: Mutex<Table>,
    isr: AtomicU8,
    /// The line is in use: no messages, and not switched off.
    lined: AtomicBool,
    /// The vector for changes of the configuration.
    configuration: AtomicU16,
}

impl Interrupts {
    pub(crate) const fn new() -> Self {
        Self {
            table: Mutex::new(Table {
                switches: Switches { messages: false, masked: false, no_line: false },
                entries: [RESET; VECTORS],
                pending: 0,
            }),
            isr: AtomicU8::new(0),
            lined: AtomicBool::new(true),
            configuration: AtomicU16::new(NO_VECTOR),
        }
    }

    /// The function starts over: nothing waits. With `all` the table, too.
    pub(crate) fn reset(&self, all: bool, signals: &mut (impl Signals + ?Sized)) {
        let mut table = self.table.lock();
        table.pending = 0;
        if all {
            table.entries = [RESET; VECTORS];
            table.switches = Switches::default();
        }
        drop(table);
        self.configuration.store(NO_VECTOR, SeqCst);
        if self.isr.swap(0, SeqCst) != 0 {
            signals.line(false);
        }
    }

    pub(crate) fn configuration_vector(&self) -> u16 {
        self.configuration.load(SeqCst)
    }

    /// Sets the vector for changes of the configuration, where there is such a one, else none.
    pub(crate) fn set_configuration_vector(&self, vector: u16) {
        self.configuration.store(valid(vector), SeqCst);
    }

    /// Tells the driver. `vector` is the queue's.
    pub(crate) fn raise(&self, what: Signal, vector: u16, signals: &mut (impl Signals + ?Sized)) {
        let vector = if what == Signal::Configuration { self.configuration_vector() } else { vector };
        let mut table = self.table.lock();
        if table.switches.messages {
            let message = table.fire(vector.into());
            drop(table);
            if let Some((address, data)) = message {
                signals.message(address, data);
            }
            return;
        }
        drop(table);
        let bit = if what == Signal::Queue { ISR_QUEUE } else { ISR_CONFIGURATION };
        self.isr.fetch_or(bit, SeqCst);
        if self.lined.load(SeqCst) {
            signals.line(true);
        }
    }

    /// Reads the ISR status, which ends the line's interrupt.
    pub(crate) fn read_isr(&self, signals: &mut (impl Signals + ?Sized)) -> u8 {
        let isr = self.isr.swap(0, SeqCst);
        if isr != 0 {
            signals.line(false);
        }
        isr
    }

    /// The PCI configuration is this now.
    pub(crate) fn switch(&self, switches: Switches, signals: &mut (impl Signals + ?Sized)) {
        let mut table = self.table.lock();
        if table.switches == switches {
            return;
        }
        table.switches = switches;
        drop(table);
        let lined = !switches.messages && !switches.no_line;
        self.lined.store(lined, SeqCst);
        signals.line(lined && self.isr.load(SeqCst) != 0);
        self.send_due(signals);
    }

    fn send_due(&self, signals: &mut (impl Signals + ?Sized)) {
        for _ in 0..VECTORS {
            let Some((address, data)) = self.table.lock().next_due() else { return };
            signals.message(address, data);
        }
    }

    /// Reads an aligned 32-bit word of the table.
    pub(crate) fn read_table(&self, offset: u64) -> Option<u32> {
        let table = self.table.lock();
        let entry = table.entries.get((offset / ENTRY_BYTES) as usize)?;
        Some(match offset % ENTRY_BYTES / 4 {
            0 => entry.address as u32,
            1 => (entry.address >> 32) as u32,
            2 => entry.data,
            _ => entry.control,
        })
    }

    /// Writes an aligned 32-bit word of the table.
    pub(crate) fn write_table(
        &self,
        offset: u64,
        value: u32,
        signals: &mut (impl Signals + ?Sized),
    ) -> Option<()> {
        let mut table = self.table.lock();
        let entry = table.entries.get_mut((offset / ENTRY_BYTES) as usize)?;
        match offset % ENTRY_BYTES / 4 {
            // The lowest two bits are zero.
            0 => entry.address = entry.address & !0xffff_ffff | u64::from(value & !3),
            1 => entry.address = entry.address & 0xffff_ffff | u64::from(value) << 32,
            2 => entry.data = value,
            _ => entry.control = value & MASKED,
        }
        drop(table);
        self.send_due(signals);
        Some(())
    }

    /// Reads an aligned 32-bit word of the pending bits.
    pub(crate) fn read_pending(&self, offset: u64) -> u32 {
        if offset == 0 { self.table.lock().pending } else { 0 }
    }
}

/// The vector, or [`NO_VECTOR`] where there is none of that number.
pub(crate) const fn valid(vector: u16) -> u16 {
    if (vector as usize) < VECTORS { vector } else { NO_VECTOR }
}
