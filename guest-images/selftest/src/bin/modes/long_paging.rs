//! Long-mode page tables against nested ones: page sizes, accessed and dirty bits, what is no RAM.

use selftest::cpu::{self, cr4};
use selftest::exception::vector::PF;
use selftest::memory::{self, LARGE_PAGE, PAGE};
use selftest::paging::{self, A, D, G, Level, P, PS, U, W, WINDOW, map};
use selftest::platform::{self, features, has};
use selftest::{Test, TestResult, check, check_eq, expect_exception, need, probe, snippet, tests};

pub(crate) const TESTS: &[Test] = tests![
    pages_of_4_kib,
    pages_of_2_mib,
    pages_of_1_gib,
    page_size_mix,
    accessed_and_dirty_bits,
    accessed_bits_in_upper_levels,
    dirty_bit_of_large_pages,
    remapping_is_seen,
    tables_in_changed_memory,
    unclaimed_memory_reads_all_ones,
    unclaimed_memory_in_tables,
    missing_page_beats_unclaimed_memory,
    global_pages,
    process_context_identifiers,
    high_physical_address_is_unclaimed,
    code_in_any_page_size,
];

/// A physical address below 4 GiB where a PC has nothing.
const UNCLAIMED: u64 = 0xd000_0000;

fn pages_of_4_kib() -> TestResult {
    let frames = memory::pages(64);
    for i in 0..64 {
        map(WINDOW + i * PAGE, frames + (63 - i) * PAGE, P | W);
        cpu::write64(WINDOW + i * PAGE + 8 * i, i + 1);
    }
    for i in 0..64 {
        check_eq!(cpu::read64(frames + (63 - i) * PAGE + 8 * i), i + 1, "frame of page {i}");
    }
    Ok(())
}

fn pages_of_2_mib() -> TestResult {
    let frame = memory::pages_aligned(512, LARGE_PAGE);
    paging::set(WINDOW, Level::Directory, frame | P | W | PS);
    for offset in [0, 0x1000, 0x12_3458, LARGE_PAGE - 8] {
        cpu::write64(WINDOW + offset, !offset);
        check_eq!(cpu::read64(frame + offset), !offset, "memory at {offset:#x}");
    }
    Ok(())
}

fn pages_of_1_gib() -> TestResult {
    need!(has(features::PAGE_1G), "no 1 GiB pages");
    paging::set(WINDOW, Level::Pointers, P | W | PS);
    let page = memory::page();
    check!(page < 1 << 30, "the test's page is above 1 GiB");
    cpu::write64(WINDOW + page, 0x1717);
    check_eq!(cpu::read64(page), 0x1717, "memory");
    Ok(())
}

fn page_size_mix() -> TestResult {
    // The same frame through two page sizes at once.
    let frame = memory::pages_aligned(512, LARGE_PAGE);
    paging::set(WINDOW, Level::Directory, frame | P | W | PS);
    map(WINDOW + LARGE_PAGE, frame + 5 * PAGE, P | W);
    for i in 0..100 {
        cpu::write64(WINDOW + LARGE_PAGE + 8, i);
        check_eq!(cpu::read64(WINDOW + 5 * PAGE + 8), i, "memory through the large page");
        cpu::write64(WINDOW + 5 * PAGE + 8, !i);
        check_eq!(cpu::read64(WINDOW + LARGE_PAGE + 8), !i, "memory through the small page");
    }
    Ok(())
}

fn accessed_and_dirty_bits() -> TestResult {
    let page = paging::fresh(0, 1, P | W);
    check_eq!(paging::get(page, Level::Page) & (A | D), 0, "A and D at first");
    cpu::read64(page);
    check_eq!(paging::get(page, Level::Page) & (A | D), A, "A and D after a read");
    cpu::write64(page, 1);
    check_eq!(paging::get(page, Level::Page) & (A | D), A | D, "A and D after a write");
    paging::set(page, Level::Page, paging::get(page, Level::Page) & !(A | D));
    probe!("lock add qword ptr [{}], 0", in(reg) page);
    check_eq!(paging::get(page, Level::Page) & (A | D), A | D, "A and D after LOCK ADD");
    let other = paging::fresh(PAGE, 1, P | W);
    cpu::write8(other, 0xc3);
    paging::set(other, Level::Page, paging::get(other, Level::Page) & !(A | D));
    selftest::snippet::call(other, 0);
    check_eq!(paging::get(other, Level::Page) & (A | D), A, "A and D after a fetch");
    Ok(())
}

