//! Rings and descriptors that make no sense.

use selftest::cpu::write16;
use selftest::memory::PAGE;
use selftest::virtio::{Buffer, Queue, describe, descriptor, feature};
use selftest::{Test, TestResult, check, tests};

use crate::rig::{Rig, on_each};

pub(crate) const TESTS: &[Test] = tests![
    descriptors_that_loop,
    heads_that_there_are_not,
    descriptors_that_there_are_not,
    indices_too_far_ahead,
    one_request_over_and_over,
    indirect_tables_that_loop,
    indirect_tables_in_each_other,
    indirect_tables_of_odd_sizes,
    indirect_tables_unasked_for,
    indirect_tables_with_all_flags,
    written_before_read,
    rings_full_of_noise,
];

/// Where an attack's table may lie.
fn table(rig: &Rig) -> u64 {
    rig.buffers + 2 * PAGE
}

/// Breaks a device that was just taken into use.
fn breaks(rig: &mut Rig, what: &str, offer: impl FnOnce(&mut Rig, &mut Queue)) -> TestResult {
    breaks_with(rig, feature::INDIRECT_DESC, what, offer)
}

fn breaks_with(
    rig: &mut Rig,
    features: u64,
    what: &str,
    offer: impl FnOnce(&mut Rig, &mut Queue),
) -> TestResult {
    let mut queue = rig.serving_with(features)?;
    offer(rig, &mut queue);
    rig.must_break(&mut queue, what)
}

/// A buffer that fits the device's queue, in the attack's memory.
fn fitting(rig: &Rig) -> Buffer {
    rig.request().0[0]
}

fn descriptors_that_loop() -> TestResult {
    on_each(|rig| {
        for length in [1, 2, 63, 64] {
            breaks(rig, "a loop of descriptors", |rig, queue| {
                let buffer = fitting(rig);
                for index in 0..length {
                    queue.describe(index, buffer, descriptor::NEXT, (index + 1) % length);
                }
                queue.offer(0);
            })?;
        }
        Ok(())
    })
}

fn heads_that_there_are_not() -> TestResult {
    on_each(|rig| {
        for head in [64, 65, 0x7fff, 0xffff] {
            breaks(rig, "a head behind the table", |_, queue| queue.offer(head))?;
        }
        Ok(())
    })
}

fn descriptors_that_there_are_not() -> TestResult {
    on_each(|rig| {
        for next in [64, 256, 0x8000, 0xffff] {
            breaks(rig, "a descriptor behind the table", |rig, queue| {
                queue.describe(0, fitting(rig), descriptor::NEXT, next);
                queue.offer(0);
            })?;
        }
        Ok(())
    })
}

fn indices_too_far_ahead() -> TestResult {
    on_each(|rig| {
        for index in [65, 66, 0x8000, 0xffff] {
            breaks(rig, "an index too far ahead", |_, queue| {
                queue.set_index(index);
                queue.ring();
            })?;
        }
        // It goes back.
        breaks(rig, "an index that goes back", |rig, queue| {
            let (buffers, count) = rig.request();
            if queue.request(&buffers[..count]).is_some() {
                queue.set_index(0);
                queue.ring();
            }
        })
    })
}

/// The same chain in all entries: it is one request for each.
fn one_request_over_and_over() -> TestResult {
    on_each(|rig| {
        let mut queue = rig.serving()?;
        let (buffers, count) = rig.request();
        let head = queue.chain(&buffers[..count]);
        for _ in 0..queue.layout.size {
            queue.put(head);
        }
        queue.publish();
        queue.kick();
        for number in 0..queue.layout.size {
            let used = queue.wait();
            check!(
                used.is_some_and(|used| used.head == u32::from(head)),
                "{}: copy {number} is {used:?}",
                rig.name()
            );
        }
        check!(!rig.is_broken(), "{}: copies of a request break it", rig.name());
        Ok(())
    })
}

fn indirect_tables_that_loop() -> TestResult {
    on_each(|rig| {
        for (entries, next) in [(1_u16, 0), (3, 1), (128, 0)] {
            breaks(rig, "a loop in an indirect table", |rig, queue| {
                let (table, buffer) = (table(rig), fitting(rig));
                for index in 0..entries {
                    let following = if index + 1 == entries { next } else { index + 1 };
                    describe(table, index, buffer, descriptor::NEXT, following);
                }
                let bytes = u32::from(entries) * descriptor::BYTES as u32;
                queue.describe(0, Buffer::readable(table, bytes), descriptor::INDIRECT, 0);
                queue.offer(0);
            })?;
        }
        // A chain that is longer than the queue, without any loop.
        breaks(rig, "a chain longer than the queue", |rig, queue| {
            let (table, buffer) = (table(rig), fitting(rig));
            for index in 0..100 {
                let more = if index == 99 { 0 } else { descriptor::NEXT };
                describe(table, index, Buffer { length: 1, ..buffer }, more, index + 1);
            }
            queue.describe(0, Buffer::readable(table, 1600), descriptor::INDIRECT, 0);
            queue.offer(0);
        })
    })
}

