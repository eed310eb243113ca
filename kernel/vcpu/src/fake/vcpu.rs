//! A vCPU that runs a program.

use core::fmt;
use std::rc::Rc;

use assert_no_alloc::permit_alloc;

use super::space::CONTROL_BYTES;
use super::{Action, Bank, Clock, Cpu, FakeSpace, Guest, Journal, Program, Programs};
use crate::{
    ApicAssists, ApicState, ApicView, DescriptorTable, DescriptorTableName, Event, Exit, Registers, Segment,
    SegmentName, SystemRegister, Vcpu, VectorSet, cr0,
};

/// A fake vCPU.
pub struct FakeVcpu {
    /// Its registers, for the test to look at.
    pub cpu: Cpu,
    program: Option<Program>,
    journal: Journal,
    lender: Lender,
    clock: Rc<Clock>,
    space: FakeSpace,
    step: usize,
    resets: usize,
    loaded: bool,
}

/// Ticks that pass in every run.
const RUN_TICKS: u64 = 100;

impl FakeVcpu {
    pub(super) fn new(
        (program, journal): (Program, Journal),
        clock: Rc<Clock>,
        space: FakeSpace,
        lender: Lender,
        apic: ApicAssists,
    ) -> Self {
        let program = Some(program);
        Self {
            cpu: Cpu::new(apic),
            program,
            journal,
            lender,
            clock,
            space,
            step: 0,
            resets: 0,
            loaded: false,
        }
    }

    fn note(&self, action: Action) {
        permit_alloc(|| self.journal.borrow_mut().push(action));
    }

    #[track_caller]
    fn expect_loaded(&self) {
        assert!(self.loaded, "a vCPU was used while it was not loaded");
    }
}

/// Who gets back what a vCPU has used.
pub(super) struct Lender {
    pub(super) programs: Programs,
    pub(super) bank: Rc<Bank>,
}

impl Drop for FakeVcpu {
    fn drop(&mut self) {
        self.lender.bank.give(CONTROL_BYTES);
        let bytes = core::mem::take(&mut self.cpu.instruction_bytes);
        let delivered = core::mem::take(&mut self.cpu.delivered);
        permit_alloc(|| {
            drop((bytes, delivered));
            if let Some(program) = self.program.take() {
                self.lender.programs.borrow_mut().push_front((program, Rc::clone(&self.journal)));
            }
        });
    }
}

impl fmt::Debug for FakeVcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeVcpu").field("cpu", &self.cpu).field("step", &self.step).finish_non_exhaustive()
    }
}

impl Vcpu for FakeVcpu {
    fn load(&mut self) {
        assert!(!self.loaded, "a loaded vCPU was loaded again");
        self.loaded = true;
        self.note(Action::Load);
    }

    fn unload(&mut self) {
        self.expect_loaded();
        self.loaded = false;
        self.note(Action::Unload);
    }

    fn run(&mut self) -> Exit {
        self.expect_loaded();
        self.clock.pass(RUN_TICKS);
        permit_alloc(|| self.cpu.deliver());
        if self.clock.take_interrupt() {
            return Exit::HostEvent;
        }
        if self.cpu.interrupt_window && self.cpu.interruptible() {
            return Exit::InterruptWindow;
        }
        if self.cpu.nmi_window && self.nmi_ready() {
            return Exit::NmiWindow;
        }
        let mut guest = Guest {
            cpu: &mut self.cpu,
            memory: &self.space,
            step: self.step,
            resets: self.resets,
            clock: &self.clock,
        };
        self.step += 1;
        permit_alloc(|| self.program.as_mut().expect("it is taken only when this ends")(&mut guest))
    }

    fn reset(&mut self) {
        self.expect_loaded();
        let delivered = core::mem::take(&mut self.cpu.delivered);
        let (tsc_offset, able) = (self.cpu.tsc_offset, self.cpu.apic.able);
        permit_alloc(|| self.cpu = Cpu { delivered, tsc_offset, ..Cpu::new(able) });
        self.step = 0;
        self.resets += 1;
        self.note(Action::Reset);
    }

    fn registers(&self) -> &Registers {
        &self.cpu.registers
    }

    fn registers_mut(&mut self) -> &mut Registers {
        &mut self.cpu.registers
    }

    fn rip(&self) -> u64 {
        self.cpu.rip
    }

    fn set_rip(&mut self, rip: u64) {
        self.cpu.rip = rip;
    }

    fn rsp(&self) -> u64 {
        self.cpu.rsp
    }

    fn set_rsp(&mut self, rsp: u64) {
        self.cpu.rsp = rsp;
    }

    fn rflags(&self) -> u64 {
        self.cpu.rflags
    }

    fn set_rflags(&mut self, rflags: u64) {
        self.cpu.rflags = rflags;
    }

