//! Which machine a VM is: what comes of its identity stays with its folder, wherever that is copied.

use std::fs::File;
use std::io::{Read, Result};

use sha2::{Digest, Sha256};

/// Letters of an identity that is made here.
const LETTERS: usize = 32;

/// A new one, which no other VM has.
///
/// # Errors
/// Linux has no random numbers.
pub(super) fn new() -> Result<String> {
    let mut bytes = [0; LETTERS / 2];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The hardware address of a network device, as the kernel takes it: the first byte in the lowest 8 bits. 0 lets the kernel make it of the VM's name.
pub(super) fn mac(id: Option<&str>, device: u16) -> u64 {
    /// A unicast address that is administered here (IEEE 802, "Universal and local administration").
    const LOCAL: u64 = 0x02;
    const FIRST: u64 = 0xff;
    let Some(id) = id else { return 0 };
    let hash = Sha256::new().chain_update(id).chain_update(device.to_le_bytes()).finalize();
    let bytes = hash.first_chunk().copied().unwrap_or([0; 8]);
    (u64::from_le_bytes(bytes) & 0xffff_ffff_ffff & !FIRST) | LOCAL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stay_with_the_identity() {
        assert_eq!(mac(None, 0), 0);
        let all: std::collections::BTreeSet<u64> =
            (0..8).map(|device| mac(Some("0123456789abcdef"), device)).collect();
        assert_eq!(all.len(), 8);
        assert!(all.iter().all(|mac| mac & 0xff == 0x02 && mac >> 48 == 0));
        assert_eq!(mac(Some("0123456789abcdef"), 1), mac(Some("0123456789abcdef"), 1));
        assert_eq!(
            format!("{:012x}", mac(Some("0123456789abcdef"), 0)),
            "c4fdfca1bc02",
            "it may never change"
        );
    }
}
