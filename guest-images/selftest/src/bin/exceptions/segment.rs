//! Exceptions about descriptors: #NP, #SS, #GP with a selector (SDM vol. 3, "Error Code").

use selftest::cpu;
use selftest::descriptor::{
    self, BEYOND_LIMIT, CODE64, DATA, INTERRUPT_GATE, KERNEL_CODE, KERNEL_DATA, PRESENT, SCRATCH, TSS,
};
use selftest::exception::vector::{GP, NP, SS};
use selftest::{Test, TestResult, check_eq, expect_exception, need, platform, probe, tests};

pub(crate) const TESTS: &[Test] = tests![
    data_segment_not_present,
    stack_segment_not_present,
    selector_beyond_the_limit,
    stack_segment_of_wrong_type,
    null_stack_segment_in_kernel,
    far_return_to_data_segment,
    far_return_to_missing_code_segment,
    gate_not_present,
    gate_with_bad_code_segment,
    idt_limit,
    busy_tss,
    iret_to_non_canonical_address,
    selectors_survive_exits,
    ldt_round_trip,
    lar_and_lsl,
    descriptor_table_registers_survive_exits,
];

/// Error-code bit: the index is into the IDT.
const IDT: u32 = 2;

fn load_ds(selector: u16) {
    probe!("mov ds, {:x}", in(reg) selector, options(nostack));
}

fn load_ss(selector: u16) {
    probe!("mov ss, {:x}", in(reg) selector, options(nostack));
}

fn data_segment_not_present() -> TestResult {
    descriptor::set_descriptor(SCRATCH, DATA & !PRESENT);
    expect_exception("MOV DS", NP, u32::from(SCRATCH), || load_ds(SCRATCH))?;
    descriptor::set_descriptor(SCRATCH, DATA);
    load_ds(SCRATCH);
    Ok(())
}

fn stack_segment_not_present() -> TestResult {
    descriptor::set_descriptor(SCRATCH, DATA & !PRESENT);
    expect_exception("MOV SS", SS, u32::from(SCRATCH), || load_ss(SCRATCH))
}

fn selector_beyond_the_limit() -> TestResult {
    expect_exception("MOV DS", GP, u32::from(BEYOND_LIMIT), || load_ds(BEYOND_LIMIT))?;
    // In the local descriptor table, which is empty.
    expect_exception("MOV DS with an LDT selector", GP, 0x0c, || load_ds(0x0f))
}

fn stack_segment_of_wrong_type() -> TestResult {
    expect_exception("MOV SS with a code segment", GP, u32::from(KERNEL_CODE), || load_ss(KERNEL_CODE))
}

fn null_stack_segment_in_kernel() -> TestResult {
    load_ss(0);
    cpu::cpuid(0, 0);
    let ss: u16;
    probe!("mov {:x}, ss", out(reg) ss, options(nostack));
    load_ss(KERNEL_DATA);
    check_eq!(ss, 0, "SS");
    Ok(())
}

fn far_return(selector: u16) {
    probe!("push {}", "lea {1}, [rip + 2f]", "push {1}", "retfq", "2:", in(reg) u64::from(selector), out(reg) _);
}

fn far_return_to_data_segment() -> TestResult {
    expect_exception("far return", GP, u32::from(KERNEL_DATA), || far_return(KERNEL_DATA))
}

fn far_return_to_missing_code_segment() -> TestResult {
    descriptor::set_descriptor(SCRATCH, CODE64 & !PRESENT);
    expect_exception("far return", NP, u32::from(SCRATCH), || far_return(SCRATCH))
}

const GATE: u8 = 0x40;

fn gate_not_present() -> TestResult {
    need!(!platform::tcg(), "TCG doubles the vector in the error code");
    descriptor::set_gate_attributes(GATE, INTERRUPT_GATE & !(PRESENT));
    expect_exception("INT through a gate that is not present", NP, (u32::from(GATE) * 8) | IDT, || {
        probe!("int 0x40");
    })
}

fn gate_with_bad_code_segment() -> TestResult {
    descriptor::set_gate(GATE, 0x1000, BEYOND_LIMIT, INTERRUPT_GATE);
    expect_exception("INT through a gate beyond the GDT", GP, u32::from(BEYOND_LIMIT), || probe!("int 0x40"))
}

fn idt_limit() -> TestResult {
    need!(!platform::tcg(), "TCG doubles the vector in the error code");
    let base = idt_base();
    descriptor::load_idt(base, 0x20 * 16 - 1);
    let caught = expect_exception("INT beyond the IDT's limit", GP, (u32::from(GATE) * 8) | IDT, || {
        probe!("int 0x40");
    });
    descriptor::load_idt(base, 4095);
    caught
}