fn accessed_bits_in_upper_levels() -> TestResult {
    let page = paging::fresh(0, 1, P | W);
    for level in [Level::Root, Level::Pointers, Level::Directory] {
        paging::set(page, level, paging::get(page, level) & !A);
    }
    cpu::write_cr3(paging::root());
    cpu::read64(page);
    for level in [Level::Root, Level::Pointers, Level::Directory] {
        check_eq!(paging::get(page, level) & A, A, "A at {level:?}");
    }
    Ok(())
}

fn dirty_bit_of_large_pages() -> TestResult {
    let frame = memory::pages_aligned(512, LARGE_PAGE);
    paging::set(WINDOW, Level::Directory, frame | P | W | PS);
    cpu::read64(WINDOW + 0x5000);
    check_eq!(paging::get(WINDOW, Level::Directory) & (A | D), A, "A and D after a read");
    cpu::write64(WINDOW + 0x15000, 1);
    check_eq!(paging::get(WINDOW, Level::Directory) & (A | D), A | D, "A and D after a write");
    Ok(())
}

fn remapping_is_seen() -> TestResult {
    let frames = memory::pages(16);
    for i in 0..16 {
        cpu::write64(frames + i * PAGE, 0x100 + i);
    }
    for i in 0..160 {
        map(WINDOW, frames + i % 16 * PAGE, P | W);
        check_eq!(cpu::read64(WINDOW), 0x100 + i % 16, "memory after remapping {i}");
    }
    Ok(())
}

fn tables_in_changed_memory() -> TestResult {
    // A whole new table behind one entry, made visible by INVLPG.
    let frames = memory::pages(2);
    cpu::write64(frames, 1);
    cpu::write64(frames + PAGE, 2);
    map(WINDOW, frames, P | W);
    check_eq!(cpu::read64(WINDOW), 1, "memory by the first table");
    let table = memory::page();
    cpu::write64(table, (frames + PAGE) | P | W);
    paging::set(WINDOW, Level::Directory, table | P | W | U);
    check_eq!(cpu::read64(WINDOW), 2, "memory by the second table");
    Ok(())
}

fn unclaimed_memory_reads_all_ones() -> TestResult {
    need!(!platform::bare_tcg(), "QEMU reads zeros");
    for address in [UNCLAIMED, UNCLAIMED + 0x123_4560, 0xfebf_0000] {
        check_eq!(cpu::read64(address), u64::MAX, "memory at {address:#x}");
        cpu::write64(address, 0);
        check_eq!(cpu::read64(address), u64::MAX, "memory at {address:#x} after a write");
    }
    map(WINDOW, UNCLAIMED, P | W);
    check_eq!(cpu::read32(WINDOW + 0x10), u32::MAX, "memory through an alias");
    Ok(())
}

fn unclaimed_memory_in_tables() -> TestResult {
    need!(platform::hypervisor(), "bare, what a walk reads there is open");
    // A table where no memory is reads as all ones: reserved bits. The hypervisor may also stop the machine for it; so
    // this runs only when it is asked for by name.
    need!(selftest::boot::option("test").is_some_and(|test| test.contains("tables")), "only by name");
    paging::set(WINDOW, Level::Directory, UNCLAIMED | P | W);
    let caught = selftest::catch(|| {
        cpu::read64(WINDOW);
    });
    check!(caught.is_err_and(|caught| caught.vector == PF), "no page fault");
    Ok(())
}

fn missing_page_beats_unclaimed_memory() -> TestResult {
    map(WINDOW, UNCLAIMED, W);
    expect_exception("a read through a missing page", PF, 0, || {
        cpu::read64(WINDOW);
    })?;
    map(WINDOW, UNCLAIMED, P);
    expect_exception("a write through a read-only page", PF, 3, || cpu::write64(WINDOW, 0))
}

