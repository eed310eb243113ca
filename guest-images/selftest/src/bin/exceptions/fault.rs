//! One test for each exception that an instruction raises by itself (SDM vol. 3, "Exception and Interrupt Reference").

use selftest::cpu::{self, cr0, cr4, flag};
use selftest::descriptor::{self, DPL3, INTERRUPT_GATE, IST_SCRATCH};
use selftest::exception::vector::{AC, BP, DB, DE, DF, GP, MF, NM, OF, UD, XM};
use selftest::exception::{self, expect_exception_at};
use selftest::memory::{self, PAGE};
use selftest::{
    Test, TestResult, check, check_eq, expect_exception, need, platform, probe, snippet, tests, user,
};

pub(crate) const TESTS: &[Test] = tests![
    divide_by_zero,
    divide_overflow,
    breakpoint_is_a_trap,
    overflow_interrupt_is_a_trap,
    icebp_is_a_debug_trap,
    undefined_instruction,
    lock_prefix_is_undefined,
    too_long_instruction,
    device_not_available_by_ts,
    device_not_available_by_em,
    x87_error,
    simd_error,
    sse_without_osfxsr,
    alignment_check,
    privileged_instructions_in_user_mode,
    non_canonical_access,
    non_canonical_stack_access,
    software_interrupts,
    software_interrupt_gate_privilege,
    double_fault_has_its_own_stack,
    exceptions_among_exits,
    exception_flags_and_stack,
];

snippet!(divide: "xor edx, edx", "mov eax, 1", "xor ecx, ecx", "div ecx", "ret");

fn divide_by_zero() -> TestResult {
    let entry = divide().as_ptr() as u64;
    let caught = expect_exception_at("DIV by zero", DE, 0, || {
        selftest::snippet::call(entry, 0);
    })?;
    check_eq!(caught.rip, entry + 9, "saved RIP: the instruction itself");
    Ok(())
}

fn divide_overflow() -> TestResult {
    expect_exception("DIV with a quotient that does not fit", DE, 0, || {
        probe!("div ecx", in("ecx") 1, inout("eax") 0 => _, inout("edx") 1 => _);
    })?;
    expect_exception("IDIV of the most negative number by -1", DE, 0, || {
        probe!("idiv ecx", in("ecx") -1, inout("eax") i32::MIN => _, inout("edx") -1 => _);
    })
}

snippet!(int3: "int3", "ret");
snippet!(int3_long: ".byte 0xcd, 3", "ret");
snippet!(int4: ".byte 0xcd, 4", "ret");
snippet!(icebp: ".byte 0xf1", "ret");

fn trap_at(what: &str, code: &'static [u8], vector: u8, length: u64) -> TestResult {
    let entry = code.as_ptr() as u64;
    let caught = expect_exception_at(what, vector, 0, || {
        selftest::snippet::call(entry, 0);
    })?;
    check_eq!(caught.rip, entry + length, "saved RIP: the next instruction");
    Ok(())
}

fn breakpoint_is_a_trap() -> TestResult {
    trap_at("INT3", int3(), BP, 1)?;
    trap_at("INT 3", int3_long(), BP, 2)
}

fn overflow_interrupt_is_a_trap() -> TestResult {
    trap_at("INT 4", int4(), OF, 2)
}

fn icebp_is_a_debug_trap() -> TestResult {
    need!(!platform::tcg(), "TCG raises #UD");
    cpu::write_dr6(0xffff_0ff0);
    trap_at("ICEBP", icebp(), DB, 1)
}

fn undefined_instruction() -> TestResult {
    let marker: u64;
    probe!("lea {}, [rip]", out(reg) marker);
    check!(marker != 0, "no RIP");
    let caught = expect_exception_at("UD2", UD, 0, || probe!("ud2"))?;
    check_eq!(cpu::read8(caught.rip), 0x0f, "first byte at the saved RIP");
    check_eq!(cpu::read8(caught.rip + 1), 0x0b, "second byte at the saved RIP");
    Ok(())
}

fn lock_prefix_is_undefined() -> TestResult {
    need!(!platform::tcg(), "TCG is lax with LOCK");
    expect_exception("LOCK NOP", UD, 0, || probe!(".byte 0xf0, 0x90"))?;
    expect_exception("LOCK MOV", UD, 0, || probe!(".byte 0xf0, 0x89, 0xc0"))
}

fn too_long_instruction() -> TestResult {
    expect_exception("an instruction of 16 bytes", GP, 0, || {
        probe!(".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90");
    })
}

fn device_not_available_by_ts() -> TestResult {
    cpu::write_cr0(cr0::BASELINE | cr0::TS);
    expect_exception("FNINIT with CR0.TS", NM, 0, || probe!("fninit"))?;
    expect_exception("WAIT with CR0.TS and MP", NM, 0, || probe!("fwait"))?;
    probe!("clts");
    probe!("fninit", "fwait");
    Ok(())
}

