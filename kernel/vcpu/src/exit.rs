//! Why a guest left: one vendor-neutral value per exit. Everything that costs a read from the VMCS and is
//! not always needed is fetched through [`crate::Vcpu`] instead.

use crate::{Gpa, Gpr, Gva};

/// The reason of an exit (SDM vol. 3, "VM Exits"; APM vol. 2, "#VMEXIT"). The backend has already settled
/// what only the vendor knows: host interrupts and NMIs are served, an interrupted delivery is kept for
/// re-injection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// The host had an interrupt, an NMI or its preemption timer. It is served; look for pending work.
    HostEvent,
    /// The guest can now take an interrupt ([`crate::Vcpu::request_interrupt_window`]).
    InterruptWindow,
    /// The guest can now take an NMI.
    NmiWindow,
    /// The task priority no longer masks the highest request of the local APIC.
    TaskPriority,
    /// The instruction has written a register of the local APIC, which [`crate::Vcpu::apic_register`] tells: it is done.
    ApicWrite {
        /// Its place in the page, divided by 16.
        index: u16,
    },
    /// The guest has ended this level-triggered interrupt: it is done, and the I/O APIC is to hear of it.
    ApicEoi {
        /// The vector.
        vector: u8,
    },
    /// CPUID.
    Cpuid,
    /// RDMSR; the number is in ECX.
    ReadMsr,
    /// WRMSR; the number is in ECX, the value in EDX:EAX.
    WriteMsr,
    /// IN, OUT, INS or OUTS.
    Io(IoExit),
    /// An access that the nested tables do not allow.
    NestedFault(NestedFault),
    /// A move to or from a control register that the hypervisor watches. `None` where the CPU does not say
    /// which: decode the instruction.
    ControlRegister(Option<ControlRegisterAccess>),
    /// HLT.
    Halt,
    /// VMCALL or VMMCALL.
    Hypercall,
    /// XSETBV; the number is in ECX, the value in EDX:EAX.
    Xsetbv,
    /// INVD or WBINVD.
    CacheControl,
    /// PAUSE, where pause exiting or filtering is on.
    Pause,
    /// RDPMC.
    ReadPmc,
    /// An instruction that the virtual CPU does not have (VMX, SVM, MONITOR, SMX, …): #UD.
    Undefined,
    /// An exception that is watched because its endless delivery would hold the CPU (#DB, #AC), or that the
    /// backend watched for a moment. To be delivered to the guest as it is; CR2 is set.
    Exception {
        /// Vector.
        vector: u8,
        /// Error code where the vector has one.
        error_code: Option<u32>,
    },
    /// A third fault while delivering a double fault, or an AMD shutdown.
    TripleFault,
    /// A hardware task switch (SDM vol. 3, "Task Switching").
    TaskSwitch,
    /// The entry failed: the guest's state or our controls are not what the CPU accepts.
    EntryFailure(EntryFailure),
    /// An exit nobody asked for.
    Unknown {
        /// The basic exit reason or EXITCODE.
        code: u64,
        /// The exit qualification or EXITINFO1.
        qualification: u64,
    },
}

/// A port access, in one word, as it is handed on at each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoExit(u32);

impl IoExit {
    /// Bits of the word: the size less 1 in the lowest three, the port in the upper half. Others mean nothing.
    const SIZE: u32 = 7;
    const INPUT: u32 = 1 << 3;
    const STRING: u32 = 1 << 4;
    const PORT: u32 = 16;

    /// An access of `size` bytes: 1, 2 or 4. IN and INS are `input`; INS and OUTS are `string`.
    #[inline(always)]
    pub const fn new(port: u16, size: u8, input: bool, string: bool) -> Self {
        let flags = (input as u32) << 3 | (string as u32) << 4;
        Self((port as u32) << Self::PORT | (size as u32).wrapping_sub(1) & Self::SIZE | flags)
    }

    const MEANING: u32 = Self::SIZE | Self::INPUT | Self::STRING | 0xffff << Self::PORT;

    /// The access that these bits describe.
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & Self::MEANING)
    }

    /// The port.
    #[inline(always)]
    pub const fn port(self) -> u16 {
        (self.0 >> Self::PORT) as u16
    }

    /// Bytes: 1, 2 or 4.
    #[inline(always)]
    pub const fn size(self) -> u8 {
        (self.0 & Self::SIZE) as u8 + 1
    }

    /// IN or INS.
    #[inline(always)]
    pub const fn input(self) -> bool {
        self.0 & Self::INPUT != 0
    }

    /// INS or OUTS, to be decoded and executed by the emulator.
    #[inline(always)]
    pub const fn string(self) -> bool {
        self.0 & Self::STRING != 0
    }
}

/// What the guest tried to do with a guest-physical address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A data read.
    Read,
    /// A data write or read-modify-write.
    Write,
    /// An instruction fetch.
    Fetch,
}

/// An EPT violation or misconfiguration, or a nested page fault (SDM vol. 3, "EPT Violations"; APM vol. 2,
/// "Nested versus Guest Page Faults, Fault Ordering").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NestedFault {
    /// The guest-physical address.
    pub gpa: Gpa,
    /// The access.
    pub access: Access,
    /// The guest-linear address, where the CPU gives it.
    pub linear: Option<Gva>,
    /// True where the guest's own page-table walk made the access, not the final address.
    pub table_walk: bool,
}

/// Which control-register instruction a guest executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlRegisterAccess {
    /// MOV CRn, r64.
    Write {
        /// n.
        register: u8,
        /// The source.
        source: Gpr,
    },
    /// MOV r64, CRn.
    Read {
        /// n.
        register: u8,
        /// The destination.
        destination: Gpr,
    },
    /// CLTS.
    Clts,
    /// LMSW with its source value.
    Lmsw {
        /// The new machine status word.
        value: u16,
    },
}

/// Why an entry failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryFailure {
    /// The VM-instruction error number, the exit reason or EXITCODE, as the vendor numbers them.
    pub code: u64,
    /// In words.
    pub reason: &'static str,
    /// The first field found wrong by checking the state by the manual's list, where that found one.
    pub culprit: Option<&'static str>,
}
