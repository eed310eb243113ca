//! Other instructions that a hypervisor watches: time, hypercalls, XSETBV, cache control, HLT, and those that a guest
//! does not have.

use selftest::cpu::{self, cr0, cr4, rdtsc};
use selftest::exception::vector::{GP, UD};
use selftest::interrupt::{self, Acknowledge};
use selftest::platform::{self, Vendor, features, has};
use selftest::{
    Test, TestResult, apic, catch, check, check_eq, expect_exception, memory, need, probe, snippet, tests,
    tsc, user,
};

pub(crate) const TESTS: &[Test] = tests![
    rdtsc_is_monotonic,
    rdtsc_clears_upper_halves,
    rdtsc_agrees_with_pm_timer,
    hypercall_unknown_returns_enosys,
    hypercall_from_user_is_refused,
    hypercall_of_the_other_vendor_is_survived,
    vmx_instructions_are_ud,
    svm_instructions_are_ud,
    enabling_vmx_or_svm_is_gp,
    smx_and_smm_instructions_are_ud,
    monitor_without_the_feature_is_ud,
    xsetbv_bad_values_are_gp,
    xsetbv_from_user_is_gp,
    xsetbv_without_osxsave_is_ud,
    rdpmc_bad_counter_is_gp,
    cache_control_continues,
    invpcid_policy,
    random_numbers_come,
    pause_is_harmless,
    lmsw_and_smsw,
    hlt_wakes_by_timer,
    hlt_with_pending_interrupt_wakes_at_once,
    hlt_from_user_is_gp,
];

fn rdtsc_is_monotonic() -> TestResult {
    let mut last = rdtsc();
    for i in 0..5000_u32 {
        if i % 3 == 0 {
            cpu::cpuid(0, 0);
        }
        let now = rdtsc();
        check!(now > last, "{now:#x} after {last:#x}");
        last = now;
    }
    Ok(())
}

fn rdtsc_clears_upper_halves() -> TestResult {
    let (rax, rdx): (u64, u64);
    probe!("rdtsc", inout("rax") u64::MAX => rax, inout("rdx") u64::MAX => rdx);
    check!(rax >> 32 == 0 && rdx >> 32 == 0, "RAX {rax:#x}, RDX {rdx:#x}");
    Ok(())
}

fn rdtsc_agrees_with_pm_timer() -> TestResult {
    let Some(fadt) = selftest::acpi::fadt().filter(|fadt| fadt.pm_timer != 0) else {
        selftest::skip!("no PM timer")
    };
    for _ in 0..3 {
        let (before, start) = (cpu::inl(fadt.pm_timer), rdtsc());
        tsc::delay_us(5000);
        let (after, end) = (cpu::inl(fadt.pm_timer), rdtsc());
        let by_timer =
            u64::from(after.wrapping_sub(before) & tsc::PM_TIMER_MASK) * 1_000_000 / tsc::PM_TIMER_HZ;
        let by_tsc = (end - start) * 1_000_000 / tsc::frequency();
        check!(by_timer.abs_diff(by_tsc) < 1000 + by_tsc / 10, "PM timer {by_timer} us, TSC {by_tsc} us");
    }
    Ok(())
}

/// Calls the hypervisor by the vendor's own instruction; RAX in and out, with registers that must stay in RBX, RCX,
/// RDX, RSI.
fn hypercall(vendor: Vendor, number: u64) -> (u64, [u64; 3]) {
    let (rax, rcx, rdx, rsi): (u64, u64, u64, u64);
    match vendor {
        Vendor::Intel => probe!("vmcall", inout("rax") number => rax, inout("rcx") 2_u64 => rcx,
            inout("rdx") 3_u64 => rdx, inout("rsi") 4_u64 => rsi),
        Vendor::Amd => probe!("vmmcall", inout("rax") number => rax, inout("rcx") 2_u64 => rcx,
            inout("rdx") 3_u64 => rdx, inout("rsi") 4_u64 => rsi),
    }
    (rax, [rcx, rdx, rsi])
}

/// KVM_ENOSYS of the KVM hypercall interface.
const ENOSYS: i64 = -1000;
/// KVM_EPERM of the KVM hypercall interface.
const EPERM: i64 = -1;

fn hypercall_unknown_returns_enosys() -> TestResult {
    need!(platform::hypervisor(), "no hypervisor");
    for number in [0x7fff_ffff_u64, 1000, u64::MAX] {
        let (rax, others) = hypercall(platform::vendor(), number);
        check_eq!(rax as i64, ENOSYS, "RAX after hypercall {number:#x}");
        check!(others == [2, 3, 4], "RCX, RDX, RSI are {others:x?}");
    }
    Ok(())
}

snippet!(user_vmcall: "mov eax, 1000", "vmcall", "int 0x90");
snippet!(user_vmmcall: "mov eax, 1000", "vmmcall", "int 0x90");

