//! What must not outlive a reset (SDM vol. 3, "Processor State After Reset").

use selftest::apic::{self, register};
use selftest::cpu::{self, cr4, msr, rdmsr, wrmsr};
use selftest::platform::{self, features, has};
use selftest::{Global, Test, TestResult, check, check_eq, need, probe, tests};

pub(crate) const TESTS: &[Test] = tests![
    reset_clears_system_call_registers,
    reset_clears_debug_registers,
    reset_restores_pat,
    reset_clears_tsc_adjust,
    reset_restarts_the_tsc,
    reset_clears_the_local_apic,
    reset_restores_xcr0,
];

const REGISTERS: [u32; 7] = [
    msr::STAR,
    msr::LSTAR,
    msr::CSTAR,
    msr::SFMASK,
    msr::KERNEL_GS_BASE,
    msr::SYSENTER_ESP,
    msr::SYSENTER_EIP,
];
const TRACE: u64 = 0x1234_5000;
const TSC_AHEAD: u64 = 1 << 60;
const PAT_TRACE: u64 = 0x0606_0606_0606_0606;
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// The registers as the second start found them.
#[derive(Clone, Copy)]
pub(crate) struct Snapshot {
    system_call: [u64; 7],
    debug: [u64; 5],
    pat: u64,
    tsc: u64,
    task_priority: u32,
    timer: [u32; 2],
    requests: u32,
    xcr0: u64,
}

pub(crate) static SNAPSHOT: Global<Snapshot> = Global::new(Snapshot {
    system_call: [0; 7],
    debug: [0; 5],
    pat: 0,
    tsc: 0,
    task_priority: 0,
    timer: [0; 2],
    requests: 0,
    xcr0: 0,
});

impl Snapshot {
    pub(crate) fn take() -> Self {
        let xcr0 = if has(features::XSAVE) {
            cpu::write_cr4(cr4::BASELINE | cr4::OSXSAVE);
            let xcr0 = cpu::xgetbv(0);
            cpu::write_cr4(cr4::BASELINE);
            xcr0
        } else {
            1
        };
        Self {
            system_call: REGISTERS.map(rdmsr),
            debug: [cpu::read_dr0(), cpu::read_dr1(), cpu::read_dr2(), cpu::read_dr3(), cpu::read_dr7()],
            pat: rdmsr(msr::PAT),
            tsc: cpu::rdtsc(),
            task_priority: apic::read(register::TPR),
            timer: [apic::read(register::LVT_TIMER), apic::read(register::INITIAL_COUNT)],
            requests: (1..8).map(|i| apic::read(register::IRR + 16 * i)).fold(0, |all, bits| all | bits),
            xcr0,
        }
    }
}

/// Leaves something in each of those registers.
pub(crate) fn leave() {
    for index in REGISTERS {
        wrmsr(index, TRACE);
    }
    cpu::write_dr0(TRACE);
    cpu::write_dr1(TRACE);
    cpu::write_dr2(TRACE);
    cpu::write_dr3(TRACE);
    wrmsr(msr::PAT, PAT_TRACE);
    if has(features::TSC_ADJUST) {
        wrmsr(msr::TSC_ADJUST, TSC_AHEAD);
    }
    if has(features::XSAVE) {
        cpu::write_cr4(cr4::BASELINE | cr4::OSXSAVE | cr4::OSFXSR);
        cpu::xsetbv(0, 3);
        probe!("pcmpeqd xmm0, xmm0", "pcmpeqd xmm7, xmm7");
    }
    apic::send_self(0x77);
    apic::write(register::TPR, 0xf0);
    apic::write(register::LVT_TIMER, apic::PERIODIC | 0x78);
    apic::write(register::INITIAL_COUNT, 1_000_000);
    // Enabled on addresses that nobody executes.
    cpu::write_dr7(0x4ff);
}

fn reset_clears_system_call_registers() -> TestResult {
    for (index, value) in REGISTERS.into_iter().zip(SNAPSHOT.get().system_call) {
        check!(value != TRACE, "MSR {index:#x} still holds {value:#x}");
    }
    Ok(())
}

fn reset_clears_debug_registers() -> TestResult {
    let debug = SNAPSHOT.get().debug;
    check!(debug == [0, 0, 0, 0, 0x400], "DR0 to DR3, DR7 are {debug:x?}");
    Ok(())
}

fn reset_restores_pat() -> TestResult {
    check_eq!(SNAPSHOT.get().pat, PAT_RESET, "PAT");
    Ok(())
}

fn reset_clears_tsc_adjust() -> TestResult {
    need!(!platform::bare(), "Bochs counts its own reset into TSC_ADJUST");
    need!(has(features::TSC_ADJUST), "no TSC_ADJUST");
    check_eq!(rdmsr(msr::TSC_ADJUST), 0, "TSC_ADJUST");
    Ok(())
}

fn reset_restarts_the_tsc() -> TestResult {
    need!(has(features::TSC_ADJUST), "no TSC_ADJUST");
    check!(SNAPSHOT.get().tsc < TSC_AHEAD, "the TSC is still at {:#x}", SNAPSHOT.get().tsc);
    Ok(())
}

fn reset_clears_the_local_apic() -> TestResult {
    let snapshot = SNAPSHOT.get();
    check_eq!(snapshot.task_priority, 0, "TPR");
    check!(
        snapshot.timer[0] & apic::MASKED != 0 || snapshot.timer[1] == 0,
        "the timer runs: {:x?}",
        snapshot.timer
    );
    check_eq!(snapshot.requests, 0, "pending requests");
    Ok(())
}

fn reset_restores_xcr0() -> TestResult {
    need!(platform::hypervisor(), "bare, firmware may have set it");
    check_eq!(SNAPSHOT.get().xcr0, 1, "XCR0");
    Ok(())
}
