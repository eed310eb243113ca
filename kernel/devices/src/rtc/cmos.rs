//! The battery-backed memory, and what firmware conventionally leaves in it.

/// Register and byte indices.
pub(super) mod index {
    pub(crate) const SECONDS: u8 = 0x00;
    pub(crate) const SECONDS_ALARM: u8 = 0x01;
    pub(crate) const MINUTES: u8 = 0x02;
    pub(crate) const MINUTES_ALARM: u8 = 0x03;
    pub(crate) const HOURS: u8 = 0x04;
    pub(crate) const HOURS_ALARM: u8 = 0x05;
    pub(crate) const WEEKDAY: u8 = 0x06;
    pub(crate) const DAY: u8 = 0x07;
    pub(crate) const MONTH: u8 = 0x08;
    pub(crate) const YEAR: u8 = 0x09;
    pub(crate) const A: u8 = 0x0a;
    pub(crate) const B: u8 = 0x0b;
    pub(crate) const C: u8 = 0x0c;
    pub(crate) const D: u8 = 0x0d;
    pub(super) const EQUIPMENT: u8 = 0x14;
    pub(super) const BASE_KIB: u8 = 0x15;
    pub(super) const EXTENDED_KIB: u8 = 0x17;
    pub(super) const CHECKSUM_FIRST: u8 = 0x10;
    pub(super) const CHECKSUM_LAST: u8 = 0x2d;
    pub(super) const CHECKSUM: u8 = 0x2e;
    pub(super) const EXTENDED_KIB_ACTUAL: u8 = 0x30;
    pub(crate) const CENTURY: u8 = 0x32;
    pub(super) const ABOVE_16_MIB: u8 = 0x34;
    pub(super) const ABOVE_4_GIB: u8 = 0x5b;
}

/// Equipment byte: a mathematics coprocessor is there, no floppy drive, no display adapter to be set up.
const EQUIPMENT: u8 = 0x02;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const CHUNK: u64 = 64 * KIB;

/// How much memory the CMOS bytes report.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemorySize {
    /// Bytes from address 0 up to the end of RAM below 4 GiB.
    pub below_4_gib: u64,
    /// Bytes of RAM from 4 GiB on.
    pub above_4_gib: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Cmos {
    bytes: [u8; 128],
}

impl Cmos {
    pub(super) fn new(memory: MemorySize) -> Self {
        let mut cmos = Self { bytes: [0; 128] };
        let extended = memory.below_4_gib.saturating_sub(MIB) / KIB;
        let above_16_mib = memory.below_4_gib.saturating_sub(16 * MIB) / CHUNK;
        cmos.write(index::EQUIPMENT, EQUIPMENT);
        cmos.put(index::BASE_KIB, 2, 640.min(memory.below_4_gib / KIB));
        cmos.put(index::EXTENDED_KIB, 2, extended);
        cmos.put(index::EXTENDED_KIB_ACTUAL, 2, extended);
        cmos.put(index::ABOVE_16_MIB, 2, above_16_mib);
        cmos.put(index::ABOVE_4_GIB, 3, memory.above_4_gib / CHUNK);
        let sum: u16 =
            (index::CHECKSUM_FIRST..=index::CHECKSUM_LAST).map(|at| u16::from(cmos.read(at))).sum();
        let [low, high] = sum.to_le_bytes();
        // The checksum alone is kept with its high byte first.
        cmos.write(index::CHECKSUM, high);
        cmos.write(index::CHECKSUM + 1, low);
        cmos
    }

    #[inline]
    pub(super) fn read(&self, index: u8) -> u8 {
        self.bytes[usize::from(index & 0x7f)]
    }

    #[inline]
    pub(super) fn write(&mut self, index: u8, value: u8) {
        self.bytes[usize::from(index & 0x7f)] = value;
    }

    /// Stores `value` in `bytes` bytes, low byte first, or the largest that fits.
    fn put(&mut self, index: u8, bytes: u8, value: u64) {
        let value = value.min((1 << (8 * u32::from(bytes))) - 1);
        for (at, byte) in (0..bytes).zip(value.to_le_bytes()) {
            self.write(index + at, byte);
        }
    }
}
