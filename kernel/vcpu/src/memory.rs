//! Guest memory. Nobody outside `machine` holds a host address of it, and it is never a Rust reference:
//! access is by copies and single atomic operations, so a guest that changes a value meanwhile changes only
//! what the next read returns.

use core::fmt;

use crate::{Gpa, Hpa};

/// There is no RAM at (the whole of) the given guest-physical range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotRam {
    /// The first address that is not RAM.
    pub gpa: Gpa,
}

/// RAM of one guest.
pub trait GuestMemory {
    /// Copies from guest memory. On an error the buffer's content is unspecified.
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), NotRam>;

    /// Copies into guest memory. On an error a part may have been written.
    fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), NotRam>;

    /// Copies `length` bytes from another guest's memory, once. Where both are one guest's and overlap, bytes go in ascending order.
    ///
    /// # Errors
    /// [`CopyError`] says whose memory is none. A part may have been written.
    fn copy_from(&self, gpa: Gpa, other: &Self, from: Gpa, length: u32) -> Result<(), CopyError>
    where
        Self: Sized,
    {
        let mut bounce = [0; BOUNCE];
        let mut done = 0;
        while done < length {
            let now = (length - done).min(BOUNCE as u32);
            let bytes = bounce.get_mut(..now as usize).unwrap_or_default();
            let at = |start: Gpa| start.checked_add(done.into());
            let source = at(from).ok_or(CopyError::Source(NotRam { gpa: from }))?;
            other.read(source, bytes).map_err(CopyError::Source)?;
            let target = at(gpa).ok_or(CopyError::Target(NotRam { gpa }))?;
            self.write(target, bytes).map_err(CopyError::Target)?;
            done += now;
        }
        Ok(())
    }

    /// Sets `length` bytes to zero.
    fn zero(&self, gpa: Gpa, length: u64) -> Result<(), NotRam>;

    /// One single-copy atomic read of an aligned 32-bit word. A misaligned address is rounded down.
    fn load_u32(&self, gpa: Gpa) -> Result<u32, NotRam>;

    /// One single-copy atomic read of an aligned 64-bit word. A misaligned address is rounded down.
    fn load_u64(&self, gpa: Gpa) -> Result<u64, NotRam>;

    /// Two single-copy atomic reads of 64-bit words beside each other, at an address that is aligned to 16. A misaligned address is rounded down.
    fn load_pair(&self, gpa: Gpa) -> Result<[u64; 2], NotRam> {
        let gpa = Gpa(gpa.0 & !15);
        Ok([self.load_u64(gpa)?, self.load_u64(Gpa(gpa.0 | 8))?])
    }

    /// One single-copy atomic write of an aligned 32-bit word, seen behind all that was written before. A misaligned address is
    /// rounded down.
    fn store_u32(&self, gpa: Gpa, value: u32) -> Result<(), NotRam>;

    /// Two of these writes beside each other.
    fn store_two_u32(&self, gpa: Gpa, [first, second]: [u32; 2]) -> Result<(), NotRam> {
        let gpa = Gpa(gpa.0 & !3);
        self.store_u32(gpa, first)?;
        self.store_u32(gpa.checked_add(4).ok_or(NotRam { gpa })?, second)
    }

    /// Atomic compare-and-exchange of an aligned word of 4 or 8 bytes. `Ok(Ok(()))` where it was exchanged,
    /// `Ok(Err(actual))` where memory held something else. A misaligned address is rounded down.
    fn compare_exchange(
        &self,
        gpa: Gpa,
        size: WordSize,
        current: u64,
        new: u64,
    ) -> Result<Result<(), u64>, NotRam>;

    /// True where the byte at this address is RAM, be it given back or not.
    fn is_ram(&self, gpa: Gpa) -> bool;

    /// Takes whole pages from the guest, up to `length` bytes of them, in a step. They are RAM still: whatever touches them, the guest or
    /// one of these functions, gets a page of zeros. To the machine they are free once [`Self::settle`] says so.
    fn take_back(&self, gpa: Gpa, length: u64, hole: Hole) -> Result<Taken, NotRam>;

    /// Goes on with what was taken back: CPUs forget it, then it is free. True when nothing is left to do; until then call again, after
    /// [`crate::Host::must_forget_guests`] was looked at.
    fn settle(&self) -> bool;

    /// Pages that were taken back as [`Hole::Kept`] are [`Hole::Free`] from here on.
    fn let_go(&self, gpa: Gpa, length: u64);

    /// Has memory for at most 64 KiB that may have been taken back, so that touching them cannot fail.
    ///
    /// # Errors
    /// [`MemoryError::OutOfFrames`]. A part may be there then.
    fn provide(&self, gpa: Gpa, length: u64) -> Result<(), MemoryError>;

    /// A step towards what the guest touches, where it was taken back: it comes again, with what is free in the 2 MiB around it. Returns where to
    /// go on.
    ///
    /// # Errors
    /// [`MemoryError::OutOfFrames`].
    fn bring_back(&self, gpa: Gpa) -> Result<Option<Gpa>, MemoryError>;

    /// Bytes that are taken back.
    fn taken_back(&self) -> u64;
}

