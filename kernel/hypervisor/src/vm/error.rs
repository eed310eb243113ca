//! Why a VM does not start.

use core::fmt;

use devices::PortTaken;
use devices::acpi::AcpiError;
use devices::fw_cfg::FileError;
use loader::LoadError;
use vcpu::{CreateError, MemoryError, NotRam};
use vswitch::MAX_PORTS;

use crate::config::Name;
use crate::networks::MAX_NETWORKS;
use crate::schedule;

/// Why a VM could not be made or started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// No address space or vCPU.
    Create(CreateError),
    /// No memory for it.
    Memory(MemoryError),
    /// The machine's own devices cannot be given to a VM.
    NoHardware,
    /// Its kernel or initrd.
    Load(LoadError),
    /// Its ACPI tables: our error.
    Tables(AcpiError),
    /// A port that its line gives away is another device's.
    Port(PortTaken),
    /// A file for its firmware cannot be given.
    File(FileError),
    /// The scheduler does not take it: it asks for what there is not.
    Schedule(schedule::Error),
    /// Guest memory is not where the memory map says: our error.
    NotRam(NotRam),
    /// The CPU cannot give its TSC that rate.
    NoTscScaling {
        /// The rate that its line asks for, in kHz.
        khz: u32,
        /// The host's, in Hz.
        host_hz: u64,
    },
    /// No memory for what says where its own memory is, or what its firmware tells.
    NoRoom,
    /// No memory for its vCPUs.
    NoProcessors {
        /// How many.
        vcpus: usize,
    },
    /// No memory for its console.
    NoConsole,
    /// No memory for a device's queues.
    NoQueues {
        /// How many.
        queues: usize,
    },
    /// No memory for the line between two VMs' ports.
    NoLine {
        /// The ports' name.
        name: Name,
    },
    /// Two VMs are joined by that already.
    LineFull {
        /// The ports' name.
        name: Name,
    },
    /// No memory for a network, or too many.
    NoNetwork {
        /// Its name.
        name: Name,
    },
    /// A network has no port left, or there is no memory for one.
    NetworkFull {
        /// Its name.
        name: Name,
    },
    /// A vCPU is still in use: our error.
    Busy {
        /// Its number.
        index: usize,
    },
}

impl StartError {
    /// Whether the kernel had no memory of its own for it.
    pub(crate) const fn is_shortage(&self) -> bool {
        matches!(
            self,
            Self::NoRoom
                | Self::NoProcessors { .. }
                | Self::NoConsole
                | Self::NoQueues { .. }
                | Self::NoLine { .. }
        )
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::NoHardware => f.write_str("the machine's own devices cannot be handed on: no memory was set aside for that"),
            Self::Load(error) => error.fmt(f),
            Self::Tables(error) => write!(f, "no ACPI tables: {error:?} (an error of Basalt)"),
            Self::Port(PortTaken { port }) => {
                write!(f, "debug-exit={port:#x}: another device has this port; choose one such as 0x501")
            }
            Self::File(FileError::Twice) => f.write_str(
                "two files for the firmware have the same name, or one has that of a file of Basalt's; rename it",
            ),
            Self::File(error) => write!(f, "a file for the firmware cannot be given: {error:?}"),
            Self::NoRoom => f.write_str(
                "no memory for what Basalt keeps of it; start fewer VMs or give the machine more",
            ),
            Self::NoProcessors { vcpus } => {
                write!(f, "no memory for {vcpus} vCPUs; start fewer VMs or give the machine more")
            }
            Self::NoConsole => f.write_str("no memory for its console; start fewer VMs or give the machine more"),
            Self::NoQueues { queues } => {
                write!(f, "no memory for a device with {queues} queues; start fewer VMs or give the machine more")
            }
            Self::NoLine { name } => {
                write!(f, "port={name}: no memory for it; start fewer VMs or give the machine more")
            }
            Self::LineFull { name } => {
                write!(f, "port={name}: two VMs have this already, and it joins no more than two; give this VM another")
            }
            Self::NoNetwork { name } => write!(
                f,
                "net={name}: no memory for one more network, or {MAX_NETWORKS} are there already; use fewer"
            ),
            Self::NetworkFull { name } => write!(
                f,
                "net={name}: it has {MAX_PORTS} ports already, or there is no memory for one more; use another network"
            ),
            Self::Schedule(error) => error.fmt(f),
            Self::NotRam(error) => write!(f, "no RAM at {} (an error of Basalt)", error.gpa),
            Self::NoTscScaling { khz, host_hz } => write!(
                f,
                "tsc-khz={khz}: this CPU cannot scale its TSC of {} kHz to that; leave tsc-khz= out",
                host_hz / 1000
            ),
            Self::Busy { index } => write!(f, "vCPU {index} is still in use (an error of Basalt)"),
        }
    }
}

macro_rules! from {
    ($($error:ty => $variant:ident,)*) => { $(
        impl From<$error> for StartError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        }
    )* };
}

from! {
    CreateError => Create,
    schedule::Error => Schedule,
    MemoryError => Memory,
    LoadError => Load,
    AcpiError => Tables,
    NotRam => NotRam,
    PortTaken => Port,
    FileError => File,
}
