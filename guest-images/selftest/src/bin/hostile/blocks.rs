//! Requests to a disk that make no sense.

use selftest::cpu::{read64, write32, write64};
use selftest::memory::{self, PAGE};
use selftest::virtio::{Buffer, block, kind};
use selftest::{Test, TestResult, check, check_eq, tests};

use crate::rig::on;

pub(crate) const TESTS: &[Test] = tests![
    block_requests_of_unknown_kinds,
    block_sectors_that_there_are_not,
    block_lengths_that_are_no_sectors,
    block_requests_without_their_parts,
    block_ranges_that_make_no_sense,
    block_status_in_odd_places,
];

fn block_requests_of_unknown_kinds() -> TestResult {
    on(kind::BLOCK, |rig| {
        let mut queue = rig.serving()?;
        let (slot, data) = (rig.buffers, Buffer::readable(rig.guarded(), 512));
        for request in [2, 3, 5, 6, 7, 9, 10, 12, 14, 15, 0x100, 0x8000_0000, u32::MAX] {
            let status = block::carry_out(&mut queue, slot, request, 0, data);
            check_eq!(
                status.unwrap_or(block::NO_STATUS),
                block::UNSUPPORTED,
                "status of request {request:#x}"
            );
        }
        Ok(())
    })
}

fn block_sectors_that_there_are_not() -> TestResult {
    on(kind::BLOCK, |rig| {
        let mut queue = rig.serving()?;
        let (slot, page) = (rig.buffers, rig.buffers + PAGE);
        let sectors = read64(rig.device.configuration);
        for sector in [sectors, sectors - 1, sectors + 1, 1 << 32, 1 << 55, 1 << 63, u64::MAX - 1, u64::MAX] {
            for (request, data) in [
                (block::request::IN, Buffer::writable(page, 1024)),
                (block::request::OUT, Buffer::readable(page, 1024)),
            ] {
                let status = block::carry_out(&mut queue, slot, request, sector, data);
                check_eq!(
                    status.unwrap_or(block::NO_STATUS),
                    block::IO_ERROR,
                    "status of request {request} at sector {sector:#x}"
                );
            }
        }
        check!((0..1024).step_by(8).all(|at| read64(page + at) == 0), "data of a read that failed");
        Ok(())
    })
}

fn block_lengths_that_are_no_sectors() -> TestResult {
    on(kind::BLOCK, |rig| {
        let mut queue = rig.serving()?;
        let (slot, page) = (rig.buffers, rig.buffers + PAGE);
        for length in [1, 511, 513, 1000] {
            for (request, data) in [
                (block::request::IN, Buffer::writable(page, length)),
                (block::request::OUT, Buffer::readable(page, length)),
            ] {
                let status = block::carry_out(&mut queue, slot, request, 0, data);
                check_eq!(status.unwrap_or(block::NO_STATUS), block::IO_ERROR, "status of {length} bytes");
            }
        }
        Ok(())
    })
}

fn block_requests_without_their_parts() -> TestResult {
    on(kind::BLOCK, |rig| {
        let slot = rig.buffers;
        let header = Buffer::readable(slot, block::HEADER);
        let status = Buffer::writable(slot + u64::from(block::HEADER), 1);
        for (what, buffers) in [
            ("a request without a header", &[status][..]),
            ("half a header", &[Buffer::readable(slot, 8), status]),
            ("a header to be written", &[Buffer::writable(slot, block::HEADER), status]),
            ("a request without a status", &[header]),
            ("a status to be read", &[header, Buffer::readable(slot + 16, 1)]),
            ("a status of no bytes", &[header, Buffer::writable(slot + 16, 0)]),
        ] {
            let mut queue = rig.serving()?;
            block::prepare(slot, block::request::FLUSH, 0);
            let head = queue.chain(buffers);
            queue.offer(head);
            rig.must_break(&mut queue, what)?;
        }
        // In pieces of a byte each it is whole.
        let mut queue = rig.serving()?;
        block::prepare(slot, block::request::FLUSH, 0);
        let mut pieces = [Buffer::default(); 17];
        for (at, piece) in pieces.iter_mut().enumerate() {
            *piece = Buffer::readable(slot + at as u64, 1);
        }
        pieces[16] = status;
        check!(queue.request(&pieces).is_some(), "a header in pieces is not served");
        check_eq!(block::status(slot), block::OK, "status of a header in pieces");
        Ok(())
    })
}

fn block_ranges_that_make_no_sense() -> TestResult {
    on(kind::BLOCK, |rig| {
        let mut queue = rig.serving()?;
        let (slot, range) = (rig.buffers, rig.buffers + PAGE);
        for (sector, sectors, flags, bytes, wanted) in [
            (0, 1, 0, 15, block::UNSUPPORTED),
            (0, 1, 0, 17, block::UNSUPPORTED),
            (0, 1, 0, 32, block::UNSUPPORTED),
            (0, 1, 0xffff_fffe, 16, block::UNSUPPORTED),
            (0, u32::MAX, 0, 16, block::IO_ERROR),
            (u64::MAX, 1, 0, 16, block::IO_ERROR),
            (u64::MAX - 7, 16, 0, 16, block::IO_ERROR),
            (1 << 40, 1, 0, 16, block::IO_ERROR),
        ] {
            write64(range, sector);
            write32(range + 8, sectors);
            write32(range + 12, flags);
            for request in [block::request::DISCARD, block::request::WRITE_ZEROES] {
                let data = Buffer::readable(range, bytes);
                let status = block::carry_out(&mut queue, slot, request, 0, data);
                check_eq!(
                    status.unwrap_or(block::NO_STATUS),
                    wanted,
                    "status of request {request}: {sectors} sectors at {sector:#x}, {bytes} bytes"
                );
            }
        }
        Ok(())
    })
}

/// In the middle of the data, over the header, over the ring: the driver gets what it asked for, and the device goes on or is broken.
fn block_status_in_odd_places() -> TestResult {
    on(kind::BLOCK, |rig| {
        let slot = rig.buffers;
        let rings = |queue: &selftest::virtio::Queue| {
            [queue.layout.descriptors, queue.layout.driver, queue.layout.device, slot]
        };
        for index in 0..4 {
            let mut queue = rig.serving()?;
            block::prepare(slot, block::request::IN, 0);
            let at = rings(&queue)[index];
            let head = queue.chain(&[
                Buffer::readable(slot, block::HEADER),
                Buffer::writable(at, 512),
                Buffer::writable(at, 1),
            ]);
            queue.offer(head);
            rig.is_broken();
            check!(rig.device.reset(), "no end of a reset");
        }
        memory::fill(slot, 0, PAGE);
        Ok(())
    })
}
