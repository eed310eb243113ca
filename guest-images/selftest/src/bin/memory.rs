//! Touches memory, so that it can be seen from outside which exits that takes. On the command line, `give=free` reports some of its memory as free
//! before, `give=balloon` has it in the balloon and out again; `touch=all` touches every page of its memory, `touch=given` those that it gave.
#![cfg_attr(target_os = "none", no_std, no_main)]

use selftest::cpu::{read64, write32, write64};
use selftest::memory::{self, LARGE_PAGE, PAGE};
use selftest::virtio::{Buffer, Device, Queue, feature, kind};
use selftest::{boot, println, runner};

/// Blocks of 2 MiB that it gives.
const BLOCKS: u64 = 4;
/// Free pages are reported.
const REPORTING: u64 = 1 << 5;
/// The balloon's queues. There is no hinting, but its place is.
const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const REPORT: u16 = 4;
/// Numbers of pages in a request.
const NUMBERS: u64 = 256;

fn queue(device: &Device, index: u16, features: u64) -> Queue {
    device.queue(index, 16, features).expect("the balloon has no such queue")
}

fn report(device: &Device, features: u64, start: u64) {
    let mut report = queue(device, REPORT, features);
    device.go();
    let free = Buffer::writable(start, (BLOCKS * LARGE_PAGE) as u32);
    assert!(report.request(&[free]).is_some(), "free memory is not taken");
}

fn in_and_out(device: &Device, features: u64, start: u64) {
    let [mut inflate, mut deflate] = [INFLATE, DEFLATE].map(|index| queue(device, index, features));
    device.go();
    let numbers = memory::page();
    for queue in [&mut inflate, &mut deflate] {
        for first in (0..BLOCKS * LARGE_PAGE / PAGE).step_by(NUMBERS as usize) {
            for number in 0..NUMBERS {
                write32(numbers + 4 * number, (start / PAGE + first + number) as u32);
            }
            let request = [Buffer::readable(numbers, 4 * NUMBERS as u32)];
            assert!(queue.request(&request).is_some(), "pages are not moved");
        }
    }
}

/// Begins in the middle of each block.
fn touch(start: u64) {
    for block in 0..BLOCKS {
        let block = start + block * LARGE_PAGE;
        for page in 0..LARGE_PAGE / PAGE {
            let at = block + (page * PAGE + LARGE_PAGE / 2) % LARGE_PAGE;
            assert_eq!(read64(at), 0, "{at:#x} is not empty");
            write64(at, at);
        }
    }
}

fn main_program() {
    runner::announce("memory");
    runner::baseline();
    let wanted = boot::option("touch");
    if let Some(way) = boot::option("give") {
        let device = Device::find(kind::BALLOON).expect("no balloon");
        let start = memory::pages_aligned(BLOCKS * LARGE_PAGE / PAGE, LARGE_PAGE);
        let features = device.begin(feature::INDIRECT_DESC | REPORTING).expect("the balloon refuses");
        if way == "free" {
            report(&device, features, start);
        } else {
            in_and_out(&device, features, start);
        }
        if wanted == Some("given") {
            touch(start);
        }
    }
    if wanted == Some("all") {
        let (start, pages) = memory::all();
        for page in 0..pages {
            write64(start + page * PAGE, page);
        }
    }
    println!("selftest memory done: {wanted:?}");
}

selftest::program!(main_program());
