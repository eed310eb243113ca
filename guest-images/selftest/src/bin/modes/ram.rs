//! The memory map, and that RAM is what it says: every frame its own, and all of it there.

use selftest::boot::{self, RAM, Region};
use selftest::memory::{self, PAGE};
use selftest::{Test, TestResult, check, check_eq, cpu, need, tests};

pub(crate) const TESTS: &[Test] = tests![
    memory_map_is_sane,
    all_ram_is_there,
    frames_are_distinct,
    ram_keeps_its_contents,
    ram_starts_clean
];

/// The identity map's end.
const REACH: u64 = 4 << 30;

fn ram() -> impl Iterator<Item = &'static Region> {
    boot::regions().iter().filter(|region| region.kind == RAM)
}

fn memory_map_is_sane() -> TestResult {
    check!(ram().count() > 0, "no RAM in the memory map");
    for (i, region) in boot::regions().iter().enumerate() {
        check!(region.start < region.end, "region {i} from {:#x} is empty", region.start);
        for other in &boot::regions()[i + 1..] {
            let apart = region.end <= other.start || other.end <= region.start;
            check!(
                apart || region.kind == other.kind,
                "regions at {:#x} and {:#x} overlap",
                region.start,
                other.start
            );
        }
        let devices = region.kind == RAM && region.start < 0xfee0_1000 && region.end > 0xfec0_0000;
        check!(!devices, "RAM from {:#x} covers the APICs", region.start);
    }
    let image =
        ram().any(|region| region.start <= memory::image_start() && memory::image_end() <= region.end);
    check!(image, "the image lies outside RAM");
    Ok(())
}

/// True for what the test must not write: the image, and the first mebibyte.
fn is_ours(address: u64) -> bool {
    address < 1 << 20 || (memory::image_start()..memory::image_end() + PAGE).contains(&address)
}

fn all_ram_is_there() -> TestResult {
    const STEP: u64 = 64 << 10;
    let mut looked = 0;
    for region in ram() {
        let mut address = region.start.next_multiple_of(PAGE);
        while address + PAGE <= region.end.min(REACH) {
            if !is_ours(address) {
                let saved = cpu::read64(address);
                cpu::write64(address, !saved);
                let changed = cpu::read64(address);
                cpu::write64(address, saved);
                check_eq!(changed, !saved, "memory at {address:#x}");
                looked += 1;
            }
            address += STEP;
        }
        let last = region.end.min(REACH) - 8;
        if !is_ours(last) && region.start < REACH {
            let saved = cpu::read64(last);
            cpu::write64(last, !saved);
            check_eq!(cpu::read64(last), !saved, "the last word of a region, {last:#x}");
            cpu::write64(last, saved);
        }
    }
    check!(looked > 10, "only {looked} places");
    Ok(())
}

fn frames_are_distinct() -> TestResult {
    let count = (memory::available() / PAGE).min(4096);
    let frames = memory::pages(count);
    for i in 0..count {
        cpu::write64(frames + i * PAGE + 0x7f8, i);
    }
    for i in 0..count {
        check_eq!(cpu::read64(frames + i * PAGE + 0x7f8), i, "frame {i}");
    }
    Ok(())
}

fn ram_keeps_its_contents() -> TestResult {
    const SIZE: u64 = 1 << 20;
    let block = memory::pages(SIZE / PAGE);
    for i in 0..SIZE / 8 {
        cpu::write64(block + 8 * i, i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    for _ in 0..200 {
        cpu::cpuid(0, 0);
        cpu::outb(0x80, 0);
    }
    for i in 0..SIZE / 8 {
        check_eq!(cpu::read64(block + 8 * i), i.wrapping_mul(0x9e37_79b9_7f4a_7c15), "word {i}");
    }
    Ok(())
}

fn ram_starts_clean() -> TestResult {
    need!(selftest::platform::hypervisor(), "bare, firmware and loader were there before");
    // Above everything that a test has used: nothing of anybody else is left.
    let end = memory::page() + memory::available();
    let mut address = end - (8 << 20).min(memory::available() / 2);
    while address < end {
        check_eq!(cpu::read64(address), 0, "memory at {address:#x}");
        address += 8;
    }
    Ok(())
}
