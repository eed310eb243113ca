//! The contract between the hypervisor and the CPU's virtualization extensions. `docs/contract.md` maps
//! every method to VMCS and VMCB fields.

use core::fmt;

use crate::{
    AddressSpace, ApicAssists, ApicState, ApicView, DescriptorTable, DescriptorTableName, Event, Exit, Gpr,
    Hardware, Image, MemoryError, Random, Registers, Segment, SegmentAccess, SegmentName, SystemRegister,
};

/// The four registers that CPUID returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuidResult {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// Why a vCPU or an address space could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CreateError {
    /// No memory for control structures.
    Memory(MemoryError),
    /// The backend's table of address-space or vCPU identifiers is full.
    Exhausted {
        /// What ran out.
        what: &'static str,
    },
}

impl From<MemoryError> for CreateError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(error) => error.fmt(f),
            Self::Exhausted { what } => write!(f, "no {what} left; stop another VM first"),
        }
    }
}

/// Factors by which a CPU can let a guest's TSC run at another rate than the host's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TscScaling {
    /// Bits behind the point.
    pub fraction_bits: u8,
    /// The largest factor.
    pub most: u64,
}

/// Something that is done with a vCPU whose type only [`Backend::with_vcpu`] knows.
pub trait WithVcpu {
    /// What comes of it.
    type Output;

    /// Does it.
    fn call<V: Vcpu>(self, vcpu: &mut V) -> Self::Output;
}

/// The machine's virtualization extensions, switched on.
pub trait Backend: Sized + 'static {
    /// A virtual CPU of one of the types that [`Self::with_vcpu`] tells apart.
    type Vcpu;
    /// A guest-physical address space.
    type Space: AddressSpace;
    /// Bytes that can be written to.
    type Image<'m>: Image;

    /// Makes an image of so many bytes, which begins with those of a boot module; behind them are zeros.
    fn create_image<'m>(&self, module: &'m [u8], bytes: u64) -> Result<Self::Image<'m>, CreateError>;

    /// A source of random bytes.
    type Random: Random + 'static;

    /// Makes a source of random bytes, which shares nothing with others. `None` where this CPU has nothing to begin one with.
    fn create_random(&self) -> Option<Self::Random>;

    /// The machine's own devices, where they can be handed to a management domain.
    fn hardware(&self) -> Option<&'static dyn Hardware> {
        None
    }

    /// Bytes of host memory that are free for guests now.
    fn free_memory(&self) -> u64;

    /// How a guest's TSC can run at another rate than the host's; `None` where it cannot.
    fn tsc_scaling(&self) -> Option<TscScaling>;

    /// Whether an address space needs [`AddressSpace::add_apic_page`] for what the CPU can do of local APICs.
    fn wants_apic_page(&self) -> bool;

    /// An empty address space.
    fn create_space(&self) -> Result<Self::Space, CreateError>;

    /// A vCPU in the state after power-up (SDM vol. 3, "Processor State After Reset") in that address
    /// space.
    fn create_vcpu(&self, space: &Self::Space) -> Result<Self::Vcpu, CreateError>;

    /// Does something with a vCPU as what it really is. So nothing is chosen at each of its methods: what runs guests is made
    /// for each vendor, and everything else once.
    fn with_vcpu<W: WithVcpu>(vcpu: &mut Self::Vcpu, work: W) -> W::Output;

    /// What this CPU and this backend can offer a guest: the host's CPUID with every feature cleared whose
    /// instructions or state the backend cannot let a guest use. The hypervisor's policy takes from this
    /// what its baseline names.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult;

    /// The extensions in a few words for the log, such as `VMX (EPT 1 GiB, VPID, …)`.
    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

