//! Rings and buffers where there is no memory, or somebody else's registers.

use selftest::memory::{self, PAGE};
use selftest::virtio::{Buffer, Layout, Queue, block, describe, descriptor, kind};
use selftest::{Test, TestResult, apic, boot, check, check_eq, tests};

use crate::rig::{Rig, on, on_each};

pub(crate) const TESTS: &[Test] = tests![
    tables_where_no_memory_is,
    driver_rings_where_no_memory_is,
    device_rings_where_no_memory_is,
    device_rings_over_registers,
    indirect_tables_where_no_memory_is,
    buffers_where_no_memory_is,
    buffers_of_4_gib,
    buffers_of_no_bytes,
    buffers_over_the_end_of_memory,
    block_data_where_no_memory_is,
    block_writes_only_what_it_says,
];

/// Local APIC, I/O APIC, configuration window, ROM, a hole, above all memory, above all physical addresses, at their end.
fn nowhere(rig: &Rig) -> [u64; 11] {
    [
        apic::XAPIC_BASE,
        0xfec0_0000,
        0xc000_0000,
        rig.device.bar,
        rig.device.table,
        0xffff_f000,
        0xa_0000,
        1 << 40,
        1 << 52,
        0x7fff_ffff_ffff_f000,
        0xffff_ffff_ffff_f000,
    ]
}

/// The last page of RAM below 4 GiB.
fn last_page() -> u64 {
    let ends = boot::regions().iter().filter(|region| region.kind == boot::RAM && region.end <= 3 << 30);
    (ends.map(|region| region.end).max().unwrap_or(PAGE) - PAGE) & !(PAGE - 1)
}

/// Enables the served queue with one part moved, and offers a good request.
fn displaced(rig: &mut Rig, what: &str, move_part: impl Fn(&mut Layout)) -> TestResult {
    rig.begin()?;
    let index = rig.served();
    rig.device.select(index);
    let good = Layout::fresh(64);
    let mut layout = good;
    move_part(&mut layout);
    let (buffers, count) = rig.request();
    // It is written where a driver would have written it, had it placed the queue there.
    let mut queue = Queue::new(good, index, rig.device.doorbell(index), false);
    rig.device.place(&layout);
    rig.device.go();
    let head = queue.chain(&buffers[..count]);
    queue.offer(head);
    rig.must_break(&mut queue, what)
}

fn tables_where_no_memory_is() -> TestResult {
    on_each(|rig| {
        for place in nowhere(rig) {
            displaced(rig, "a table where no memory is", |layout| layout.descriptors = place)?;
        }
        Ok(())
    })
}

fn driver_rings_where_no_memory_is() -> TestResult {
    on_each(|rig| {
        for place in nowhere(rig) {
            displaced(rig, "a driver's ring where no memory is", |layout| layout.driver = place)?;
        }
        Ok(())
    })
}

fn device_rings_where_no_memory_is() -> TestResult {
    on_each(|rig| {
        for place in nowhere(rig) {
            displaced(rig, "a device's ring where no memory is", |layout| layout.device = place)?;
        }
        // The index is in RAM, the entries are not.
        displaced(rig, "a device's ring over the end of memory", |layout| {
            layout.device = last_page() + PAGE - 4;
        })
    })
}

/// What a device writes to its ring does not reach registers.
fn device_rings_over_registers() -> TestResult {
    on_each(|rig| {
        let registers =
            [apic::register::ID, apic::register::TPR, apic::register::LVT_TIMER, apic::register::SVR];
        let before = registers.map(apic::read);
        for register in registers {
            let place = apic::XAPIC_BASE + u64::from(register);
            displaced(rig, "a device's ring over the local APIC", |layout| layout.device = place)?;
        }
        check!(registers.map(apic::read) == before, "{} has written to the local APIC", rig.name());
        Ok(())
    })
}

fn indirect_tables_where_no_memory_is() -> TestResult {
    on_each(|rig| {
        for place in nowhere(rig).into_iter().chain([u64::MAX, u64::MAX - 15, last_page() + PAGE - 8]) {
            let mut queue = rig.serving()?;
            queue.describe(0, Buffer::readable(place, 32), descriptor::INDIRECT, 0);
            queue.offer(0);
            rig.must_break(&mut queue, "an indirect table where no memory is")?;
        }
        Ok(())
    })
}

/// Where a request has no status to say so in, and where it could not be written.
fn buffers_where_no_memory_is() -> TestResult {
    on_each(|rig| {
        for place in nowhere(rig).into_iter().chain([u64::MAX, u64::MAX - 20]) {
            let mut queue = rig.serving()?;
            let (mut buffers, count) = rig.request();
            buffers[0].address = place;
            let head = queue.chain(&buffers[..count]);
            queue.offer(head);
            rig.must_break(&mut queue, "a buffer where no memory is")?;
        }
        Ok(())
    })
}

