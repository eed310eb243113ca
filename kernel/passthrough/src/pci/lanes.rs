//! Bytes of double words: configuration requests carry one to four bytes of one.

use devices::Width;

use super::CONFIG_BYTES;

/// All bits of a width, at most 32.
pub(super) const fn ones(width: Width) -> u32 {
    width.mask() as u32
}

/// The double word that a register is in.
pub(super) const fn dword(register: u16) -> u16 {
    register & !3
}

/// Whether an access is no configuration request: it crosses a multiple of four, or is beyond the space.
pub(super) const fn crosses(register: u16, width: Width) -> bool {
    register >= CONFIG_BYTES || register % 4 + width.bytes() as u16 > 4
}

/// What an access reads of its double word.
pub(super) const fn extract(value: u32, register: u16, width: Width) -> u32 {
    value >> (8 * (register % 4)) & ones(width)
}

/// A double word in which an access has written its bytes.
pub(super) const fn merge(old: u32, register: u16, width: Width, value: u32) -> u32 {
    let shift = 8 * (register % 4);
    let mask = ones(width) << shift;
    old & !mask | value << shift & mask
}

/// Whether an access has byte `lane` of its double word.
pub(super) const fn has(register: u16, width: Width, lane: u16) -> bool {
    let first = register % 4;
    lane >= first && lane < first + width.bytes() as u16
}

/// The aligned parts of an access, each with its byte in the access; none where it [`crosses`].
pub(super) fn pieces(register: u16, width: Width) -> impl Iterator<Item = (u16, u16, Width)> {
    let bytes = u16::from(width.bytes());
    let part = if register.is_multiple_of(bytes) { width } else { Width::Byte };
    let count = if crosses(register, width) { 0 } else { bytes / u16::from(part.bytes()) };
    (0..count).map(move |index| (index, register + index, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_changes_its_bytes_only() {
        assert_eq!(merge(0x1122_3344, 0x42, Width::Word, 0xaabb), 0xaabb_3344);
        assert_eq!(merge(0x1122_3344, 0x41, Width::Byte, 0xffff_ffcc), 0x1122_cc44);
        assert_eq!(extract(0x1122_3344, 0x43, Width::Byte), 0x11);
        assert!(has(0x40, Width::Dword, 3) && has(0x42, Width::Word, 2) && !has(0x41, Width::Word, 3));
    }

    #[test]
    fn unaligned_words_are_two_bytes_and_nothing_crosses() {
        let parts = |register, width| pieces(register, width).collect::<Vec<_>>();
        assert_eq!(parts(5, Width::Word), [(0, 5, Width::Byte), (1, 6, Width::Byte)]);
        assert_eq!(parts(4, Width::Dword), [(0, 4, Width::Dword)]);
        assert_eq!(parts(6, Width::Dword), []);
        assert_eq!(parts(0, Width::Qword), []);
        assert_eq!(parts(0x1000, Width::Byte), []);
    }
}
