//! An SVM virtual CPU: loading, running, and what an exit says.

// UNSAFETY: owns a VMCB by physical address and enters the guest.
#![allow(unsafe_code)]

use bitflags::bitflags;
use vcpu::{Exit, Hpa, MemoryError, PendingEvents, Vcpu, vector};

use super::apic::ApicPlan;
use super::asid::Asid;
use super::clean::Clean;
use super::intercept::{tlb, virtual_interrupt};
use super::nmi::{Nmi, Settled};
use super::plan::Flush;
use super::shadow::LostShadow;
use super::vmcb::Vmcb;
use super::{CpuPart, Shared, code, enter, setup};
use crate::extended::ExtendedState;
use crate::memory::{self, frames::Block, frames::FrameKind};
use crate::mitigations::{self, Measures, guard::Guard};
use crate::nested::Walker;
use crate::{cpu, registers};

bitflags! {
    /// What an entry has to do beside entering. The hot path tests this one word.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Before: u8 {
        /// The translations of this ASID must go.
        const FLUSH = 1 << 0;
        /// Something is pending.
        const EVENTS = 1 << 1;
        /// A window is wanted, or an NMI handler is about to end.
        const WINDOWS = 1 << 2;
        /// It is not loaded, which is a mistake.
        const UNLOADED = 1 << 3;
        /// The host interrupted the guest in an interrupt shadow, which this entry does not load.
        const SHADOW = 1 << 4;
    }

    /// What is to be undone after the run. The hot path tests this one word.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct After: u8 {
        /// TLB_CONTROL is set.
        const FLUSHED = 1 << 0;
        /// V_IRQ was held back.
        const WINDOW_HELD = 1 << 1;
        /// A single step is under way.
        const STEP = 1 << 2;
        /// V_IRQ delivers an interrupt.
        const INTERRUPT = 1 << 3;
        /// EVENTINJ delivers one as if it were an INT instruction's.
        const AS_SOFTWARE = 1 << 4;
        /// The guest was entered in an interrupt shadow of which the CPU does not know.
        const SHADOW = 1 << 5;
    }
}

/// A virtual CPU on SVM.
#[derive(Debug)]
pub struct SvmVcpu {
    pub(super) registers: vcpu::Registers,
    pub(super) pending: PendingEvents,
    pub(super) before: Before,
    pub(super) after: After,
    loaded: bool,
    pub(super) guard: Guard,
    measures: Measures,
    /// The hypervisor wants the interrupt window.
    pub(super) interrupt_window: bool,
    /// An interrupt waits until the guest can take it, behind an exception that arose in its delivery.
    pub(super) held: bool,
    pub(super) nmi: Nmi,
    pub(super) shadow: LostShadow,
    /// What the CPU does of the local APIC now, and the interrupt that it may deliver.
    pub(super) apic: ApicPlan,
    pub(super) offered: Option<u8>,
    pub(super) watches_cr8: bool,
    vmcb: Block,
    /// The nested tables in the VMCB stay as long as this.
    walker: Walker,
    pub(super) shared: Shared,
    asid: Asid,
    pub(super) extended: ExtendedState,
    /// CR0.CD and NW as the guest sees them. The CPU runs with them clear: caching is the host's.
    pub(super) caching: u64,
    /// CR4 bits that are set in the CPU and that the guest does not see.
    pub(super) hidden_cr4: u64,
    /// IA32_TSC_AUX while unloaded.
    pub(super) tsc_aux: u64,
    /// The rate of the guest's TSC, where it is another than the host's.
    pub(super) tsc_ratio: Option<u64>,
}

/// IA32_TSC_AUX.
const TSC_AUX: u32 = 0xc000_0103;
/// The TSC ratio, 8 bits before the point and 32 behind it; it counts only while a guest runs.
const TSC_RATIO: u32 = 0xc000_0104;
const TSC_RATIO_ONE: u64 = 1 << 32;

/// To be called only where the CPU has a TSC ratio: a vCPU has one then.
fn write_tsc_ratio(ratio: u64) {
    // SAFETY: the CPU has this MSR, which changes nothing but what guests read as their TSC; reserved bits are clear.
    unsafe { registers::write_msr(TSC_RATIO, ratio & 0xff_ffff_ffff) };
}