fn idt_base() -> u64 {
    let mut pointer = [0_u64; 2];
    probe!("sidt [{}]", in(reg) pointer.as_mut_ptr());
    pointer[0] >> 16 | pointer[1] << 48
}

fn busy_tss() -> TestResult {
    expect_exception("LTR of a busy TSS", GP, u32::from(TSS), || probe!("ltr {:x}", in(reg) TSS))?;
    if !platform::tcg() {
        expect_exception("LTR of a null selector", GP, 0, || probe!("ltr {:x}", in(reg) 0_u16))?;
    }
    expect_exception(
        "LTR of a data segment",
        GP,
        u32::from(KERNEL_DATA),
        || probe!("ltr {:x}", in(reg) KERNEL_DATA),
    )
}

fn iret_to_non_canonical_address() -> TestResult {
    need!(!platform::tcg(), "TCG does not check");
    expect_exception("IRETQ to a non-canonical address", GP, 0, || {
        probe!(
            "mov {0}, rsp", "push {ss}", "push {0}", "pushfq", "push {cs}", "push {rip_}", "iretq",
            out(reg) _, ss = in(reg) u64::from(KERNEL_DATA), cs = in(reg) u64::from(KERNEL_CODE),
            rip_ = in(reg) 0x8000_0000_0000_u64,
        );
    })
}

fn selectors_survive_exits() -> TestResult {
    descriptor::set_descriptor(SCRATCH, DATA);
    probe!("mov ds, {0:x}", "mov es, {0:x}", "mov fs, {0:x}", "mov gs, {1:x}", in(reg) SCRATCH, in(reg) KERNEL_DATA);
    for _ in 0..100 {
        cpu::cpuid(0, 0);
        cpu::outb(0x80, 0);
    }
    let (ds, es, fs, gs): (u16, u16, u16, u16);
    probe!("mov {:x}, ds", "mov {:x}, es", "mov {:x}, fs", "mov {:x}, gs", out(reg) ds, out(reg) es, out(reg) fs,
        out(reg) gs, options(nostack));
    load_ds(KERNEL_DATA);
    for (value, expected) in [(ds, SCRATCH), (es, SCRATCH), (fs, SCRATCH), (gs, KERNEL_DATA)] {
        check_eq!(value, expected, "segment selector");
    }
    Ok(())
}

fn ldt_round_trip() -> TestResult {
    const LDT_TYPE: u64 = 0x82 << 40;
    let table = selftest::memory::page();
    cpu::write64(table + 8, DATA);
    descriptor::set_descriptor(
        SCRATCH,
        0xfff | (table & 0xff_ffff) << 16 | LDT_TYPE | (table >> 24 & 0xff) << 56,
    );
    descriptor::set_descriptor(SCRATCH + 8, table >> 32);
    probe!("lldt {:x}", in(reg) SCRATCH, options(nostack));
    cpu::cpuid(0, 0);
    let ldt: u16;
    probe!("sldt {:x}", out(reg) ldt, options(nostack));
    load_ds(0x0c);
    cpu::outb(0x80, 0);
    load_ds(KERNEL_DATA);
    probe!("lldt {:x}", in(reg) 0_u16, options(nostack));
    check_eq!(ldt, SCRATCH, "SLDT");
    Ok(())
}

fn lar_and_lsl() -> TestResult {
    let (rights, limit): (u32, u32);
    probe!("lar {:e}, {:e}", out(reg) rights, in(reg) u32::from(KERNEL_CODE), options(nostack));
    probe!("lsl {:e}, {:e}", out(reg) limit, in(reg) u32::from(KERNEL_DATA), options(nostack));
    check_eq!(rights & 0x00f0_ff00, 0x00a0_9b00, "LAR of the code segment");
    check_eq!(limit, u32::MAX, "LSL of the data segment");
    Ok(())
}

fn descriptor_table_registers_survive_exits() -> TestResult {
    let read = || {
        let (mut gdt, mut idt, task): ([u64; 2], [u64; 2], u16) = ([0; 2], [0; 2], {
            let task: u16;
            probe!("str {:x}", out(reg) task, options(nostack));
            task
        });
        probe!("sgdt [{}]", "sidt [{}]", in(reg) gdt.as_mut_ptr(), in(reg) idt.as_mut_ptr());
        (gdt, idt, task)
    };
    let before = read();
    for _ in 0..100 {
        cpu::cpuid(0, 0);
        cpu::inb(0x80);
    }
    let after = read();
    check_eq!(before.0[0] & 0xffff, u64::from(descriptor::GDT_LIMIT), "GDT limit");
    check_eq!(before.2, TSS, "task register");
    if before != after {
        return Err(selftest::verdict::fail(format_args!("{after:x?} after {before:x?}")));
    }
    Ok(())
}