fn device_not_available_by_em() -> TestResult {
    cpu::write_cr0(cr0::BASELINE | cr0::EM);
    expect_exception("FNINIT with CR0.EM", NM, 0, || probe!("fninit"))
}

fn x87_error() -> TestResult {
    probe!("fninit");
    let control = 0x037f_u16 & !4;
    let page = memory::page();
    cpu::write32(page, u32::from(control));
    probe!("fldcw word ptr [{}]", "fldz", "fld1", "fdivrp", in(reg) page);
    let caught = expect_exception("FWAIT after a division by zero", MF, 0, || probe!("fwait"));
    probe!("fninit");
    caught
}

fn simd_error() -> TestResult {
    need!(!platform::tcg(), "TCG raises no #XM");
    cpu::write_cr4(cr4::BASELINE | cr4::OSFXSR | cr4::OSXMMEXCPT);
    let page = memory::page();
    cpu::write32(page, 0x1f80 & !(1 << 9));
    let divide = || {
        probe!(
            "ldmxcsr [{page}]", "xorps xmm0, xmm0", "mov {one:e}, 0x3f800000", "movd xmm1, {one:e}", "divss xmm1, xmm0",
            page = in(reg) page, one = out(reg) _
        );
    };
    expect_exception("DIVSS by zero", XM, 0, divide)?;
    cpu::write_cr4(cr4::BASELINE | cr4::OSFXSR);
    expect_exception("DIVSS by zero without CR4.OSXMMEXCPT", UD, 0, divide)?;
    cpu::write32(page, 0x1f80);
    probe!("ldmxcsr [{}]", in(reg) page);
    Ok(())
}

fn sse_without_osfxsr() -> TestResult {
    expect_exception("MOVAPS without CR4.OSFXSR", UD, 0, || probe!("movaps xmm0, xmm1"))
}

snippet!(misaligned_load: "mov eax, [rdi + 1]", "int 0x90");

fn alignment_check() -> TestResult {
    need!(!platform::tcg(), "TCG has no alignment check");
    user::prepare(misaligned_load());
    let with_ac = user::Start { rflags: flag::ONE | flag::AC, ..user::Start::default() };
    check_eq!(user::enter(with_ac).vector, user::RETURN_VECTOR, "with CR0.AM clear");
    cpu::write_cr0(cr0::BASELINE | cr0::AM);
    let caught = user::enter(with_ac);
    check!((caught.vector, caught.error_code) == (AC, 0), "{caught} instead of #AC");
    check_eq!(caught.rip, user::CODE, "saved RIP");
    check_eq!(user::enter(user::Start::default()).vector, user::RETURN_VECTOR, "with RFLAGS.AC clear");
    Ok(())
}

snippet!(user_cli: "cli");
snippet!(user_lgdt: "lgdt [rdi]");
snippet!(user_ltr: "xor eax, eax", "ltr ax");
snippet!(user_rdmsr: "rdmsr");
snippet!(user_wrmsr: "wrmsr");
snippet!(user_mov_cr0: "mov rax, cr0");
snippet!(user_mov_cr8: "mov cr8, rax");
snippet!(user_mov_dr: "mov rax, dr7");
snippet!(user_wbinvd: "wbinvd");
snippet!(user_invd: "invd");
snippet!(user_invlpg: "invlpg [rdi]");
snippet!(user_clts: "clts");
snippet!(user_swapgs: "swapgs");
snippet!(user_in: "in al, 0x71");
snippet!(user_insb: "insb");

fn privileged_instructions_in_user_mode() -> TestResult {
    let instructions = [
        ("CLI", user_cli()),
        ("LGDT", user_lgdt()),
        ("LTR", user_ltr()),
        ("RDMSR", user_rdmsr()),
        ("WRMSR", user_wrmsr()),
        ("MOV from CR0", user_mov_cr0()),
        ("MOV to CR8", user_mov_cr8()),
        ("MOV from DR7", user_mov_dr()),
        ("WBINVD", user_wbinvd()),
        ("INVD", user_invd()),
        ("INVLPG", user_invlpg()),
        ("CLTS", user_clts()),
        ("SWAPGS", user_swapgs()),
        ("IN", user_in()),
        ("INS", user_insb()),
    ];
    for (name, code) in instructions {
        let (ended, frame) = user::run(code);
        check!((ended.vector, ended.error_code) == (GP, 0), "{name}: {ended} instead of #GP");
        check_eq!(frame.cs, u64::from(descriptor::USER_CODE), "{name}: saved CS");
    }
    Ok(())
}

fn non_canonical_access() -> TestResult {
    expect_exception("load from a non-canonical address", GP, 0, || {
        cpu::read64(0x0000_8000_0000_0000);
    })?;
    expect_exception("store to a non-canonical address", GP, 0, || cpu::write64(0x4141_4141_4141_4141, 0))
}

