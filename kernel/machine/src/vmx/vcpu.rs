//! A VMX virtual CPU: loading, running, and what an exit says.

// UNSAFETY: reads and writes the current VMCS, switches MSRs and enters the guest.
#![allow(unsafe_code)]

use vcpu::{Event, Exit, Hpa, PAGE_SIZE, PendingEvents, vector};

use super::capability::{Controls, processor};
use super::enter::{self, EntryBlock};
use super::field::{self, Field, Width};
use super::instruction::{self, InvEpt, invept, invvpid, vmclear, vmptrld, vmread, vmwrite};
use super::reason::{self, interruption};
use super::{Shared, check, setup, vpid};
use crate::cpu;
use crate::extended::ExtendedState;
use crate::memory::{self, frames, frames::FrameKind};
use crate::registers;

/// Interruptibility-state bits (SDM vol. 3, "Guest Non-Register State").
pub(super) mod blocking {
    pub(in super::super) const BY_STI: u32 = 1 << 0;
    pub(in super::super) const BY_MOV_SS: u32 = 1 << 1;
    pub(in super::super) const BY_NMI: u32 = 1 << 3;
}
/// Pending debug exceptions: single step.
pub(super) const PENDING_SINGLE_STEP: u64 = 1 << 14;

/// MSRs that VM entry does not switch and that guests own: KERNEL_GS_BASE, STAR, LSTAR, CSTAR, FMASK, and
/// TSC_AUX last, because not every CPU has it.
pub(super) const SWITCHED_MSRS: [u32; 6] =
    [0xc000_0102, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0103];

/// A virtual CPU on VMX.
#[derive(Debug)]
pub struct VmxVcpu {
    pub(super) block: EntryBlock,
    pub(super) pending: PendingEvents,
    /// Basic reason of the last exit.
    reason: u16,
    by_instruction: bool,
    /// The translations of this VPID must go before the next entry.
    pub(super) flush: bool,
    /// The VMCS is current.
    loaded: bool,
    /// MSRs and extended state are in the CPU, too.
    in_cpu: bool,
    /// Primary controls as the VMCS has them.
    processor_controls: u32,
    pub(super) shared: Shared,
    vmcs: Hpa,
    pub(super) vpid: u16,
    eptp: u64,
    pub(super) extended: ExtendedState,
    /// Values of [`SWITCHED_MSRS`] while unloaded.
    pub(super) msrs: [u64; SWITCHED_MSRS.len()],
}

impl VmxVcpu {
    /// A vCPU after power-up. Leaves the VMCS that is current on this CPU as it was.
    pub(super) fn new(shared: Shared, eptp: u64, vpid: u16) -> Result<Self, vcpu::MemoryError> {
        let extended = ExtendedState::new(shared.layout)?;
        let vmcs = frames::allocate(0, FrameKind::Control, 0).ok_or_else(|| {
            vcpu::MemoryError::OutOfFrames { wanted: PAGE_SIZE, free: frames::free_bytes() }
        })?;
        memory::zero_frames(vmcs, 0);
        // SAFETY: the frame is ours and a whole page; the revision identifier is its first word.
        unsafe { memory::direct_map(vmcs).cast::<u32>().write(shared.revision) };
        let mut vcpu = Self {
            block: EntryBlock::new(),
            pending: PendingEvents::NONE,
            reason: 0,
            by_instruction: false,
            flush: false,
            loaded: false,
            in_cpu: false,
            processor_controls: shared.controls.processor,
            shared,
            vmcs,
            vpid,
            eptp,
            extended,
            msrs: [0; SWITCHED_MSRS.len()],
        };
        vcpu.initialise();
        Ok(vcpu)
    }

    fn initialise(&mut self) {
        // SAFETY: VMX is on (a `Shared` exists); the region is ours, has its revision identifier and is
        // active nowhere yet. The VMCS that was current before is made current again.
        unsafe {
            let before = instruction::current_vmcs();
            instruction::expect(vmclear(self.vmcs), "VMCLEAR of a new VMCS");
            instruction::expect(vmptrld(self.vmcs), "VMPTRLD of a new VMCS");
            self.loaded = true;
            setup::controls(self, self.eptp);
            setup::power_up(self);
            self.loaded = false;
            instruction::expect(vmclear(self.vmcs), "VMCLEAR of a new VMCS");
            if let Some(before) = before {
                instruction::expect(vmptrld(before), "VMPTRLD of the VMCS before");
            }
        }
    }

