//! The state in which the loader enters a kernel and what it tells: by the Linux protocol, PVH or Multiboot, as the
//! command line says (`protocol=NAME`; `modules=N` files whose content begins with "content of module" and a digit).
#![cfg_attr(target_os = "none", no_std, no_main)]
// UNSAFETY: the macro that makes this a micro-kernel exports a symbol.
#![allow(unsafe_code)]

use selftest::boot::{self, Protocol, RAM, Region};
use selftest::cpu::cr0;
use selftest::{Test, TestResult, acpi, check, check_eq, need, tests};

selftest::group!("entry": TESTS);

const TESTS: &[Test] = tests![
    protocol_is_the_one_asked_for,
    pointer_and_magic,
    control_registers,
    flags_and_segments,
    memory_map,
    multiboot_memory_sizes,
    modules,
    root_pointer,
];

const MULTIBOOT_MAGIC: u32 = 0x2bad_b002;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn is_32_bit() -> bool {
    boot::protocol() != Protocol::Linux
}

fn protocol_is_the_one_asked_for() -> TestResult {
    let expected = match boot::option("protocol").unwrap_or("linux") {
        "pvh" => Protocol::Pvh,
        "multiboot" => Protocol::Multiboot,
        _ => Protocol::Linux,
    };
    check!(boot::protocol() == expected, "{:?} instead of {expected:?}", boot::protocol());
    Ok(())
}

fn pointer_and_magic() -> TestResult {
    need!(is_32_bit(), "a 64-bit entry");
    let registers = boot::registers();
    check!(registers.ebx != 0, "EBX is zero");
    if boot::protocol() == Protocol::Multiboot {
        check_eq!(registers.eax, MULTIBOOT_MAGIC, "EAX");
    }
    Ok(())
}

fn control_registers() -> TestResult {
    need!(is_32_bit(), "a 64-bit entry");
    let registers = boot::registers();
    let seen = u64::from(registers.cr0) & (cr0::PE | cr0::PG | cr0::TS | cr0::EM);
    check_eq!(seen, cr0::PE, "CR0");
    check_eq!(registers.cr4, 0, "CR4");
    check_eq!(registers.efer, 0, "EFER");
    Ok(())
}

fn flags_and_segments() -> TestResult {
    need!(is_32_bit(), "a 64-bit entry");
    const INTERRUPT_TRAP_DIRECTION_VIRTUAL_8086: u32 = 1 << 9 | 1 << 8 | 1 << 10 | 1 << 17;
    let registers = boot::registers();
    check_eq!(registers.eflags & INTERRUPT_TRAP_DIRECTION_VIRTUAL_8086, 0, "EFLAGS");
    let [cs, rest @ ..] = registers.segments.map(|selector| selector as u16);
    check!(cs & !3 != 0 && cs & 7 == 0, "CS is {cs:#x}");
    for selector in rest {
        check!(selector & !3 != 0 && selector != cs, "a data segment is {selector:#x}");
    }
    Ok(())
}

fn ram_at(address: u64) -> Option<Region> {
    let inside = |region: &&Region| region.kind == RAM && (region.start..region.end).contains(&address);
    boot::regions().iter().find(inside).copied()
}

fn memory_map() -> TestResult {
    check!(boot::regions().len() >= 3, "{} regions", boot::regions().len());
    let low = ram_at(0).map(|region| region.end);
    check!(low.is_some_and(|end| (512 * KIB..=640 * KIB).contains(&end)), "conventional memory: {low:x?}");
    let high = ram_at(MIB).map_or(0, |region| region.end);
    check!(high >= 16 * MIB, "memory from 1 MiB ends at {high:#x}");
    let mut end = 0;
    for region in boot::regions() {
        check!(region.start >= end && region.end > region.start, "a region at {:#x}", region.start);
        end = region.end;
    }
    for address in [0xb_8000, 0xf_0000, 0xfee0_0000] {
        check!(ram_at(address).is_none(), "{address:#x} is RAM");
    }
    Ok(())
}

fn multiboot_memory_sizes() -> TestResult {
    need!(boot::protocol() == Protocol::Multiboot, "not Multiboot");
    let (lower, upper) = boot::multiboot_memory();
    let end = |address| ram_at(address).map_or(0, |region| region.end);
    check_eq!(u64::from(lower), end(0) / KIB, "KiB of lower memory");
    check_eq!(u64::from(upper), (end(MIB) - MIB) / KIB, "KiB of upper memory");
    Ok(())
}

fn modules() -> TestResult {
    let expected: usize = boot::option("modules").and_then(|count| count.parse().ok()).unwrap_or(0);
    check_eq!(boot::modules().len(), expected, "modules");
    for (index, module) in boot::modules().iter().enumerate() {
        let content = module.content.as_str();
        let number = content.strip_prefix("content of module ").and_then(|rest| rest.parse().ok());
        check!(number == Some(index), "module {index} holds \"{content}\"");
        check_eq!(module.start % 4096, 0, "the start of module {index}");
        check!(ram_at(module.start).is_some(), "module {index} is not in RAM");
        // The first one is an initial file system, which has no line of its own.
        let line = module.command_line.as_str();
        let expected = if index == 0 { "" } else { "a line -- of its own" };
        check!(line == expected, "module {index} has the line \"{line}\"");
    }
    Ok(())
}

fn root_pointer() -> TestResult {
    need!(boot::protocol() != Protocol::Multiboot, "Multiboot tells none");
    check!(boot::rsdp() != 0, "none is told");
    check!(Some(boot::rsdp()) == acpi::rsdp_in_memory(), "{:#x} is not the one in memory", boot::rsdp());
    Ok(())
}
