//! What the kernel tells unasked.

use crate::codec::{choices, messages};

choices! {
    /// Why a VM has ended.
    Reason: u16 {
        /// It has switched itself off.
        PowerOff = 1,
        /// It was stopped from outside.
        Stopped = 2,
        /// It has crashed; the kernel's log has its registers.
        Crashed = 3,
        /// It sleeps for ever.
        Halted = 4,
        /// It could not be started, or not again after a reset; the kernel's log says why.
        NotStarted = 5,
    }
}

messages! {
    /// An event; its id is 0.
    Event<'a> {
        /// A VM has ended, for whatever reason. Its memory is gone, and it can be started again.
        Ended = 0x4100 {
            /// The VM.
            vm: u64,
            /// Why.
            reason: Reason,
        }
        /// A VM was reset, by itself or as it was asked, and is there again: one that was made over the channel is held, and its memory is cleared.
        Reset = 0x4101 {
            /// The VM.
            vm: u64,
        }
        /// A job goes on: a copy, or a start.
        Progress = 0x4102 {
            /// The request's id.
            request: u64,
            /// How much of it is done.
            done: u64,
            /// Of so much.
            all: u64,
        }
        /// A VM is paused, as there is no room for what it writes to a disk that the domain serves. Resume it where there is.
        NoRoom = 0x4103 {
            /// The VM.
            vm: u64,
        }
        /// What a VM has written to its console.
        ConsoleOutput = 0x4150 {
            /// The VM.
            vm: u64,
            /// These bytes.
            bytes: &'a [u8],
        }
        /// Bytes of a console were lost, because nobody took them.
        ConsoleLost = 0x4151 {
            /// The VM.
            vm: u64,
            /// How many.
            count: u64,
        }
        /// A line of the kernel's log, without its end.
        LogLine = 0x4152 {
            /// Its text.
            bytes: &'a [u8],
        }
        /// Orders for a VM's disks, at the port `basalt-disks`.
        DiskOrders = 0x4180 {
            /// The VM.
            vm: u64,
            /// Entries of 32 bytes ([`crate::DiskOrder`]).
            orders: &'a [u8],
        }
    }
}
