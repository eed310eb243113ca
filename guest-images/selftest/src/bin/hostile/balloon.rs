//! A balloon, used and attacked. Its driver says which pages it gives, and gets new ones of zeros by touching them.

use selftest::cpu::{read64, write32, write64};
use selftest::memory::{self, PAGE};
use selftest::virtio::{Buffer, Queue, feature, kind};
use selftest::{Test, TestResult, Verdict, check, check_eq, tests};

use crate::rig::{Rig, on};

pub(crate) const TESTS: &[Test] = tests![
    balloon_pages_come_back_as_zeros,
    balloon_numbers_that_are_no_ram,
    balloon_numbers_in_odd_pieces,
    balloon_gives_what_it_has_not,
    balloon_takes_its_own_ring,
    balloon_takes_free_memory,
    balloon_storm_with_resets,
];

const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const REPORT: u16 = 4;
/// Feature: the driver reports free memory.
const REPORTING: u64 = 1 << 5;
const PATTERN: u64 = 0x1234_5678_9abc_def0;

/// The queues for pages that go and that come.
fn both(rig: &mut Rig) -> Result<[Queue; 2], Verdict> {
    rig.begin_with(feature::INDIRECT_DESC)?;
    let queues = [rig.queue(INFLATE, 64)?, rig.queue(DEFLATE, 64)?];
    rig.device.go();
    Ok(queues)
}

/// Tells a queue of pages by their numbers, which lie in the first page of the buffers.
fn tell(rig: &Rig, queue: &mut Queue, numbers: &[u32]) -> TestResult {
    for (at, number) in numbers.iter().enumerate() {
        write32(rig.buffers + 4 * at as u64, *number);
    }
    let used = queue.request(&[Buffer::readable(rig.buffers, 4 * numbers.len() as u32)]);
    check!(used.is_some_and(|used| used.written == 0), "{} pages: {used:?}", numbers.len());
    Ok(())
}

const fn number_of(address: u64) -> u32 {
    (address / PAGE) as u32
}

/// Pages with something in them.
fn filled(pages: u64) -> u64 {
    let start = memory::pages(pages);
    (start..start + pages * PAGE).step_by(8).for_each(|at| write64(at, at ^ PATTERN));
    start
}

fn are_zero(start: u64, pages: u64) -> TestResult {
    for at in (start..start + pages * PAGE).step_by(8) {
        check_eq!(read64(at), 0, "word at {at:#x}");
    }
    Ok(())
}

fn are_whole(start: u64, pages: u64) -> TestResult {
    for at in (start..start + pages * PAGE).step_by(8) {
        check_eq!(read64(at), at ^ PATTERN, "word at {at:#x}");
    }
    Ok(())
}

/// Takes a page and touches it; for `honest`, too.
pub(crate) fn round_trip(inflate: &mut Queue, numbers: u64) -> TestResult {
    let page = filled(1);
    write32(numbers, number_of(page));
    check!(inflate.request(&[Buffer::readable(numbers, 4)]).is_some(), "a page is not taken");
    are_zero(page, 1)
}

fn balloon_pages_come_back_as_zeros() -> TestResult {
    on(kind::BALLOON, |rig| {
        let [mut inflate, mut deflate] = both(rig)?;
        let (before, pages, behind) = (filled(1), filled(40), filled(1));
        let mut numbers = [0; 40];
        for (at, number) in numbers.iter_mut().enumerate() {
            *number = number_of(pages) + at as u32;
        }
        tell(rig, &mut inflate, &numbers)?;
        // Half of them are touched while they are in the balloon.
        are_zero(pages, 20)?;
        write64(pages, PATTERN);
        tell(rig, &mut deflate, &numbers)?;
        are_zero(pages + 20 * PAGE, 20)?;
        check_eq!(read64(pages), PATTERN, "a page that was touched in the balloon");
        are_whole(before, 1)?;
        are_whole(behind, 1)
    })
}

fn balloon_numbers_that_are_no_ram() -> TestResult {
    on(kind::BALLOON, |rig| {
        let bar = number_of(rig.device.bar);
        let [mut inflate, mut deflate] = both(rig)?;
        let nowhere =
            [0xfee00, 0xfec00, 0xc0000, bar, bar + 3, 0xfffff, 0x000b8, 0x7fff_ffff, u32::MAX - 1, u32::MAX];
        for queue in [&mut inflate, &mut deflate] {
            tell(rig, queue, &nowhere)?;
        }
        check!(!rig.is_broken(), "numbers break it");
        Ok(())
    })
}