/// A virtual CPU. All methods but `load` may be called only between `load` and `unload` on the CPU that
/// loaded it; accessors work on the state between two runs.
pub trait Vcpu: 'static {
    /// Makes this vCPU current on the calling CPU and puts its extended state (FPU, vectors, debug
    /// registers, MSRs that entry does not switch) into the CPU.
    fn load(&mut self);

    /// Takes that state out again and releases the vCPU for another CPU.
    fn unload(&mut self);

    /// Runs the guest until its next exit, delivering what is pending.
    fn run(&mut self) -> Exit;

    /// Back to the state after power-up. Pending events are dropped.
    fn reset(&mut self);

    /// General-purpose registers; the RSP slot is not live.
    fn registers(&self) -> &Registers;

    /// General-purpose registers for writing; the RSP slot has no effect.
    fn registers_mut(&mut self) -> &mut Registers;

    /// Instruction pointer.
    fn rip(&self) -> u64;

    /// Sets the instruction pointer and nothing else; see [`Self::advance`] to finish an instruction.
    fn set_rip(&mut self, rip: u64);

    /// Stack pointer.
    fn rsp(&self) -> u64;

    /// Sets the stack pointer.
    fn set_rsp(&mut self, rsp: u64);

    /// Flags.
    fn rflags(&self) -> u64;

    /// Sets the flags.
    fn set_rflags(&mut self, rflags: u64);

    /// A register that the backend keeps.
    fn read(&self, register: SystemRegister) -> u64;

    /// Writes a register that the backend keeps. The value has passed the hypervisor's checks: it is one
    /// that the virtual CPU accepts. Translations that the change makes stale are flushed. Writing CR0
    /// or EFER keeps EFER.LMA as given; the hypervisor computes it.
    fn write(&mut self, register: SystemRegister, value: u64);

    /// A segment with its hidden part.
    fn segment(&self, name: SegmentName) -> Segment;

    /// Loads a segment's selector and hidden part.
    fn set_segment(&mut self, name: SegmentName, segment: Segment);

    /// GDTR or IDTR.
    fn table(&self, name: DescriptorTableName) -> DescriptorTable;

    /// Loads GDTR or IDTR.
    fn set_table(&mut self, name: DescriptorTableName, table: DescriptorTable);

    /// Current privilege level, 0 to 3.
    fn cpl(&self) -> u8;

    /// Whether it is in 64-bit mode: EFER.LMA and CS.L are set.
    fn is_in_64_bit_mode(&self) -> bool {
        self.segment(SegmentName::Cs).access.contains(SegmentAccess::LONG)
            && self.read(SystemRegister::Efer) & crate::efer::LMA != 0
    }

    /// The four page-directory-pointer entries of PAE paging, which a CPU loads when CR0, CR3 or CR4 are
    /// written (SDM vol. 3, "PDPTE Registers"). Where the CPU reads them from memory this does nothing.
    fn set_pdptes(&mut self, entries: [u64; 4]);

    /// Which CR0 and CR4 bits the guest may change without an exit. The backend may watch more than that.
    fn set_guest_owned(&mut self, cr0: u64, cr4: u64);

    /// The address of the next instruction, where the CPU gives it: valid after an exit that an
    /// instruction caused.
    fn next_rip(&self) -> Option<u64>;

    /// The bytes of the instruction that faulted, where the CPU gives them (AMD decode assists): copies
    /// at most 15 and returns how many.
    fn instruction_bytes(&self, buffer: &mut [u8; 15]) -> usize;

    /// Bytes of the instruction whose access was the nested fault, 1 to 15, where the CPU tells. No manual promises that it does: to be
    /// believed only by who has found it right before.
    fn fault_instruction_length(&self) -> Option<u8>;

    /// Finishes an instruction that the hypervisor executed: moves RIP, ends the STI or MOV SS shadow and
    /// makes the trap of RFLAGS.TF pending.
    fn advance(&mut self, next_rip: u64);

    /// Delivers an event at the next entry. For interrupts and NMIs only where [`Self::interruptible`] or
    /// [`Self::nmi_ready`] says yes.
    fn inject(&mut self, event: Event);

    /// The event whose delivery the last exit interrupted and which the next entry repeats.
    fn interrupted_event(&self) -> Option<Event>;

    /// True where an external interrupt can be injected now: RFLAGS.IF, no shadow, nothing else pending.
    fn interruptible(&self) -> bool;

    /// True where an NMI can be injected now.
    fn nmi_ready(&self) -> bool;

    /// Asks for (or calls off) an exit as soon as an interrupt can be injected.
    fn request_interrupt_window(&mut self, wanted: bool);

    /// Asks for (or calls off) an exit as soon as an NMI can be injected.
    fn request_nmi_window(&mut self, wanted: bool);

    /// The next runs end with [`Exit::HostEvent`] when the host's TSC reaches `tsc`, where the CPU has a timer for that.
    /// The host's own timer is armed as well, so a backend may ignore this.
    fn set_run_deadline(&mut self, tsc: u64);

    /// The guest's TSC is the host's, times the factor of [`Self::set_tsc_scale`], plus this, modulo 2^64.
    fn set_tsc_offset(&mut self, offset: u64);

    /// The factor of the guest's TSC as [`Backend::tsc_scaling`] describes it; 1 where this is never called.
    fn set_tsc_scale(&mut self, multiplier: u64);

    /// The guest reaches its local APIC in this way from now on, and writes its task priority often, or does not. Returns what the CPU does of it then. The state has been
    /// taken back, and the registers are to be shown anew.
    fn set_apic_view(&mut self, view: ApicView, uses_task_priority: bool) -> ApicAssists;

    /// Hands the state of the local APIC's interrupts to the CPU, for the next runs. With `broadcasts` the I/O APIC has to hear of
    /// the ends of level-triggered ones ([`Exit::ApicEoi`]).
    fn give_apic(&mut self, state: &ApicState, broadcasts: bool);

    /// Takes it back: `state` gets what the CPU has changed of it.
    fn take_apic(&mut self, state: &mut ApicState);

    /// Adds an edge-triggered interrupt to the state that the CPU has. False where that has to be taken back for it.
    fn add_request(&mut self, _vector: u8) -> bool {
        false
    }

    /// A register of the local APIC as the guest has written it, by its place in the page divided by 16. Meaningful with
    /// [`ApicAssists::REGISTERS`].
    fn apic_register(&self, index: u16) -> u32;

    /// Shows the guest a register of the local APIC.
    fn set_apic_register(&mut self, index: u16, value: u32);

    /// All translations of linear addresses that the CPU may keep for this vCPU go before the next entry.
    fn flush_tlb(&mut self);

    /// Reads the guest's IA32_SPEC_CTRL or IA32_ARCH_CAPABILITIES, by their numbers. `None` where it has none, or another is asked for.
    fn read_speculation(&self, _msr: u32) -> Option<u64> {
        None
    }

    /// Writes one of them. False where it has none, or that takes no such value. Once the guest has written another value than 0 to
    /// IA32_SPEC_CTRL, there need not be exits for that any more.
    fn write_speculation(&mut self, _msr: u32, _value: u64) -> bool {
        false
    }

    /// Since the last exit the kernel has done something that is perhaps not this guest's own: what the CPU has cached of it must not
    /// reach the guest, where that is possible. Said by all ways but those of the most frequent exits, which touch nothing else.
    #[inline]
    fn note_other_work(&mut self) {}

    /// A general-purpose register by number, RSP included.
    #[inline]
    fn gpr(&self, gpr: Gpr) -> u64 {
        if matches!(gpr, Gpr::Rsp) { self.rsp() } else { self.registers().values[gpr as usize] }
    }

    /// Sets a general-purpose register by number, RSP included.
    #[inline]
    fn set_gpr(&mut self, gpr: Gpr, value: u64) {
        if matches!(gpr, Gpr::Rsp) {
            self.set_rsp(value);
        } else {
            self.registers_mut().values[gpr as usize] = value;
        }
    }

    /// Vendor fields worth a line in a dump, such as the exit reason and qualification as the CPU gave
    /// them.
    fn dump(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}
