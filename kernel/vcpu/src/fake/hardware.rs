//! A made-up machine's devices, that watches over what is done to them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

use super::FakeFunction;
use crate::{Hardware, HostRange, Hpa, Message, PciFunction, PinMode, PowerPorts, SourceId};

/// Where local APICs are.
const INTERRUPTS: (u64, u64) = (0xfee0_0000, 0xfeef_ffff);

/// The port of its PM1 control register.
const PM1_CONTROL: u16 = 0x604;

#[derive(Default)]
struct State {
    functions: BTreeMap<u16, FakeFunction>,
    /// What was decoded before anybody came.
    firmware: BTreeSet<(u16, usize, u64, u64)>,
    untouchable: BTreeSet<u16>,
    open: BTreeMap<u16, Message>,
    next: u16,
    most: usize,
    came: VecDeque<SourceId>,
    writes: Vec<(PciFunction, u16, u8, u32)>,
}

/// The devices. After each change it asserts that no function that decodes memory decodes what the memory map has, that what a function can send is a
/// message that is open, and that nobody touches what is not to be touched. There are no ports but those that switch power, no pins, and no routing by bridges.
#[derive(Default)]
pub struct FakeHardware {
    memory: Vec<HostRange>,
    state: Mutex<State>,
}

impl State {
    fn check(&self) {
        for (at, function) in &self.functions {
            for message in function.armed() {
                let open = self.open.values().any(|open| *open == message);
                assert!(open, "{:?} can send {message:x?}, which is not open", PciFunction(*at));
            }
        }
    }

    fn check_memory(&self, memory: &[HostRange]) {
        let ranges = memory.iter().map(|range| (range.start.0, range.start.0 + (range.length - 1)));
        let ranges: Vec<_> = ranges.chain([INTERRUPTS]).collect();
        for (at, function) in &self.functions {
            for (bar, first, last) in function.decoded() {
                if self.firmware.contains(&(*at, bar, first, last)) {
                    continue;
                }
                let over = ranges.iter().find(|range| first <= range.1 && range.0 <= last);
                assert!(over.is_none(), "{:?}: {bar} at {first:#x} lies over {over:x?}", PciFunction(*at));
            }
        }
    }

    fn touch(&self, function: PciFunction, register: u16, size: u8) {
        assert!(!self.untouchable.contains(&function.0), "{function:?} is touched");
        assert!(matches!(size, 1 | 2 | 4) && register.is_multiple_of(size.into()));
    }
}

impl FakeHardware {
    /// A machine with this memory, no functions, and at most `most` messages.
    pub fn new(memory: Vec<HostRange>, most: usize) -> Self {
        Self { memory, state: Mutex::new(State { most, ..State::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a function in. What it decodes by now may lie over anything: so did firmware leave it.
    pub fn add(&self, at: PciFunction, function: FakeFunction) {
        let mut state = self.state();
        let decoded = function.decoded().into_iter();
        state.firmware.extend(decoded.map(|(bar, first, last)| (at.0, bar, first, last)));
        state.functions.insert(at.0, function);
    }

    /// Takes one out.
    pub fn remove(&self, at: PciFunction) -> Option<FakeFunction> {
        self.state().functions.remove(&at.0)
    }

    /// From now on nobody may touch this function.
    pub fn leave_alone(&self, at: PciFunction) {
        self.state().untouchable.insert(at.0);
    }

    /// Looks at a function, or does something to it that software does not.
    pub fn with<R>(&self, at: PciFunction, what: impl FnOnce(&mut FakeFunction) -> R) -> Option<R> {
        self.state().functions.get_mut(&at.0).map(what)
    }

    /// The messages that are open.
    pub fn open(&self) -> Vec<(SourceId, Message)> {
        self.state().open.iter().map(|(source, message)| (SourceId(*source), *message)).collect()
    }

    /// The writes to configuration space since the last call.
    pub fn take_writes(&self) -> Vec<(PciFunction, u16, u8, u32)> {
        std::mem::take(&mut self.state().writes)
    }

    /// An interrupt comes.
    pub fn interrupt(&self, source: SourceId) {
        self.state().came.push_back(source);
    }
}

impl Hardware for FakeHardware {
    fn memory_map(&self) -> &[HostRange] {
        &self.memory
    }

    fn acpi_tables(&self) -> &[([u8; 4], Hpa)] {
        &[]
    }

    fn overrides(&self) -> [(u32, PinMode); 16] {
        std::array::from_fn(|line| (line as u32, PinMode { level: false, active_low: false }))
    }

    fn power_ports(&self) -> PowerPorts {
        PowerPorts { pm1_control: [PM1_CONTROL, 0], reset: 0 }
    }

    fn port_read(&self, _port: u16, size: u8) -> u32 {
        u32::MAX >> (32 - 8 * u32::from(size))
    }

    fn port_write(&self, _port: u16, _size: u8, _value: u32) {}

    fn config_read(&self, function: PciFunction, register: u16, size: u8) -> u32 {
        let state = self.state();
        state.touch(function, register, size);
        let ones = u32::MAX >> (32 - 8 * u32::from(size));
        state.functions.get(&function.0).map_or(ones, |its| its.read(register.into(), size.into()))
    }

    fn config_write(&self, function: PciFunction, register: u16, size: u8, value: u32) {
        let mut state = self.state();
        state.touch(function, register, size);
        state.writes.push((function, register, size, value));
        if let Some(its) = state.functions.get_mut(&function.0) {
            its.write(register.into(), size.into(), value);
        }
        state.check();
        state.check_memory(&self.memory);
    }

    fn register_read(&self, at: Hpa, size: u8) -> Option<u64> {
        assert!(at.0.is_multiple_of(size.into()));
        let state = self.state();
        let mut functions = state.functions.values();
        functions.find_map(|its| Some(its.register_read(its.register_at(at.0)?, size)))
    }

    fn register_write(&self, at: Hpa, size: u8, value: u64) -> bool {
        assert!(at.0.is_multiple_of(size.into()));
        let mut state = self.state();
        let written = state.functions.values_mut().any(|its| {
            let place = its.register_at(at.0);
            place.is_some_and(|place| {
                its.register_write(place, size, value);
                true
            })
        });
        state.check();
        written
    }

    fn open_pin(&self, _gsi: u32, _mode: PinMode) -> Option<SourceId> {
        None
    }

    fn unmask_pin(&self, _gsi: u32) {}

    fn close_pin(&self, _gsi: u32) {}

    fn open_message(&self) -> Option<(SourceId, Message)> {
        let mut state = self.state();
        if state.open.len() >= state.most {
            return None;
        }
        let source = state.next;
        state.next = state.next.wrapping_add(1);
        // Nothing that a test's driver writes by chance.
        let message = Message { address: 0xfee0_a000, data: 0x4000 | u32::from(source) & 0x3fff };
        state.open.insert(source, message);
        Some((SourceId(source), message))
    }

    fn close_message(&self, source: SourceId) {
        let mut state = self.state();
        assert!(state.open.remove(&source.0).is_some(), "{source:?} is not open");
        state.check();
    }

    fn has_interrupts(&self) -> bool {
        !self.state().came.is_empty()
    }

    fn take_interrupts(&self, each: &mut dyn FnMut(SourceId)) {
        let came = std::mem::take(&mut self.state().came);
        came.into_iter().for_each(each);
    }
}
