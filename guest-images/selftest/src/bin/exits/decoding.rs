//! Instructions that exit, in their longer and rarer spellings and places: a hypervisor without the next RIP from the
//! processor has to find their length by itself.

use selftest::cpu;
use selftest::exception::vector::{GP, PF, UD};
use selftest::memory::{self, PAGE};
use selftest::paging::{self, P, W, WINDOW};
use selftest::{
    Test, TestResult, check, check_eq, exception, expect_exception, need, platform, snippet, tests,
};

pub(crate) const TESTS: &[Test] = tests![
    prefixed_cpuid,
    prefixed_msr_access,
    prefixed_port_access,
    longest_cpuid,
    too_long_cpuid_is_gp,
    locked_cpuid_is_ud,
    cpuid_across_scattered_pages,
    cpuid_at_page_end,
    wrmsr_across_scattered_pages,
    port_access_across_scattered_pages,
    exit_in_high_half,
    fault_right_after_exit,
    exits_in_a_row,
];

/// Places code in a fresh executable page of the window and calls it.
fn run(code: &[u8], offset: u64) -> u64 {
    let page = paging::fresh(0, 2, P | W);
    for (i, byte) in code.iter().enumerate() {
        cpu::write8(page + offset + i as u64, *byte);
    }
    selftest::snippet::call(page + offset, 0)
}

snippet!(
    cpuid_with_prefixes:
    "push rbx", "xor r8d, r8d",
    "xor eax, eax", ".byte 0x66, 0x0f, 0xa2", "add r8, rax",
    "xor eax, eax", ".byte 0x48, 0x0f, 0xa2", "add r8, rax",
    "xor eax, eax", ".byte 0x2e, 0x0f, 0xa2", "add r8, rax",
    "xor eax, eax", ".byte 0x65, 0x67, 0x0f, 0xa2", "add r8, rax",
    "mov rax, r8", "pop rbx", "ret"
);

fn prefixed_cpuid() -> TestResult {
    check_eq!(run(cpuid_with_prefixes(), 0), 4 * u64::from(cpu::cpuid(0, 0).eax), "sum of four CPUIDs");
    Ok(())
}

snippet!(
    msr_with_prefixes:
    "mov ecx, 0xc0000100", "mov eax, 0x1234", "xor edx, edx",
    ".byte 0x66, 0x0f, 0x30", // WRMSR
    ".byte 0x48, 0x0f, 0x32", // RDMSR
    "inc eax",
    ".byte 0x3e, 0x48, 0x0f, 0x30",
    ".byte 0x65, 0x0f, 0x32",
    "ret"
);

fn prefixed_msr_access() -> TestResult {
    check_eq!(run(msr_with_prefixes(), 0), 0x1235, "FS base after prefixed WRMSR and RDMSR");
    Ok(())
}

snippet!(
    ports_with_prefixes:
    "mov edx, 0x3ff", "mov eax, 0x15a",
    ".byte 0x48, 0xee",             // OUT DX, AL
    "xor eax, eax",
    ".byte 0x26, 0x40, 0xec",       // IN AL, DX
    "mov ecx, eax",
    "mov eax, 0x77",
    ".byte 0x66, 0xe6, 0x80",       // OUT 80H, AL with an operand-size prefix that does nothing
    ".byte 0xf3, 0xe6, 0x80",
    "mov eax, ecx", "ret"
);

fn prefixed_port_access() -> TestResult {
    check_eq!(run(ports_with_prefixes(), 0), 0x5a, "UART scratch register");
    Ok(())
}

snippet!(
    cpuid_of_15_bytes:
    "push rbx", "xor eax, eax",
    ".byte 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x0f, 0xa2",
    "pop rbx", "ret"
);

fn longest_cpuid() -> TestResult {
    check_eq!(run(cpuid_of_15_bytes(), 0), u64::from(cpu::cpuid(0, 0).eax), "EAX");
    Ok(())
}

snippet!(
    cpuid_of_16_bytes:
    ".byte 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x0f, 0xa2"
);

fn too_long_cpuid_is_gp() -> TestResult {
    expect_exception("CPUID of 16 bytes", GP, 0, || {
        run(cpuid_of_16_bytes(), 0);
    })
}

snippet!(cpuid_with_lock: ".byte 0xf0, 0x0f, 0xa2");

fn locked_cpuid_is_ud() -> TestResult {
    need!(!platform::tcg(), "TCG executes LOCK CPUID");
    expect_exception("LOCK CPUID", UD, 0, || {
        run(cpuid_with_lock(), 0);
    })
}

