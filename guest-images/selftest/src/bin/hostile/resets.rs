//! Resets with requests under way, and in storms.

use selftest::memory::{self, PAGE};
use selftest::virtio::{Buffer, block, feature, kind, status};
use selftest::{Test, TestResult, check, tests, tsc};

use crate::rig::{Guard, on, on_each};

pub(crate) const TESTS: &[Test] = tests![
    resets_in_a_storm,
    resets_with_requests_under_way,
    block_resets_in_large_requests,
    block_resets_under_a_full_queue,
    resets_in_all_states,
];

fn resets_in_a_storm() -> TestResult {
    on_each(|rig| {
        for _ in 0..1000 {
            rig.device.set_status(0);
        }
        check!(rig.device.status() == 0, "{}: status {:#x}", rig.name(), rig.device.status());
        Ok(())
    })
}

fn resets_with_requests_under_way() -> TestResult {
    on_each(|rig| {
        for _ in 0..50 {
            let mut queue = rig.serving()?;
            let (buffers, count) = rig.request();
            for _ in 0..10 {
                let head = queue.chain(&buffers[..count]);
                queue.put(head);
            }
            queue.publish();
            queue.kick();
            rig.device.set_status(0);
            let used = queue.used_index();
            tsc::delay_us(20);
            check!(queue.used_index() == used, "{}: something is given back after a reset", rig.name());
            check!(rig.device.status() == 0, "{}: status {:#x}", rig.name(), rig.device.status());
        }
        Ok(())
    })
}

/// Nothing is written behind a reset, however much was left to do.
fn block_resets_in_large_requests() -> TestResult {
    const BYTES: u64 = 512 << 10;
    on(kind::BLOCK, |rig| {
        let pages = memory::pages(BYTES / PAGE);
        for round in 0..6_u64 {
            let mut queue = rig.serving()?;
            for request in 0..4 {
                let slot = rig.buffers + block::SLOT * request;
                block::prepare(slot, block::request::IN, 0);
                let head = queue.chain(&block::buffers(slot, Buffer::writable(pages, BYTES as u32)));
                queue.put(head);
            }
            queue.publish();
            queue.kick();
            tsc::delay_us(round * 20);
            rig.device.set_status(0);
            let guard = Guard::over(pages, BYTES / PAGE);
            tsc::delay_us(200);
            guard.check()?;
        }
        Ok(())
    })
}

fn block_resets_under_a_full_queue() -> TestResult {
    on(kind::BLOCK, |rig| {
        for _ in 0..20 {
            let mut queue = rig.serving_with(feature::INDIRECT_DESC | feature::EVENT_IDX)?;
            for number in 0..u64::from(queue.layout.size) {
                let (slot, table) = (rig.buffers + 64 * number, rig.buffers + 4 * PAGE + 64 * number);
                block::prepare(slot, block::request::IN, 0);
                let data = Buffer::writable(rig.buffers + 16 * PAGE, 8 * PAGE as u32);
                let head = queue.indirect(table, &block::buffers(slot, data));
                queue.put(head);
            }
            queue.publish();
            queue.ring();
            rig.device.set_status(0);
            let guard = Guard::over(rig.buffers + 16 * PAGE, 8);
            tsc::delay_us(100);
            guard.check()?;
        }
        memory::fill(rig.buffers, 0, 32 * PAGE);
        Ok(())
    })
}

fn resets_in_all_states() -> TestResult {
    on_each(|rig| {
        for status in 0..=u8::MAX {
            rig.device.set_status(status);
            rig.device.set_status(!status);
            if status % 16 == 0 {
                check!(rig.device.reset(), "{} does not come out of its reset", rig.name());
            }
        }
        rig.device.set_status(status::FAILED);
        Ok(())
    })
}
