//! The entropy device: fills the driver's buffers with random bytes.
//!
//! Source: VIRTIO 1.2, "Entropy Device".

use vcpu::{GuestMemory, Random};

use crate::queue::{Broken, Chain};

/// The device's type, and its PCI class: no class fits.
pub(crate) const TYPE: u16 = 4;
pub(crate) const CLASS: u32 = 0xff_00_00;
/// Bytes that a request gets at most: random bytes cost more than copied ones, and a driver asks again.
pub(crate) const MOST_BYTES: u32 = 4096;

/// Carries a request out. Returns how many bytes were written.
///
/// # Errors
/// [`Broken`] where there is nothing to write to.
pub(crate) fn serve<M: GuestMemory>(
    chain: &Chain,
    memory: &M,
    random: &mut dyn Random,
) -> Result<u32, Broken> {
    let mut bounce = [0; 256];
    let (mut place, mut done) = (chain.writable(), 0);
    while done < MOST_BYTES {
        let most = (MOST_BYTES - done).min(bounce.len() as u32);
        let Some(part) = place.next(chain, most) else { break };
        let bytes = bounce.get_mut(..part.length as usize).unwrap_or_default();
        random.fill(bytes);
        memory.write(part.gpa, bytes)?;
        done += part.length;
    }
    if done == 0 { Err(Broken::Request) } else { Ok(done) }
}
