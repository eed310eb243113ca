//! x2APIC mode: which changes are legal, the MSRs, what they refuse (SDM vol. 3, "Extended XAPIC (x2APIC)").

use selftest::apic::{
    self, BASE_ENABLE, BASE_X2APIC, MASKED, SPURIOUS_VECTOR, SVR_ENABLE, TO_SELF, has_x2apic, read_x2,
    register, write_x2, x2apic_msr,
};
use selftest::cpu::{self, msr, rdmsr, wrmsr};
use selftest::exception::vector::GP;
use selftest::interrupt::{self, Acknowledge, count};
use selftest::{Test, TestResult, check, check_eq, expect_exception, need, platform, tests, tsc};

// Bare Bochs stays in x2APIC mode from the third test on.
pub(crate) const TESTS: &[Test] = tests![
    x2apic_msrs_need_the_mode,
    x2apic_state_survives_the_switch,
    x2apic_identity,
    x2apic_switch_and_back,
    x2apic_illegal_transitions,
    x2apic_logical_id_is_derived,
    x2apic_reserved_registers,
    x2apic_read_only_registers,
    x2apic_write_only_registers,
    x2apic_reserved_bits,
    x2apic_task_priority,
    x2apic_self_ipi,
    x2apic_command_register,
    x2apic_timer,
    x2apic_eoi,
];

const VECTOR: u8 = 0x44;

/// Skips the test, or switches the mode on.
macro_rules! x2apic_mode {
    () => {
        need!(has_x2apic(), "no x2APIC mode");
        if !apic::in_x2apic_mode() {
            wrmsr(msr::APIC_BASE, rdmsr(msr::APIC_BASE) | BASE_X2APIC);
        }
    };
}

fn x2apic_switch_and_back() -> TestResult {
    need!(platform::hypervisor(), "Bochs cannot enable its APIC again");
    x2apic_mode!();
    let base = rdmsr(msr::APIC_BASE);
    check_eq!(base & (BASE_X2APIC | BASE_ENABLE), BASE_X2APIC | BASE_ENABLE, "mode bits");
    wrmsr(msr::APIC_BASE, base & !(BASE_X2APIC | BASE_ENABLE));
    check_eq!(rdmsr(msr::APIC_BASE) & (BASE_X2APIC | BASE_ENABLE), 0, "mode bits after the disable");
    wrmsr(msr::APIC_BASE, base & !BASE_X2APIC);
    check_eq!(rdmsr(msr::APIC_BASE) & (BASE_X2APIC | BASE_ENABLE), BASE_ENABLE, "mode bits after the enable");
    check_eq!(u64::from(apic::read(register::SVR)), 0xff, "SVR after the way through disabled");
    Ok(())
}

fn x2apic_illegal_transitions() -> TestResult {
    x2apic_mode!();
    let base = rdmsr(msr::APIC_BASE);
    expect_exception("from x2APIC to xAPIC", GP, 0, || wrmsr(msr::APIC_BASE, base & !BASE_X2APIC))?;
    expect_exception("x2APIC without enable", GP, 0, || wrmsr(msr::APIC_BASE, base & !BASE_ENABLE))?;
    need!(platform::hypervisor(), "Bochs cannot enable its APIC again");
    wrmsr(msr::APIC_BASE, base & !(BASE_X2APIC | BASE_ENABLE));
    expect_exception("from disabled to x2APIC", GP, 0, || wrmsr(msr::APIC_BASE, base))?;
    wrmsr(msr::APIC_BASE, base & !BASE_X2APIC);
    Ok(())
}

fn x2apic_msrs_need_the_mode() -> TestResult {
    need!(!platform::bare_tcg(), "TCG ignores unknown MSRs");
    for register in [register::ID, register::VERSION, register::TPR, register::SVR, register::LVT_TIMER] {
        expect_exception("an x2APIC MSR in xAPIC mode", GP, 0, || {
            rdmsr(x2apic_msr(register));
        })?;
    }
    expect_exception("the x2APIC EOI in xAPIC mode", GP, 0, || wrmsr(x2apic_msr(register::EOI), 0))
}

