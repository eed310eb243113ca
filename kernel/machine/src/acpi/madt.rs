//! Processors and interrupt controllers. Where the local APICs are, each CPU's own register says.
//!
//! Source: ACPI Specification, "Multiple APIC Description Table (MADT)".

use arrayvec::ArrayVec;
use vcpu::Hpa;

use super::table::{HEADER_BYTES, byte, half_quad, word};

/// Processors that are kept.
pub(crate) const MAX_PROCESSORS: usize = 1024;
/// The largest APIC id with which a CPU works in xAPIC mode: 255 addresses all of them.
pub(crate) const LARGEST_XAPIC_ID: u32 = 254;
/// The id that stands for no processor in x2APIC mode; there it addresses all of them.
const NO_X2APIC_ID: u32 = u32::MAX;
/// I/O APICs that are kept.
pub(crate) const MAX_IO_APICS: usize = 16;
/// Interrupts of the ISA bus.
pub(crate) const ISA_INTERRUPTS: usize = 16;

const FLAGS_OFFSET: usize = HEADER_BYTES + 4;
/// The machine has two 8259s as well (PCAT_COMPAT).
const FLAG_PICS: u32 = 1 << 0;
const ENTRIES_OFFSET: usize = HEADER_BYTES + 8;

const LOCAL_APIC: u8 = 0;
const IO_APIC: u8 = 1;
const OVERRIDE: u8 = 2;
const LOCAL_X2APIC: u8 = 9;
/// Type and length of an entry.
const ENTRY_HEADER_BYTES: usize = 2;

/// The processor may be started.
const ENABLED: u32 = 1;
const BUS_ISA: u8 = 0;
const POLARITY_MASK: u16 = 3;
const ACTIVE_LOW: u16 = 3;
const TRIGGER_MASK: u16 = 3 << 2;
const LEVEL: u16 = 3 << 2;

/// An I/O APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct IoApicInfo {
    /// Address of its registers.
    pub(crate) address: Hpa,
    /// The first global system interrupt it serves.
    pub(crate) gsi_base: u32,
}

/// Where an interrupt of the ISA bus arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct IsaInterrupt {
    /// Global system interrupt.
    pub(crate) gsi: u32,
    /// Active low (else active high).
    pub(crate) active_low: bool,
    /// Level triggered (else edge triggered).
    pub(crate) level: bool,
}

/// What the table says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Madt {
    /// APIC ids of the processors that may be started.
    pub(crate) processors: ArrayVec<u32, MAX_PROCESSORS>,
    /// Processors that may be started and are not kept, because there are too many.
    pub(crate) dropped: usize,
    /// Entries for processors that may not be started: empty sockets, or switched off in the firmware's set-up.
    pub(crate) disabled: usize,
    /// I/O APICs.
    pub(crate) io_apics: ArrayVec<IoApicInfo, MAX_IO_APICS>,
    /// The sixteen ISA interrupts.
    pub(crate) isa: [IsaInterrupt; ISA_INTERRUPTS],
    /// There are two 8259 interrupt controllers, which have to be silenced.
    pub(crate) pics: bool,
}

impl Default for Madt {
    fn default() -> Self {
        let identity = |irq| IsaInterrupt { gsi: irq as u32, active_low: false, level: false };
        Self {
            processors: ArrayVec::new(),
            dropped: 0,
            disabled: 0,
            io_apics: ArrayVec::new(),
            isa: core::array::from_fn(identity),
            pics: false,
        }
    }
}

impl Madt {
    /// Reads a checked table. Entries that are cut off or of unknown types are passed over; what there is no
    /// room for is left out.
    pub(super) fn parse(table: &[u8]) -> Self {
        let pics = half_quad(table, FLAGS_OFFSET).is_some_and(|flags| flags & FLAG_PICS != 0);
        let mut madt = Self { pics, ..Self::default() };
        let mut rest = table.get(ENTRIES_OFFSET..).unwrap_or_default();
        while let [kind, length, ..] = *rest {
            let length = usize::from(length);
            if length < ENTRY_HEADER_BYTES || length > rest.len() {
                break;
            }
            let (entry, after) = rest.split_at(length);
            // `None`: an entry shorter than its type needs.
            let _ = madt.entry(kind, entry);
            rest = after;
        }
        madt
    }

    fn entry(&mut self, kind: u8, entry: &[u8]) -> Option<()> {
        match kind {
            LOCAL_APIC => {
                let id = u32::from(byte(entry, 3)?);
                self.processor(id, half_quad(entry, 4)?, LARGEST_XAPIC_ID);
            }
            LOCAL_X2APIC => self.processor(half_quad(entry, 4)?, half_quad(entry, 8)?, NO_X2APIC_ID - 1),
            IO_APIC => {
                let address = Hpa(u64::from(half_quad(entry, 4)?));
                let gsi_base = half_quad(entry, 8)?;
                let _ = self.io_apics.try_push(IoApicInfo { address, gsi_base });
            }
            OVERRIDE if byte(entry, 2)? == BUS_ISA => {
                let flags = word(entry, 8)?;
                *self.isa.get_mut(usize::from(byte(entry, 3)?))? = IsaInterrupt {
                    gsi: half_quad(entry, 4)?,
                    active_low: flags & POLARITY_MASK == ACTIVE_LOW,
                    level: flags & TRIGGER_MASK == LEVEL,
                };
            }
            _ => {}
        }
        Some(())
    }

