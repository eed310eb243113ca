//! Firmware of a VM's own: a ROM at the upper end of 32 bits, whose last part is also in the shadow below 1 MiB. Firmware for PCs
//! first has the chipset make RAM of that and copies itself there; here it is so from the start, and there is nothing to be
//! switched. Both places are RAM, which a restart writes anew.

use vcpu::{Gpa, GuestMemory, NotRam};

use crate::memory_map::{HIGH, rom_start};

/// What of the ROM is below 1 MiB as well.
const SHADOWED: u64 = 256 << 10;

/// Copies the next bytes, after the first `done`, at most `most` of them. `None` where all are in place, else how many are.
pub(super) fn place<M: GuestMemory>(
    memory: &M,
    rom: &[u8],
    done: u64,
    most: u64,
) -> Result<Option<u64>, NotRam> {
    let bytes = rom.len() as u64;
    let shadowed = SHADOWED.min(bytes);
    let (from, to, length) = if done < bytes {
        (done, rom_start(bytes) + done, most.min(bytes - done))
    } else {
        let at = done - bytes;
        (bytes - shadowed + at, HIGH - shadowed + at, most.min(shadowed - at.min(shadowed)))
    };
    if length == 0 {
        return Ok(None);
    }
    let part = rom.get(from as usize..(from + length) as usize).unwrap_or_default();
    memory.write(Gpa(to), part)?;
    Ok(Some(done + length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;
    use vcpu::AddressSpace;
    use vcpu::fake::FakeSpace;

    #[test]
    fn a_rom_is_at_its_two_places() {
        let rom: Vec<u8> = (0..256_u32 << 10).map(|at| (at >> 10) as u8).collect();
        let mut memory = FakeSpace::with_memory(1 << 20);
        memory.grow_all(Gpa(0xc_0000), 0x4_0000).unwrap();
        memory.grow_all(Gpa(0xfffc_0000), 0x4_0000).unwrap();
        let (mut done, mut pieces) = (0, 0);
        while let Some(now) = place(&memory, &rom, done, 100_000).unwrap() {
            assert!(now > done && now - done <= 100_000);
            (done, pieces) = (now, pieces + 1);
        }
        assert_eq!((done, pieces), (512 << 10, 6));
        let mut read = vec![0; 256 << 10];
        memory.read(Gpa(0xfffc_0000), &mut read).unwrap();
        assert_eq!(read, rom);
        memory.read(Gpa(0xc_0000), &mut read).unwrap();
        assert_eq!(read, rom);
    }
}