/// No such request can be carried out; it is given back or breaks the device, and either way soon.
fn buffers_of_4_gib() -> TestResult {
    on_each(|rig| {
        let end = last_page() + PAGE - 64;
        memory::fill(end, 0, 64);
        for count in [1, 2, 3, 60] {
            let mut queue = rig.serving()?;
            let (request, used) = rig.request();
            let last = request[used - 1];
            let mut buffers = [Buffer { address: end, length: u32::MAX, flags: last.flags }; 60];
            buffers[0] = if used > 1 { request[0] } else { buffers[0] };
            let head = queue.chain(&buffers[..count.max(used.min(2))]);
            queue.offer(head);
            check!(rig.is_answered(&mut queue), "{}: {count} buffers of 4 GiB are not answered", rig.name());
        }
        memory::fill(end, 0, 64);
        Ok(())
    })
}

/// They are no error among others; a request of nothing else makes no sense but to a console.
fn buffers_of_no_bytes() -> TestResult {
    on_each(|rig| {
        let mut queue = rig.serving()?;
        let (request, used) = rig.request();
        let mut buffers = [Buffer::default(); 12];
        for (at, buffer) in request[..used].iter().enumerate() {
            // The one of no bytes is nowhere.
            buffers[2 * at] = Buffer { address: u64::MAX, length: 0, flags: buffer.flags };
            buffers[2 * at + 1] = *buffer;
        }
        let head = queue.chain(&buffers[..2 * used]);
        queue.offer(head);
        check!(queue.wait().is_some(), "{}: empty buffers among others are not served", rig.name());
        check!(!rig.is_broken(), "{}: empty buffers among others break it", rig.name());
        let head = queue.chain(&[Buffer { length: 0, ..request[0] }; 60]);
        queue.offer(head);
        if rig.device.kind == kind::CONSOLE {
            check!(queue.wait().is_some(), "{}: no bytes are not given back", rig.name());
            return Ok(());
        }
        rig.must_break(&mut queue, "a request of no bytes")
    })
}

fn buffers_over_the_end_of_memory() -> TestResult {
    on_each(|rig| {
        let end = last_page() + PAGE;
        let guard = memory::page();
        for inside in [1_u64, 8, 15, 16, 64] {
            memory::fill(end - 64, 0, 64);
            memory::fill(guard, 0x5a, PAGE);
            let mut queue = rig.serving()?;
            let (mut buffers, used) = rig.request();
            buffers[used - 1] = Buffer { address: end - inside, length: 4096, ..buffers[used - 1] };
            let head = queue.chain(&buffers[..used]);
            queue.offer(head);
            check!(rig.is_answered(&mut queue), "{}: a buffer over the end is not answered", rig.name());
        }
        memory::fill(end - 64, 0, 64);
        Ok(())
    })
}

/// The request says so in its status, and the device goes on.
fn block_data_where_no_memory_is() -> TestResult {
    on(kind::BLOCK, |rig| {
        let mut queue = rig.serving()?;
        let slot = rig.buffers;
        for place in nowhere(rig).into_iter().chain([u64::MAX - 511, last_page() + PAGE - 256]) {
            for (request, data) in [
                (block::request::IN, Buffer::writable(place, 512)),
                (block::request::OUT, Buffer::readable(place, 512)),
            ] {
                let status = block::carry_out(&mut queue, slot, request, 0, data);
                check_eq!(
                    status.unwrap_or(block::NO_STATUS),
                    block::IO_ERROR,
                    "status of request {request} with data at {place:#x}"
                );
            }
        }
        check!(!rig.is_broken(), "data where no memory is break the device");
        Ok(())
    })
}

/// What stands in a chain to be read is not written, whatever the request is.
fn block_writes_only_what_it_says() -> TestResult {
    on(kind::BLOCK, |rig| {
        let (slot, guarded, table) = (rig.buffers, rig.guarded(), rig.buffers + PAGE);
        for kind in [block::request::IN, block::request::GET_ID, block::request::FLUSH] {
            let mut queue = rig.serving()?;
            block::prepare(slot, kind, 0);
            let chain = [
                Buffer::readable(slot, block::HEADER),
                Buffer::readable(guarded, 4096),
                Buffer::writable(slot + u64::from(block::HEADER), 1),
            ];
            for (index, buffer) in chain.iter().enumerate() {
                let more = if index == 2 { 0 } else { descriptor::NEXT };
                describe(table, index as u16, *buffer, more, index as u16 + 1);
            }
            queue.describe(0, Buffer::readable(table, 48), descriptor::INDIRECT, 0);
            queue.offer(0);
            check!(queue.wait().is_some(), "a request of kind {kind} with data to be read is not answered");
        }
        Ok(())
    })
}