    /// A processor may be listed as local APIC and as local x2APIC.
    fn processor(&mut self, apic_id: u32, flags: u32, largest_id: u32) {
        if flags & ENABLED == 0 || apic_id > largest_id {
            self.disabled += 1;
        } else if !self.processors.contains(&apic_id) {
            self.dropped += usize::from(self.processors.try_push(apic_id).is_err());
        }
    }

    /// True where a processor's id needs more bits than the eight of xAPIC mode.
    pub(crate) fn needs_x2apic(&self) -> bool {
        self.processors.iter().any(|id| *id > LARGEST_XAPIC_ID)
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::super::table::tests::table;
    use super::*;

    fn madt(entries: &[&[u8]]) -> Madt {
        let mut content = vec![0, 0, 0xe0, 0xfe, 1, 0, 0, 0];
        content.extend(entries.concat());
        Madt::parse(&table(*b"APIC", &content))
    }

    #[test]
    fn processors_controllers_and_overrides_are_read() {
        let madt = madt(&[
            &[0, 8, 0, 7, 1, 0, 0, 0],
            &[0, 8, 1, 9, 0, 0, 0, 0],
            &[9, 16, 0, 0, 0x34, 0x12, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0],
            &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
            &[2, 10, 0, 0, 2, 0, 0, 0, 0, 0],
            &[2, 10, 0, 9, 9, 0, 0, 0, 0x0f, 0],
            &[0x7f, 3, 0],
        ]);
        assert_eq!(madt.processors.as_slice(), [7, 0x1234]);
        assert_eq!(madt.io_apics.as_slice(), [IoApicInfo { address: Hpa(0xfec0_0000), gsi_base: 0 }]);
        assert_eq!(madt.isa[0], IsaInterrupt { gsi: 2, active_low: false, level: false });
        assert_eq!(madt.isa[4], IsaInterrupt { gsi: 4, active_low: false, level: false });
        assert_eq!(madt.isa[9], IsaInterrupt { gsi: 9, active_low: true, level: true });
    }

    fn local_apic(id: u8, flags: u8) -> Vec<u8> {
        vec![0, 8, id, id, flags, 0, 0, 0]
    }

    fn local_x2apic(id: u32, flags: u8) -> Vec<u8> {
        let mut entry = vec![9, 16, 0, 0];
        entry.extend(id.to_le_bytes());
        entry.extend([flags, 0, 0, 0, 0, 0, 0, 0]);
        entry
    }

    fn of(entries: &[Vec<u8>]) -> Madt {
        madt(&entries.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    #[test]
    fn all_of_255_processors_are_kept() {
        let plain = of(&(0..255).map(|id| local_apic(id, 1)).collect::<Vec<_>>());
        assert_eq!((plain.processors.len(), plain.disabled, plain.dropped), (255, 0, 0));
        assert!(!plain.needs_x2apic());
        let places = of(&(0..255).map(|id| local_apic(id, u8::from(id == 0))).collect::<Vec<_>>());
        assert_eq!((places.processors.as_slice(), places.disabled), (&[0][..], 254));
    }

    #[test]
    fn ids_beyond_eight_bits_need_x2apic_mode() {
        // Firmware lists ids below 255 in one form and the others in the other.
        let entries = (0..255).map(|id| local_apic(id, 1)).chain((255..600).map(|id| local_x2apic(id, 1)));
        let madt = of(&entries.collect::<Vec<_>>());
        assert_eq!((madt.processors.len(), madt.dropped), (600, 0));
        assert!(madt.needs_x2apic());
        assert!(!of(&[local_x2apic(254, 1), local_x2apic(300, 0)]).needs_x2apic());
    }

    #[test]
    fn ids_that_address_every_cpu_are_none() {
        let madt = of(&[local_apic(0xff, 1), local_x2apic(u32::MAX, 1)]);
        assert_eq!((madt.processors.len(), madt.disabled), (0, 2));
    }

    #[test]
    fn too_many_processors_are_counted() {
        let madt = of(&(0..MAX_PROCESSORS as u32 + 9).map(|id| local_x2apic(id, 1)).collect::<Vec<_>>());
        assert_eq!((madt.processors.len(), madt.dropped), (MAX_PROCESSORS, 9));
    }

    #[test]
    fn a_processor_named_twice_counts_once() {
        let madt = madt(&[&[0, 8, 0, 1, 1, 0, 0, 0], &[9, 16, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]]);
        assert_eq!(madt.processors.as_slice(), [1]);
    }

    #[test]
    fn an_entry_of_length_zero_ends_the_list() {
        assert_eq!(madt(&[&[0, 0, 0, 0], &[0, 8, 0, 1, 1, 0, 0, 0]]).processors.len(), 0);
    }

    proptest! {
        #[test]
        fn arbitrary_tables_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let parsed = Madt::parse(&bytes);
            prop_assert!(parsed.processors.iter().collect::<Vec<_>>().len() <= MAX_PROCESSORS);
        }

        #[test]
        fn each_enabled_processor_is_found_once_in_any_order(
            list in proptest::collection::vec((any::<bool>(), 0..300_u32, any::<bool>()), 0..80),
        ) {
            let entries: Vec<_> = list.iter().map(|(wide, id, enabled)| match u8::try_from(*id) {
                Ok(id) if !wide && id < 255 => local_apic(id, u8::from(*enabled)),
                _ => local_x2apic(*id, u8::from(*enabled)),
            }).collect();
            let mut found = of(&entries).processors.to_vec();
            let mut wanted: Vec<_> = list.iter().filter(|(_, _, enabled)| *enabled).map(|(_, id, _)| *id).collect();
            found.sort_unstable();
            wanted.sort_unstable();
            wanted.dedup();
            prop_assert_eq!(found, wanted);
        }
    }
}