impl SvmVcpu {
    /// A vCPU after power-up in the address space with this root.
    pub(super) fn new(shared: Shared, root: Hpa, walker: Walker) -> Result<Self, MemoryError> {
        let extended = ExtendedState::new(shared.layout)?;
        let vmcb = Block::zeroed(0, FrameKind::Control)?;
        let mut vcpu = Self {
            registers: vcpu::Registers::default(),
            pending: PendingEvents::NONE,
            before: Before::FLUSH | Before::UNLOADED,
            after: After::empty(),
            loaded: false,
            guard: Guard::new(),
            measures: mitigations::measures(),
            interrupt_window: false,
            held: false,
            nmi: Nmi::new(shared.plan.nmi),
            shadow: LostShadow::default(),
            apic: ApicPlan::empty(),
            offered: None,
            watches_cr8: false,
            vmcb,
            walker,
            shared,
            asid: Asid::default(),
            extended,
            caching: 0,
            hidden_cr4: 0,
            tsc_aux: 0,
            tsc_ratio: None,
        };
        let Shared { io_permissions, msr_permissions, plan, .. } = shared;
        let io_permissions = vcpu.walker.ports().unwrap_or(io_permissions);
        let addresses = setup::Addresses { io_permissions, msr_permissions, root };
        setup::controls(vcpu.vmcb_mut(), &plan, addresses);
        setup::power_up(&mut vcpu);
        Ok(vcpu)
    }

    #[inline(always)]
    pub(super) fn vmcb(&self) -> &Vmcb {
        // SAFETY: the frame is this vCPU's own, a whole aligned page that is valid as a VMCB whatever its
        // bits; the CPU writes it only within `enter`, which borrows the vCPU mutably.
        unsafe { &*memory::direct_map(self.vmcb.start()).cast::<Vmcb>() }
    }

    #[inline(always)]
    pub(super) fn vmcb_mut(&mut self) -> &mut Vmcb {
        // SAFETY: as in `vmcb`, and the vCPU is borrowed mutably.
        unsafe { &mut *memory::direct_map(self.vmcb.start()).cast::<Vmcb>() }
    }

    pub(super) fn load_state(&mut self) {
        assert!(!self.loaded, "a vCPU is loaded twice");
        cpu::occupy();
        self.loaded = true;
        self.before.remove(Before::UNLOADED);
        mitigations::meet(self.walker.space(), &cpu::this().last_vm, self.measures);
        if let Some(cpu) = CpuPart::of_this_cpu() {
            self.shared.cpu = cpu;
        }
        if self.shared.plan.rdtscp {
            // SAFETY: the CPU has RDTSCP, hence the MSR; the kernel does not use it.
            unsafe { registers::write_msr(TSC_AUX, self.tsc_aux) };
        }
        self.load_tsc_ratio();
        self.extended.load();
        // Another CPU may have changed the VMCB since this one kept parts of it.
        self.vmcb_mut().mark_changed(Clean::all());
        let (asid, flush_all) = self.shared.cpu.assign(self.asid);
        self.take_asid(asid, flush_all);
    }

    /// Goes on with an identifier: its old one, or one that has no translations once the TLB is flushed where it must be.
    fn take_asid(&mut self, asid: Asid, flush_all: bool) {
        if asid != self.asid {
            self.before.remove(Before::FLUSH);
        }
        self.asid = asid;
        self.vmcb_mut().set_asid(asid.number);
        if flush_all {
            self.control_tlb(tlb::FLUSH_ALL);
        }
    }

    fn control_tlb(&mut self, command: u32) {
        self.vmcb_mut().set_tlb_control(command);
        self.after |= After::FLUSHED;
    }

    /// Translations go before the next entry.
    pub(super) fn flush(&mut self) {
        self.before |= Before::FLUSH;
    }

    fn flush_translations(&mut self) {
        self.before.remove(Before::FLUSH);
        if self.after.contains(After::FLUSHED) {
            return;
        }
        match self.shared.plan.flush {
            Flush::ByAsid => self.control_tlb(tlb::FLUSH_ASID),
            Flush::NewAsid => {
                let (asid, flush_all) = self.shared.cpu.next_asid();
                self.take_asid(asid, flush_all);
            }
        }
    }