fn hypercall_from_user_is_refused() -> TestResult {
    need!(platform::hypervisor(), "no hypervisor");
    let code = match platform::vendor() {
        Vendor::Intel => user_vmcall(),
        Vendor::Amd => user_vmmcall(),
    };
    let (ended, frame) = user::run(code);
    check_eq!(ended.vector, user::RETURN_VECTOR, "what ended the user code");
    check_eq!(frame.rax as i64, EPERM, "RAX");
    Ok(())
}

fn hypercall_of_the_other_vendor_is_survived() -> TestResult {
    need!(platform::hypervisor(), "no hypervisor");
    let other = if platform::vendor() == Vendor::Intel { Vendor::Amd } else { Vendor::Intel };
    let mut rax = ENOSYS as u64;
    match catch(|| rax = hypercall(other, 1000).0) {
        Ok(()) => check_eq!(rax as i64, ENOSYS, "RAX"),
        Err(exception) => check_eq!(exception.vector, UD, "exception"),
    }
    Ok(())
}

macro_rules! expect_ud {
    ($($instruction:literal),+ $(,)?) => {
        $(expect_exception(
            $instruction, UD, 0,
            || probe!($instruction, in("rax") 0, in("rcx") 0, in("rdi") selftest::memory::page(), options(nostack)),
        )?;)+
    };
}

fn vmx_instructions_are_ud() -> TestResult {
    // Outside VMX operation they are #UD on every processor.
    expect_ud!(
        "vmxon [rdi]",
        "vmclear [rdi]",
        "vmptrld [rdi]",
        "vmptrst [rdi]",
        "vmlaunch",
        "vmresume",
        "vmxoff"
    );
    expect_ud!("vmread rax, rcx", "vmwrite rax, rcx", "invept rax, [rdi]", "invvpid rax, [rdi]", "vmfunc");
    Ok(())
}

fn svm_instructions_are_ud() -> TestResult {
    expect_ud!("vmrun rax", "vmload rax", "vmsave rax", "clgi", "invlpga rax, ecx");
    if platform::hypervisor() {
        // Bare, a processor with SKINIT executes these two.
        expect_ud!("stgi", "skinit eax");
    }
    Ok(())
}

fn enabling_vmx_or_svm_is_gp() -> TestResult {
    need!(!platform::bare_tcg(), "TCG masks such bits");
    if !has(features::VMX) {
        expect_exception("CR4.VMXE without VMX", GP, 0, || cpu::write_cr4(cr4::BASELINE | cr4::VMXE))?;
    }
    if !has(features::SVM) {
        expect_exception("EFER.SVME without SVM", GP, 0, || {
            cpu::wrmsr(cpu::msr::EFER, cpu::efer::BASELINE | cpu::efer::SVME);
        })?;
    }
    Ok(())
}

fn smx_and_smm_instructions_are_ud() -> TestResult {
    expect_ud!("getsec");
    expect_ud!("rsm");
    Ok(())
}

fn monitor_without_the_feature_is_ud() -> TestResult {
    if has(features::MONITOR) {
        let page = memory::page();
        probe!("monitor", in("rax") page, in("rcx") 0, in("rdx") 0, options(nostack));
        return Ok(());
    }
    expect_exception("MONITOR", UD, 0, || {
        probe!("monitor", in("rax") 0, in("rcx") 0, in("rdx") 0, options(nostack));
    })?;
    expect_exception("MWAIT", UD, 0, || probe!("mwait", in("rax") 0, in("rcx") 0, options(nostack)))
}

fn xsetbv_bad_values_are_gp() -> TestResult {
    need!(has(features::XSAVE), "no XSAVE");
    cpu::write_cr4(cr4::BASELINE | cr4::OSXSAVE);
    cpu::xsetbv(0, 3);
    for bad in [0, 2, 4, 5, 3 | 1 << 62, 1 << 63 | 3, 0xff00_0003] {
        expect_exception("bad XCR0", GP, 0, || cpu::xsetbv(0, bad))?;
    }
    for index in [1, 2, u32::MAX] {
        expect_exception("XSETBV of another register", GP, 0, || cpu::xsetbv(index, 3))?;
    }
    check_eq!(cpu::xgetbv(0), 3, "XCR0 after the faults");
    Ok(())
}

snippet!(user_xsetbv: "xor ecx, ecx", "xor edx, edx", "mov eax, 3", "xsetbv", "int 0x90");

fn xsetbv_from_user_is_gp() -> TestResult {
    need!(has(features::XSAVE), "no XSAVE");
    cpu::write_cr4(cr4::BASELINE | cr4::OSXSAVE);
    let (ended, _) = user::run(user_xsetbv());
    check!((ended.vector, ended.error_code) == (GP, 0), "{ended} instead of #GP");
    Ok(())
}

fn xsetbv_without_osxsave_is_ud() -> TestResult {
    expect_exception("XSETBV", UD, 0, || cpu::xsetbv(0, 3))?;
    expect_exception("XGETBV", UD, 0, || {
        cpu::xgetbv(0);
    })
}

