//! Why a VM ends.

use core::fmt;

use emulator::InstructionBytes;
use vcpu::{EntryFailure, Event, Gpa};

/// Why a VM stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopReason {
    /// The guest switched itself off.
    PowerOff,
    /// The guest restarts the machine, which it has.
    Restart,
    /// The user ended it.
    Ended,
    /// The guest wrote this to its debug-exit port.
    DebugExit(u32),
    /// HLT with interrupts off: nothing could wake it.
    HaltedForever,
    /// A triple fault.
    TripleFault,
    /// A hardware task switch.
    TaskSwitch,
    /// The CPU did not accept the guest's state.
    EntryFailure(EntryFailure),
    /// An exit nobody asked for.
    UnknownExit {
        /// The exit's number.
        code: u64,
        /// Its qualification.
        qualification: u64,
    },
    /// An instruction fetch where there is no RAM.
    FetchOutsideRam {
        /// Where.
        gpa: Gpa,
    },
    /// The guest's page tables lie where there is no RAM.
    TableOutsideRam {
        /// Where.
        gpa: Gpa,
    },
    /// An access to RAM that the nested tables refuse: our error, not the guest's.
    RamRefused {
        /// Where.
        gpa: Gpa,
    },
    /// Delivering an event touched device memory: a stack or descriptor table lies there.
    DeliveryOutsideRam {
        /// Where.
        gpa: Gpa,
        /// The event.
        event: Event,
    },
    /// An instruction on device memory that the emulator does not execute.
    Unsupported(InstructionBytes),
    /// An access by such an instruction that cannot be done.
    Refused(InstructionBytes),
    /// The instruction at RIP could not be read.
    NoCode,
    /// The instruction at RIP is, again and again, not the one the CPU left for.
    WrongInstruction,
    /// The kernel could not be loaded again after a restart.
    ReloadFailed,
    /// It has never run, or could not be started.
    NotStarted,
}

impl StopReason {
    /// True where registers and code are worth a dump.
    pub const fn is_crash(&self) -> bool {
        !matches!(
            self,
            Self::PowerOff
                | Self::Restart
                | Self::Ended
                | Self::DebugExit(_)
                | Self::ReloadFailed
                | Self::NotStarted
        )
    }

    /// Its number in events.
    pub(crate) const fn number(&self) -> u64 {
        match self {
            Self::PowerOff => 1,
            Self::Restart => 2,
            Self::Ended => 3,
            Self::DebugExit(_) => 4,
            Self::HaltedForever => 5,
            Self::TripleFault => 6,
            Self::TaskSwitch => 7,
            Self::EntryFailure(_) => 8,
            Self::UnknownExit { .. } => 9,
            Self::FetchOutsideRam { .. } => 10,
            Self::TableOutsideRam { .. } => 11,
            Self::RamRefused { .. } => 12,
            Self::DeliveryOutsideRam { .. } => 13,
            Self::Unsupported(_) => 14,
            Self::Refused(_) => 15,
            Self::NoCode => 16,
            Self::WrongInstruction => 17,
            Self::ReloadFailed => 18,
            Self::NotStarted => 19,
        }
    }

    /// True where the guest came to its end by itself, well or not.
    pub const fn is_guests_own(&self) -> bool {
        !matches!(self, Self::Ended | Self::ReloadFailed | Self::NotStarted)
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::PowerOff => f.write_str("powered off"),
            Self::Restart => f.write_str("restarts the machine"),
            Self::Ended => f.write_str("ended by the user"),
            Self::DebugExit(value) => write!(f, "debug exit with {value:#x}"),
            Self::HaltedForever => f.write_str("HLT with interrupts off"),
            Self::TripleFault => f.write_str("triple fault"),
            Self::TaskSwitch => f.write_str("hardware task switch, which is not supported"),
            Self::EntryFailure(failure) => {
                write!(f, "the CPU refused to enter the guest: {} ({:#x})", failure.reason, failure.code)?;
                match failure.culprit {
                    Some(culprit) => write!(f, ", by {culprit}"),
                    None => Ok(()),
                }
            }
            Self::UnknownExit { code, qualification } => {
                write!(f, "unknown exit {code:#x}, qualification {qualification:#x}")
            }
            Self::FetchOutsideRam { gpa } => write!(f, "instruction fetch at {gpa}, where there is no RAM"),
            Self::TableOutsideRam { gpa } => write!(f, "page table at {gpa}, where there is no RAM"),
            Self::RamRefused { gpa } => write!(f, "access to RAM at {gpa} was refused (an error of Basalt)"),
            Self::DeliveryOutsideRam { gpa, event } => {
                write!(f, "delivering {event:?} touched {gpa}, where there is no RAM")
            }
            Self::Unsupported(bytes) => write!(f, "instruction {bytes} on device memory is not supported"),
            Self::Refused(bytes) => write!(f, "instruction {bytes} makes an access that devices do not take"),
            Self::NoCode => f.write_str("the instruction at RIP cannot be read"),
            Self::WrongInstruction => {
                f.write_str("the instruction at RIP is not the one the CPU stopped at (an error of Basalt)")
            }
            Self::NotStarted => f.write_str("not started"),
            Self::ReloadFailed => f.write_str("the kernel could not be loaded again"),
        }
    }
}
