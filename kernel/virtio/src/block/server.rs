//! Who has a disk's sectors where the kernel has not: orders, each in a slot, and answers to them (`docs/disks.md`).

use core::fmt::Debug;

use vcpu::Gpa;

/// Orders of a VM's that are under way at most.
pub const SLOTS: usize = 32;
/// Bytes of a slot's place in memory: what one order moves at most.
pub const SLOT_BYTES: u32 = 64 << 10;

/// What is done with sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// They are read into the slot.
    Read,
    /// They are written out of the slot.
    Write,
    /// What was answered before is to survive a loss of power. Of no sectors.
    Flush,
    /// They are of no use any more.
    Discard,
    /// They are zeros from here on.
    Zero {
        /// They may as well not be there.
        may_unmap: bool,
    },
}

/// What is asked of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Order {
    /// The disk, among those of the VM.
    pub disk: u16,
    /// What to do.
    pub verb: Verb,
    /// The first sector.
    pub sector: u64,
    /// How many.
    pub sectors: u32,
}

/// What has become of an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It is done.
    Done,
    /// It is not, or not all of it.
    Failed,
    /// There is no such thing at this disk.
    Unsupported,
    /// Who was told is gone, and with it what was in the slot: it is to be told again.
    Again,
}

/// The server of a VM's disks. A slot is free, taken, told, answered, and free again.
pub trait Server: Send + Sync + Debug {
    /// Takes a slot. `None` where all are taken, or nobody serves now.
    fn take(&self) -> Option<u16>;

    /// Whether [`Self::take`] would find one.
    fn has_room(&self) -> bool;

    /// Where the place of a slot is that is taken: a device of the VM whose memory it is ([`crate::Wires::reach`]), and the address there.
    fn place(&self, slot: u16) -> Option<(usize, Gpa)>;

    /// Tells the order in a slot that was taken, or answered by [`Answer::Again`].
    fn tell(&self, slot: u16, order: Order);

    /// A slot of this disk's that was answered. It is answered until it is given back.
    fn answered(&self, disk: u16) -> Option<(u16, Answer)>;

    /// Whether there is one.
    fn has_answers(&self, disk: u16) -> bool;

    /// A slot that was taken, or answered, is free.
    fn give_back(&self, slot: u16);
}