fn balloon_numbers_in_odd_pieces() -> TestResult {
    on(kind::BALLOON, |rig| {
        let [mut inflate, _] = both(rig)?;
        let page = filled(2);
        write32(rig.buffers, number_of(page));
        write32(rig.buffers + 4, number_of(page) + 1);
        for bytes in [0, 1, 2, 3] {
            check!(inflate.request(&[Buffer::readable(rig.buffers, bytes)]).is_some(), "{bytes} bytes");
        }
        are_whole(page, 2)?;
        let pieces: [Buffer; 7] = core::array::from_fn(|at| Buffer::readable(rig.buffers + at as u64, 1));
        check!(inflate.request(&pieces).is_some(), "bytes one by one");
        // The second number is not whole.
        are_zero(page, 1)?;
        are_whole(page + PAGE, 1)?;
        check!(inflate.request(&[Buffer::writable(rig.buffers, 64)]).is_some(), "a buffer to be written");
        check!(!rig.is_broken(), "odd lengths break it");
        let head = inflate.chain(&[Buffer::readable(0xfee0_0000, 64)]);
        inflate.offer(head);
        rig.must_break(&mut inflate, "numbers in the local APIC")
    })
}

fn balloon_gives_what_it_has_not() -> TestResult {
    on(kind::BALLOON, |rig| {
        let [mut inflate, mut deflate] = both(rig)?;
        let pages = filled(4);
        let numbers = [0, 1, 2, 3].map(|at| number_of(pages) + at);
        tell(rig, &mut deflate, &numbers)?;
        are_whole(pages, 4)?;
        // Twice in one request, and again while it is in there.
        tell(rig, &mut inflate, &[numbers[1], numbers[1], numbers[2], numbers[1]])?;
        tell(rig, &mut inflate, &[numbers[2], numbers[2]])?;
        tell(rig, &mut deflate, &numbers)?;
        tell(rig, &mut deflate, &numbers)?;
        are_whole(pages, 1)?;
        are_zero(pages + PAGE, 2)?;
        are_whole(pages + 3 * PAGE, 1)
    })
}

/// The page of the device's ring: it goes on with its own index in a new page.
fn balloon_takes_its_own_ring() -> TestResult {
    on(kind::BALLOON, |rig| {
        let [mut inflate, _] = both(rig)?;
        for _ in 0..3 {
            write32(rig.buffers, number_of(inflate.layout.device));
            let head = inflate.chain(&[Buffer::readable(rig.buffers, 4)]);
            inflate.offer(head);
            check!(rig.is_answered(&mut inflate), "it does not come back");
        }
        Ok(())
    })
}

fn balloon_takes_free_memory() -> TestResult {
    on(kind::BALLOON, |rig| {
        rig.begin_with(feature::INDIRECT_DESC | REPORTING)?;
        let mut report = rig.queue(REPORT, 64)?;
        rig.device.go();
        let (before, pages, behind) = (filled(1), filled(24), filled(1));
        // Only whole pages are free.
        let parts = [
            Buffer::writable(pages, 8 * PAGE as u32),
            Buffer::writable(pages + 8 * PAGE + 512, 2 * PAGE as u32),
            Buffer::writable(pages + 12 * PAGE, PAGE as u32 - 1),
            Buffer::writable(0xfee0_0000, 0x20_0000),
            Buffer::writable(u64::MAX - PAGE + 1, PAGE as u32),
            Buffer::writable(1 << 52, 0x7000_0000),
            Buffer::writable(pages + 20 * PAGE, 0),
        ];
        check!(report.request(&parts).is_some(), "free memory is not taken");
        are_whole(before, 1)?;
        are_zero(pages, 8)?;
        are_whole(pages + 8 * PAGE, 1)?;
        are_zero(pages + 9 * PAGE, 1)?;
        are_whole(pages + 10 * PAGE, 14)?;
        are_whole(behind, 1)?;
        check!(!rig.is_broken(), "reports break it");
        Ok(())
    })
}

fn balloon_storm_with_resets() -> TestResult {
    on(kind::BALLOON, |rig| {
        let pages = filled(16);
        for round in 0..60_u32 {
            let [mut inflate, mut deflate] = both(rig)?;
            for at in 0..16 {
                write32(rig.buffers + 4 * u64::from(at), number_of(pages) + at);
            }
            let all = [Buffer::readable(rig.buffers, 64)];
            for queue in [&mut inflate, &mut deflate] {
                let head = queue.chain(&all);
                queue.offer(head);
            }
            if round % 3 == 0 {
                check!(rig.device.reset(), "it does not come out of its reset");
            }
            let touched = pages + u64::from(round % 16) * PAGE;
            write64(touched, PATTERN);
            check_eq!(read64(touched), PATTERN, "round {round}: a page just written");
        }
        Ok(())
    })
}