    /// Reads a field of this vCPU's VMCS.
    #[inline(always)]
    pub(super) fn get<T: Width>(&self, field: Field<T>) -> T {
        debug_assert!(self.loaded);
        // SAFETY: the contract of `vcpu::Vcpu` has accessors called only while loaded, so a VMCS is
        // current; reading another one's field would be a wrong value, not unsound.
        unsafe { vmread(field) }
    }

    /// Writes a guest-state or control field of this vCPU's VMCS. Physical addresses and host state are
    /// written only by `setup`.
    #[inline(always)]
    pub(super) fn set<T: Width>(&mut self, field: Field<T>, value: T) {
        debug_assert!(self.loaded);
        // SAFETY: a VMCS is current, as for `get`; guest-state fields cannot harm the kernel whatever
        // their value, and callers pass no addresses of the host.
        unsafe { vmwrite(field, value) };
    }

    /// Switches bits of the primary controls, writing only a change.
    pub(super) fn control(&mut self, bit: u32, on: bool) {
        let wanted = if on { self.processor_controls | bit } else { self.processor_controls & !bit };
        if wanted != self.processor_controls {
            self.processor_controls = wanted;
            self.set(field::PROCESSOR_CONTROLS, wanted);
        }
    }

    pub(super) const fn controls(&self) -> &Controls {
        &self.shared.controls
    }

    pub(super) const fn last_exit_by_instruction(&self) -> bool {
        self.by_instruction
    }

    /// Which switched MSRs this CPU has.
    pub(super) const fn switched(&self) -> usize {
        if self.shared.controls.rdtscp { SWITCHED_MSRS.len() } else { SWITCHED_MSRS.len() - 1 }
    }

    /// True while the switched MSRs are in the CPU.
    pub(super) const fn in_cpu(&self) -> bool {
        self.in_cpu
    }

    pub(super) fn read_switched(&self, number: usize) -> u64 {
        // SAFETY: callers ask only for MSRs below `switched`, which exist on this CPU.
        unsafe { registers::read_msr(SWITCHED_MSRS[number]) }
    }

    pub(super) fn write_switched(&mut self, number: usize, value: u64) {
        // SAFETY: as for `read_switched`; the hypervisor has checked that the value is canonical.
        unsafe { registers::write_msr(SWITCHED_MSRS[number], value) };
    }

    pub(super) fn load_state(&mut self) {
        debug_assert!(!self.loaded);
        // SAFETY: the region is our VMCS; `unload` cleared it on the CPU that had it before.
        unsafe { instruction::expect(vmptrld(self.vmcs), "VMPTRLD") };
        self.loaded = true;
        setup::host_state();
        for n in 0..self.switched() {
            // SAFETY: the MSRs exist on every 64-bit CPU (TSC_AUX with RDTSCP), the kernel does not use
            // them, and the values came from the guest's own WRMSR or from `power_up`, so are canonical.
            unsafe { registers::write_msr(SWITCHED_MSRS[n], self.msrs[n]) };
        }
        self.extended.load();
        self.in_cpu = true;
        self.flush = true;
    }

    pub(super) fn unload_state(&mut self) {
        debug_assert!(self.loaded);
        self.extended.save();
        self.in_cpu = false;
        for n in 0..self.switched() {
            // SAFETY: as in `load_state`.
            self.msrs[n] = unsafe { registers::read_msr(SWITCHED_MSRS[n]) };
        }
        // SAFETY: the region is our VMCS; clearing it writes it back, so another CPU may take it.
        unsafe { instruction::expect(vmclear(self.vmcs), "VMCLEAR") };
        self.loaded = false;
        self.block.launched = 0;
        self.block.host_rsp = 0;
    }

