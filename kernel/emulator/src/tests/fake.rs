//! A vCPU whose memory is a map of bytes, with pages that fault and accesses that are recorded.

use std::collections::BTreeMap;
use std::vec::Vec;

use vcpu::Gva;

use crate::{Context, Exception, Executed, Fault, Mode, Segment, SegmentName, Stop, Width, execute};

pub(super) const RAX: usize = 0;
pub(super) const RCX: usize = 1;
pub(super) const RDX: usize = 2;
pub(super) const RBX: usize = 3;
pub(super) const RSP: usize = 4;
pub(super) const RBP: usize = 5;
pub(super) const RSI: usize = 6;
pub(super) const RDI: usize = 7;

/// Where memory operands of most tests point.
pub(super) const DEVICE: u64 = 0xfee0_0100;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Event {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    In(u16, Width),
    Out(u16, Width, u32),
}

#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub mode: Mode,
    pub rip: u64,
    pub rflags: u64,
    pub registers: [u64; 16],
    pub segments: [Segment; 6],
    pub memory: BTreeMap<u64, u8>,
    /// Linear addresses from here on raise #PF.
    pub end: u64,
    /// The same for writes only.
    pub read_only_from: u64,
    pub port_value: u32,
    /// How many atomic updates lose their race.
    pub lost_races: u32,
    pub events: Vec<Event>,
}

pub(super) const FLAT_DATA: Segment = Segment { base: 0, limit: u32::MAX, attributes: 0xc093 };

impl Machine {
    pub(super) fn new(mode: Mode) -> Self {
        Self {
            mode,
            rip: 0x1000,
            rflags: 2,
            registers: [0; 16],
            segments: [FLAT_DATA; 6],
            memory: BTreeMap::new(),
            end: u64::MAX,
            read_only_from: u64::MAX,
            port_value: 0,
            lost_races: 0,
            events: Vec::new(),
        }
    }

    /// 64-bit mode, RBX pointing to [`DEVICE`], which holds `value`.
    pub(super) fn at_device(value: u64) -> Self {
        let mut machine = Self::new(Mode::Long64);
        machine.registers[RBX] = DEVICE;
        machine.poke(DEVICE, &value.to_le_bytes());
        machine
    }

    pub(super) fn poke(&mut self, address: u64, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            self.memory.insert(address + index as u64, *byte);
        }
    }

    pub(super) fn peek(&self, address: u64, length: usize) -> Vec<u8> {
        (0..length as u64).map(|n| self.memory.get(&(address + n)).copied().unwrap_or(0)).collect()
    }

    pub(super) fn peek_u64(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.peek(address, 8).try_into().unwrap())
    }

    pub(super) fn run(&mut self, code: &[u8]) -> Result<Executed, Stop> {
        execute(code, self)
    }

    /// Runs a whole instruction and asks that it is as long as its bytes.
    pub(super) fn run_whole(&mut self, code: &[u8]) {
        let expected = Executed { next_rip: self.rip + code.len() as u64, finished: true };
        assert_eq!(self.run(code), Ok(expected), "{code:02x?}");
    }

    fn check(&self, linear: Gva, length: usize, write: bool) -> Result<(), Fault> {
        let end = if write { self.end.min(self.read_only_from) } else { self.end };
        if linear.0.checked_add(length as u64 - 1).is_none_or(|last| last >= end) && end != u64::MAX {
            let code = if write { 2 } else { 0 };
            return Err(Fault::Exception(Exception::page_fault(code, Gva(linear.0.max(end)))));
        }
        Ok(())
    }
}

impl Context for Machine {
    fn mode(&self) -> Mode {
        self.mode
    }
    fn rip(&self) -> u64 {
        self.rip
    }
    fn rflags(&self) -> u64 {
        self.rflags
    }
    fn set_rflags(&mut self, rflags: u64) {
        self.rflags = rflags;
    }
    fn gpr(&self, number: u8) -> u64 {
        self.registers[usize::from(number)]
    }
    fn set_gpr(&mut self, number: u8, value: u64) {
        self.registers[usize::from(number)] = value;
    }
    fn segment(&self, name: SegmentName) -> Segment {
        self.segments[name as usize]
    }
    fn read(&mut self, linear: Gva, buffer: &mut [u8]) -> Result<(), Fault> {
        self.check(linear, buffer.len(), false)?;
        self.events.push(Event::Read(linear.0, buffer.len()));
        let bytes = self.peek(linear.0, buffer.len());
        buffer.copy_from_slice(&bytes);
        Ok(())
    }
    fn write(&mut self, linear: Gva, bytes: &[u8]) -> Result<(), Fault> {
        self.check(linear, bytes.len(), true)?;
        self.events.push(Event::Write(linear.0, bytes.to_vec()));
        self.poke(linear.0, bytes);
        Ok(())
    }
    fn read_for_update(&mut self, linear: Gva, buffer: &mut [u8]) -> Result<(), Fault> {
        self.check(linear, buffer.len(), true)?;
        self.read(linear, buffer)
    }
    fn update(&mut self, linear: Gva, old: &[u8], new: &[u8]) -> Result<bool, Fault> {
        assert_eq!(self.peek(linear.0, old.len()), old);
        if self.lost_races > 0 {
            self.lost_races -= 1;
            return Ok(false);
        }
        self.write(linear, new).map(|()| true)
    }
    fn announce_write(&mut self, linear: Gva, length: usize) -> Result<(), Fault> {
        self.check(linear, length, true)
    }
    fn port_read(&mut self, port: u16, width: Width) -> Result<u32, Fault> {
        self.events.push(Event::In(port, width));
        self.port_value = self.port_value.wrapping_add(1);
        Ok(self.port_value)
    }
    fn port_write(&mut self, port: u16, width: Width, value: u32) -> Result<(), Fault> {
        self.events.push(Event::Out(port, width, value));
        Ok(())
    }
}
