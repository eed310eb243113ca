//! What a function is: the devices that there are, behind one interface.

use alloc::boxed::Box;
use core::fmt;

use arrayvec::ArrayVec;
use spin::Mutex;
use vcpu::{Image, Random};

use crate::block::{self, Block};
use crate::entropy;
use crate::net::{self, Net};

/// What kind of device a function is.
pub enum Kind<I> {
    /// A disk.
    Block(Block<I>),
    /// A source of random bytes.
    Entropy(Mutex<Box<dyn Random>>),
    /// A network.
    Net(Box<Net>),
}

impl<I> fmt::Debug for Kind<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Block(_) => "Block",
            Self::Entropy(_) => "Entropy",
            Self::Net(_) => "Net",
        })
    }
}

impl<I: Image> Kind<I> {
    pub(super) const fn identity(&self) -> (u16, u32) {
        match self {
            Self::Block(_) => (block::TYPE, block::CLASS),
            Self::Entropy(_) => (entropy::TYPE, entropy::CLASS),
            Self::Net(_) => (net::TYPE, net::CLASS),
        }
    }

    pub(super) const fn features(&self) -> u64 {
        match self {
            Self::Block(disk) => disk.features(),
            Self::Entropy(_) => 0,
            Self::Net(net) => net.offered(),
        }
    }

    /// The configuration that a driver reads, with so many queues.
    pub(super) fn configuration(&self, queues: usize) -> ArrayVec<u8, 64> {
        match self {
            Self::Block(disk) => disk.configuration(queues),
            Self::Entropy(_) => ArrayVec::new(),
            Self::Net(net) => net.configuration(),
        }
    }

    pub(super) const fn as_net(&self) -> Option<&Net> {
        if let Self::Net(net) = self { Some(net) } else { None }
    }
}