    /// One entry and exit.
    #[inline]
    pub(super) fn run_once(&mut self) -> Exit {
        if self.flush {
            self.flush_translations();
        }
        if self.pending.any() {
            self.deliver();
        }
        // SAFETY: this vCPU's VMCS is current, `load_state` wrote this CPU's host state, and the kernel
        // runs with interrupts off.
        if !unsafe { enter::enter(&mut self.block) } {
            return self.instruction_failed();
        }
        self.block.launched = 1;
        let raw = self.get(field::EXIT_REASON);
        self.reason = raw as u16;
        self.by_instruction = reason::by_instruction(self.reason);
        if raw & reason::ENTRY_FAILED != 0 {
            return self.entry_failed();
        }
        if !self.by_instruction {
            self.keep_interrupted();
        }
        self.decode()
    }

    fn flush_translations(&mut self) {
        self.flush = false;
        if self.vpid != 0 {
            invvpid(self.vpid);
        }
    }

    /// Hands the next pending event to the entry.
    fn deliver(&mut self) {
        let Some(event) = self.pending.take() else { return };
        let protected = self.get(field::GUEST_CR0) & vcpu::cr0::PE != 0;
        let encoded = reason::injection(event, protected);
        if matches!(event, Event::Nmi) {
            let blocked = self.get(field::GUEST_INTERRUPTIBILITY);
            self.set(field::GUEST_INTERRUPTIBILITY, blocked & !blocking::BY_NMI);
        }
        self.set(field::ENTRY_EXCEPTION_ERROR_CODE, encoded.error_code);
        self.set(field::ENTRY_INSTRUCTION_LENGTH, encoded.length);
        self.set(field::ENTRY_INTERRUPTION_INFO, encoded.info);
    }

    /// Keeps the event whose delivery this exit interrupted, and NMI blocking that an interrupted IRET
    /// ended too early.
    fn keep_interrupted(&mut self) {
        let info = self.get(field::IDT_VECTORING_INFO);
        if info & interruption::VALID != 0 {
            let error_code = self.get(field::IDT_VECTORING_ERROR_CODE);
            let length = self.get(field::EXIT_INSTRUCTION_LENGTH);
            if let Some(event) = reason::interrupted(info, error_code, length) {
                self.pending.set_interrupted(event);
            }
        } else if self.reason == reason::EPT_VIOLATION
            && self.get(field::EXIT_QUALIFICATION) & reason::NMI_UNBLOCKED_BY_IRET != 0
        {
            let blocked = self.get(field::GUEST_INTERRUPTIBILITY);
            self.set(field::GUEST_INTERRUPTIBILITY, blocked | blocking::BY_NMI);
        }
    }

    #[inline]
    fn decode(&mut self) -> Exit {
        match self.reason {
            reason::CPUID => Exit::Cpuid,
            reason::RDMSR => Exit::ReadMsr,
            reason::WRMSR => Exit::WriteMsr,
            reason::IO => Exit::Io(reason::io(self.get(field::EXIT_QUALIFICATION))),
            reason::HLT => Exit::Halt,
            reason::EXTERNAL_INTERRUPT => {
                registers::serve_interrupts();
                Exit::HostEvent
            }
            reason::EPT_VIOLATION => Exit::NestedFault(reason::ept_violation(
                self.get(field::EXIT_QUALIFICATION),
                self.get(field::GUEST_PHYSICAL_ADDRESS),
                self.get(field::GUEST_LINEAR_ADDRESS),
            )),
            reason::VMCALL => Exit::Hypercall,
            reason::INTERRUPT_WINDOW => {
                self.control(processor::INTERRUPT_WINDOW_EXITING, false);
                Exit::InterruptWindow
            }
            reason::CONTROL_REGISTER => {
                Exit::ControlRegister(Some(reason::control_register(self.get(field::EXIT_QUALIFICATION))))
            }
            reason::XSETBV => Exit::Xsetbv,
            reason::INVD | reason::WBINVD => Exit::CacheControl,
            _ => self.decode_rare(),
        }
    }

