//! What a request to a disk costs: 4 KiB, one at a time and 32 at a time.
//!
//! `only=disk_read_4_kib_qd1` and so on measures one kind, `rounds=N` says how often; with `rounds=0` everything but the requests is done, so
//! that the exits of both boots tell what the requests' are.

use selftest::boot;
use selftest::cpu::rdtsc;
use selftest::memory::{self, PAGE};
use selftest::virtio::block::{self, request};
use selftest::virtio::{Buffer, Device, feature, kind};

use crate::{number, report_samples, skip, tell_requests};

const DEPTH: u64 = 32;
/// Requests per block of the disk, which goes around.
const BLOCKS: u64 = 64;
const SECTORS: u64 = PAGE / block::SECTOR;

/// A kind of request, as it is named.
#[derive(Clone, Copy)]
struct Kind {
    request: u32,
    depth: u64,
}

fn kind_of(name: &str) -> Option<Kind> {
    Some(match name {
        "disk_read_4_kib_qd1" => Kind { request: request::IN, depth: 1 },
        "disk_read_4_kib_qd32" => Kind { request: request::IN, depth: DEPTH },
        "disk_write_4_kib_qd1" => Kind { request: request::OUT, depth: 1 },
        "disk_write_4_kib_qd32" => Kind { request: request::OUT, depth: DEPTH },
        _ => return None,
    })
}

/// Measures the kind that the command line names, if it is one of a disk.
pub(crate) fn measure() {
    let Some((name, kind)) = boot::option("only").and_then(|name| Some((name, kind_of(name)?))) else {
        return;
    };
    let Some(device) = Device::find(kind::BLOCK) else { return skip(name, "no disk") };
    let Some(features) = device.begin(feature::INDIRECT_DESC | feature::EVENT_IDX) else {
        return skip(name, "the disk refuses its features");
    };
    let Some(mut queue) = device.queue(0, 256, features) else { return skip(name, "the disk has no queue") };
    device.go();
    let (slots, data) = (memory::pages(1), memory::pages(DEPTH));
    queue.want_interrupts(false);
    let mut sector = 0;
    let mut batch = || {
        let begin = rdtsc();
        for at in 0..kind.depth {
            let slot = slots + at * block::SLOT;
            block::prepare(slot, kind.request, sector * SECTORS);
            sector = (sector + 1) % BLOCKS;
            let (address, length) = (data + at * PAGE, PAGE as u32);
            let buffer = match kind.request {
                request::IN => Buffer::writable(address, length),
                _ => Buffer::readable(address, length),
            };
            let head = queue.chain(&block::buffers(slot, buffer));
            queue.put(head);
        }
        queue.publish();
        queue.kick();
        for at in 0..kind.depth {
            let back = queue.wait().is_some();
            assert!(back && block::status(slots + at * block::SLOT) == block::OK, "request {at} has failed");
        }
        queue.want_interrupts(false);
        rdtsc() - begin
    };
    // Blocks that were never written come into being with their first write.
    for _ in 0..2 * BLOCKS / kind.depth {
        batch();
    }
    let rounds = number("rounds", 64);
    report_samples(name, DEPTH, rounds, || (0..DEPTH / kind.depth).map(|_| batch()).sum());
    tell_requests(name, rounds * DEPTH);
}
