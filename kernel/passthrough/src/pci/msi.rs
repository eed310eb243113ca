//! The MSI capability: dom0's message stays here, the device gets the kernel's.
//!
//! One vector, so that one message is enough: Multiple Message Capable reads 0, and so does what it would enable. Mask and pending bits pass.
//!
//! Source: PCI 3.0, "MSI Capability Structure".

use devices::Width;
use vcpu::{Message, SourceId};

use super::ground::Access;
use super::lanes;

const CONTROL: u16 = 2;
const ENABLE: u32 = 1;
const WIDE: u32 = 1 << 7;
const MASKABLE: u32 = 1 << 8;
/// Multiple Message Capable, Multiple Message Enable, and what extends the data to 32 bits (capable, enable).
const NOT_OFFERED: u32 = 7 << 1 | 7 << 4 | 3 << 9;
const ADDRESS: u16 = 4;
const ADDRESS_HIGH: u16 = 8;
const GONE: u32 = 0xffff;
/// The space that capabilities of this kind are in.
const SPACE: u16 = 0x100;

/// The capability of a function.
pub(super) struct Msi {
    /// Its register.
    first: u16,
    wide: bool,
    bytes: u16,
    address: u64,
    data: u32,
    source: Option<(SourceId, Message)>,
}

impl Msi {
    /// Learns it and switches it off. `None` where it is not what the specification says.
    pub(super) fn learn(access: &Access<'_, '_>, first: u16) -> Option<Self> {
        let control = access.read(first + CONTROL, Width::Word);
        let wide = control & WIDE != 0;
        let bytes = if wide { 0x10 } else { 0xc } + if control & MASKABLE != 0 { 8 } else { 0 };
        if control & ENABLE != 0 {
            access.write(first + CONTROL, Width::Word, control & !ENABLE);
        }
        (first + bytes <= SPACE).then_some(Self { first, wide, bytes, address: 0, data: 0, source: None })
    }

    /// What dom0 wrote.
    pub(super) const fn message(&self) -> (u64, u32) {
        (self.address, self.data)
    }

    const fn data_at(&self) -> u16 {
        if self.wide { 0xc } else { 8 }
    }

    /// The double word of the capability that a register is in.
    fn part(&self, register: u16) -> Option<u16> {
        let offset = lanes::dword(register).checked_sub(self.first)?;
        (offset < self.bytes).then_some(offset)
    }

    /// What dom0 sees in a double word; `None` for what passes.
    fn shown(&self, access: &Access<'_, '_>, offset: u16) -> Option<u32> {
        match offset {
            0 => Some(access.read(self.first, Width::Dword) & !(NOT_OFFERED << 16)),
            ADDRESS => Some(self.address as u32),
            ADDRESS_HIGH if self.wide => Some((self.address >> 32) as u32),
            _ if offset == self.data_at() => Some(self.data),
            _ => None,
        }
    }

    /// Reads a register, where it does not pass.
    pub(super) fn read(&mut self, access: &mut Access<'_, '_>, register: u16, width: Width) -> Option<u32> {
        let shown = self.shown(access, self.part(register)?)?;
        Some(lanes::extract(shown, register, width))
    }

    /// Writes a register. False where it passes.
    pub(super) fn write(
        &mut self,
        access: &mut Access<'_, '_>,
        register: u16,
        width: Width,
        value: u32,
    ) -> bool {
        let Some(offset) = self.part(register) else { return false };
        let Some(shown) = self.shown(access, offset) else { return false };
        let value = lanes::merge(shown, register, width, value);
        match offset {
            0 if lanes::has(register, width, 2) => self.control(access, value >> 16),
            0 => {}
            ADDRESS => self.address = self.address & !0xffff_ffff | u64::from(value & !3),
            ADDRESS_HIGH if self.wide => {
                self.address = self.address & 0xffff_ffff | u64::from(value) << 32;
            }
            _ => self.data = value & 0xffff,
        }
        true
    }

    fn control(&mut self, access: &mut Access<'_, '_>, wanted: u32) {
        let register = self.first + CONTROL;
        let real = access.read(register, Width::Word);
        let wanted = wanted & !NOT_OFFERED;
        if wanted & ENABLE == 0 {
            access.write(register, Width::Word, wanted);
            self.settle(access);
            return;
        }
        if real & ENABLE != 0 && self.source.is_some() {
            access.write(register, Width::Word, wanted);
            return;
        }
        // It was off, or has been reset since.
        access.write(register, Width::Word, wanted & !ENABLE);
        self.source = self.source.or_else(|| Self::open(access));
        if let Some((_, message)) = self.source {
            self.program(access, message);
            access.write(register, Width::Word, wanted);
        }
    }

    fn program(&self, access: &Access<'_, '_>, message: Message) {
        access.write(self.first + ADDRESS, Width::Dword, message.address as u32);
        if self.wide {
            access.write(self.first + ADDRESS_HIGH, Width::Dword, (message.address >> 32) as u32);
        }
        access.write(self.first + self.data_at(), Width::Word, message.data & 0xffff);
    }

    /// Closes the source where the device is off, or gone; reading that also waits for what it had sent.
    fn settle(&mut self, access: &mut Access<'_, '_>) {
        let real = access.read(self.first + CONTROL, Width::Word);
        if (real & ENABLE == 0 || real == GONE)
            && let Some((source, _)) = self.source.take()
        {
            access.ground.close(source);
        }
    }

    /// Switches it off, where the function is there, and closes the source.
    pub(super) fn quiesce(&mut self, access: &mut Access<'_, '_>, there: bool) {
        let register = self.first + CONTROL;
        if there {
            let real = access.read(register, Width::Word);
            if self.source.is_some() && real & ENABLE != 0 {
                access.write(register, Width::Word, real & !ENABLE);
            }
            self.settle(access);
        } else if let Some((source, _)) = self.source.take() {
            access.ground.close(source);
        }
    }
}
