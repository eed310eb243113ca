//! A VMX virtual CPU: loading, running, and what an exit says.

// UNSAFETY: reads and writes the current VMCS, switches MSRs and enters the guest.
#![allow(unsafe_code)]

use core::sync::atomic::Ordering;

use bitflags::bitflags;
use vcpu::{Exit, MemoryError, PendingEvents};

use super::apic::VirtualApic;
use super::capability::Controls;
use super::enter::{self, EntryBlock, LAUNCHED};
use super::field::{self, Field, Width};
use super::instruction::{self, invept, invvpid, vmclear, vmptrld, vmread, vmwrite};
use super::vpid::Vpid;
use super::{Shared, check, reason, setup};
use crate::clock;
use crate::cpu;
use crate::extended::ExtendedState;
use crate::memory::{self, frames::Block, frames::FrameKind};
use crate::mitigations::{self, Measures};
use crate::nested::Walker;
use crate::registers;

/// Interruptibility-state bits (SDM vol. 3, "Guest Non-Register State").
pub(super) mod blocking {
    pub(in super::super) const BY_STI: u32 = 1 << 0;
    pub(in super::super) const BY_MOV_SS: u32 = 1 << 1;
    pub(in super::super) const BY_NMI: u32 = 1 << 3;
}
/// MSRs that VM entry does not switch and that guests own: KERNEL_GS_BASE, STAR, LSTAR, CSTAR, FMASK, and
/// TSC_AUX last, because not every CPU has it.
pub(super) const SWITCHED_MSRS: [u32; 6] =
    [0xc000_0102, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0103];

bitflags! {
    /// What an entry has to do beside entering. The hot path tests this one word.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Before: u8 {
        /// The translations of this VPID must go.
        const FLUSH = 1 << 0;
        /// The preemption timer is to be set. Set whenever the vCPU is not loaded.
        const TIMER = 1 << 1;
        /// What is in the L1 data cache is perhaps not the guest's alone, and the CPU lets it read that.
        const L1D = 1 << 2;
    }
}

/// A virtual CPU on VMX.
#[derive(Debug)]
pub struct VmxVcpu {
    pub(super) block: EntryBlock,
    pub(super) pending: PendingEvents,
    /// The hypervisor wants the interrupt window.
    pub(super) interrupt_window: bool,
    /// An interrupt waits until the guest can take it, behind an exception that arose in its delivery.
    pub(super) held: bool,
    /// Basic reason of the last exit.
    pub(super) reason: u16,
    pub(super) before: Before,
    /// [`Before::L1D`] on a CPU that needs it, and nothing on others.
    l1d: Before,
    measures: Measures,
    /// The run ends when the TSC reaches this.
    pub(super) deadline: u64,
    /// The VMCS is current.
    loaded: bool,
    /// MSRs and extended state are in the CPU, too.
    in_cpu: bool,
    /// Primary controls as the VMCS has them.
    processor_controls: u32,
    /// Secondary controls as the VMCS has them.
    secondary_controls: u32,
    pub(super) shared: Shared,
    vmcs: Block,
    pub(super) vpid: Vpid,
    pub(super) eptp: u64,
    pub(super) apic: VirtualApic,
    /// The CPU that loaded it last, and how often that had forgotten its guests then.
    last_cpu: Option<(usize, u64)>,
    /// What `eptp` leads to stays as long as this.
    pub(super) walker: Walker,
    pub(super) extended: ExtendedState,
    /// Values of [`SWITCHED_MSRS`] while unloaded.
    pub(super) msrs: [u64; SWITCHED_MSRS.len()],
}

