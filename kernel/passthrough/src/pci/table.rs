//! Accesses to the pages that MSI-X tables lie in.
//!
//! The real entry of the table has the kernel's message, and is unmasked only while the function is enabled, dom0 has unmasked it and a message could
//! be had. It is programmed each time it is unmasked, since a reset makes its contents undefined. Whatever else is in the pages passes.
//!
//! Source: PCI 3.0, "MSI-X Table Structure", "Vector Control for MSI-X Table Entries".

use devices::Width;
use vcpu::{Hpa, PciFunction};

use super::Filter;
use super::bars::Region;
use super::ground::Ground;
use super::msix::{ENTRY_BYTES, Entry, MsiX};

const ADDRESS: u64 = 0;
const ADDRESS_HIGH: u64 = 4;
const DATA: u64 = 8;
const CONTROL: u64 = 12;
const MASK: u32 = 1;
const DWORD: u8 = 4;

fn read(ground: &Ground<'_>, at: Hpa) -> u32 {
    ground.hardware.register_read(at, DWORD).map_or(MASK, |value| value as u32)
}

fn write(ground: &Ground<'_>, at: Hpa, value: u32) {
    ground.hardware.register_write(at, DWORD, value.into());
}

/// A double word of the entry at `register`: tables are aligned to eight bytes only.
const fn part(register: Hpa, offset: u64) -> Hpa {
    Hpa(register.0.wrapping_add(offset))
}

impl Entry {
    /// Has the real entry send the kernel's message. It is masked when this begins.
    fn unmask(&mut self, at: PciFunction, index: usize, register: Hpa, ground: &mut Ground<'_>) {
        // A table has no more entries than 11 bits can count.
        self.source = self.source.or_else(|| ground.open(at, index as u16));
        let Some((_, message)) = self.source else { return };
        write(ground, part(register, ADDRESS), message.address as u32);
        write(ground, part(register, ADDRESS_HIGH), (message.address >> 32) as u32);
        write(ground, part(register, DATA), message.data);
        let control = read(ground, part(register, CONTROL));
        write(ground, part(register, CONTROL), control & !MASK);
    }

    /// A double word as dom0 sees it.
    fn shown(&self, offset: u64, register: Hpa, ground: &Ground<'_>) -> u32 {
        match offset {
            ADDRESS => self.address as u32,
            ADDRESS_HIGH => (self.address >> 32) as u32,
            DATA => self.data,
            _ => read(ground, part(register, CONTROL)) & !MASK | u32::from(self.masked),
        }
    }
}

impl MsiX {
    fn register(&self, index: usize) -> Option<Hpa> {
        self.table?.checked_add(index as u64 * ENTRY_BYTES)
    }

    /// The function was enabled and masked: all entries become what dom0 wrote before.
    pub(super) fn arm(&mut self, at: PciFunction, ground: &mut Ground<'_>) {
        for index in 0..self.entries.len() {
            let (Some(register), Some(entry)) = (self.register(index), self.entries.get_mut(index)) else {
                return;
            };
            let control = part(register, CONTROL);
            write(ground, control, read(ground, control) | MASK);
            if !entry.masked {
                entry.unmask(at, index, register, ground);
            }
        }
    }

    fn table_read(&self, index: usize, offset: u64, ground: &Ground<'_>) -> u32 {
        match (self.entries.get(index), self.register(index)) {
            (Some(entry), Some(register)) => entry.shown(offset, register, ground),
            _ => u32::MAX,
        }
    }

    fn table_write(
        &mut self,
        at: PciFunction,
        index: usize,
        offset: u64,
        value: u32,
        ground: &mut Ground<'_>,
    ) {
        let enabled = self.enabled;
        let (Some(register), Some(entry)) = (self.register(index), self.entries.get_mut(index)) else {
            return;
        };
        match offset {
            ADDRESS => entry.address = entry.address & !0xffff_ffff | u64::from(value & !3),
            ADDRESS_HIGH => entry.address = entry.address & 0xffff_ffff | u64::from(value) << 32,
            DATA => entry.data = value,
            _ => {
                entry.masked = value & MASK != 0;
                write(ground, part(register, CONTROL), value | MASK);
                if enabled && !entry.masked {
                    entry.unmask(at, index, register, ground);
                }
            }
        }
    }
}