/// Bytes that travel at a time where there is no better way.
const BOUNCE: usize = 512;

/// Whose memory is none, of two between which bytes were to be copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyError {
    /// Where they come from.
    Source(NotRam),
    /// Where they go.
    Target(NotRam),
}

/// Which touch brings memory that was taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hole {
    /// One nearby: the guest has it among its free memory, and uses it as it likes.
    Free,
    /// Only one of its own: the guest has promised not to touch it.
    Kept,
}

/// How much was taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// So many bytes, or they were not there before.
    Bytes(u64),
    /// None: [`GuestMemory::settle`] first.
    Full,
}

/// The size of an atomic word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WordSize {
    /// Four bytes.
    Four,
    /// Eight bytes.
    Eight,
}

/// Why memory could not be given to a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryError {
    /// The host has not enough free memory.
    OutOfFrames {
        /// Bytes that were asked for.
        wanted: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Something is mapped there already.
    Overlap {
        /// Where.
        gpa: Gpa,
    },
    /// The range is not made of whole pages or leaves the guest-physical address space.
    BadRange {
        /// First address.
        gpa: Gpa,
        /// Length in bytes.
        length: u64,
    },
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OutOfFrames { wanted, free } => write!(
                f,
                "not enough memory: {} KiB wanted, {} KiB free; give the VM less or the machine more",
                wanted / 1024,
                free / 1024
            ),
            Self::Overlap { gpa } => write!(f, "guest-physical address {gpa} is already mapped"),
            Self::BadRange { gpa, length } => {
                write!(f, "the range of {length:#x} bytes at guest-physical address {gpa} is not valid")
            }
        }
    }
}

/// How far the taking back of a guest's memory has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shrink {
    /// Call again.
    More,
    /// A CPU may still know of the memory. It was told; call again after other work.
    Waiting,
    /// A vCPU can still reach the memory: it has to end first.
    InUse,
    /// All is back.
    Done,
}

/// A guest-physical address space: RAM, and the nested page tables that give it to the guest. Both grow and shrink in steps
/// of at most about 64 KiB of clearing, so that their caller can look for other work in between.
pub trait AddressSpace: GuestMemory {
    /// Goes on giving the guest zeroed host memory at `gpa`, readable, writable and executable, write-back: up to `length`
    /// bytes. Returns how many bytes from `gpa` on have come into being, often 0; whoever wants more calls again with what
    /// is missing. On an error nothing is lost; what has come before stays until the space shrinks.
    fn grow(&mut self, gpa: Gpa, length: u64) -> Result<u64, MemoryError>;

    /// Bytes that were taken from the host for a page that has not come into being yet.
    fn coming(&self) -> u64;

    /// Has accesses to the page at [`crate::APIC_PAGE`] reach the CPU's virtual local APIC, where it has one. To be called once,
    /// before vCPUs are made. The page is not RAM.
    fn add_apic_page(&mut self) -> Result<(), MemoryError>;

    /// Goes on taking all of the guest's memory back; nothing can be used any more. What CPUs may still know of the memory
    /// is flushed before anybody else gets it.
    fn shrink(&mut self) -> Shrink;

    /// Gives the guest all of that memory at once, in as many steps as it takes: where nothing else is to be done.
    fn grow_all(&mut self, gpa: Gpa, length: u64) -> Result<(), MemoryError> {
        let mut done = 0;
        while done < length {
            let next = gpa.checked_add(done).ok_or(MemoryError::BadRange { gpa, length })?;
            done += self.grow(next, length - done)?;
        }
        Ok(())
    }

    /// Bytes of the nested page tables.
    fn table_bytes(&self) -> u64;

    /// The host frame behind a guest page, for diagnostics and tests.
    fn translate(&self, gpa: Gpa) -> Option<Hpa>;
}