impl VmxVcpu {
    /// A vCPU after power-up. Leaves the VMCS that is current on this CPU as it was.
    pub(super) fn new(
        shared: Shared,
        eptp: u64,
        walker: Walker,
        vpid: Vpid,
        apic: VirtualApic,
    ) -> Result<Self, MemoryError> {
        let extended = ExtendedState::new(shared.layout)?;
        let vmcs = Block::zeroed(0, FrameKind::Control)?;
        // SAFETY: the frame is ours and a whole page; the revision identifier is its first word.
        unsafe { memory::direct_map(vmcs.start()).cast::<u32>().write(shared.revision) };
        let measures = mitigations::measures();
        let leaks = measures.intersects(Measures::L1D_COMMAND | Measures::L1D_READ);
        let mut vcpu = Self {
            block: EntryBlock::new(),
            pending: PendingEvents::NONE,
            interrupt_window: false,
            held: false,
            reason: 0,
            before: Before::TIMER,
            l1d: if leaks { Before::L1D } else { Before::empty() },
            measures,
            deadline: u64::MAX,
            loaded: false,
            in_cpu: false,
            processor_controls: shared.controls.processor,
            secondary_controls: shared.controls.secondary,
            shared,
            vmcs,
            vpid,
            eptp,
            apic,
            last_cpu: None,
            walker,
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
            instruction::expect(vmclear(self.vmcs.start()), "VMCLEAR of a new VMCS");
            instruction::expect(vmptrld(self.vmcs.start()), "VMPTRLD of a new VMCS");
            self.loaded = true;
            setup::controls(self, self.eptp);
            setup::power_up(self);
            self.loaded = false;
            instruction::expect(vmclear(self.vmcs.start()), "VMCLEAR of a new VMCS");
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

    /// Switches bits of the secondary controls, writing only a change.
    pub(super) fn second_control(&mut self, bits: u32, on: bool) {
        let wanted = if on { self.secondary_controls | bits } else { self.secondary_controls & !bits };
        if wanted != self.secondary_controls {
            self.secondary_controls = wanted;
            self.set(field::SECONDARY_CONTROLS, wanted);
        }
    }

    pub(super) const fn controls(&self) -> &Controls {
        &self.shared.controls
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
        assert!(!self.loaded, "a vCPU is loaded twice");
        cpu::occupy();
        // SAFETY: the region is our VMCS; `unload` cleared it on the CPU that had it before.
        unsafe { instruction::expect(vmptrld(self.vmcs.start()), "VMPTRLD") };
        self.loaded = true;
        let cpu = cpu::this();
        let now = (cpu.number, cpu.guests_forgotten.load(Ordering::Relaxed));
        if self.last_cpu.replace(now) != Some(now) {
            // This CPU may know what is unmapped by now, or what was in an earlier address space with the same root.
            invept(self.controls().invept(self.eptp));
        }
        setup::host_state();
        let switched = self.switched();
        for (msr, value) in SWITCHED_MSRS.into_iter().zip(self.msrs).take(switched) {
            // SAFETY: the MSRs exist on every 64-bit CPU (TSC_AUX with RDTSCP), the kernel does not use
            // them, and the values came from the guest's own WRMSR or from `power_up`, so are canonical.
            unsafe { registers::write_msr(msr, value) };
        }
        self.extended.load();
        self.in_cpu = true;
        self.before |= Before::FLUSH | Before::TIMER | self.l1d;
        mitigations::meet(self.walker.space(), &cpu.last_vm, self.measures);
    }

    pub(super) fn unload_state(&mut self) {
        assert!(self.loaded, "a vCPU is unloaded that is not loaded");
        self.extended.save();
        self.in_cpu = false;
        let switched = self.switched();
        for (msr, value) in SWITCHED_MSRS.into_iter().zip(&mut self.msrs).take(switched) {
            // SAFETY: as in `load_state`.
            *value = unsafe { registers::read_msr(msr) };
        }
        // SAFETY: the region is our VMCS; clearing it writes it back, so another CPU may take it.
        unsafe { instruction::expect(vmclear(self.vmcs.start()), "VMCLEAR") };
        self.loaded = false;
        self.before |= Before::TIMER;
        self.block.state &= !LAUNCHED;
        self.block.host_rsp = 0;
        cpu::vacate();
    }

    /// One entry and exit.
    #[inline(always)]
    pub(super) fn run_once(&mut self) -> Exit {
        if !self.before.is_empty() {
            self.prepare();
        }
        if self.pending.any() {
            self.deliver();
        }
        // SAFETY: this vCPU is loaded (else `prepare` would not have returned) and no other is (`cpu::occupy`), so its VMCS is current; `load_state`
        // wrote this CPU's host state; the kernel runs with interrupts off.
        if !unsafe { enter::enter(&mut self.block) } {
            return self.instruction_failed();
        }
        let raw = self.get(field::EXIT_REASON);
        self.reason = raw as u16;
        if raw & reason::ENTRY_FAILED != 0 {
            return self.entry_failed();
        }
        self.block.state |= LAUNCHED;
        self.decode()
    }

    /// What the kernel has done since the exit is perhaps not for this guest alone: see [`Before::L1D`].
    #[inline]
    pub(super) fn note_work(&mut self) {
        self.before |= self.l1d;
    }

    /// What seldom goes before an entry. A vCPU that was not loaded since it was made or unloaded comes here.
    fn prepare(&mut self) {
        assert!(self.loaded, "a vCPU runs that is not loaded");
        if self.before.contains(Before::FLUSH) {
            self.flush_translations();
        }
        if self.before.contains(Before::TIMER) {
            self.start_preemption_timer();
        }
        if self.before.contains(Before::L1D) {
            self.before.remove(Before::L1D);
            mitigations::flush_l1d(self.measures);
        }
    }

    /// Where exits save the timer, it counts the guest's time from when the deadline was set, which may be late by the exits' own time; the host's
    /// own timer is exact. It ends the run even where an emulator holds external interrupts back while the guest's IF is clear, as Bochs does.
    fn start_preemption_timer(&mut self) {
        self.before.remove(Before::TIMER);
        let Some(shift) = self.shared.controls.preemption_shift else { return };
        let left = self.deadline.saturating_sub(clock::tsc()) >> shift;
        self.set(field::GUEST_PREEMPTION_TIMER, u32::try_from(left).unwrap_or(u32::MAX));
        self.before.set(Before::TIMER, !self.shared.controls.preemption_goes_on);
    }

    fn flush_translations(&mut self) {
        self.before.remove(Before::FLUSH);
        if let Some(vpid) = self.vpid.number() {
            invvpid(vpid);
        }
    }

    #[inline(always)]
    fn decode(&mut self) -> Exit {
        match self.reason {
            // Exits by instructions interrupt no delivery.
            reason::CPUID => Exit::Cpuid,
            reason::RDMSR => Exit::ReadMsr,
            reason::WRMSR => Exit::WriteMsr,
            reason::IO => Exit::Io(reason::io(self.get(field::EXIT_QUALIFICATION))),
            reason::HLT => Exit::Halt,
            reason::VMCALL => Exit::Hypercall,
            reason::EPT_VIOLATION => {
                self.keep_interrupted();
                Exit::NestedFault(reason::ept_violation(
                    self.get(field::EXIT_QUALIFICATION),
                    self.get(field::GUEST_PHYSICAL_ADDRESS),
                    self.get(field::GUEST_LINEAR_ADDRESS),
                ))
            }
            _ => self.decode_other(),
        }
    }

    /// Exits that are not among the dearest to a guest.
    fn decode_other(&mut self) -> Exit {
        if !reason::by_instruction(self.reason) {
            self.keep_interrupted();
        }
        match self.reason {
            reason::EXTERNAL_INTERRUPT => {
                self.note_work();
                registers::serve_interrupts();
                Exit::HostEvent
            }
            reason::INTERRUPT_WINDOW => Exit::InterruptWindow,
            reason::CONTROL_REGISTER => {
                Exit::ControlRegister(Some(reason::control_register(self.get(field::EXIT_QUALIFICATION))))
            }
            reason::APIC_WRITE => {
                Exit::ApicWrite { index: (self.get(field::EXIT_QUALIFICATION) & 0xfff) as u16 >> 4 }
            }
            reason::VIRTUALIZED_EOI => Exit::ApicEoi { vector: self.get(field::EXIT_QUALIFICATION) as u8 },
            reason::XSETBV => Exit::Xsetbv,
            reason::INVD | reason::WBINVD => Exit::CacheControl,
            _ => self.decode_rare(),
        }
    }

    fn decode_rare(&mut self) -> Exit {
        self.note_work();
        match self.reason {
            reason::EXCEPTION_OR_NMI => self.exception(),
            reason::NMI_WINDOW => Exit::NmiWindow,
            reason::PREEMPTION_TIMER => {
                self.before |= Before::TIMER;
                registers::serve_interrupts();
                Exit::HostEvent
            }
            reason::TPR_BELOW_THRESHOLD => Exit::TaskPriority,
            reason::APIC_ACCESS => {
                Exit::NestedFault(reason::apic_access(self.get(field::EXIT_QUALIFICATION)))
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
            | reason::ENCLS
            | reason::SEAMCALL
            | reason::TDCALL => Exit::Undefined,
            other => {
                Exit::Unknown { code: u64::from(other), qualification: self.get(field::EXIT_QUALIFICATION) }
            }
        }
    }

    #[cold]
    fn instruction_failed(&mut self) -> Exit {
        self.block.guard.take_back();
        let number = self.get(field::INSTRUCTION_ERROR);
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
        self.flush_translations();
        invept(self.controls().invept(self.eptp));
    }
}