fn x2apic_identity() -> TestResult {
    x2apic_mode!();
    let id = u64::from(cpu::cpuid(1, 0).ebx >> 24);
    check_eq!(read_x2(register::ID), id, "id");
    check_eq!(read_x2(register::VERSION) & 0xf0, 0x10, "version");
    Ok(())
}

fn x2apic_logical_id_is_derived() -> TestResult {
    need!(!platform::bare(), "Bochs reads zero");
    x2apic_mode!();
    let id = read_x2(register::ID);
    check_eq!(read_x2(register::LDR), id >> 4 << 16 | 1 << (id & 15), "LDR");
    Ok(())
}

fn x2apic_reserved_registers() -> TestResult {
    x2apic_mode!();
    // No ICR high half, no DFR, nothing between.
    for register in
        [0x00, 0x10, 0x40, 0x70, register::DFR, register::ICR_HIGH, 0x3a0, 0x3d0, 0x400, 0x800, 0xff0]
    {
        expect_exception("read of a reserved x2APIC register", GP, 0, || {
            read_x2(register);
        })?;
        expect_exception("write to a reserved x2APIC register", GP, 0, || write_x2(register, 0))?;
    }
    Ok(())
}

fn x2apic_read_only_registers() -> TestResult {
    x2apic_mode!();
    for register in [
        register::ID,
        register::VERSION,
        register::PPR,
        register::LDR,
        register::ISR,
        register::TMR,
        register::IRR,
        register::CURRENT_COUNT,
    ] {
        expect_exception("write to a read-only x2APIC register", GP, 0, || write_x2(register, 0))?;
    }
    Ok(())
}

fn x2apic_write_only_registers() -> TestResult {
    x2apic_mode!();
    for register in [register::EOI, register::SELF_IPI] {
        expect_exception("read of a write-only x2APIC register", GP, 0, || {
            read_x2(register);
        })?;
    }
    Ok(())
}

fn x2apic_reserved_bits() -> TestResult {
    x2apic_mode!();
    let svr = u64::from(SVR_ENABLE | u32::from(SPURIOUS_VECTOR));
    for (what, register, value) in [
        ("EOI that is not zero", register::EOI, 1),
        ("TPR's reserved bits", register::TPR, 0x100),
        ("TPR's upper half", register::TPR, 1 << 32),
        ("SVR's reserved bits", register::SVR, svr | 1 << 16),
        ("ESR that is not zero", register::ESR, 1),
        ("initial count's upper half", register::INITIAL_COUNT, 1 << 32),
    ] {
        expect_exception(what, GP, 0, || write_x2(register, value))?;
    }
    need!(!platform::bare(), "Bochs accepts the others");
    expect_exception("self-IPI's reserved bits", GP, 0, || write_x2(register::SELF_IPI, 0x100))?;
    expect_exception("divide configuration's reserved bits", GP, 0, || write_x2(register::DIVIDE, 1 << 4))?;
    expect_exception("timer LVT's reserved bits", GP, 0, || {
        write_x2(register::LVT_TIMER, u64::from(MASKED) | 1 << 20);
    })
}

fn x2apic_task_priority() -> TestResult {
    x2apic_mode!();
    for value in [0x50, 0xff, 0x37, 0] {
        write_x2(register::TPR, value);
        check_eq!(read_x2(register::TPR), value, "TPR");
        check_eq!(cpu::read_cr8(), value >> 4, "CR8");
        check_eq!(read_x2(register::PPR), value, "PPR");
    }
    cpu::write_cr8(6);
    check_eq!(read_x2(register::TPR), 0x60, "TPR after MOV CR8");
    cpu::write_cr8(0);
    Ok(())
}

