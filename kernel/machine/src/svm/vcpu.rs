//! An SVM virtual CPU: loading, running, and what an exit says.

// UNSAFETY: owns a VMCB by physical address and enters the guest.
#![allow(unsafe_code)]

use vcpu::{Event, Exit, Hpa, MemoryError, PendingEvents, cr0, rflags, vector};

use super::asid::Asid;
use super::vmcb::{Vmcb, intercept_1, tlb, virtual_interrupt};
use super::{Shared, code, enter, setup};
use crate::extended::ExtendedState;
use crate::memory::{self, frames::Block, frames::FrameKind};
use crate::nested::Walker;
use crate::{cpu, registers};

/// What stands between a guest and its next NMI. Without virtual NMIs the end of a handler is seen by
/// intercepting IRET (APM vol. 2, "NMI Intercept").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NmiBlocking {
    /// An NMI can be taken.
    Open,
    /// A handler runs; IRET is intercepted.
    InHandler,
    /// IRET at this address is about to end the handler.
    LeavingAt(u64),
    /// The same, and RFLAGS.TF was set to come back right after it.
    Stepping(u64),
}

/// DR6.BS.
const DR6_SINGLE_STEP: u64 = 1 << 14;

/// DR7.GD.
const DR7_GENERAL_DETECT: u64 = 1 << 13;

/// A virtual CPU on SVM.
#[derive(Debug)]
pub struct SvmVcpu {
    pub(super) registers: vcpu::Registers,
    pub(super) pending: PendingEvents,
    pub(super) nmi: NmiBlocking,
    nmi_window: bool,
    /// The hypervisor wants the interrupt window.
    interrupt_window: bool,
    /// An interrupt waits until the guest can take it, behind an exception that arose in its delivery.
    held: bool,
    vmcb: Block,
    /// The nested tables in the VMCB stay as long as this.
    _walker: Walker,
    pub(super) shared: Shared,
    asid: Asid,
    /// The translations of this ASID must go before the next entry.
    pub(super) flush: bool,
    loaded: bool,
    pub(super) extended: ExtendedState,
    /// CR0.CD and NW as the guest sees them. The CPU runs with them clear: caching is the host's.
    pub(super) caching: u64,
    /// IA32_TSC_AUX while unloaded.
    pub(super) tsc_aux: u64,
}

/// IA32_TSC_AUX.
const TSC_AUX: u32 = 0xc000_0103;

impl SvmVcpu {
    /// A vCPU after power-up in the address space with this root.
    pub(super) fn new(shared: Shared, root: Hpa, walker: Walker) -> Result<Self, MemoryError> {
        let extended = ExtendedState::new(shared.layout)?;
        let vmcb = Block::zeroed(0, FrameKind::Control)?;
        let mut vcpu = Self {
            registers: vcpu::Registers::default(),
            pending: PendingEvents::NONE,
            nmi: NmiBlocking::Open,
            nmi_window: false,
            interrupt_window: false,
            held: false,
            vmcb,
            _walker: walker,
            shared,
            asid: Asid::default(),
            flush: true,
            loaded: false,
            extended,
            caching: 0,
            tsc_aux: 0,
        };
        setup::controls(&mut vcpu, root);
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
        if self.shared.rdtscp {
            // SAFETY: the CPU has RDTSCP, hence the MSR; the kernel does not use it.
            unsafe { registers::write_msr(TSC_AUX, self.tsc_aux) };
        }
        self.extended.load();
        let (asid, flush_all) = self.shared.cpu.assign(self.asid);
        self.flush |= asid != self.asid;
        self.asid = asid;
        let control = &mut self.vmcb_mut().control;
        control.asid = asid.number;
        if flush_all {
            control.tlb_control = tlb::FLUSH_ALL;
        }
    }

    pub(super) fn unload_state(&mut self) {
        assert!(self.loaded, "a vCPU is unloaded that is not loaded");
        self.extended.save();
        if self.shared.rdtscp {
            // SAFETY: as in `load_state`.
            self.tsc_aux = unsafe { registers::read_msr(TSC_AUX) };
        }
        self.loaded = false;
        cpu::vacate();
    }

    pub(super) fn tsc_aux_now(&self) -> u64 {
        if self.loaded && self.shared.rdtscp {
            // SAFETY: as in `load_state`.
            unsafe { registers::read_msr(TSC_AUX) }
        } else {
            self.tsc_aux
        }
    }

    pub(super) fn set_tsc_aux(&mut self, value: u64) {
        // The upper half is reserved.
        self.tsc_aux = value & 0xffff_ffff;
        if self.loaded && self.shared.rdtscp {
            // SAFETY: as in `load_state`.
            unsafe { registers::write_msr(TSC_AUX, self.tsc_aux) };
        }
    }