/// Maps two pages in a row onto frames that are not neighbours, the second below the first, and places code so that
/// its byte `split` is the first on the second page. Calls it.
fn run_across_pages(code: &[u8], split: u64) -> u64 {
    let frames = memory::pages(5);
    paging::map(WINDOW, frames + 3 * PAGE, P | W);
    paging::map(WINDOW + PAGE, frames, P | W);
    // What a walk that takes the physically next page would fetch.
    memory::fill(frames + 4 * PAGE, 0xcc, PAGE);
    let start = WINDOW + PAGE - split;
    for (i, byte) in code.iter().enumerate() {
        cpu::write8(start + i as u64, *byte);
    }
    selftest::snippet::call(start, 0)
}

snippet!(plain_cpuid: "push rbx", "xor eax, eax", "cpuid", "pop rbx", "ret");

fn cpuid_across_scattered_pages() -> TestResult {
    let expected = u64::from(cpu::cpuid(0, 0).eax);
    // CPUID is at bytes 3 and 4.
    for split in [3, 4, 5] {
        check_eq!(run_across_pages(plain_cpuid(), split), expected, "EAX, split before byte {split}");
    }
    for split in 4..18 {
        check_eq!(
            run_across_pages(cpuid_of_15_bytes(), split),
            expected,
            "EAX of a long CPUID, split {split}"
        );
    }
    Ok(())
}

fn cpuid_at_page_end() -> TestResult {
    // The next page is not present: the fetch of the following instruction faults, and CPUID has been executed.
    let frame = memory::page();
    paging::map(WINDOW, frame, P | W);
    for (i, byte) in plain_cpuid()[..5].iter().enumerate() {
        cpu::write8(WINDOW + PAGE - 5 + i as u64, *byte);
    }
    let fetch = 1 << 4;
    expect_exception("fetch after CPUID at the page's end", PF, fetch, || {
        selftest::snippet::call(WINDOW + PAGE - 5, 0);
    })?;
    check_eq!(exception::last_frame().rip, WINDOW + PAGE, "saved RIP");
    check_eq!(exception::last_frame().rax, u64::from(cpu::cpuid(0, 0).eax), "EAX");
    Ok(())
}

snippet!(
    write_and_read_msr:
    "mov ecx, 0xc0000100", "mov eax, 0x4321", "xor edx, edx", "wrmsr", "xor eax, eax", "rdmsr", "ret"
);

fn wrmsr_across_scattered_pages() -> TestResult {
    for split in 10..20 {
        check_eq!(
            run_across_pages(write_and_read_msr(), split),
            0x4321,
            "FS base, split before byte {split}"
        );
    }
    Ok(())
}

snippet!(
    write_and_read_port:
    "mov edx, 0x3ff", "mov eax, 0xa5", "out dx, al", "out 0x80, al", "xor eax, eax", "in al, dx", "ret"
);

fn port_access_across_scattered_pages() -> TestResult {
    for split in 10..18 {
        check_eq!(run_across_pages(write_and_read_port(), split), 0xa5, "scratch, split before byte {split}");
    }
    Ok(())
}

fn exit_in_high_half() -> TestResult {
    let address = 0xffff_ffff_ffff_f000;
    let frame = memory::page();
    paging::map(address, frame, P | W);
    memory::store(frame + PAGE - 8, plain_cpuid());
    check_eq!(selftest::snippet::call(address + (PAGE - 8), 0), u64::from(cpu::cpuid(0, 0).eax), "EAX");
    Ok(())
}

snippet!(fault_after_exits: "out 0x80, al", "mov ecx, 0x1b", "rdmsr", "ud2");

fn fault_right_after_exit() -> TestResult {
    let code = fault_after_exits();
    let entry = code.as_ptr() as u64;
    let caught = exception::expect_exception_at("UD2", UD, 0, || {
        selftest::snippet::call(entry, 0);
    })?;
    check_eq!(caught.rip, entry + code.len() as u64 - 2, "saved RIP");
    Ok(())
}

snippet!(
    many_exits:
    "push rbx", "mov r8d, 1000", "2:", "xor eax, eax", "cpuid", "out 0x80, al", "mov ecx, 0xc0000100", "xor eax, eax",
    "xor edx, edx", "wrmsr", "rdmsr", "in al, 0x80", "rdtsc", "dec r8d", "jnz 2b", "mov eax, r8d", "pop rbx", "ret"
);

fn exits_in_a_row() -> TestResult {
    check_eq!(run(many_exits(), 0), 0, "loop counter");
    check!(cpu::rflags() & cpu::flag::IF == 0, "interrupts came on");
    Ok(())
}
