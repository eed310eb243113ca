//! A made-up PCI function: configuration space, BARs, message interrupts.

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use crate::Message;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const CLASS: usize = 0x09;
const HEADER_TYPE: usize = 0x0e;
const POINTER: usize = 0x34;
const DECODES_MEMORY: u32 = 1 << 1;
const SPACE: usize = 4096;
const ENTRY: u64 = 16;

/// What a base address register is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FakeBar {
    /// Memory below 4 GiB.
    Memory,
    /// Memory anywhere; it takes two registers.
    Wide,
    /// Ports.
    Io,
    /// The expansion ROM, whose number is 6.
    Rom,
}

#[derive(Clone, Debug)]
struct MsiX {
    at: usize,
    bar: usize,
    offset: u64,
    entries: u64,
}

/// A PCI function. Its parts are added one by one; what is not there reads 0.
#[derive(Clone, Debug)]
pub struct FakeFunction {
    bytes: Vec<u8>,
    writable: Vec<u8>,
    bars: Vec<(usize, FakeBar, u64)>,
    /// Where the pointer to the next capability is.
    link: usize,
    msi: Option<usize>,
    msix: Option<MsiX>,
    /// Bytes of its registers, by BAR and offset.
    registers: BTreeMap<(usize, u64), u8>,
}

impl FakeFunction {
    /// A device with its identifiers (vendor in the lower half) and its class code of 24 bits.
    pub fn new(identity: u32, class: u32) -> Self {
        let mut function = Self {
            bytes: vec![0; SPACE],
            writable: vec![0; SPACE],
            bars: Vec::new(),
            link: POINTER,
            msi: None,
            msix: None,
            registers: BTreeMap::new(),
        };
        function.set(0, &identity.to_le_bytes(), &[]);
        function.set(COMMAND, &[0, 0], &[7, 4]);
        function.set(CLASS, class.to_le_bytes().get(..3).unwrap_or_default(), &[]);
        function
    }

    /// A bridge to the buses from `secondary` to `subordinate`, with both windows closed.
    pub fn bridge(identity: u32, secondary: u8, subordinate: u8) -> Self {
        let mut function = Self::new(identity, 0x06_04_00);
        function.set(HEADER_TYPE, &[1], &[]);
        function.set(0x18, &[0, secondary, subordinate], &[0xff; 3]);
        function.set(0x20, &[0xf0, 0xff, 0, 0], &[0xf0, 0xff, 0xf0, 0xff]);
        function.set(0x24, &[0xf1, 0xff, 1, 0], &[0xf0, 0xff, 0xf0, 0xff]);
        function.set(0x28, &[0; 8], &[0xff; 8]);
        function
    }

    /// Sets bytes, and which bits of them software can change.
    pub fn set(&mut self, at: usize, bytes: &[u8], writable: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.writable[at..at + writable.len()].copy_from_slice(writable);
    }

    /// Has it decode memory.
    #[must_use]
    pub fn decoding(mut self) -> Self {
        self.bytes[COMMAND] |= DECODES_MEMORY as u8;
        self
    }

    /// Adds a BAR of `bytes`, a power of two, at an address.
    #[must_use]
    pub fn bar(mut self, number: usize, kind: FakeBar, bytes: u64, address: u64) -> Self {
        let register = self.bar_register(number);
        let kind_bits = match kind {
            FakeBar::Memory | FakeBar::Rom => 0,
            FakeBar::Wide => 4,
            FakeBar::Io => 1,
        };
        let mask = !(bytes - 1) | u64::from(kind == FakeBar::Rom);
        let length = if kind == FakeBar::Wide { 8 } else { 4 };
        self.set(register, &(address | kind_bits).to_le_bytes()[..length], &mask.to_le_bytes()[..length]);
        self.bars.push((number, kind, bytes));
        self
    }

    fn bar_register(&self, number: usize) -> usize {
        match number {
            6 if self.bytes[HEADER_TYPE] == 1 => 0x38,
            6 => 0x30,
            _ => 0x10 + 4 * number,
        }
    }

    /// Adds a capability: its register, identifier, and the bytes behind its header with the bits that can be changed.
    #[must_use]
    pub fn capability(mut self, at: u8, id: u8, bytes: &[u8], writable: &[u8]) -> Self {
        self.bytes[STATUS] |= 1 << 4;
        self.bytes[self.link] = at;
        let at = usize::from(at);
        self.set(at, &[id, 0], &[]);
        self.set(at + 2, bytes, writable);
        self.link = at + 1;
        self
    }

    /// Adds MSI with four vectors: addresses of 64 bits or not, with mask bits or not.
    #[must_use]
    pub fn msi(mut self, at: u8, wide: bool, maskable: bool) -> Self {
        let mut writable = vec![0x71, 0, 0xfc, 0xff, 0xff, 0xff];
        writable.extend(if wide { vec![0xff; 6] } else { vec![0xff; 2] });
        if maskable {
            writable.extend([0, 0, 0x0f, 0, 0, 0, 0, 0, 0, 0]);
        }
        let control = [4 | u8::from(wide) << 7, u8::from(maskable)];
        self.msi = Some(at.into());
        self.capability(at, 5, &control, &writable)
    }

