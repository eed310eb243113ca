//! The standard header: the command register, and the registers that place memory.
//!
//! While a function decodes memory, no register gets a value by which it would decode what is not free: the value is held here and read back. So sizing
//! works as ever, and so does a move of a BAR of two registers. What firmware left is taken as it is: there may be devices in ranges that firmware
//! keeps for itself.
//!
//! Source: PCI 3.0, "Type 00h Configuration Space Header", "Device Control", "Base Addresses".

use devices::Width;

use super::bars::{Image, Kind, Layout, ROM_SIZING, SLOTS, Slots, WINDOW_BITS, WINDOW_CLOSED};
use super::ground::{Access, count};
use super::lanes;
use super::msix::MsiX;

pub(super) const COMMAND: u16 = 0x04;
const DECODES_MEMORY: u32 = 1 << 1;
/// I/O, memory, bus master: what a host bridge keeps.
const DECODES: u32 = 0b111;
const FIRST_BAR: u16 = 0x10;
/// Where the registers end that are any device's business in a header of another type: the capabilities pointer, interrupt line and pin follow.
const BARS_END: u16 = 0x34;
pub(super) const BUSES: u16 = 0x18;

/// What is known of a header.
pub(super) struct Header {
    pub(super) layout: Layout,
    pub(super) host_bridge: bool,
    /// Values that dom0 wrote and the registers do not have. There are some only while memory is decoded.
    held: [Option<u32>; SLOTS],
    /// The bits of each slot that can be changed, since memory is decoded or when that was found.
    masks: Option<Image>,
    /// What firmware left, where it left it decoding.
    firmware: Option<Image>,
}

fn decodes(access: &Access<'_, '_>) -> bool {
    access.read(COMMAND, Width::Word) & DECODES_MEMORY != 0
}

impl Header {
    pub(super) fn learn(access: &Access<'_, '_>, layout: Layout, host_bridge: bool) -> Self {
        let mut header = Self { layout, host_bridge, held: [None; SLOTS], masks: None, firmware: None };
        if decodes(access) {
            header.firmware = Some(header.image(access));
        }
        header
    }

    /// The values that dom0 sees in the slots.
    fn image(&self, access: &Access<'_, '_>) -> Image {
        let mut image = [0; SLOTS];
        let registers = self.layout.registers().iter();
        for ((value, held), register) in image.iter_mut().zip(&self.held).zip(registers) {
            *value = held.unwrap_or_else(|| access.read(*register, Width::Dword));
        }
        image
    }

    /// The values while memory is decoded, with nothing held.
    pub(super) fn decoding_image(&self, access: &Access<'_, '_>) -> Option<Image> {
        decodes(access).then(|| Self { held: [None; SLOTS], ..*self }.image(access))
    }

    /// Reads a register of a slot that is held; all others are as they are.
    pub(super) fn read(&mut self, access: &Access<'_, '_>, register: u16, width: Width) -> Option<u32> {
        let slot = self.layout.slot(lanes::dword(register))?;
        let held = (*self.held.get(slot)?)?;
        if !decodes(access) {
            // Reset behind our back.
            self.held = [None; SLOTS];
            return None;
        }
        Some(lanes::extract(held, register, width))
    }

    /// Writes a register.
    pub(super) fn write(
        &mut self,
        access: &mut Access<'_, '_>,
        msix: Option<&mut MsiX>,
        register: u16,
        width: Width,
        value: u32,
    ) {
        let dword = lanes::dword(register);
        if dword == COMMAND {
            self.write_command(access, msix, register, width, value);
        } else if let Some(slot) = self.layout.slot(dword) {
            self.write_slot(access, msix, slot, register, width, value);
        } else if self.layout == Layout::Other && (FIRST_BAR..BARS_END).contains(&dword) && dword != BUSES {
            count(&mut access.refused().ranges);
        } else {
            access.write(register, width, value);
        }
    }

    fn write_command(
        &mut self,
        access: &mut Access<'_, '_>,
        msix: Option<&mut MsiX>,
        register: u16,
        width: Width,
        value: u32,
    ) {
        let before = access.read(COMMAND, Width::Word);
        let mut after = lanes::merge(before, register, width, value);
        if self.host_bridge {
            if (before ^ after) & DECODES != 0 {
                count(&mut access.refused().host_bridge);
            }
            after = after & !DECODES | before & DECODES;
        }
        let (did, does) = (before & DECODES_MEMORY != 0, after & DECODES_MEMORY != 0);
        if does && !did {
            self.held = [None; SLOTS];
            let image = self.image(access);
            if !self.measure_for(access, &image) {
                count(&mut access.refused().decode);
                after &= !DECODES_MEMORY;
            } else if let Some(msix) = msix {
                msix.follow(access, self.layout, Some(&image));
            }
            access.write(register, width, lanes::extract(after, register, width));
            return;
        }
        access.write(register, width, lanes::extract(after, register, width));
        if did && !does && !decodes(access) {
            self.release(access);
            if let Some(msix) = msix {
                msix.follow(access, self.layout, None);
            }
        }
    }

    /// Decoding is off: the registers get what dom0 wrote.
    fn release(&mut self, access: &Access<'_, '_>) {
        for (held, register) in self.held.iter_mut().zip(self.layout.registers()) {
            if let Some(value) = held.take() {
                access.write(*register, Width::Dword, value);
            }
        }
        self.masks = None;
    }

