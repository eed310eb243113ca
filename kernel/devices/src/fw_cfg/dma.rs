//! Copies into guest memory ("Guest-side DMA Interface"). The guest describes a copy by sixteen big-endian bytes in its
//! memory: control, length, address. They are read once; at the end the control field is written, zero or the error bit.

use vcpu::{Gpa, GuestMemory, NotRam};

use super::FwCfg;

/// What the address register reads.
pub(super) const SIGNATURE: &[u8; 8] = b"QEMU CFG";
/// Bytes copied in one step at most.
pub const STEP: u64 = 64 << 10;

/// Bits of the control field.
mod control {
    pub(super) const ERROR: u32 = 1 << 0;
    pub(super) const READ: u32 = 1 << 1;
    pub(super) const SKIP: u32 = 1 << 2;
    pub(super) const SELECT: u32 = 1 << 3;
    pub(super) const WRITE: u32 = 1 << 4;
    /// The selector is in the upper half.
    pub(super) const SELECTOR_SHIFT: u32 = 16;
}

/// What a transfer does with the item's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// They go to guest memory.
    Read,
    /// They are passed over.
    Skip,
}

/// A copy under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Transfer {
    /// Where its description lies.
    description: Gpa,
    /// What is left to do; `None` before the description was read.
    work: Option<Work>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Work {
    kind: Kind,
    length: u64,
    address: u64,
}

impl Transfer {
    /// The transfer that is described there.
    pub(super) const fn at(description: u64) -> Self {
        Self { description: Gpa(description), work: None }
    }
}

impl FwCfg<'_> {
    /// Whether a transfer is under way.
    #[inline]
    pub fn is_busy(&self) -> bool {
        self.transfer.is_some()
    }

    /// Does the next step of the transfer, [`STEP`] bytes at most.
    pub fn step<M: GuestMemory>(&mut self, memory: &M) {
        let Some(Transfer { description, work }) = self.transfer else { return };
        let done = match work {
            None => self.begin(description, memory),
            Some(work) => self.go_on(work, memory),
        };
        self.transfer = match done {
            Ok(Some(work)) => Some(Transfer { description, work: Some(work) }),
            Ok(None) => finish(description, 0, memory),
            Err(_) => finish(description, control::ERROR, memory),
        };
    }

    /// Reads the description.
    fn begin<M: GuestMemory>(&mut self, description: Gpa, memory: &M) -> Result<Option<Work>, Refused> {
        let mut bytes = [0; 16];
        memory.read(description, &mut bytes)?;
        let [high, low] = [bytes.first_chunk(), bytes.last_chunk()]
            .map(|half: Option<&[u8; 8]>| half.map_or(0, |half| u64::from_be_bytes(*half)));
        let (control, length) = ((high >> 32) as u32, high & 0xffff_ffff);
        if control & control::SELECT != 0 {
            self.select((control >> control::SELECTOR_SHIFT) as u16);
        }
        let (kind, address) = match control {
            _ if control & control::READ != 0 => (Kind::Read, low),
            _ if control & control::WRITE != 0 => return Err(Refused),
            _ if control & control::SKIP != 0 => (Kind::Skip, 0),
            _ => return Ok(None),
        };
        address.checked_add(length).ok_or(Refused)?;
        Ok((length != 0).then_some(Work { kind, length, address }))
    }

    /// Copies some bytes; behind the item's end they are zeros.
    fn go_on<M: GuestMemory>(&mut self, mut work: Work, memory: &M) -> Result<Option<Work>, Refused> {
        let rest = self.rest();
        let here = (rest.len() as u64).min(work.length);
        let step = match work.kind {
            // Nothing is copied, so all is passed over at once.
            Kind::Skip => work.length,
            Kind::Read if here == 0 => {
                let step = work.length.min(STEP);
                memory.zero(Gpa(work.address), step)?;
                step
            }
            Kind::Read => {
                let step = here.min(STEP);
                memory.write(Gpa(work.address), rest.get(..step as usize).unwrap_or_default())?;
                step
            }
        };
        self.offset += here.min(step) as usize;
        work.length -= step;
        // `begin` has seen that this stays inside the address space.
        work.address = work.address.wrapping_add(step);
        Ok((work.length != 0).then_some(work))
    }
}

/// Writes the control field. Where that cannot be done the guest waits for ever, as with the device that this is a model of.
fn finish<M: GuestMemory>(description: Gpa, control: u32, memory: &M) -> Option<Transfer> {
    let _ = memory.write(description, &control.to_be_bytes());
    None
}

/// The transfer ends with the error bit.
struct Refused;

impl From<NotRam> for Refused {
    fn from(_: NotRam) -> Self {
        Self
    }
}