fn indirect_tables_in_each_other() -> TestResult {
    on_each(|rig| {
        breaks(rig, "an indirect table in itself", |rig, queue| {
            let table = table(rig);
            describe(table, 0, Buffer::readable(table, 16), descriptor::INDIRECT, 0);
            queue.describe(0, Buffer::readable(table, 16), descriptor::INDIRECT, 0);
            queue.offer(0);
        })?;
        breaks(rig, "an indirect table with a successor", |rig, queue| {
            let table = table(rig);
            describe(table, 0, fitting(rig), 0, 0);
            queue.describe(0, Buffer::readable(table, 16), descriptor::INDIRECT | descriptor::NEXT, 1);
            queue.describe(1, fitting(rig), 0, 0);
            queue.offer(0);
        })?;
        breaks(rig, "an indirect table that is the queue's own", |_, queue| {
            let own = queue.layout.descriptors;
            queue.describe(0, Buffer::readable(own, 16), descriptor::INDIRECT, 0);
            queue.offer(0);
        })
    })
}

fn indirect_tables_of_odd_sizes() -> TestResult {
    on_each(|rig| {
        for bytes in [0, 1, 15, 17, 0xffff_ffff] {
            breaks(rig, "an indirect table of an odd size", |rig, queue| {
                describe(table(rig), 0, fitting(rig), descriptor::NEXT, 1);
                queue.describe(0, Buffer::readable(table(rig), bytes), descriptor::INDIRECT, 0);
                queue.offer(0);
            })?;
        }
        // As large as can be said: whatever there is no entry for is not read.
        breaks(rig, "an entry behind an indirect table", |rig, queue| {
            describe(table(rig), 0, fitting(rig), descriptor::NEXT, 2);
            queue.describe(0, Buffer::readable(table(rig), 32), descriptor::INDIRECT, 0);
            queue.offer(0);
        })
    })
}

fn indirect_tables_unasked_for() -> TestResult {
    on_each(|rig| {
        breaks_with(rig, 0, "an indirect table without the feature", |rig, queue| {
            describe(table(rig), 0, fitting(rig), 0, 0);
            queue.describe(0, Buffer::readable(table(rig), 16), descriptor::INDIRECT, 0);
            queue.offer(0);
        })
    })
}

/// "The device MUST ignore the write-only flag in the descriptor that refers to an indirect table"; and flags that nobody has given a
/// meaning say nothing.
fn indirect_tables_with_all_flags() -> TestResult {
    on_each(|rig| {
        for more in [descriptor::WRITE, 0xfff8] {
            let mut queue = rig.serving()?;
            let (buffers, count) = rig.request();
            let head = queue.indirect(table(rig), &buffers[..count]);
            let bytes = count as u32 * descriptor::BYTES as u32;
            queue.describe(head, Buffer::readable(table(rig), bytes), descriptor::INDIRECT | more, 0xffff);
            queue.offer(head);
            check!(queue.wait().is_some(), "{}: no answer with flags {more:#x}", rig.name());
            check!(!rig.is_broken(), "{}: flags {more:#x} break it", rig.name());
        }
        Ok(())
    })
}

fn written_before_read() -> TestResult {
    on_each(|rig| {
        breaks(rig, "a buffer to be read behind one to be written", |rig, queue| {
            let at = rig.buffers;
            let head = queue.chain(&[Buffer::writable(at, 64), Buffer::readable(at + 64, 64)]);
            queue.offer(head);
        })
    })
}

/// Whatever stands in the table: the device comes to an end, and a reset helps.
fn rings_full_of_noise() -> TestResult {
    on_each(|rig| {
        for _ in 0..50 {
            let queue = rig.serving_with(feature::INDIRECT_DESC | feature::EVENT_IDX)?;
            for index in 0..queue.layout.size {
                let noise = selftest::platform::random();
                let buffer = Buffer {
                    address: rig.buffers + (noise >> 40) % (4 * PAGE),
                    length: (noise >> 24) as u32 % 600,
                    flags: noise as u16 & descriptor::WRITE,
                };
                let more = (noise >> 8) as u16 & (descriptor::NEXT | descriptor::INDIRECT);
                queue.describe(index, buffer, more, (noise >> 16) as u16 % 70);
                write16(queue.layout.driver + 4 + 2 * u64::from(index), (noise >> 12) as u16 % 66);
            }
            queue.set_index(selftest::platform::random() as u16 % 65);
            queue.ring();
            rig.is_broken();
            check!(rig.device.reset(), "{} does not come out of its reset", rig.name());
        }
        Ok(())
    })
}