    /// One entry and exit.
    #[inline]
    pub(super) fn run_once(&mut self) -> Exit {
        assert!(self.loaded, "a vCPU runs that is not loaded");
        if self.flush {
            self.flush = false;
            let flush_by_asid = self.shared.features.flush_by_asid;
            let control = &mut self.vmcb_mut().control;
            if control.tlb_control == tlb::NOTHING {
                control.tlb_control = if flush_by_asid { tlb::FLUSH_ASID } else { tlb::FLUSH_ALL };
            }
        }
        if self.pending.any() {
            self.deliver();
        } else if self.interrupt_window && self.can_take_interrupt() {
            // The window is open already: no need to enter for being told so.
            return Exit::InterruptWindow;
        }
        let waits = self.hold_window_in_shadow();
        let rax = self.registers.rax();
        self.vmcb_mut().state.rax = rax;
        let (guest, host) = (self.vmcb.start(), self.shared.cpu.host_state);
        // SAFETY: the VMCB is this vCPU's own and it is loaded on this CPU alone; `setup::controls` set
        // its intercepts and nested paging, and its tables stay with `_walker`; `host_state` is this CPU's;
        // the kernel runs with interrupts off.
        unsafe { enter::enter(&mut self.registers, guest, host) };
        let vmcb = self.vmcb_mut();
        vmcb.control.tlb_control = tlb::NOTHING;
        if waits {
            vmcb.control.virtual_interrupt |= virtual_interrupt::V_IRQ;
        }
        let (rax, code) = (vmcb.state.rax, vmcb.control.exit_code);
        let delivery = vmcb.control.exit_interrupt_info;
        vmcb.control.event_injection = 0;
        self.registers.set_rax(rax);
        if delivery != 0
            && let Some(event) = code::interrupted(delivery)
        {
            self.pending.set_interrupted(event);
            if matches!(event, Event::Nmi) {
                self.end_nmi();
            }
        }
        self.decode(code)
    }

    /// An emulator without next-RIP save (QEMU) does not load the interrupt shadow at VMRUN: its window would open
    /// between STI and HLT, and the guest would halt behind the interrupt it waits for. There the window stays
    /// closed for one entry, so that the next exit, at the latest the host timer's, opens it. True where it was
    /// closed.
    #[inline]
    fn hold_window_in_shadow(&mut self) -> bool {
        if self.shared.features.next_rip {
            return false;
        }
        let control = &mut self.vmcb_mut().control;
        let holds =
            control.interrupt_shadow & 1 != 0 && control.virtual_interrupt & virtual_interrupt::V_IRQ != 0;
        if holds {
            control.virtual_interrupt &= !virtual_interrupt::V_IRQ;
        }
        holds
    }

    fn deliver(&mut self) {
        let Some(event) = self.pending.take() else { return };
        let protected = self.vmcb().state.cr0 & cr0::PE != 0;
        match event {
            Event::Interrupt { .. } if self.held => {
                if !self.can_take_interrupt() {
                    self.pending.set_interrupted(event);
                    self.open_window(true);
                    return;
                }
                self.held = false;
                self.open_window(self.interrupt_window);
            }
            Event::Nmi => {
                self.held = false;
                self.nmi = NmiBlocking::InHandler;
                self.vmcb_mut().control.intercept_1 |= intercept_1::IRET;
            }
            _ => {
                self.held = self.pending.any();
                if let Event::Exception { vector: vector::DB, .. } = event {
                    // As delivery does: a handler that uses debug registers must not meet itself.
                    self.vmcb_mut().state.dr7 &= !DR7_GENERAL_DETECT;
                }
            }
        }
        self.vmcb_mut().control.event_injection = code::injection(event, protected);
    }

    /// RFLAGS.IF is set and nothing shadows it.
    #[inline]
    pub(super) fn can_take_interrupt(&self) -> bool {
        let vmcb = self.vmcb();
        vmcb.state.rflags & rflags::IF != 0 && vmcb.control.interrupt_shadow & 1 == 0
    }

    fn end_nmi(&mut self) {
        self.nmi = NmiBlocking::Open;
        self.vmcb_mut().control.intercept_1 &= !intercept_1::IRET;
    }

