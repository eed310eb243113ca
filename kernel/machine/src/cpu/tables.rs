//! Descriptor tables: a GDT and a TSS for each CPU, one IDT for all.
//!
//! Source: Intel SDM vol. 3, "Segment Descriptors" and "64-Bit Mode IDT".

// UNSAFETY: the CPU reads these tables, and loading them is privileged.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;

use spin::Once;
use x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::instructions::tables::{lgdt, lidt, load_tss};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::SegmentSelector;
use x86_64::{PrivilegeLevel, VirtAddr};

use super::interrupts::{self, STUB_BYTES, VECTORS};
use crate::stacks::CpuStacks;

/// Selector of the kernel's code segment.
pub(super) const CODE_SELECTOR: u16 = 0x08;
/// Selector of the kernel's data and stack segment.
pub(super) const DATA_SELECTOR: u16 = 0x10;
/// Selector of the task-state segment.
pub(super) const TSS_SELECTOR: u16 = 0x18;

const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;
/// Present, 64-bit TSS, available.
const TSS_TYPE: u64 = 0x89;
/// Null, code, data, and two slots for the TSS.
const GDT_ENTRIES: usize = 5;
/// Present, 64-bit interrupt gate, ring 0.
const INTERRUPT_GATE: u64 = 0x8e;

/// Stack-table slots of the vectors that need a stack of their own, 1 to 7.
const DOUBLE_FAULT_IST: u8 = 1;
const NMI_IST: u8 = 2;
const MACHINE_CHECK_IST: u8 = 3;

/// The 64-bit task-state segment.
#[derive(Debug)]
#[repr(C, packed(4))]
struct Tss {
    reserved_0: u32,
    ring_stacks: [u64; 3],
    reserved_1: u64,
    interrupt_stacks: [u64; 7],
    reserved_2: u64,
    reserved_3: u16,
    io_map_base: u16,
}

const TSS_BYTES: usize = size_of::<Tss>();
const _: () = assert!(TSS_BYTES == 104);

/// A CPU's GDT and TSS.
#[derive(Debug)]
#[repr(C, align(16))]
pub(super) struct CpuTables {
    gdt: UnsafeCell<[u64; GDT_ENTRIES]>,
    tss: UnsafeCell<Tss>,
}

// SAFETY: only `load` writes, once, on the CPU whose tables they are; then only that CPU reads them.
unsafe impl Sync for CpuTables {}

impl CpuTables {
    pub(super) const fn new() -> Self {
        Self {
            gdt: UnsafeCell::new([0, CODE_DESCRIPTOR, DATA_DESCRIPTOR, 0, 0]),
            tss: UnsafeCell::new(Tss {
                reserved_0: 0,
                ring_stacks: [0; 3],
                reserved_1: 0,
                interrupt_stacks: [0; 7],
                reserved_2: 0,
                reserved_3: 0,
                // Past the limit: no I/O permission map.
                io_map_base: TSS_BYTES as u16,
            }),
        }
    }

    pub(super) fn gdt_base(&self) -> u64 {
        self.gdt.get() as u64
    }

    pub(super) fn tss_base(&self) -> u64 {
        self.tss.get() as u64
    }

    /// Fills and loads GDT, TSS and IDT and the segment registers.
    ///
    /// # Safety
    ///
    /// 1. The calling CPU is the one these tables are for, and loads them once.
    /// 2. Interrupts are off.
    pub(super) unsafe fn load(&'static self, own: &CpuStacks) {
        let [low, high] = tss_descriptor(self.tss_base());
        let mut stacks = [0; 7];
        for (slot, stack) in [
            (DOUBLE_FAULT_IST, &own.double_fault),
            (NMI_IST, &own.nmi),
            (MACHINE_CHECK_IST, &own.machine_check),
        ] {
            stacks[usize::from(slot) - 1] = stack.end;
        }
        let pointer = DescriptorTablePointer {
            limit: (GDT_ENTRIES * 8 - 1) as u16,
            base: VirtAddr::new(self.gdt_base()),
        };
        // SAFETY: condition 1: nobody else uses these tables, and they live for ever; condition 2: nothing
        // comes between. The descriptors are flat 64-bit code and data and a TSS.
        unsafe {
            (*self.tss.get()).interrupt_stacks = stacks;
            let gdt = self.gdt.get();
            (*gdt)[usize::from(TSS_SELECTOR) / 8] = low;
            (*gdt)[usize::from(TSS_SELECTOR) / 8 + 1] = high;
            lgdt(&pointer);
            CS::set_reg(selector(CODE_SELECTOR));
            SS::set_reg(selector(DATA_SELECTOR));
            DS::set_reg(selector(DATA_SELECTOR));
            ES::set_reg(selector(DATA_SELECTOR));
            FS::set_reg(selector(0));
            GS::set_reg(selector(0));
            load_tss(selector(TSS_SELECTOR));
            lidt(&DescriptorTablePointer {
                limit: (VECTORS * 16 - 1) as u16,
                base: VirtAddr::new(idt_base()),
            });
        }
    }
}

const fn selector(value: u16) -> SegmentSelector {
    SegmentSelector::new(value / 8, PrivilegeLevel::Ring0)
}

const fn tss_descriptor(base: u64) -> [u64; 2] {
    let limit = TSS_BYTES as u64 - 1;
    let low = limit | (base & 0xff_ffff) << 16 | TSS_TYPE << 40 | ((base >> 24) & 0xff) << 56;
    [low, base >> 32]
}

/// A gate descriptor: 16 bytes.
type Gate = [u64; 2];

static IDT: Once<[Gate; VECTORS]> = Once::new();

/// The address of the IDT, which the first call fills.
pub(super) fn idt_base() -> u64 {
    let table = IDT.call_once(|| {
        core::array::from_fn(|vector| {
            let stack = match vector {
                2 => NMI_IST,
                8 => DOUBLE_FAULT_IST,
                18 => MACHINE_CHECK_IST,
                _ => 0,
            };
            gate(interrupts::stubs() + (vector * STUB_BYTES) as u64, stack)
        })
    });
    table.as_ptr() as u64
}

const fn gate(handler: u64, stack: u8) -> Gate {
    let low = (handler & 0xffff)
        | (CODE_SELECTOR as u64) << 16
        | (stack as u64) << 32
        | INTERRUPT_GATE << 40
        | ((handler >> 16) & 0xffff) << 48;
    [low, handler >> 32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_scatters_its_handler_as_the_manual_says() {
        let [low, high] = gate(0x1122_3344_5566_7788, 2);
        assert_eq!(low, 0x5566_8e02_0008_7788);
        assert_eq!(high, 0x1122_3344);
    }

    #[test]
    fn a_tss_descriptor_scatters_its_base_as_the_manual_says() {
        let [low, high] = tss_descriptor(0xffff_ffff_8765_4321);
        assert_eq!(low, 0x8700_8965_4321_0067);
        assert_eq!(high, 0xffff_ffff);
    }
}
