//! The contract's accessors on VMCS fields.

use core::fmt;

use vcpu::{
    ApicAssists, ApicState, ApicView, DescriptorTable, DescriptorTableName, Event, Exit, Registers, Segment,
    SegmentAccess, SegmentName, SystemRegister, Vcpu, cr0,
};

use super::capability::{entry, processor, secondary};
use super::vcpu::{Before, VmxVcpu, blocking};
use super::{field, reason, setup};

/// RFLAGS bits that exist; an entry refuses others.
const RFLAGS_DEFINED: u64 = 0x3f_7fd5;
/// Bits of CR0 that the CPU must not get from the guest: caching is the host's.
const CR0_CACHING: u64 = cr0::CD | cr0::NW;
/// CR0 bits whose change needs the hypervisor or the backend.
const CR0_WATCHED: u64 = cr0::PE | cr0::PG | CR0_CACHING;

impl VmxVcpu {
    /// Sets one of [`super::vcpu::SWITCHED_MSRS`].
    pub(super) fn set_switched_msr(&mut self, number: usize, value: u64) {
        self.msrs[number] = value;
        if self.in_cpu() && number < self.switched() {
            self.write_switched(number, value);
        }
    }

    fn switched_msr(&self, number: usize) -> u64 {
        if self.in_cpu() && number < self.switched() { self.read_switched(number) } else { self.msrs[number] }
    }

    /// CR0 as the CPU runs it: the guest's, with what VMX operation demands.
    const fn effective_cr0(&self, guest: u64) -> u64 {
        let (must, may) = self.controls().cr0_fixed;
        ((guest & !CR0_CACHING) | must) & may
    }

    const fn effective_cr4(&self, guest: u64) -> u64 {
        let (must, may) = self.controls().cr4_fixed;
        (guest | must) & may
    }

    fn write_efer(&mut self, value: u64) {
        self.set(field::GUEST_EFER, value);
        let controls = self.get(field::ENTRY_CONTROLS);
        let wanted = if value & vcpu::efer::LMA != 0 {
            controls | entry::IA32E_MODE_GUEST
        } else {
            controls & !entry::IA32E_MODE_GUEST
        };
        self.set(field::ENTRY_CONTROLS, wanted);
        self.before |= Before::FLUSH;
    }
}

impl Vcpu for VmxVcpu {
    fn load(&mut self) {
        self.load_state();
    }

    fn unload(&mut self) {
        self.unload_state();
    }

    #[inline(always)]
    fn run(&mut self) -> Exit {
        self.run_once()
    }

    fn reset(&mut self) {
        assert!(self.in_cpu(), "a vCPU is reset that is not loaded");
        setup::power_up(self);
    }

    #[inline(always)]
    fn registers(&self) -> &Registers {
        &self.block.registers
    }

    #[inline(always)]
    fn registers_mut(&mut self) -> &mut Registers {
        &mut self.block.registers
    }

    #[inline(always)]
    fn rip(&self) -> u64 {
        self.get(field::GUEST_RIP)
    }

    #[inline(always)]
    fn set_rip(&mut self, rip: u64) {
        self.set(field::GUEST_RIP, rip);
    }

    #[inline]
    fn rsp(&self) -> u64 {
        self.get(field::GUEST_RSP)
    }

    #[inline]
    fn set_rsp(&mut self, rsp: u64) {
        self.set(field::GUEST_RSP, rsp);
    }

    #[inline(always)]
    fn rflags(&self) -> u64 {
        self.get(field::GUEST_RFLAGS)
    }

    #[inline]
    fn set_rflags(&mut self, rflags: u64) {
        self.set(field::GUEST_RFLAGS, rflags & RFLAGS_DEFINED | vcpu::rflags::FIXED);
    }

    #[inline(always)]
    fn read(&self, register: SystemRegister) -> u64 {
        use SystemRegister as R;
        match register {
            R::Cr0 => {
                let mask = self.get(field::CR0_MASK);
                self.get(field::CR0_SHADOW) & mask | self.get(field::GUEST_CR0) & !mask
            }
            R::Cr4 => {
                let mask = self.get(field::CR4_MASK);
                self.get(field::CR4_SHADOW) & mask | self.get(field::GUEST_CR4) & !mask
            }
            R::Cr2 => self.extended.cr2(),
            R::Cr3 => self.get(field::GUEST_CR3),
            R::Efer => self.get(field::GUEST_EFER),
            R::Dr0 => self.extended.dr(0),
            R::Dr1 => self.extended.dr(1),
            R::Dr2 => self.extended.dr(2),
            R::Dr3 => self.extended.dr(3),
            R::Dr6 => self.extended.dr6(),
            R::Dr7 => self.get(field::GUEST_DR7),
            R::Xcr0 => self.extended.xcr0(),
            R::FsBase => self.get(field::GUEST_FS_BASE),
            R::GsBase => self.get(field::GUEST_GS_BASE),
            R::KernelGsBase => self.switched_msr(0),
            R::Star => self.switched_msr(1),
            R::Lstar => self.switched_msr(2),
            R::Cstar => self.switched_msr(3),
            R::Sfmask => self.switched_msr(4),
            R::TscAux => self.switched_msr(5),
            R::SysenterCs => u64::from(self.get(field::GUEST_SYSENTER_CS)),
            R::SysenterEsp => self.get(field::GUEST_SYSENTER_ESP),
            R::SysenterEip => self.get(field::GUEST_SYSENTER_EIP),
            R::Pat => self.get(field::GUEST_PAT),
        }
    }

