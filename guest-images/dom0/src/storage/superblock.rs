//! The label of an ext4 file system, from its superblock. Whatever is on the disk: the bytes are a stranger's.
//!
//! Source: Linux, "ext4 Data Structures and Algorithms", section "Super Block".

/// Where the superblock begins on the disk, in bytes.
pub(super) const PLACE: u64 = 1024;
/// The bytes of it that are looked at.
pub(super) const LENGTH: usize = 1024;

const MAGIC: u16 = 0xef53;
const MAGIC_AT: usize = 0x38;
/// Blocks are 1 KiB shifted by this.
const BLOCK_SIZE_AT: usize = 0x18;
const LABEL_AT: usize = 0x78;
const LABEL_LENGTH: usize = 16;
/// Linux takes blocks of up to 64 KiB.
const LARGEST_SHIFT: u32 = 6;

/// The file system's label, where the bytes are a superblock; it may be empty.
pub(super) fn label(superblock: &[u8]) -> Option<String> {
    let word = |at: usize| superblock.get(at..)?.first_chunk::<2>().map(|bytes| u16::from_le_bytes(*bytes));
    let double = |at: usize| superblock.get(at..)?.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes));
    if word(MAGIC_AT)? != MAGIC || double(BLOCK_SIZE_AT)? > LARGEST_SHIFT {
        return None;
    }
    let label = superblock.get(LABEL_AT..LABEL_AT + LABEL_LENGTH)?;
    let label = label.split(|byte| *byte == 0).next().unwrap_or_default();
    std::str::from_utf8(label).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn superblock(text: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; LENGTH];
        bytes[MAGIC_AT..MAGIC_AT + 2].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[BLOCK_SIZE_AT] = 2;
        bytes[LABEL_AT..LABEL_AT + text.len()].copy_from_slice(text);
        bytes
    }

    #[test]
    fn labels_are_read() {
        assert_eq!(label(&superblock(b"BASALT-DATA")).as_deref(), Some("BASALT-DATA"));
        assert_eq!(label(&superblock(b"sixteen-letters!")).as_deref(), Some("sixteen-letters!"));
        assert_eq!(label(&superblock(b"")).as_deref(), Some(""));
    }

    #[test]
    fn what_is_no_superblock_has_none() {
        let good = superblock(b"BASALT-DATA");
        for length in 0..LABEL_AT + LABEL_LENGTH {
            assert_eq!(label(&good[..length]), None);
        }
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            label(&bytes)
        };
        assert_eq!(changed(MAGIC_AT, 0), None);
        assert_eq!(changed(BLOCK_SIZE_AT, 7), None);
        assert_eq!(changed(BLOCK_SIZE_AT + 3, 1), None);
        assert_eq!(changed(LABEL_AT, 0xff), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(mut bytes in proptest::collection::vec(any::<u8>(), 0..LENGTH), is_magic: bool) {
            if is_magic && bytes.len() > MAGIC_AT + 1 {
                bytes[MAGIC_AT..MAGIC_AT + 2].copy_from_slice(&MAGIC.to_le_bytes());
            }
            prop_assert!(label(&bytes).is_none_or(|label| label.len() <= LABEL_LENGTH));
        }
    }
}
