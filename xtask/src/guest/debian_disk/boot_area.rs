//! What is before a PC disk's first partition: the boot sector with the partition table, and the boot loader's core.
//!
//! Sources: GRUB manual, "BIOS installation" (the gap behind the boot sector); UEFI specification, "Legacy Master Boot Record".

use crate::failure::{Failure, Result};

/// Bytes in a sector.
pub(super) const SECTOR: usize = 512;
/// Where the partition begins, in bytes: where all partitioning tools let the first one begin.
pub(super) const PARTITION_START: u64 = 1 << 20;
/// The boot sector's code ends before this.
const CODE_END: usize = 440;
/// The first of the partition table's four entries.
const FIRST_ENTRY: usize = 446;
const ENTRY_SIZE: usize = 16;
const SIGNATURE: [u8; 2] = [0x55, 0xaa];
const BOOTABLE: u8 = 0x80;
const LINUX: u8 = 0x83;
/// Cylinder, head and sector of what lies beyond their reach.
const NO_CHS: [u8; 3] = [0xfe, 0xff, 0xff];

/// The size of the file system, in KiB, on a disk of so many MiB.
pub(super) fn file_system_kibibytes(disk_mebibytes: u32) -> Result<u32> {
    let partition = disk_mebibytes.checked_sub(1).filter(|size| *size > 0);
    partition.and_then(|size| size.checked_mul(1024)).ok_or_else(|| {
        Failure::new(format!("a disk of {disk_mebibytes} MiB cannot hold a system")).next("write it as 300M")
    })
}

/// The bytes from the start of a disk of so many sectors: GRUB's boot sector looks for the core right behind itself. None where
/// something does not fit.
pub(super) fn build(boot_sector: &[u8], core: &[u8], disk_sectors: u64) -> Option<Vec<u8>> {
    let start = PARTITION_START / SECTOR as u64;
    let sectors = u32::try_from(disk_sectors.checked_sub(start)?).ok().filter(|sectors| *sectors > 0)?;
    let end = SECTOR.checked_add(core.len())?;
    if u64::try_from(end).ok()? > PARTITION_START {
        return None;
    }
    let mut area = vec![0; end];
    area[..CODE_END].copy_from_slice(boot_sector.get(..CODE_END)?);
    let entry = &mut area[FIRST_ENTRY..FIRST_ENTRY + ENTRY_SIZE];
    entry[0] = BOOTABLE;
    entry[1..4].copy_from_slice(&NO_CHS);
    entry[4] = LINUX;
    entry[5..8].copy_from_slice(&NO_CHS);
    entry[8..12].copy_from_slice(&u32::try_from(start).ok()?.to_le_bytes());
    entry[12..].copy_from_slice(&sectors.to_le_bytes());
    area[SECTOR - SIGNATURE.len()..SECTOR].copy_from_slice(&SIGNATURE);
    area[SECTOR..].copy_from_slice(core);
    Some(area)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_one_partition_to_the_end_of_the_disk() {
        let area = build(&[0xeb; SECTOR], b"core", 614_400).expect("fits");
        assert_eq!(area.len(), SECTOR + 4);
        assert!(area[..CODE_END].iter().all(|byte| *byte == 0xeb));
        assert_eq!(
            area[446..462],
            [0x80, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff, 0, 8, 0, 0, 0, 0x58, 9, 0]
        );
        assert!(area[462..510].iter().all(|byte| *byte == 0));
        assert_eq!(area[510..512], SIGNATURE);
        assert_eq!(&area[512..], b"core");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let gap = usize::try_from(PARTITION_START).expect("small") - SECTOR;
        assert!(build(&[0; SECTOR], &vec![0; gap], 4096).is_some());
        assert!(build(&[0; SECTOR], &vec![0; gap + 1], 4096).is_none());
        assert!(build(&[0; 100], b"core", 4096).is_none());
        assert!(build(&[0; SECTOR], b"core", 2048).is_none());
        assert!(build(&[0; SECTOR], b"core", 1 << 40).is_none());
    }

    #[test]
    fn the_file_system_leaves_a_mebibyte() {
        assert_eq!(file_system_kibibytes(300).ok(), Some(299 * 1024));
        assert!(file_system_kibibytes(1).is_err());
        assert!(file_system_kibibytes(u32::MAX).is_err());
    }
}