fn global_pages() -> TestResult {
    cpu::write_cr4(cr4::BASELINE | cr4::PGE);
    let frames = memory::pages(2);
    cpu::write64(frames, 1);
    cpu::write64(frames + PAGE, 2);
    map(WINDOW, frames, P | W | G);
    check_eq!(cpu::read64(WINDOW), 1, "memory");
    // INVLPG takes a global translation away, and so does a change of CR4.PGE.
    map(WINDOW, frames + PAGE, P | W | G);
    check_eq!(cpu::read64(WINDOW), 2, "memory after INVLPG");
    cpu::write64(paging::entry(WINDOW, Level::Page), frames | P | W | G);
    cpu::write_cr4(cr4::BASELINE);
    cpu::write_cr4(cr4::BASELINE | cr4::PGE);
    check_eq!(cpu::read64(WINDOW), 1, "memory after the change of CR4.PGE");
    Ok(())
}

fn process_context_identifiers() -> TestResult {
    need!(has(features::PCID) && !platform::bare_tcg(), "no PCID");
    const KEEP: u64 = 1 << 63;
    let frames = memory::pages(2);
    cpu::write64(frames, 1);
    cpu::write64(frames + PAGE, 2);
    map(WINDOW, frames, P | W);
    cpu::write_cr4(cr4::BASELINE | cr4::PCIDE);
    // Two contexts with tables that differ in one page.
    let other = memory::page();
    for i in 0..512 {
        cpu::write64(other + 8 * i, cpu::read64(paging::root() + 8 * i));
    }
    let copies = [memory::page(), memory::page(), memory::page()];
    let mut source = cpu::read64(paging::entry(WINDOW, Level::Root)) & paging::ADDRESS;
    let mut slot = other + 8 * (WINDOW >> 39 & 511);
    for copy in copies {
        for i in 0..512 {
            cpu::write64(copy + 8 * i, cpu::read64(source + 8 * i));
        }
        cpu::write64(slot, copy | P | W | U);
        slot = copy;
        source = cpu::read64(copy) & paging::ADDRESS;
    }
    cpu::write64(copies[2], (frames + PAGE) | P | W);
    for round in 0..50 {
        cpu::write_cr3(paging::root() | 1 | KEEP);
        let first = cpu::read64(WINDOW);
        cpu::cpuid(0, 0);
        cpu::write_cr3(other | 2 | KEEP);
        let second = cpu::read64(WINDOW);
        cpu::cpuid(0, 0);
        check!((first, second) == (1, 2), "round {round}: {first}, {second}");
    }
    cpu::write_cr3(paging::root());
    cpu::write_cr4(cr4::BASELINE);
    Ok(())
}

fn high_physical_address_is_unclaimed() -> TestResult {
    need!(!platform::bare_tcg(), "QEMU reads zeros");
    let top = 1_u64 << (paging::physical_bits() - 1);
    map(WINDOW, top, P | W);
    check_eq!(cpu::read64(WINDOW), u64::MAX, "memory at {top:#x}");
    cpu::write64(WINDOW, 5);
    check_eq!(cpu::read64(WINDOW), u64::MAX, "memory at {top:#x} after a write");
    Ok(())
}

snippet!(cpuid_zero: "push rbx", "xor eax, eax", "cpuid", "pop rbx", "ret");

fn code_in_any_page_size() -> TestResult {
    let expected = u64::from(cpu::cpuid(0, 0).eax);
    let frame = memory::pages_aligned(512, LARGE_PAGE);
    memory::store(frame + 0x3ffe, cpuid_zero());
    paging::set(WINDOW, Level::Directory, frame | P | W | PS);
    check_eq!(selftest::snippet::call(WINDOW + 0x3ffe, 0), expected, "EAX from a 2 MiB page");
    map(WINDOW + LARGE_PAGE, frame + 0x3000, P);
    map(WINDOW + LARGE_PAGE + PAGE, frame + 0x4000, P);
    check_eq!(selftest::snippet::call(WINDOW + LARGE_PAGE + 0xffe, 0), expected, "EAX from 4 KiB pages");
    Ok(())
}