/// The aligned parts of an access that lie in its first page, each with its byte in the access.
fn parts(at: Hpa, width: Width) -> impl Iterator<Item = (u32, Hpa, Width)> {
    let bytes = u64::from(width.bytes());
    let part = match at.0 {
        at if at.is_multiple_of(bytes) => width,
        at if width == Width::Qword && at.is_multiple_of(DWORD.into()) => Width::Dword,
        _ => Width::Byte,
    };
    let step = u64::from(part.bytes());
    (0..bytes / step)
        .filter_map(move |index| Some(((index * step) as u32, at.checked_add(index * step)?, part)))
        .filter(move |(_, part, _)| part.page() == at.page())
}

impl Filter<'_> {
    /// Reads from a page of [`Filter::tables`]. All ones where nothing answers, and beyond the page.
    pub fn table_read(&mut self, at: Hpa, width: Width) -> u64 {
        let mut value = width.mask();
        for (index, at, width) in parts(at, width) {
            let (shift, mask) = (8 * index, width.mask());
            value = value & !(mask << shift) | (self.table_part_read(at, width) & mask) << shift;
        }
        value
    }

    /// Writes to such a page.
    pub fn table_write(&mut self, at: Hpa, width: Width, value: u64) {
        for (index, at, width) in parts(at, width) {
            self.table_part_write(at, width, value >> (8 * index) & width.mask());
        }
    }

    /// The function and the entry that an address is in.
    fn entry_at(&self, at: Hpa) -> Option<(usize, usize, u64)> {
        let mut functions = self.functions.iter().enumerate();
        functions.find_map(|(function, its)| {
            let (entry, offset) = its.msix_ref()?.entry_at(at)?;
            Some((function, entry, offset))
        })
    }

    /// Whether what is beside the tables in their pages is a device's that dom0 may have.
    fn passes(&self, at: Hpa, width: Width) -> bool {
        let region = Region::new(at.0, width.bytes().into());
        self.table_at(at).is_some() && region.is_some_and(|region| self.ground.is_free(region))
    }

    fn table_part_read(&mut self, at: Hpa, width: Width) -> u64 {
        let Some((function, entry, offset)) = self.entry_at(at) else {
            let passed = self.passes(at, width);
            let value = passed.then(|| self.ground.hardware.register_read(at, width.bytes())).flatten();
            return value.unwrap_or(width.mask());
        };
        let Some(msix) = self.functions.get(function).and_then(|function| function.msix_ref()) else {
            return width.mask();
        };
        let dword = |offset| u64::from(msix.table_read(entry, offset & !3, &self.ground));
        if width == Width::Qword {
            return dword(offset + 4) << 32 | dword(offset);
        }
        dword(offset) >> (8 * (offset & 3))
    }

    fn table_part_write(&mut self, at: Hpa, width: Width, value: u64) {
        let Some((function, entry, offset)) = self.entry_at(at) else {
            if self.passes(at, width) {
                self.ground.hardware.register_write(at, width.bytes(), value);
            }
            return;
        };
        let Some(function) = self.functions.get_mut(function) else { return };
        let at = function.at();
        let Some(msix) = function.msix() else { return };
        let ground = &mut self.ground;
        match width {
            Width::Qword => {
                msix.table_write(at, entry, offset, value as u32, ground);
                msix.table_write(at, entry, offset + 4, (value >> 32) as u32, ground);
            }
            Width::Dword => msix.table_write(at, entry, offset, value as u32, ground),
            Width::Byte | Width::Word => {
                let shift = 8 * (offset & 3);
                let before = u64::from(msix.table_read(entry, offset & !3, ground));
                let after = before & !(width.mask() << shift) | value << shift;
                msix.table_write(at, entry, offset & !3, after as u32, ground);
            }
        }
    }
}