    fn write(&mut self, register: SystemRegister, value: u64) {
        use SystemRegister as R;
        match register {
            R::Cr0 => {
                self.set(field::GUEST_CR0, self.effective_cr0(value));
                self.set(field::CR0_SHADOW, value);
                self.before |= Before::FLUSH;
            }
            R::Cr4 => {
                self.set(field::GUEST_CR4, self.effective_cr4(value));
                self.set(field::CR4_SHADOW, value);
                self.before |= Before::FLUSH;
            }
            R::Cr2 => self.extended.set_cr2(value),
            R::Cr3 => {
                self.set(field::GUEST_CR3, value);
                self.before |= Before::FLUSH;
            }
            R::Efer => self.write_efer(value),
            R::Dr0 => self.extended.set_dr(0, value),
            R::Dr1 => self.extended.set_dr(1, value),
            R::Dr2 => self.extended.set_dr(2, value),
            R::Dr3 => self.extended.set_dr(3, value),
            R::Dr6 => self.extended.set_dr6(value),
            R::Dr7 => self.set(field::GUEST_DR7, value & 0xffff_ffff),
            R::Xcr0 => self.extended.set_xcr0(value),
            R::FsBase => self.set(field::GUEST_FS_BASE, value),
            R::GsBase => self.set(field::GUEST_GS_BASE, value),
            R::KernelGsBase => self.set_switched_msr(0, value),
            R::Star => self.set_switched_msr(1, value),
            R::Lstar => self.set_switched_msr(2, value),
            R::Cstar => self.set_switched_msr(3, value),
            // Their upper halves are reserved.
            R::Sfmask => self.set_switched_msr(4, value & 0xffff_ffff),
            R::TscAux => self.set_switched_msr(5, value & 0xffff_ffff),
            R::SysenterCs => self.set(field::GUEST_SYSENTER_CS, value as u32),
            R::SysenterEsp => self.set(field::GUEST_SYSENTER_ESP, value),
            R::SysenterEip => self.set(field::GUEST_SYSENTER_EIP, value),
            R::Pat => self.set(field::GUEST_PAT, value),
        }
    }

    fn segment(&self, name: SegmentName) -> Segment {
        let fields = field::segment(name);
        Segment {
            selector: self.get(fields.selector),
            base: self.get(fields.base),
            limit: self.get(fields.limit),
            access: SegmentAccess::from_bits_retain(self.get(fields.access)),
        }
    }

    fn set_segment(&mut self, name: SegmentName, segment: Segment) {
        let fields = field::segment(name);
        self.set(fields.selector, segment.selector);
        self.set(fields.base, segment.base);
        self.set(fields.limit, segment.limit);
        self.set(fields.access, segment.access.bits());
    }

    fn table(&self, name: DescriptorTableName) -> DescriptorTable {
        let (base, limit) = match name {
            DescriptorTableName::Gdtr => (field::GUEST_GDTR_BASE, field::GUEST_GDTR_LIMIT),
            DescriptorTableName::Idtr => (field::GUEST_IDTR_BASE, field::GUEST_IDTR_LIMIT),
        };
        DescriptorTable { base: self.get(base), limit: self.get(limit) as u16 }
    }

    fn set_table(&mut self, name: DescriptorTableName, table: DescriptorTable) {
        let (base, limit) = match name {
            DescriptorTableName::Gdtr => (field::GUEST_GDTR_BASE, field::GUEST_GDTR_LIMIT),
            DescriptorTableName::Idtr => (field::GUEST_IDTR_BASE, field::GUEST_IDTR_LIMIT),
        };
        self.set(base, table.base);
        self.set(limit, u32::from(table.limit));
    }

    #[inline(always)]
    fn cpl(&self) -> u8 {
        let access = self.get(const { field::segment(SegmentName::Ss).access });
        SegmentAccess::from_bits_retain(access).dpl()
    }

    #[inline(always)]
    fn is_in_64_bit_mode(&self) -> bool {
        let access =
            SegmentAccess::from_bits_retain(self.get(const { field::segment(SegmentName::Cs).access }));
        access.contains(SegmentAccess::LONG) && self.get(field::GUEST_EFER) & vcpu::efer::LMA != 0
    }

    fn set_pdptes(&mut self, entries: [u64; 4]) {
        for (number, entry) in entries.into_iter().enumerate() {
            self.set(field::pdpte(number as u32), entry);
        }
    }

