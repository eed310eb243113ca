//! What a function is: the devices that there are, behind one interface.

use alloc::boxed::Box;
use core::fmt;

use arrayvec::ArrayVec;
use spin::Mutex;
use vcpu::{Image, Random};

use crate::balloon::{self, Balloon};
use crate::block::{self, Block};
use crate::console::{self, Console};
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
    /// A console with its ports.
    Console(Box<Console>),
    /// Memory that comes and goes.
    Balloon(Box<Balloon>),
}

impl<I> fmt::Debug for Kind<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Block(_) => "Block",
            Self::Entropy(_) => "Entropy",
            Self::Net(_) => "Net",
            Self::Console(_) => "Console",
            Self::Balloon(_) => "Balloon",
        })
    }
}

impl<I: Image> Kind<I> {
    pub(super) const fn identity(&self) -> (u16, u32) {
        match self {
            Self::Block(_) => (block::TYPE, block::CLASS),
            Self::Entropy(_) => (entropy::TYPE, entropy::CLASS),
            Self::Net(_) => (net::TYPE, net::CLASS),
            Self::Console(_) => (console::TYPE, console::CLASS),
            Self::Balloon(_) => (balloon::TYPE, balloon::CLASS),
        }
    }

    pub(super) const fn features(&self) -> u64 {
        match self {
            Self::Block(disk) => disk.features(),
            Self::Entropy(_) => 0,
            Self::Net(net) => net.offered(),
            Self::Console(_) => Console::offered(),
            Self::Balloon(_) => Balloon::offered(),
        }
    }

    /// The configuration that a driver reads, with so many queues.
    pub(super) fn configuration(&self, queues: usize) -> ArrayVec<u8, 64> {
        match self {
            Self::Block(disk) => disk.configuration(queues),
            Self::Entropy(_) => ArrayVec::new(),
            Self::Net(net) => net.configuration(),
            Self::Console(console) => console.configuration(),
            Self::Balloon(balloon) => balloon.configuration(),
        }
    }

    /// The driver is ready, and has agreed to these features.
    pub(super) fn go_live(&self, features: u64) {
        match self {
            Self::Net(net) => net.go_live(features),
            Self::Console(console) => console.go_live(features),
            Self::Balloon(balloon) => balloon.go_live(features),
            Self::Block(_) | Self::Entropy(_) => {}
        }
    }

    /// The driver is gone.
    pub(super) fn reset(&self) {
        match self {
            Self::Net(net) => net.reset(),
            Self::Console(console) => console.reset(),
            Self::Balloon(balloon) => balloon.reset(),
            Self::Block(disk) => {
                if let Some(remote) = disk.remote() {
                    remote.reset();
                }
            }
            Self::Entropy(_) => {}
        }
    }

    /// Whether there is something that no doorbell tells of.
    #[inline]
    pub(super) fn has_news(&self) -> bool {
        match self {
            Self::Net(net) => net.has_news(),
            Self::Console(console) => console.has_news(),
            Self::Balloon(balloon) => balloon.has_news(),
            // What a server has answered is noted by `Function::note_answers`: each exit asks here.
            Self::Block(_) | Self::Entropy(_) => false,
        }
    }

    pub(super) fn write_configuration(&self, at: u64, value: u64) {
        match self {
            Self::Console(console) => console.write_configuration(at, value),
            Self::Balloon(balloon) => balloon.write_configuration(at, value),
            Self::Block(_) | Self::Entropy(_) | Self::Net(_) => {}
        }
    }

    pub(super) const fn as_net(&self) -> Option<&Net> {
        if let Self::Net(net) = self { Some(net) } else { None }
    }
}