    fn write_slot(
        &mut self,
        access: &mut Access<'_, '_>,
        msix: Option<&mut MsiX>,
        slot: usize,
        register: u16,
        width: Width,
        value: u32,
    ) {
        if self.host_bridge {
            return;
        }
        let mut image = self.image(access);
        let kind = self.layout.kinds(&image).get(slot).copied().unwrap_or(Kind::Io);
        if !decodes(access) {
            self.held = [None; SLOTS];
            access.write(register, width, value);
            if let Some(msix) = msix {
                msix.follow(access, self.layout, None);
            }
            return;
        }
        if kind == Kind::Io {
            access.write(register, width, value);
            return;
        }
        let Some(masks) = self.masks(access) else { return };
        let written = match image.get(slot) {
            Some(before) => lanes::merge(*before, register, width, value),
            None => return,
        };
        if let (Some(shown), Some(mask)) = (image.get_mut(slot), masks.get(slot)) {
            *shown = kind.after(*shown, written, *mask);
        }
        let group = self.layout.group(slot, &image);
        if self.is_harmless(access, &image, &masks, group) {
            self.commit(access, msix, group, &image);
            return;
        }
        if !kind.is_sizing(written) {
            count(&mut access.refused().ranges);
        }
        if let (Some(held), Some(shown)) = (self.held.get_mut(slot), image.get(slot)) {
            *held = Some(*shown);
        }
    }

    /// Whether what these slots place is free, or where firmware left it.
    fn is_harmless(&self, access: &Access<'_, '_>, image: &Image, masks: &Image, slots: Slots) -> bool {
        let by_firmware = self.firmware.map(|image| self.layout.decoded(&image, masks)).unwrap_or_default();
        self.layout
            .decoded(image, masks)
            .iter()
            .filter(|decoded| decoded.slots & slots != 0)
            .all(|decoded| access.ground.is_free(decoded.region) || by_firmware.contains(decoded))
    }

    /// Writes what a group of slots is to have, while memory is decoded. Where more than one register changes, it is not decoded in between.
    fn commit(&mut self, access: &mut Access<'_, '_>, msix: Option<&mut MsiX>, group: Slots, image: &Image) {
        let Some(mut real) = self.decoding_image(access) else { return };
        let mut changes = 0;
        for (slot, (real, wanted)) in real.iter_mut().zip(image).enumerate() {
            if group & 1 << slot != 0 {
                changes += u32::from(*real != *wanted);
                *real = *wanted;
            }
        }
        if let Some(msix) = msix {
            msix.follow(access, self.layout, Some(&real));
        }
        let command = access.read(COMMAND, Width::Word);
        if changes > 1 {
            access.write(COMMAND, Width::Word, command & !DECODES_MEMORY);
        }
        let slots = self.held.iter_mut().zip(self.layout.registers()).zip(image).enumerate();
        for (_, ((held, register), wanted)) in slots.filter(|(slot, _)| group & 1 << slot != 0) {
            *held = None;
            access.write(*register, Width::Dword, *wanted);
        }
        if changes > 1 {
            access.write(COMMAND, Width::Word, command);
        }
    }

    /// The bits of the slots that can be changed, while memory is decoded. `None` where that cannot be switched off to find them: then nothing
    /// in the function moves.
    fn masks(&mut self, access: &Access<'_, '_>) -> Option<Image> {
        if self.masks.is_none() {
            let command = access.read(COMMAND, Width::Word);
            access.write(COMMAND, Width::Word, command & !DECODES_MEMORY);
            if decodes(access) {
                return None;
            }
            let real = Self { held: [None; SLOTS], ..*self }.image(access);
            self.masks = Some(self.measure(access, &real));
            access.write(COMMAND, Width::Word, command);
        }
        self.masks
    }

    /// Finds the masks anew before memory is decoded (a reset can have changed them), and whether what will be decoded is harmless.
    fn measure_for(&mut self, access: &Access<'_, '_>, image: &Image) -> bool {
        if self.layout == Layout::Other {
            return false;
        }
        let masks = self.measure(access, image);
        self.masks = Some(masks);
        self.is_harmless(access, image, &masks, Slots::MAX)
    }

    /// Finds the bits of the slots that can be changed, while memory is not decoded.
    fn measure(&self, access: &Access<'_, '_>, real: &Image) -> Image {
        let mut masks = [0; SLOTS];
        let kinds = self.layout.kinds(real);
        let slots = masks.iter_mut().zip(kinds).zip(self.layout.registers()).zip(real);
        let mut is_wide = false;
        for (((mask, kind), register), real) in slots {
            let probe = |written: u32| {
                access.write(*register, Width::Dword, written);
                let mask = access.read(*register, Width::Dword);
                access.write(*register, Width::Dword, *real);
                mask
            };
            *mask = match kind {
                Kind::Io => 0,
                Kind::Low | Kind::High => probe(u32::MAX),
                Kind::Rom => match probe(ROM_SIZING) & ROM_SIZING {
                    0 => 0,
                    mask => mask | 1,
                },
                // Closed at every moment, and nothing to find where a value stands: traffic from below may pass.
                Kind::Window if *real == 0 && probe(WINDOW_CLOSED) == 0 => 0,
                Kind::Window => WINDOW_BITS,
                Kind::WindowHigh if is_wide => u32::MAX,
                Kind::WindowHigh => 0,
            };
            is_wide = match kind {
                Kind::Window => real & 0xf == 1,
                Kind::WindowHigh => is_wide,
                _ => false,
            };
        }
        masks
    }
}
