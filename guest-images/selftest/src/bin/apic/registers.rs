//! The register page: what reads back, what is fixed (SDM vol. 3, "Local APIC Register Address Map").

use selftest::apic::{self, MASKED, SVR_ENABLE, read, register, write};
use selftest::cpu::{self, msr};
use selftest::interrupt;
use selftest::{Test, TestResult, check, check_eq, need, platform, tests, tsc};

pub(crate) const TESTS: &[Test] = tests![
    version_register,
    id_register,
    logical_destination_registers,
    spurious_register,
    lvt_registers_round_trip,
    lvt_of_pins_round_trip,
    divide_register_keeps_its_bits,
    read_only_registers,
    reserved_offsets_are_harmless,
    software_disable_masks_the_lvt,
    software_disabled_timer_is_silent,
    global_disable_hides_the_feature,
    global_disable_resets,
    error_status_is_clear,
];

fn version_register() -> TestResult {
    let version = read(register::VERSION);
    check_eq!(version & 0xf0, 0x10, "version: an integrated APIC");
    let highest = version >> 16 & 0xff;
    check!((3..=6).contains(&highest), "highest LVT entry is {highest}");
    Ok(())
}

fn id_register() -> TestResult {
    check_eq!(read(register::ID) & 0x00ff_ffff, 0, "low bits of the id register");
    check_eq!(u32::from(apic::id()), cpu::cpuid(1, 0).ebx >> 24, "id");
    Ok(())
}

fn logical_destination_registers() -> TestResult {
    for value in [0x8000_0000, 0x0100_0000, 0xff00_0000_u32] {
        write(register::LDR, value | 0x00ff_ffff);
        check_eq!(read(register::LDR) & 0xff00_0000, value, "LDR");
    }
    for model in [0xffff_ffff, 0x0fff_ffff_u32] {
        write(register::DFR, model & 0xf000_0000);
        check_eq!(read(register::DFR), model, "DFR");
    }
    Ok(())
}

fn spurious_register() -> TestResult {
    for vector in [0x2f, 0xff, 0x3f_u32] {
        write(register::SVR, SVR_ENABLE | vector);
        check_eq!(read(register::SVR) & 0x1ff, SVR_ENABLE | vector, "SVR");
    }
    Ok(())
}

fn lvt_registers_round_trip() -> TestResult {
    let highest = read(register::VERSION) >> 16 & 0xff;
    let entries = [
        (register::LVT_TIMER, 0),
        (register::LVT_ERROR, 3),
        (register::LVT_PERFORMANCE, 4),
        (register::LVT_THERMAL, 5),
    ];
    for (lvt, number) in entries.into_iter().filter(|&(_, number)| number <= highest) {
        for vector in [0x31, 0xfe] {
            write(lvt, MASKED | vector);
            check_eq!(read(lvt), MASKED | vector, "LVT entry {number}");
        }
    }
    Ok(())
}

fn lvt_of_pins_round_trip() -> TestResult {
    for lvt in [register::LVT_LINT0, register::LVT_LINT1] {
        for value in [apic::DELIVERY_EXTINT, apic::DELIVERY_NMI, 0x41, 0x41 | 1 << 13] {
            write(lvt, MASKED | value);
            check_eq!(read(lvt), MASKED | value, "LVT at {lvt:#x}");
        }
    }
    Ok(())
}

fn divide_register_keeps_its_bits() -> TestResult {
    need!(!platform::bare_tcg(), "TCG stores reserved bits");
    write(register::DIVIDE, u32::MAX);
    check_eq!(read(register::DIVIDE), 0b1011, "divide configuration");
    Ok(())
}

fn read_only_registers() -> TestResult {
    let version = read(register::VERSION);
    for register in [register::VERSION, register::PPR, register::ISR, register::IRR, register::TMR] {
        let before = read(register);
        write(register, !before);
        check_eq!(read(register), before, "register {register:#x} after a write");
    }
    check_eq!(read(register::VERSION), version, "version");
    write(register::ESR, 0);
    Ok(())
}