    pub(super) fn unload_state(&mut self) {
        assert!(self.loaded, "a vCPU is unloaded that is not loaded");
        if self.after.contains(After::FLUSHED) && self.vmcb().tlb_control() == tlb::FLUSH_ALL {
            // It never ran: the flush is left to the next that does.
            self.shared.cpu.owe_flush();
        }
        self.extended.save();
        if self.shared.plan.rdtscp {
            // SAFETY: as in `load_state`.
            self.tsc_aux = unsafe { registers::read_msr(TSC_AUX) };
        }
        if self.tsc_ratio.is_some() {
            write_tsc_ratio(TSC_RATIO_ONE);
        }
        self.loaded = false;
        self.before |= Before::UNLOADED;
        cpu::vacate();
    }

    /// The ratio of a guest that has one is in the CPU while the guest is loaded; all others find it at 1.
    pub(super) fn load_tsc_ratio(&self) {
        if let Some(ratio) = self.tsc_ratio {
            write_tsc_ratio(ratio);
        }
    }

    pub(super) fn tsc_aux_now(&self) -> u64 {
        if self.loaded && self.shared.plan.rdtscp {
            // SAFETY: as in `load_state`.
            unsafe { registers::read_msr(TSC_AUX) }
        } else {
            self.tsc_aux
        }
    }

    pub(super) fn set_tsc_aux(&mut self, value: u64) {
        // The upper half is reserved.
        self.tsc_aux = value & 0xffff_ffff;
        if self.loaded && self.shared.plan.rdtscp {
            // SAFETY: as in `load_state`.
            unsafe { registers::write_msr(TSC_AUX, self.tsc_aux) };
        }
    }

    /// One entry and exit.
    #[inline(always)]
    pub(super) fn run_once(&mut self) -> Exit {
        if !self.before.is_empty()
            && let Some(exit) = self.prepare()
        {
            return exit;
        }
        let rax = self.registers.rax();
        self.vmcb_mut().set_rax(rax);
        let (guest, host) = (self.vmcb.start(), self.shared.cpu.host_state);
        // SAFETY: the VMCB is this vCPU's own and it is loaded on this CPU alone; `setup::controls` set
        // its intercepts and nested paging, and its tables stay with `walker`; `host_state` is this CPU's;
        // the kernel runs with interrupts off.
        unsafe {
            if self.guard.is_needed() {
                enter::enter_guarded(&mut self.registers, guest, host, &mut self.guard);
            } else {
                enter::enter(&mut self.registers, guest, host);
            }
        }
        let clean = self.shared.plan.clean;
        let vmcb = self.vmcb_mut();
        vmcb.mark_kept(clean);
        vmcb.set_event_injection(0);
        let (rax, code, delivery) = (vmcb.rax(), vmcb.exit_code(), vmcb.exit_interrupt_info());
        self.registers.set_rax(rax);
        if delivery != 0 {
            self.keep_interrupted(delivery);
        }
        if !self.after.is_empty() {
            match self.settle(code) {
                Settled::Decode => {}
                Settled::Exit(exit) => return exit,
                Settled::Exception(vector) => return self.give_back(vector),
            }
        }
        self.decode(code)
    }

    /// What goes before an entry. An exit is returned where a window is open already, so that there is no need to enter for
    /// being told so.
    fn prepare(&mut self) -> Option<Exit> {
        assert!(!self.before.contains(Before::UNLOADED), "a vCPU runs that is not loaded");
        if self.before.contains(Before::FLUSH) {
            self.flush_translations();
        }
        let delivers = self.pending.any();
        if delivers {
            self.deliver();
        }
        if self.before.contains(Before::WINDOWS) {
            let busy = self.nmi.is_busy();
            if self.interrupt_window && !delivers && !(busy && self.nmi_ready()) && self.can_take_interrupt()
            {
                return Some(Exit::InterruptWindow);
            }
            if busy && self.prepare_nmi(delivers) {
                return Some(Exit::NmiWindow);
            }
            self.note_windows();
        }
        self.hold_window_in_shadow();
        self.before.set(Before::EVENTS, self.pending.any());
        None
    }