fn rdpmc_bad_counter_is_gp() -> TestResult {
    need!(!platform::bare_tcg(), "TCG raises #UD");
    expect_exception("RDPMC of a counter that does not exist", GP, 0, || {
        probe!("rdpmc", in("ecx") 0x00ff_ff00, out("eax") _, out("edx") _, options(nostack));
    })
}

fn cache_control_continues() -> TestResult {
    let page = memory::page();
    cpu::write64(page, 0x1234_5678);
    for _ in 0..20 {
        probe!("wbinvd", options(nostack));
    }
    // INVD may drop what is not yet in memory on real hardware; a hypervisor must not let it.
    if platform::signature().is_some() {
        probe!("invd", options(nostack));
    }
    check_eq!(cpu::read64(page), 0x1234_5678, "memory");
    Ok(())
}

fn invpcid_policy() -> TestResult {
    let page = memory::page();
    let invpcid = |kind: u64| probe!("invpcid {}, [{}]", in(reg) kind, in(reg) page, options(nostack));
    if !has(features::INVPCID) {
        return expect_exception("INVPCID that CPUID does not offer", UD, 0, || invpcid(0));
    }
    for kind in 0..4 {
        catch(|| invpcid(kind))?;
    }
    expect_exception("INVPCID of a type that does not exist", GP, 0, || invpcid(4))
}

fn random_numbers_come() -> TestResult {
    let mut seen = [0_u64; 2];
    if has(features::RDRAND) {
        for value in &mut seen {
            let mut good = 0_u8;
            for _ in 0..100 {
                probe!("rdrand {}", "setc {}", out(reg) *value, out(reg_byte) good, options(nostack));
                if good != 0 {
                    break;
                }
            }
            check!(good != 0, "RDRAND gives nothing");
        }
        check!(seen[0] != seen[1], "RDRAND repeats {:#x}", seen[0]);
        return Ok(());
    }
    expect_exception(
        "RDRAND that CPUID does not offer",
        UD,
        0,
        || probe!("rdrand {}", out(reg) _, options(nostack)),
    )
}

fn pause_is_harmless() -> TestResult {
    let start = rdtsc();
    for _ in 0..20_000 {
        cpu::pause();
    }
    check!(rdtsc() - start < tsc::frequency() * 5, "20,000 PAUSEs took seconds");
    Ok(())
}

fn lmsw_and_smsw() -> TestResult {
    let smsw = || {
        let value: u64;
        probe!("smsw {:e}", out(reg) value, options(nostack));
        value
    };
    check_eq!(smsw() & 0xffff, cr0::BASELINE & 0xffff, "SMSW");
    probe!("lmsw {:x}", in(reg) cr0::PE | cr0::MP | cr0::TS, options(nostack));
    check_eq!(cpu::read_cr0(), cr0::BASELINE | cr0::TS, "CR0 after LMSW sets TS");
    probe!("clts", options(nostack));
    check_eq!(cpu::read_cr0(), cr0::BASELINE, "CR0 after CLTS");
    // LMSW cannot clear PE.
    probe!("lmsw {:x}", in(reg) cr0::MP, options(nostack));
    check_eq!(cpu::read_cr0(), cr0::BASELINE, "CR0 after LMSW without PE");
    Ok(())
}

const TIMER_VECTOR: u8 = 0x50;

fn arm_timer(microseconds: u64) {
    // The timer's own frequency is not known: a long count at a small divisor is enough for both ends.
    let count = microseconds * 1000;
    interrupt::expect(TIMER_VECTOR, Acknowledge::LocalApic);
    apic::write(apic::register::LVT_TIMER, u32::from(TIMER_VECTOR));
    apic::write(apic::register::INITIAL_COUNT, count as u32);
}

fn hlt_wakes_by_timer() -> TestResult {
    for _ in 0..5 {
        arm_timer(500);
        let mut rip_after = 0_u64;
        probe!("sti", "hlt", "2:", "cli", "lea {}, [rip + 2b]", out(reg) rip_after, options(nostack));
        check_eq!(interrupt::last_rip(), rip_after, "RIP saved by the interrupt");
    }
    check_eq!(interrupt::count(TIMER_VECTOR), 5, "timer interrupts");
    Ok(())
}

fn hlt_with_pending_interrupt_wakes_at_once() -> TestResult {
    interrupt::expect(TIMER_VECTOR, Acknowledge::LocalApic);
    for _ in 0..100 {
        apic::send_self(TIMER_VECTOR);
        cpu::wait_for_interrupt();
    }
    check_eq!(interrupt::count(TIMER_VECTOR), 100, "interrupts");
    Ok(())
}

snippet!(user_hlt: "hlt", "int 0x90");

fn hlt_from_user_is_gp() -> TestResult {
    let (ended, _) = user::run(user_hlt());
    check!((ended.vector, ended.error_code) == (GP, 0), "{ended} instead of #GP");
    Ok(())
}