fn reserved_offsets_are_harmless() -> TestResult {
    need!(platform::hypervisor(), "bare processors disagree here");
    for offset in [0x00, 0x10, 0x40, 0x70, 0x3a0, 0x3d0, 0x3f0, 0x400, 0xff0] {
        let value = read(offset);
        write(offset, u32::MAX);
        check!(read(offset) == value, "reserved offset {offset:#x} remembers");
    }
    write(register::ESR, 0);
    write(register::ESR, 0);
    interrupt::reset();
    Ok(())
}

fn software_disable_masks_the_lvt() -> TestResult {
    write(register::LVT_ERROR, 0x41);
    check_eq!(read(register::LVT_ERROR), 0x41, "unmasked LVT");
    write(register::SVR, u32::from(apic::SPURIOUS_VECTOR));
    let after_disable = read(register::LVT_ERROR);
    write(register::LVT_ERROR, 0x42);
    let written_while_disabled = read(register::LVT_ERROR);
    write(register::SVR, SVR_ENABLE | u32::from(apic::SPURIOUS_VECTOR));
    let after_enable = read(register::LVT_ERROR);
    need!(!platform::bare_tcg(), "TCG masks in part only");
    check_eq!(after_disable, MASKED | 0x41, "LVT after the software disable");
    check_eq!(written_while_disabled, MASKED | 0x42, "LVT written while disabled");
    check_eq!(after_enable, MASKED | 0x42, "LVT after the enable");
    Ok(())
}

fn software_disabled_timer_is_silent() -> TestResult {
    write(register::SVR, u32::from(apic::SPURIOUS_VECTOR));
    write(register::LVT_TIMER, 0x41);
    write(register::INITIAL_COUNT, 1000);
    interrupt::enabled(|| tsc::delay_us(2000));
    write(register::INITIAL_COUNT, 0);
    write(register::SVR, SVR_ENABLE | u32::from(apic::SPURIOUS_VECTOR));
    check_eq!(interrupt::count(0x41), 0, "interrupts");
    Ok(())
}

fn has_apic() -> bool {
    cpu::cpuid(1, 0).edx & 1 << 9 != 0
}

fn global_disable_hides_the_feature() -> TestResult {
    need!(platform::hypervisor(), "TCG and Bochs keep it off for good");
    let base = cpu::rdmsr(msr::APIC_BASE);
    check!(has_apic(), "no APIC feature");
    cpu::wrmsr(msr::APIC_BASE, base & !apic::BASE_ENABLE);
    let hidden = !has_apic();
    cpu::wrmsr(msr::APIC_BASE, base);
    check!(has_apic(), "the APIC feature did not come back");
    check!(hidden, "CPUID shows the APIC while it is off");
    Ok(())
}

fn global_disable_resets() -> TestResult {
    need!(platform::hypervisor(), "TCG and Bochs keep it off for good");
    let base = cpu::rdmsr(msr::APIC_BASE);
    write(register::TPR, 0x50);
    write(register::LVT_ERROR, 0x41);
    write(register::LDR, 0x0800_0000);
    cpu::wrmsr(msr::APIC_BASE, base & !apic::BASE_ENABLE);
    cpu::wrmsr(msr::APIC_BASE, base);
    let state = [
        read(register::TPR),
        read(register::LVT_ERROR),
        read(register::LVT_TIMER),
        read(register::SVR),
        read(register::LDR),
        read(register::DFR),
    ];
    check!(
        state == [0, MASKED, MASKED, 0xff, 0, u32::MAX],
        "TPR, LVT error, LVT timer, SVR, LDR, DFR are {state:x?}"
    );
    Ok(())
}

fn error_status_is_clear() -> TestResult {
    write(register::ESR, 0);
    write(register::ESR, 0);
    check_eq!(read(register::ESR), 0, "ESR");
    Ok(())
}