    /// Undoes what was for one run only.
    fn settle(&mut self, exit_code: u64) -> Settled {
        let after = core::mem::replace(&mut self.after, After::empty());
        let vmcb = self.vmcb_mut();
        if after.contains(After::FLUSHED) {
            vmcb.set_tlb_control(tlb::NOTHING);
        }
        if after.contains(After::WINDOW_HELD) {
            vmcb.set_virtual_interrupt(vmcb.virtual_interrupt() | virtual_interrupt::V_IRQ);
        }
        if after.contains(After::SHADOW) {
            self.keep_shadow(exit_code);
        }
        if after.contains(After::INTERRUPT) {
            self.settle_interrupt();
        }
        if !after.contains(After::STEP) {
            return Settled::Decode;
        }
        self.with_nmi(|nmi, vmcb| nmi.settle(vmcb, exit_code))
    }

    /// The NMIs' state and the VMCB, which are two borrows of this vCPU.
    pub(super) fn with_nmi<R>(&mut self, action: impl FnOnce(&mut Nmi, &mut Vmcb) -> R) -> R {
        // SAFETY: as in `vmcb`. The frame is no part of this structure, so `nmi` is not in it, and the vCPU is borrowed
        // mutably for as long as both.
        let vmcb = unsafe { &mut *memory::direct_map(self.vmcb.start()).cast::<Vmcb>() };
        action(&mut self.nmi, vmcb)
    }

    #[inline(always)]
    fn decode(&mut self, code: u64) -> Exit {
        let vmcb = self.vmcb();
        match code {
            code::CPUID => Exit::Cpuid,
            code::MSR => {
                if vmcb.exit_info_1() & 1 == 0 {
                    Exit::ReadMsr
                } else {
                    Exit::WriteMsr
                }
            }
            code::IOIO => Exit::Io(code::io(vmcb.exit_info_1())),
            code::HLT => Exit::Halt,
            code::INTR => {
                registers::serve_interrupts();
                self.note_shadow();
                Exit::HostEvent
            }
            code::NESTED_PAGE_FAULT => {
                Exit::NestedFault(code::nested_fault(vmcb.exit_info_1(), vmcb.exit_info_2()))
            }
            code::VMMCALL => Exit::Hypercall,
            code::VINTR => Exit::InterruptWindow,
            code::CR_READ..=code::CR_END => Exit::ControlRegister(code::control_register(
                code,
                vmcb.exit_info_1(),
                self.shared.plan.decode_assists,
            )),
            code::XSETBV => Exit::Xsetbv,
            code::INVD | code::WBINVD => Exit::CacheControl,
            _ => self.decode_rare(code),
        }
    }

    fn decode_rare(&mut self, exit_code: u64) -> Exit {
        match exit_code {
            // The NMI is pending still and was taken by the host at STGI; INIT is redirected by nobody.
            code::NMI | code::INIT | code::FERR_FREEZE => {
                self.note_shadow();
                Exit::HostEvent
            }
            code::IRET => {
                self.with_nmi(Nmi::meet_iret);
                self.before |= Before::WINDOWS;
                Exit::HostEvent
            }
            code::SHUTDOWN => Exit::TripleFault,
            code::TASK_SWITCH => Exit::TaskSwitch,
            code::RDPMC => Exit::ReadPmc,
            code::PAUSE => Exit::Pause,
            code::EXCEPTION..=code::EXCEPTION_END => self.exception((exit_code - code::EXCEPTION) as u8),
            code::INVLPGA
            | code::VMRUN
            | code::VMLOAD..=code::SKINIT
            | code::MONITOR..=code::MWAIT_ARMED
            | code::RDPRU => Exit::Undefined,
            code::INVALID => Exit::EntryFailure(vcpu::EntryFailure {
                code: exit_code,
                reason: "VMRUN with an invalid guest state",
                culprit: setup::culprit(self.vmcb()),
            }),
            other => Exit::Unknown { code: other, qualification: self.vmcb().exit_info_1() },
        }
    }

    fn exception(&mut self, vector: u8) -> Exit {
        match vector {
            vector::MC => {
                cpu::invoke_machine_check();
                Exit::HostEvent
            }
            vector::DB => Exit::Exception { vector, error_code: None },
            _ => Exit::Exception { vector, error_code: Some(self.vmcb().exit_info_1() as u32) },
        }
    }

    pub(super) const fn is_loaded(&self) -> bool {
        self.loaded
    }
}

impl Drop for SvmVcpu {
    fn drop(&mut self) {
        if self.loaded {
            self.unload_state();
        }
    }
}