    fn set_guest_owned(&mut self, cr0: u64, cr4: u64) {
        let (must0, may0) = self.controls().cr0_fixed;
        let (must4, may4) = self.controls().cr4_fixed;
        // What the guest owned so far goes into the shadow first, so that reading stays right.
        let (value0, value4) = (self.read(SystemRegister::Cr0), self.read(SystemRegister::Cr4));
        self.set(field::CR0_MASK, !(cr0 & !CR0_WATCHED & !must0 & may0));
        self.set(field::CR4_MASK, !(cr4 & !must4 & may4));
        self.write(SystemRegister::Cr0, value0);
        self.write(SystemRegister::Cr4, value4);
    }

    #[inline(always)]
    fn next_rip(&self) -> Option<u64> {
        // The length is there for all of these exits (SDM vol. 3, "Information for VM Exits Due to Instruction Execution").
        debug_assert!(reason::by_instruction(self.last_reason()));
        Some(self.rip().wrapping_add(u64::from(self.get(field::EXIT_INSTRUCTION_LENGTH))))
    }

    fn instruction_bytes(&self, _buffer: &mut [u8; 15]) -> usize {
        0
    }

    #[inline(always)]
    fn fault_instruction_length(&self) -> Option<u8> {
        // Below another hypervisor the field is that one's guess.
        if crate::cpu::features().hypervisor {
            return None;
        }
        let length = self.get(field::EXIT_INSTRUCTION_LENGTH);
        (1..=15).contains(&length).then_some(length as u8)
    }

    #[inline(always)]
    fn advance(&mut self, next_rip: u64) {
        self.set(field::GUEST_RIP, next_rip);
        self.unblock(blocking::BY_STI | blocking::BY_MOV_SS);
        self.end_instruction();
    }

    #[inline]
    fn inject(&mut self, event: Event) {
        self.pending.request(event);
    }

    #[inline(always)]
    fn interrupted_event(&self) -> Option<Event> {
        self.pending.interrupted()
    }

    #[inline(always)]
    fn interruptible(&self) -> bool {
        !self.pending.any() && self.can_take_interrupt()
    }

    fn nmi_ready(&self) -> bool {
        let blocks = blocking::BY_STI | blocking::BY_MOV_SS | blocking::BY_NMI;
        !self.pending.any() && self.get(field::GUEST_INTERRUPTIBILITY) & blocks == 0
    }

    #[inline(always)]
    fn request_interrupt_window(&mut self, wanted: bool) {
        self.interrupt_window = wanted;
        self.control(processor::INTERRUPT_WINDOW_EXITING, wanted || self.held);
    }

    fn request_nmi_window(&mut self, wanted: bool) {
        self.control(processor::NMI_WINDOW_EXITING, wanted);
    }

    #[inline]
    fn set_run_deadline(&mut self, tsc: u64) {
        self.deadline = tsc;
        self.before |= Before::TIMER;
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.set(field::TSC_OFFSET, offset);
    }

    fn set_apic_view(&mut self, view: ApicView, uses_task_priority: bool) -> ApicAssists {
        self.choose_apic_view(view, uses_task_priority)
    }

    fn add_request(&mut self, vector: u8) -> bool {
        self.add_apic_request(vector)
    }

    #[inline]
    fn give_apic(&mut self, state: &ApicState, broadcasts: bool) {
        self.give_apic_state(state, broadcasts);
    }

    #[inline]
    fn take_apic(&mut self, state: &mut ApicState) {
        self.take_apic_state(state);
    }

    fn apic_register(&self, index: u16) -> u32 {
        self.virtual_register(index)
    }

    fn set_apic_register(&mut self, index: u16, value: u32) {
        self.show_virtual_register(index, value);
    }

    fn set_tsc_scale(&mut self, multiplier: u64) {
        if self.controls().tsc_scaling {
            self.set(field::TSC_MULTIPLIER, multiplier);
            self.second_control(secondary::USE_TSC_SCALING, true);
        }
    }

    fn read_speculation(&self, msr: u32) -> Option<u64> {
        self.block.guard.read(&self.shared.offer, msr)
    }

    fn write_speculation(&mut self, msr: u32, value: u64) -> bool {
        self.write_control(msr, value)
    }

    #[inline]
    fn note_other_work(&mut self) {
        self.note_work();
    }

    fn flush_tlb(&mut self) {
        self.before |= Before::FLUSH;
    }

    fn dump(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "VMX exit reason {} qualification {:#x} interruption {:#x} vectoring {:#x} gpa {:#x} \
             interruptibility {:#x}",
            self.last_reason(),
            self.get(field::EXIT_QUALIFICATION),
            self.get(field::EXIT_INTERRUPTION_INFO),
            self.get(field::IDT_VECTORING_INFO),
            self.get(field::GUEST_PHYSICAL_ADDRESS),
            self.get(field::GUEST_INTERRUPTIBILITY),
        )
    }
}