    #[inline]
    fn decode(&mut self, code: u64) -> Exit {
        let control = &self.vmcb().control;
        match code {
            code::CPUID => Exit::Cpuid,
            code::MSR => {
                if control.exit_info_1 & 1 == 0 {
                    Exit::ReadMsr
                } else {
                    Exit::WriteMsr
                }
            }
            code::IOIO => Exit::Io(code::io(control.exit_info_1)),
            code::HLT => Exit::Halt,
            code::INTR => {
                registers::serve_interrupts();
                Exit::HostEvent
            }
            code::NESTED_PAGE_FAULT => {
                Exit::NestedFault(code::nested_fault(control.exit_info_1, control.exit_info_2))
            }
            code::VMMCALL => Exit::Hypercall,
            code::VINTR => Exit::InterruptWindow,
            code::CR_READ..=code::CR_END => Exit::ControlRegister(code::control_register(
                code,
                control.exit_info_1,
                self.shared.features.decode_assists,
            )),
            code::XSETBV => Exit::Xsetbv,
            code::INVD | code::WBINVD => Exit::CacheControl,
            _ => self.decode_rare(code),
        }
    }

    fn decode_rare(&mut self, exit_code: u64) -> Exit {
        match exit_code {
            // The NMI is pending still and was taken by the host at STGI; INIT is redirected by nobody.
            code::NMI | code::INIT | code::FERR_FREEZE => Exit::HostEvent,
            code::IRET => self.iret(),
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
            other => Exit::Unknown { code: other, qualification: self.vmcb().control.exit_info_1 },
        }
    }

    fn exception(&mut self, vector: u8) -> Exit {
        match vector {
            vector::MC => {
                cpu::invoke_machine_check();
                Exit::HostEvent
            }
            vector::DB if matches!(self.nmi, NmiBlocking::Stepping(_)) => {
                self.nmi = NmiBlocking::Open;
                self.vmcb_mut().state.dr6 &= !DR6_SINGLE_STEP;
                Exit::NmiWindow
            }
            vector::DB => Exit::Exception { vector, error_code: None },
            _ => Exit::Exception { vector, error_code: Some(self.vmcb().control.exit_info_1 as u32) },
        }
    }

    /// IRET is about to run: the handler has ended once RIP has moved on. Where an NMI waits, a single step
    /// over the IRET says so at once; IRET loads the guest's own TF, so nothing is left of ours.
    fn iret(&mut self) -> Exit {
        let wanted = self.nmi_window;
        let vmcb = self.vmcb_mut();
        vmcb.control.intercept_1 &= !intercept_1::IRET;
        let rip = vmcb.state.rip;
        if wanted && vmcb.state.rflags & rflags::TF == 0 {
            vmcb.state.rflags |= rflags::TF;
            self.nmi = NmiBlocking::Stepping(rip);
        } else {
            self.nmi = NmiBlocking::LeavingAt(rip);
        }
        Exit::HostEvent
    }

    /// Whether no NMI handler runs.
    pub(super) fn nmi_open(&self) -> bool {
        match self.nmi {
            NmiBlocking::Open => true,
            NmiBlocking::InHandler => false,
            NmiBlocking::LeavingAt(rip) | NmiBlocking::Stepping(rip) => self.vmcb().state.rip != rip,
        }
    }

    /// Asks for the interrupt window, or calls it off.
    pub(super) fn want_interrupt_window(&mut self, wanted: bool) {
        self.interrupt_window = wanted;
        self.open_window(wanted || self.held);
    }

    /// Forgets windows and events, as a reset does.
    pub(super) fn forget_events(&mut self) {
        self.pending.clear();
        self.held = false;
        self.nmi = NmiBlocking::Open;
        self.nmi_window = false;
        self.want_interrupt_window(false);
    }

    /// V_IRQ with the highest priority makes the CPU exit when an interrupt could be taken; its vector is
    /// never delivered.
    fn open_window(&mut self, wanted: bool) {
        let control = &mut self.vmcb_mut().control;
        let open = control.intercept_1 & intercept_1::VINTR != 0;
        if wanted == open {
            return;
        }
        if wanted {
            control.intercept_1 |= intercept_1::VINTR;
            control.virtual_interrupt |= virtual_interrupt::V_IRQ
                | virtual_interrupt::V_PRIORITY_HIGHEST
                | virtual_interrupt::V_IGNORE_TPR;
        } else {
            control.intercept_1 &= !intercept_1::VINTR;
            control.virtual_interrupt &= !(virtual_interrupt::V_IRQ
                | virtual_interrupt::V_PRIORITY_HIGHEST
                | virtual_interrupt::V_IGNORE_TPR);
        }
    }

    pub(super) const fn is_loaded(&self) -> bool {
        self.loaded
    }

    pub(super) const fn want_nmi_window(&mut self, wanted: bool) {
        self.nmi_window = wanted;
    }
}

impl Drop for SvmVcpu {
    fn drop(&mut self) {
        if self.loaded {
            self.unload_state();
        }
    }
}