    fn decode_rare(&mut self) -> Exit {
        match self.reason {
            reason::EXCEPTION_OR_NMI => self.exception(),
            reason::NMI_WINDOW => {
                self.control(processor::NMI_WINDOW_EXITING, false);
                Exit::NmiWindow
            }
            reason::TRIPLE_FAULT => Exit::TripleFault,
            reason::INIT_SIGNAL => Exit::HostEvent,
            reason::TASK_SWITCH => Exit::TaskSwitch,
            reason::RDPMC => Exit::ReadPmc,
            reason::PAUSE => Exit::Pause,
            reason::GETSEC
            | reason::VMCLEAR..=reason::VMXON
            | reason::MWAIT
            | reason::MONITOR
            | reason::INVEPT
            | reason::INVVPID
            | reason::ENCLS => Exit::Undefined,
            other => {
                Exit::Unknown { code: u64::from(other), qualification: self.get(field::EXIT_QUALIFICATION) }
            }
        }
    }

    fn exception(&mut self) -> Exit {
        let info = self.get(field::EXIT_INTERRUPTION_INFO);
        if interruption::kind(info) == interruption::NMI {
            cpu::invoke_nmi();
            return Exit::HostEvent;
        }
        match info as u8 {
            vector::MC => {
                cpu::invoke_machine_check();
                Exit::HostEvent
            }
            vector::DB => {
                self.note_debug_exception();
                Exit::Exception { vector: vector::DB, error_code: None }
            }
            vector => {
                let error_code = (info & interruption::ERROR_CODE != 0)
                    .then(|| self.get(field::EXIT_INTERRUPTION_ERROR_CODE));
                Exit::Exception { vector, error_code }
            }
        }
    }

    /// What delivery of #DB does to DR6 and DR7 and what a later entry checks (SDM vol. 3, "Debug
    /// Exceptions" and "Checks on Guest Non-Register State").
    fn note_debug_exception(&mut self) {
        /// B0 to B3, BD, BS, BT.
        const CONDITIONS: u64 = 0xe00f;
        /// DR7.GD.
        const GENERAL_DETECT: u64 = 1 << 13;
        let cause = self.get(field::EXIT_QUALIFICATION) & CONDITIONS;
        let dr6 = self.extended.dr6();
        self.extended.set_dr6(dr6 & !0xf | cause);
        let dr7 = self.get(field::GUEST_DR7);
        self.set(field::GUEST_DR7, dr7 & !GENERAL_DETECT);
        let shadow = self.get(field::GUEST_INTERRUPTIBILITY) & (blocking::BY_STI | blocking::BY_MOV_SS);
        if shadow != 0 && self.get(field::GUEST_RFLAGS) & vcpu::rflags::TF != 0 {
            let pending = self.get(field::GUEST_PENDING_DEBUG);
            self.set(field::GUEST_PENDING_DEBUG, pending | PENDING_SINGLE_STEP);
        }
    }

    #[cold]
    fn instruction_failed(&mut self) -> Exit {
        let number = self.get(field::INSTRUCTION_ERROR);
        self.by_instruction = false;
        Exit::EntryFailure(vcpu::EntryFailure {
            code: u64::from(number),
            reason: reason::instruction_error(number),
            culprit: None,
        })
    }

    #[cold]
    fn entry_failed(&mut self) -> Exit {
        let culprit = check::guest_state(&*self, self.controls());
        Exit::EntryFailure(vcpu::EntryFailure {
            code: u64::from(self.reason),
            reason: reason::entry_failure(self.reason),
            culprit,
        })
    }

    pub(super) const fn last_reason(&self) -> u16 {
        self.reason
    }
}

impl check::Reader for VmxVcpu {
    fn natural(&self, field: Field<u64>) -> u64 {
        self.get(field)
    }

    fn word(&self, field: Field<u32>) -> u32 {
        self.get(field)
    }
}

impl Drop for VmxVcpu {
    fn drop(&mut self) {
        if self.loaded {
            self.unload_state();
        }
        // The VPID and the EPT pointer may be used again by another VM.
        if self.vpid != 0 {
            invvpid(self.vpid);
            vpid::give_back(self.vpid);
        }
        invept(InvEpt::All);
        frames::free(self.vmcs, 0);
    }
}
