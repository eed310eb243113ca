//! What it costs to touch memory that must be filled at the touch: pages that were given back by the balloon.
//!
//! Memory that a guest has not given back is there from its start, in pages as large as they come, and its first touch does not exit.

use selftest::cpu::{rdtsc, read64, write32};
use selftest::memory::{self, PAGE};
use selftest::virtio::{Buffer, Device, feature, kind};

use crate::{ROUNDS, report_samples, skip};

const NAME: &str = "nested_fault";
const INFLATE: u16 = 0;
/// Pages that go and come in a round.
const PAGES: u64 = 64;

fn touch(start: u64) -> u64 {
    let begin = rdtsc();
    for page in 0..PAGES {
        read64(start + page * PAGE);
    }
    rdtsc() - begin
}

/// Prints the line `nested_fault`: for a page of 4 KiB, without what the same reads cost where the pages are there.
pub(crate) fn measure() {
    let Some(device) = Device::find(kind::BALLOON) else { return skip(NAME, "no balloon") };
    let Some(features) = device.begin(feature::INDIRECT_DESC) else {
        return skip(NAME, "the balloon refuses its features");
    };
    let Some(mut inflate) = device.queue(INFLATE, 64, features) else {
        return skip(NAME, "the balloon has no queue");
    };
    device.go();
    let (numbers, pages) = (memory::page(), memory::pages(PAGES));
    for page in 0..PAGES {
        write32(numbers + 4 * page, (pages / PAGE + page) as u32);
    }
    report_samples(NAME, PAGES, ROUNDS as u64, || {
        let taken = inflate.request(&[Buffer::readable(numbers, 4 * PAGES as u32)]);
        assert!(taken.is_some(), "pages are not taken");
        let first = touch(pages);
        first - touch(pages)
    });
}