fn non_canonical_stack_access() -> TestResult {
    need!(!platform::tcg(), "TCG raises #GP");
    expect_exception("load through RBP from a non-canonical address", exception::vector::SS, 0, || {
        probe!("push rbp", "mov rbp, {}", "mov {0}, [rbp]", "pop rbp", inout(reg) 0x8000_0000_0000_0000_u64 => _);
    })
}

fn software_interrupts() -> TestResult {
    // Vectors 32 and up are no exceptions: count deliveries, with the flags and RIP that INT n saves.
    use selftest::interrupt::{Acknowledge, count, expect};
    for vector in [0x30, 0x80, 0xfe] {
        expect(vector, Acknowledge::Nothing);
    }
    probe!("int 0x30", "int 0x80", "int 0xfe", "int 0x80");
    check_eq!(count(0x30), 1, "INT 30H");
    check_eq!(count(0x80), 2, "INT 80H");
    check_eq!(count(0xfe), 1, "INT FEH");
    Ok(())
}

snippet!(user_int_0x30: "int 0x30", "int 0x90");

fn software_interrupt_gate_privilege() -> TestResult {
    need!(!platform::tcg(), "TCG doubles the vector in the error code");
    use selftest::interrupt::{Acknowledge, count, expect};
    const GATE: u8 = 0x30;
    const ERROR_IDT: u32 = 2;
    expect(GATE, Acknowledge::Nothing);
    let (ended, _) = user::run(user_int_0x30());
    let error = (u32::from(GATE) * 8) | ERROR_IDT;
    check!((ended.vector, ended.error_code) == (GP, error), "{ended} instead of #GP({error:#x})");
    descriptor::set_gate_attributes(GATE, INTERRUPT_GATE | DPL3);
    check_eq!(user::enter(user::Start::default()).vector, user::RETURN_VECTOR, "with a gate of DPL 3");
    check_eq!(count(GATE), 1, "deliveries");
    Ok(())
}

fn double_fault_has_its_own_stack() -> TestResult {
    static STACK_IN_HANDLER: selftest::Global<u64> = selftest::Global::new(0);
    // A page fault whose delivery faults again: its stack is not there.
    let bad_stack = selftest::paging::WINDOW + 8 * PAGE;
    for _ in 0..3 {
        let caught = selftest::catch(|| {
            probe!("mov {saved}, rsp", "mov rsp, {bad}", "push 0", "mov rsp, {saved}", saved = out(reg) _,
                bad = in(reg) bad_stack);
        });
        let caught = caught.err().map_or((0, 0), |caught| (caught.vector, caught.error_code));
        check!(caught == (DF, 0), "exception {caught:x?} instead of #DF(0)");
        check_eq!(exception::last_frame().rsp, bad_stack, "RSP saved by #DF");
    }
    // With a stack of its own, the same push is an ordinary page fault.
    descriptor::set_gate_attributes(exception::vector::PF, INTERRUPT_GATE | u64::from(IST_SCRATCH) << 32);
    exception::on(exception::vector::PF, |frame| {
        STACK_IN_HANDLER.set(core::ptr::from_mut(frame) as u64);
        frame.rip += 2; // PUSH imm8
    });
    probe!("mov {saved}, rsp", "mov rsp, {bad}", "push 0", "mov rsp, {saved}", saved = out(reg) _,
        bad = in(reg) bad_stack);
    let (start, end) = descriptor::ist_stack(IST_SCRATCH);
    let used = STACK_IN_HANDLER.get();
    check!(used > start && used < end, "the handler's stack is at {used:#x}, not in {start:#x} to {end:#x}");
    Ok(())
}

fn exceptions_among_exits() -> TestResult {
    for i in 0..500_u32 {
        let leaf = cpu::cpuid(0, 0);
        expect_exception("UD2", UD, 0, || probe!("ud2"))?;
        cpu::outb(0x80, i as u8);
        expect_exception("load from nothing", exception::vector::PF, 0, || {
            cpu::read8(selftest::paging::WINDOW);
        })?;
        check!(cpu::cpuid(0, 0) == leaf, "CPUID changed");
    }
    Ok(())
}

fn exception_flags_and_stack() -> TestResult {
    // A handler through an interrupt gate runs with IF and TF clear on a 16-byte aligned stack.
    static SEEN: selftest::Global<(u64, u64)> = selftest::Global::new((0, 0));
    exception::on(UD, |frame| {
        SEEN.set((cpu::rflags(), core::ptr::from_ref(&frame.ss) as u64 + 8));
        frame.rip += 2;
    });
    probe!("sti", "stc", "ud2", "cli");
    let (flags, stack_end) = SEEN.get();
    check_eq!(flags & (flag::IF | flag::TF), 0, "IF and TF in the handler");
    check_eq!(stack_end & 15, 0, "alignment of the frame's end");
    Ok(())
}
