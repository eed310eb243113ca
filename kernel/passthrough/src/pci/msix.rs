//! The MSI-X capability, and where its table is. What is in the table is [`super::table`]'s.
//!
//! Source: PCI 3.0, "MSI-X Capability and Table Structures".

use alloc::vec::Vec;

use devices::Width;
use vcpu::{Hpa, Message, SourceId};

use super::bars::{Image, Layout, Region};
use super::ground::{Access, Pages, count};
use super::lanes;

const CONTROL: u16 = 2;
const ENABLE: u32 = 1 << 15;
const FUNCTION_MASK: u32 = 1 << 14;
const LAST_ENTRY: u32 = 0x7ff;
const TABLE: u16 = 4;
const BYTES: u16 = 0xc;
const BIR: u32 = 7;
const BARS: usize = 6;
const GONE: u32 = 0xffff;
const SPACE: u16 = 0x100;
/// Bytes of an entry in the table.
pub(super) const ENTRY_BYTES: u64 = 16;

/// An entry of the table.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// What dom0 wrote.
    pub(super) address: u64,
    pub(super) data: u32,
    /// As dom0 wrote it; the device's own may be masked in addition.
    pub(super) masked: bool,
    pub(super) source: Option<(SourceId, Message)>,
}

impl Entry {
    const RESET: Self = Self { address: 0, data: 0, masked: true, source: None };
}

/// The capability of a function.
pub(super) struct MsiX {
    /// Its register.
    first: u16,
    /// The BAR with the table, and where in it.
    bar: usize,
    offset: u64,
    pub(super) entries: Vec<Entry>,
    /// Where the table is while memory is decoded.
    pub(super) table: Option<Hpa>,
    /// The device may send messages, as far as we know.
    pub(super) enabled: bool,
}

impl MsiX {
    /// Learns it and switches it off. `None` where it is not what the specification says, or there is no memory for its entries.
    pub(super) fn learn(access: &mut Access<'_, '_>, first: u16) -> Option<Self> {
        let control = access.read(first + CONTROL, Width::Word);
        if control & ENABLE != 0 {
            access.write(first + CONTROL, Width::Word, control & !ENABLE);
        }
        let table = access.read(first + TABLE, Width::Dword);
        let (bar, offset) = ((table & BIR) as usize, u64::from(table & !BIR));
        let count = (control & LAST_ENTRY) as usize + 1;
        let mut entries = Vec::new();
        if first + BYTES > SPACE || bar >= BARS || entries.try_reserve_exact(count).is_err() {
            return None;
        }
        entries.resize(count, Entry::RESET);
        Some(Self { first, bar, offset, entries, table: None, enabled: false })
    }

    fn region(&self, table: Hpa) -> Option<Region> {
        Region::new(table.0, self.entries.len() as u64 * ENTRY_BYTES)
    }

    /// The pages with the table.
    pub(super) fn pages(&self) -> Option<Pages> {
        self.region(self.table?).map(Pages::around)
    }

    /// The entry that an address is in, and where in the entry.
    pub(super) fn entry_at(&self, at: Hpa) -> Option<(usize, u64)> {
        let offset = at.0.checked_sub(self.table?.0)?;
        let index = usize::try_from(offset / ENTRY_BYTES).ok()?;
        (index < self.entries.len()).then_some((index, offset % ENTRY_BYTES))
    }

    /// What dom0 wrote for an entry.
    pub(super) fn message(&self, entry: u16) -> Option<(u64, u32)> {
        self.entries.get(usize::from(entry)).map(|entry| (entry.address, entry.data))
    }

    /// The BARs will have these values while memory is decoded, or it is not decoded: before that is so, the table's pages are withdrawn.
    pub(super) fn follow(&mut self, access: &mut Access<'_, '_>, layout: Layout, image: Option<&Image>) {
        let base = image.and_then(|image| layout.base(self.bar, image));
        let table = base.and_then(|base| base.checked_add(self.offset)).map(Hpa);
        // What a device says that is not in its BAR stays unreachable.
        let table = table.filter(|at| self.region(*at).is_some_and(|region| access.ground.is_free(region)));
        if table == self.table {
            return;
        }
        self.table = table;
        access.ground.generation += 1;
        if let Some(pages) = self.pages() {
            (access.withdraw)(pages);
        }
    }

    /// A register is about to be read; all of them pass.
    pub(super) fn before_read(&mut self, access: &mut Access<'_, '_>, register: u16) {
        if lanes::dword(register) == self.first {
            self.notice(access);
        }
    }

    /// Writes a register. False where it is not the capability's.
    pub(super) fn write(
        &mut self,
        access: &mut Access<'_, '_>,
        register: u16,
        width: Width,
        value: u32,
    ) -> bool {
        let Some(offset) = lanes::dword(register).checked_sub(self.first).filter(|at| *at < BYTES) else {
            return false;
        };
        if offset == 0 && (lanes::has(register, width, 2) || lanes::has(register, width, 3)) {
            let real = self.notice(access);
            self.control(access, real, lanes::merge(real << 16, register, width, value) >> 16);
        }
        true
    }

    /// Reads the control register, by which a reset is seen.
    fn notice(&mut self, access: &mut Access<'_, '_>) -> u32 {
        let real = access.read(self.first + CONTROL, Width::Word);
        if self.enabled && real & ENABLE == 0 {
            self.close(access);
            self.entries.iter_mut().for_each(|entry| entry.masked = true);
        }
        real
    }

    fn control(&mut self, access: &mut Access<'_, '_>, real: u32, wanted: u32) {
        let register = self.first + CONTROL;
        if wanted & ENABLE == 0 {
            access.write(register, Width::Word, wanted);
            self.settle(access);
        } else if real & ENABLE != 0 && self.enabled {
            access.write(register, Width::Word, wanted);
        } else if self.table.is_none() {
            count(&mut access.refused().messages);
            access.write(register, Width::Word, wanted & !ENABLE);
        } else {
            // Some devices have no table before they are enabled; nothing is sent while the function is masked.
            access.write(register, Width::Word, wanted | FUNCTION_MASK);
            self.enabled = true;
            self.arm(access.at, access.ground);
            access.write(register, Width::Word, wanted);
        }
    }

    /// Closes the sources where the device is off, or gone; reading that also waits for what it had sent.
    fn settle(&mut self, access: &mut Access<'_, '_>) {
        let real = access.read(self.first + CONTROL, Width::Word);
        if real & ENABLE == 0 || real == GONE {
            self.close(access);
        }
    }

    fn close(&mut self, access: &mut Access<'_, '_>) {
        self.enabled = false;
        for entry in &mut self.entries {
            if let Some((source, _)) = entry.source.take() {
                access.ground.close(source);
            }
        }
    }

    /// Switches it off, where the function is there, and closes the sources.
    pub(super) fn quiesce(&mut self, access: &mut Access<'_, '_>, there: bool) {
        let register = self.first + CONTROL;
        if !there {
            self.close(access);
            return;
        }
        let real = access.read(register, Width::Word);
        if real & ENABLE != 0 && self.enabled {
            access.write(register, Width::Word, real & !ENABLE);
        }
        self.settle(access);
    }
}