    fn read(&self, register: SystemRegister) -> u64 {
        self.expect_loaded();
        self.cpu.system(register)
    }

    fn write(&mut self, register: SystemRegister, value: u64) {
        self.expect_loaded();
        self.cpu.set_system(register, value);
        self.note(Action::Write(register, value));
    }

    fn segment(&self, name: SegmentName) -> Segment {
        self.cpu.segments[name as usize]
    }

    fn set_segment(&mut self, name: SegmentName, segment: Segment) {
        self.expect_loaded();
        self.cpu.segments[name as usize] = segment;
    }

    fn table(&self, name: DescriptorTableName) -> DescriptorTable {
        match name {
            DescriptorTableName::Gdtr => self.cpu.gdtr,
            DescriptorTableName::Idtr => self.cpu.idtr,
        }
    }

    fn set_table(&mut self, name: DescriptorTableName, table: DescriptorTable) {
        match name {
            DescriptorTableName::Gdtr => self.cpu.gdtr = table,
            DescriptorTableName::Idtr => self.cpu.idtr = table,
        }
    }

    fn cpl(&self) -> u8 {
        if self.cpu.system(SystemRegister::Cr0) & cr0::PE == 0 {
            return 0;
        }
        self.segment(SegmentName::Ss).access.dpl()
    }

    fn set_pdptes(&mut self, entries: [u64; 4]) {
        self.note(Action::Pdptes(entries));
    }

    fn set_guest_owned(&mut self, cr0: u64, cr4: u64) {
        self.cpu.guest_owned = (cr0, cr4);
    }

    fn next_rip(&self) -> Option<u64> {
        self.cpu.instruction_length.map(|length| self.cpu.rip.wrapping_add(length))
    }

    fn instruction_bytes(&self, buffer: &mut [u8; 15]) -> usize {
        let length = self.cpu.instruction_bytes.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.cpu.instruction_bytes[..length]);
        length
    }

    fn fault_instruction_length(&self) -> Option<u8> {
        self.cpu.fault_instruction_length
    }

    fn advance(&mut self, next_rip: u64) {
        self.expect_loaded();
        self.cpu.rip = next_rip;
        self.cpu.shadow = false;
        self.note(Action::Advance(next_rip));
    }

    fn inject(&mut self, event: Event) {
        self.expect_loaded();
        if matches!(event, Event::Interrupt { .. }) {
            assert!(self.cpu.interruptible(), "an interrupt was injected where none can be");
        }
        self.cpu.pending.request(event);
        self.note(Action::Inject(event));
    }

    fn interrupted_event(&self) -> Option<Event> {
        self.cpu.pending.interrupted()
    }

    fn interruptible(&self) -> bool {
        self.expect_loaded();
        self.cpu.interruptible()
    }

    fn nmi_ready(&self) -> bool {
        !self.cpu.shadow && !self.cpu.pending.any()
    }

    fn request_interrupt_window(&mut self, wanted: bool) {
        self.expect_loaded();
        self.cpu.interrupt_window = wanted;
        self.note(Action::InterruptWindow(wanted));
    }

    fn request_nmi_window(&mut self, wanted: bool) {
        self.expect_loaded();
        self.cpu.nmi_window = wanted;
        self.note(Action::NmiWindow(wanted));
    }

    fn set_run_deadline(&mut self, _tsc: u64) {
        self.expect_loaded();
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.expect_loaded();
        self.cpu.tsc_offset = offset;
        self.note(Action::TscOffset(offset));
    }

    fn set_tsc_scale(&mut self, multiplier: u64) {
        self.expect_loaded();
        self.note(Action::TscScale(multiplier));
    }

    fn set_apic_view(&mut self, view: ApicView, _uses_task_priority: bool) -> ApicAssists {
        self.expect_loaded();
        assert!(self.cpu.apic.given.is_none(), "the state of the local APIC is in the CPU");
        self.cpu.apic.view = view;
        self.cpu.apic.assists()
    }

    fn give_apic(&mut self, state: &ApicState, broadcasts: bool) {
        self.expect_loaded();
        self.cpu.apic.given = Some(*state);
        self.cpu.apic.eoi_exits = if broadcasts { state.level } else { VectorSet::EMPTY };
    }

    fn take_apic(&mut self, state: &mut ApicState) {
        self.expect_loaded();
        *state = self.cpu.apic.given.take().expect("it was given before");
    }

    fn apic_register(&self, index: u16) -> u32 {
        self.cpu.apic.registers[usize::from(index)]
    }

    fn set_apic_register(&mut self, index: u16, value: u32) {
        self.cpu.apic.registers[usize::from(index)] = value;
    }

    fn flush_tlb(&mut self) {
        self.expect_loaded();
        self.note(Action::FlushTlb);
    }

    fn dump(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fake vCPU after {} steps", self.step)
    }
}