    /// Adds MSI-X with a table of `entries` in a BAR; the table of pending bits follows it.
    #[must_use]
    pub fn msix(mut self, at: u8, bar: usize, offset: u32, entries: u16) -> Self {
        let mut bytes = Vec::from((entries - 1).to_le_bytes());
        bytes.extend((offset | bar as u32).to_le_bytes());
        let pending = offset + 16 * u32::from(entries);
        bytes.extend((pending | bar as u32).to_le_bytes());
        self.msix = Some(MsiX { at: at.into(), bar, offset: (offset & !7).into(), entries: entries.into() });
        self.mask_all();
        self.capability(at, 0x11, &bytes, &[0, 0xc0])
    }

    fn mask_all(&mut self) {
        if let Some(msix) = self.msix.clone() {
            for entry in 0..msix.entries {
                for byte in 0..ENTRY {
                    let at = (msix.bar, msix.offset + entry * ENTRY + byte);
                    self.registers.insert(at, u8::from(byte == 12));
                }
            }
        }
    }

    /// What a reset does: it decodes nothing, sends nothing, and its BARs are at 0.
    pub fn reset(&mut self) {
        for (byte, writable) in self.bytes.iter_mut().zip(&self.writable) {
            *byte &= !writable;
        }
        self.registers.clear();
        self.mask_all();
    }

    /// Reads configuration space.
    pub fn read(&self, register: usize, size: usize) -> u32 {
        let bytes = self.bytes.get(register..register + size).unwrap_or(&[0xff; 4]);
        bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
    }

    /// Writes it.
    pub fn write(&mut self, register: usize, size: usize, value: u32) {
        for (index, byte) in value.to_le_bytes().iter().take(size).enumerate() {
            let writable = self.writable[register + index];
            let old = &mut self.bytes[register + index];
            *old = *old & !writable | byte & writable;
        }
    }

    fn dword(&self, at: usize) -> u64 {
        self.read(at, 4).into()
    }

    /// What it decodes of memory now: number of the BAR (7 and 8 are windows), first and last address.
    pub fn decoded(&self) -> Vec<(usize, u64, u64)> {
        let mut found = Vec::new();
        if self.read(COMMAND, 2) & DECODES_MEMORY == 0 {
            return found;
        }
        for (number, kind, bytes) in &self.bars {
            let register = self.bar_register(*number);
            let low = self.dword(register);
            let base = match kind {
                FakeBar::Io => continue,
                FakeBar::Rom if low & 1 == 0 => continue,
                FakeBar::Wide => self.dword(register + 4) << 32 | low,
                _ => low,
            } & !(bytes - 1);
            found.push((*number, base, base.saturating_add(bytes - 1)));
        }
        if self.bytes[HEADER_TYPE] == 1 {
            for (number, both, highs) in
                [(7, self.dword(0x20), (0, 0)), (8, self.dword(0x24), (self.dword(0x28), self.dword(0x2c)))]
            {
                let first = highs.0 << 32 | (both & 0xfff0) << 16;
                let last = highs.1 << 32 | both & 0xfff0_0000 | 0xf_ffff;
                if first <= last {
                    found.push((number, first, last));
                }
            }
        }
        found
    }

    /// The BAR and the offset in it of an address in memory.
    pub(super) fn register_at(&self, at: u64) -> Option<(usize, u64)> {
        let mut bars = self.decoded().into_iter().filter(|(number, ..)| *number < 6);
        bars.find(|(_, first, last)| (*first..=*last).contains(&at))
            .map(|(number, first, _)| (number, at - first))
    }

    pub(super) fn register_read(&self, (bar, offset): (usize, u64), size: u8) -> u64 {
        let byte = |index| self.registers.get(&(bar, offset + index)).copied().unwrap_or(0);
        (0..u64::from(size)).rev().fold(0, |value, index| value << 8 | u64::from(byte(index)))
    }

    pub(super) fn register_write(&mut self, (bar, offset): (usize, u64), size: u8, value: u64) {
        for (index, byte) in value.to_le_bytes().iter().take(size.into()).enumerate() {
            self.registers.insert((bar, offset + index as u64), *byte);
        }
    }

    /// A double word of its MSI-X table, as the device has it.
    pub fn entry(&self, index: u64, part: u64) -> u32 {
        let Some(msix) = &self.msix else { return 0 };
        self.register_read((msix.bar, msix.offset + index * ENTRY + 4 * part), 4) as u32
    }

    /// The messages that it may send now, unless its vectors are masked in its MSI capability.
    pub fn armed(&self) -> Vec<Message> {
        let mut found = Vec::new();
        if let Some(at) = self.msi
            && self.read(at + 2, 2) & 1 != 0
        {
            let wide = self.read(at + 2, 2) & 0x80 != 0;
            let high = if wide { self.dword(at + 8) } else { 0 };
            let data = self.read(at + if wide { 12 } else { 8 }, 2);
            found.push(Message { address: high << 32 | self.dword(at + 4), data });
            assert_eq!(self.read(at + 2, 2) & 0x70, 0, "more than one vector");
        }
        if let Some(msix) = &self.msix
            && self.read(msix.at + 2, 2) & 0xc000 == 0x8000
        {
            for index in (0..msix.entries).filter(|index| self.entry(*index, 3) & 1 == 0) {
                let address = u64::from(self.entry(index, 1)) << 32 | u64::from(self.entry(index, 0));
                found.push(Message { address, data: self.entry(index, 2) });
            }
        }
        found
    }
}
