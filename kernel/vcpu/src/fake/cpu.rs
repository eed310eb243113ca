//! The registers of a fake vCPU.

use std::vec::Vec;

use super::FakeApic;
use crate::{
    ApicAssists, DescriptorTable, Event, PendingEvents, Registers, Segment, SegmentName, SystemRegister,
    power_up, rflags,
};

/// The registers of a fake vCPU.
#[derive(Clone, Debug)]
pub struct Cpu {
    /// General-purpose registers.
    pub registers: Registers,
    /// Instruction pointer.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Flags.
    pub rflags: u64,
    /// System registers by number.
    pub(super) system: [u64; SYSTEM_REGISTERS],
    /// Segments by number.
    pub segments: [Segment; 8],
    /// GDTR.
    pub gdtr: DescriptorTable,
    /// IDTR.
    pub idtr: DescriptorTable,
    /// The shadow of STI or MOV SS.
    pub shadow: bool,
    /// What the next entry delivers.
    pub pending: PendingEvents,
    /// Everything that entries have delivered.
    pub delivered: Vec<Event>,
    /// What [`Vcpu::next_rip`] answers: this many bytes after RIP.
    pub instruction_length: Option<u64>,
    /// What the CPU tells of the length of an instruction that caused a nested fault.
    pub fault_instruction_length: Option<u8>,
    /// What [`Vcpu::instruction_bytes`] gives.
    pub instruction_bytes: Vec<u8>,
    /// The TSC offset.
    pub tsc_offset: u64,
    /// CR0 and CR4 bits that the guest owns.
    pub guest_owned: (u64, u64),
    /// The CPU's part of the local APIC.
    pub apic: FakeApic,
    pub(super) interrupt_window: bool,
    pub(super) nmi_window: bool,
}

const SYSTEM_REGISTERS: usize = SystemRegister::TscAux as usize + 1;
impl Cpu {
    pub(super) fn new(apic: ApicAssists) -> Self {
        let segments = SegmentName::ALL.map(Segment::at_power_up);
        let mut system = [0; SYSTEM_REGISTERS];
        system[SystemRegister::Cr0 as usize] = power_up::CR0;
        system[SystemRegister::Dr6 as usize] = power_up::DR6;
        system[SystemRegister::Dr7 as usize] = power_up::DR7;
        system[SystemRegister::Xcr0 as usize] = power_up::XCR0;
        system[SystemRegister::Pat as usize] = power_up::PAT;
        Self {
            registers: Registers::default(),
            rip: power_up::RIP,
            rsp: 0,
            rflags: rflags::FIXED,
            system,
            segments,
            gdtr: DescriptorTable { base: 0, limit: 0xffff },
            idtr: DescriptorTable { base: 0, limit: 0xffff },
            shadow: false,
            pending: PendingEvents::NONE,
            delivered: Vec::new(),
            instruction_length: Some(2),
            fault_instruction_length: None,
            instruction_bytes: Vec::new(),
            tsc_offset: 0,
            guest_owned: (0, 0),
            apic: FakeApic::new(apic),
            interrupt_window: false,
            nmi_window: false,
        }
    }

    /// A system register.
    pub fn system(&self, register: SystemRegister) -> u64 {
        self.system[register as usize]
    }

    /// Changes a system register as the guest itself would.
    pub fn set_system(&mut self, register: SystemRegister, value: u64) {
        self.system[register as usize] = value;
    }

    pub(super) fn interruptible(&self) -> bool {
        self.rflags & rflags::IF != 0 && !self.shadow && !self.pending.any()
    }

    /// Delivers what is pending, through an interrupt gate.
    pub(super) fn deliver(&mut self) {
        if let Some(event) = self.pending.take() {
            self.delivered.push(event);
            self.rflags &= !rflags::IF;
        }
        if self.interruptible()
            && let Some(vector) = self.apic.deliver()
        {
            self.delivered.push(Event::Interrupt { vector });
            self.rflags &= !rflags::IF;
        }
    }
}