fn x2apic_self_ipi() -> TestResult {
    x2apic_mode!();
    interrupt::expect(VECTOR, Acknowledge::LocalApic);
    for i in 1..=100 {
        write_x2(register::SELF_IPI, u64::from(VECTOR));
        check!(read_x2(register::IRR + 0x20) & 1 << (VECTOR % 32) != 0, "the request is not in the IRR");
        cpu::take_interrupts();
        check_eq!(count(VECTOR), i, "interrupts");
    }
    Ok(())
}

fn x2apic_command_register() -> TestResult {
    x2apic_mode!();
    interrupt::expect(VECTOR, Acknowledge::LocalApic);
    let id = read_x2(register::ID);
    let logical = read_x2(register::LDR);
    let asserted = u64::from(apic::ASSERT | u32::from(VECTOR));
    let commands = [
        (id << 32 | asserted, 1, "physical"),
        (logical << 32 | u64::from(apic::LOGICAL) | asserted, 1, "logical"),
        (u64::from(TO_SELF) | asserted, 1, "self"),
        (0xffff_ffff << 32 | asserted, 1, "broadcast"),
        ((id + 1) << 32 | asserted, 0, "missing id"),
        ((id + 0x100) << 32 | asserted, 0, "an id of more than eight bits"),
    ];
    for (command, arrivals, what) in commands {
        let before = count(VECTOR);
        write_x2(register::ICR_LOW, command);
        // Bochs reads back what xAPIC mode left.
        check!(platform::bare() || read_x2(register::ICR_LOW) == command, "command register, {what}");
        interrupt::enabled(|| tsc::delay_us(200));
        // Bochs knows no logical id.
        let arrivals = if platform::bare() && what == "logical" { 0 } else { arrivals };
        check_eq!(count(VECTOR) - before, arrivals, "arrivals, {what}");
    }
    Ok(())
}

fn x2apic_timer() -> TestResult {
    x2apic_mode!();
    interrupt::expect(VECTOR, Acknowledge::LocalApic);
    write_x2(register::DIVIDE, u64::from(apic::DIVIDE_BY_1));
    write_x2(register::LVT_TIMER, u64::from(VECTOR));
    for _ in 0..20 {
        write_x2(register::INITIAL_COUNT, 20_000);
        check!(read_x2(register::CURRENT_COUNT) <= 20_000, "current count above the initial one");
        cpu::wait_for_interrupt();
    }
    check_eq!(count(VECTOR), 20, "interrupts");
    if apic::has_deadline() {
        write_x2(register::LVT_TIMER, u64::from(u32::from(VECTOR) | apic::DEADLINE));
        wrmsr(msr::TSC_DEADLINE, cpu::rdtsc() + tsc::us(100));
        cpu::wait_for_interrupt();
        check_eq!(count(VECTOR), 21, "interrupts with a deadline");
    }
    Ok(())
}

fn x2apic_eoi() -> TestResult {
    x2apic_mode!();
    interrupt::expect(VECTOR, Acknowledge::Nothing);
    write_x2(register::SELF_IPI, u64::from(VECTOR));
    cpu::take_interrupts();
    let in_service = read_x2(register::ISR + 0x20);
    write_x2(register::EOI, 0);
    check_eq!(in_service, 1 << (VECTOR % 32), "ISR before EOI");
    check_eq!(read_x2(register::ISR + 0x20), 0, "ISR after EOI");
    Ok(())
}

fn x2apic_state_survives_the_switch() -> TestResult {
    need!(has_x2apic(), "no x2APIC mode");
    apic::write(register::TPR, 0x30);
    apic::write(register::LVT_ERROR, MASKED | 0x77);
    apic::write(register::SVR, SVR_ENABLE | 0xef);
    x2apic_mode!();
    check_eq!(read_x2(register::TPR), 0x30, "TPR");
    check_eq!(read_x2(register::LVT_ERROR), u64::from(MASKED) | 0x77, "LVT error");
    check_eq!(read_x2(register::SVR), u64::from(SVR_ENABLE) | 0xef, "SVR");
    Ok(())
}
