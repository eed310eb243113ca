//! Each device as a driver uses it.

use selftest::cpu::{read8, read64, write8, write64};
use selftest::memory::{self, PAGE};
use selftest::virtio::{Buffer, Device, Queue, block, feature, kind};
use selftest::{Test, TestResult, Verdict, check, check_eq, need, platform, skip, tests, tsc, verdict};

use crate::balloon;

pub(crate) const TESTS: &[Test] = tests![
    devices_are_found,
    block_writes_and_reads,
    block_serves_many_at_once,
    block_serves_indirect_tables,
    block_flushes_and_tells_its_name,
    block_notices_by_index,
    entropy_fills_buffers,
    net_sends_to_nobody,
    console_shows_bytes,
];

const CONSOLE_TEXT: &[u8] = b"a line by the console device\n";
/// Bytes that a terminal ignores: what else is sent to the console gets in between what the serial port shows.
pub(crate) const SILENT_BYTES: u32 = 8;
/// How long it takes until a line is shown.
const SHOWN_US: u64 = 20_000;
/// Entries of an honest queue.
const ENTRIES: u16 = 64;

/// A device's name in messages.
pub(crate) fn name(device: &Device) -> &'static str {
    match device.kind {
        kind::NET => "net",
        kind::BLOCK => "block",
        kind::CONSOLE => "console",
        kind::ENTROPY => "entropy",
        kind::BALLOON => "balloon",
        _ => "another device",
    }
}

/// Whether attacks on all devices are for it. What they offer a balloon would name pages of the guest's own code.
pub(crate) fn is_known(device: &Device) -> bool {
    [kind::NET, kind::BLOCK, kind::CONSOLE, kind::ENTROPY].contains(&device.kind)
}

/// A device in use: its queue and its features.
fn take(kind: u16, queue: u16, wanted: u64) -> Result<(Device, Queue), Verdict> {
    let Some(device) = Device::find(kind) else { skip!("no device of type {kind}") };
    Ok((device, open(&device, queue, wanted)?))
}

fn open(device: &Device, queue: u16, wanted: u64) -> Result<Queue, Verdict> {
    let Some(features) = device.begin(wanted) else {
        return Err(verdict::fail(format_args!("{} refuses its own features", name(device))));
    };
    let Some(queue) = device.queue(queue, ENTRIES, features) else {
        return Err(verdict::fail(format_args!("{} has no queue {queue}", name(device))));
    };
    device.go();
    Ok(queue)
}

/// Resets a device and sees that it does what it is there for.
pub(crate) fn use_it(device: &Device) -> TestResult {
    match device.kind {
        kind::BLOCK => {
            let mut queue = open(device, 0, 0)?;
            let data = memory::page();
            let slot = memory::page();
            if is_read_only(device) {
                transfer(&mut queue, slot, block::request::IN, 0, data)
            } else {
                round_trip(&mut queue, slot, data, 8)
            }
        }
        kind::ENTROPY => fill_randomly(&mut open(device, 0, 0)?),
        kind::NET => send(&mut open(device, 1, 0)?),
        kind::BALLOON => balloon::round_trip(&mut open(device, 0, 0)?, memory::page()),
        _ => send_silently(&mut open(device, 1, 0)?),
    }
}

fn is_read_only(device: &Device) -> bool {
    const READ_ONLY: u64 = 1 << 5;
    device.features() & READ_ONLY != 0
}

fn transfer(queue: &mut Queue, slot: u64, request: u32, sector: u64, page: u64) -> TestResult {
    let data = match request {
        block::request::IN => Buffer::writable(page, PAGE as u32),
        _ => Buffer::readable(page, PAGE as u32),
    };
    match block::carry_out(queue, slot, request, sector, data) {
        Some(status) => {
            check_eq!(status, block::OK, "status of request {request} at sector {sector}");
            Ok(())
        }
        None => Err(verdict::fail(format_args!("request {request} at sector {sector} does not come back"))),
    }
}

/// Writes a page to the disk and reads it again.
fn round_trip(queue: &mut Queue, slot: u64, page: u64, sector: u64) -> TestResult {
    let seed = platform::random();
    let words = || (0..PAGE).step_by(8);
    words().for_each(|at| write64(page + at, seed ^ at));
    transfer(queue, slot, block::request::OUT, sector, page)?;
    memory::fill(page, 0, PAGE);
    transfer(queue, slot, block::request::IN, sector, page)?;
    for at in words() {
        check_eq!(read64(page + at), seed ^ at, "word {at} of sector {sector}");
    }
    Ok(())
}

fn fill_randomly(queue: &mut Queue) -> TestResult {
    const BYTES: u32 = 256;
    let page = memory::page();
    let Some(used) = queue.request(&[Buffer::writable(page, BYTES)]) else {
        return Err(verdict::fail(format_args!("no random bytes come")));
    };
    check_eq!(used.written, BYTES, "random bytes");
    check!((0..BYTES).step_by(8).any(|at| read64(page + u64::from(at)) != 0), "random bytes are all zero");
    check!(
        (BYTES..BYTES + 64).all(|at| read8(page + u64::from(at)) == 0),
        "more random bytes than were asked for"
    );
    Ok(())
}

/// A header of zeros, and a broadcast of 60 bytes.
pub(crate) fn make_frame(at: u64) {
    memory::fill(at, 0, 12 + 60);
    memory::fill(at + 12, 0xff, 6);
    write8(at + 12 + 6, 2);
    // A type that nobody uses.
    write8(at + 12 + 12, 0x88);
    write8(at + 12 + 13, 0xb5);
}

fn send(queue: &mut Queue) -> TestResult {
    let page = memory::page();
    make_frame(page);
    for buffers in
        [&[Buffer::readable(page, 72)][..], &[Buffer::readable(page, 12), Buffer::readable(page + 12, 60)]]
    {
        let Some(used) = queue.request(buffers) else {
            return Err(verdict::fail(format_args!("a frame does not go")));
        };
        check_eq!(used.written, 0, "bytes written to a frame that is sent");
    }
    Ok(())
}

/// Sends bytes that nobody sees.
fn send_silently(queue: &mut Queue) -> TestResult {
    show(queue, memory::page(), SILENT_BYTES)
}

fn show(queue: &mut Queue, text: u64, length: u32) -> TestResult {
    let Some(used) = queue.request(&[Buffer::readable(text, length)]) else {
        return Err(verdict::fail(format_args!("a text does not go")));
    };
    check_eq!(used.written, 0, "bytes written to a text that is shown");
    Ok(())
}

fn devices_are_found() -> TestResult {
    let mut found = 0;
    for device in Device::all() {
        found += 1;
        check!(device.bar != 0 && device.vectors != 0, "device {}: {device:?}", device.number);
        check!(device.reset(), "device {} does not come out of its reset", device.number);
        check!(device.features() & feature::VERSION_1 != 0, "device {} is an old one", device.number);
        check!(device.queues() != 0, "device {} has no queues", device.number);
        check_eq!(device.select(device.queues()), 0, "size of a queue that device {} has not", device.number);
    }
    need!(found != 0, "no virtio device");
    Ok(())
}

fn block_writes_and_reads() -> TestResult {
    let (device, mut queue) = take(kind::BLOCK, 0, 0)?;
    need!(!is_read_only(&device), "the disk is read-only");
    let (slot, page) = (memory::page(), memory::page());
    // The ring goes around more than once.
    for sector in (0..1024).step_by(8) {
        round_trip(&mut queue, slot, page, sector % 512)?;
    }
    check!(device.reset(), "no end of a reset");
    Ok(())
}

fn block_serves_many_at_once() -> TestResult {
    const DEPTH: u64 = 20;
    let (device, mut queue) = take(kind::BLOCK, 0, feature::EVENT_IDX)?;
    need!(!is_read_only(&device), "the disk is read-only");
    let (slots, pages) = (memory::page(), memory::pages(DEPTH));
    for request in [block::request::OUT, block::request::IN] {
        for number in 0..DEPTH {
            let (slot, page) = (slots + block::SLOT * number, pages + PAGE * number);
            if request == block::request::OUT {
                memory::fill(page, number as u8 + 1, PAGE);
            } else {
                memory::fill(page, 0, PAGE);
            }
            block::prepare(slot, request, 8 * number);
            let length = PAGE as u32;
            let data = if request == block::request::IN {
                Buffer::writable(page, length)
            } else {
                Buffer::readable(page, length)
            };
            let head = queue.chain(&block::buffers(slot, data));
            queue.put(head);
        }
        queue.publish();
        queue.kick();
        for number in 0..DEPTH {
            check!(queue.wait().is_some(), "request {number} of {DEPTH} does not come back");
        }
        check!(queue.poll().is_none(), "more requests come back than were made");
        for number in 0..DEPTH {
            check_eq!(block::status(slots + block::SLOT * number), block::OK, "status of request {number}");
            let page = pages + PAGE * number;
            check!(
                (0..PAGE).all(|at| read8(page + at) == number as u8 + 1),
                "data of request {number} of kind {request}"
            );
        }
    }
    check!(device.reset(), "no end of a reset");
    Ok(())
}

fn block_serves_indirect_tables() -> TestResult {
    let (device, mut queue) = take(kind::BLOCK, 0, feature::INDIRECT_DESC)?;
    let (slot, page, table) = (memory::page(), memory::pages(2), memory::page());
    memory::fill(page, 0x55, 2 * PAGE);
    block::prepare(slot, block::request::IN, 0);
    let head = queue.indirect(table, &block::buffers(slot, Buffer::writable(page, PAGE as u32)));
    queue.offer(head);
    check!(
        queue.wait().is_some_and(|used| used.written == PAGE as u32 + 1),
        "the request does not come back whole"
    );
    check_eq!(block::status(slot), block::OK, "status");
    check!((0..PAGE).all(|at| read8(page + PAGE + at) == 0x55), "it writes behind its buffer");
    check!(device.reset(), "no end of a reset");
    Ok(())
}

fn block_flushes_and_tells_its_name() -> TestResult {
    const NAME_BYTES: u32 = 20;
    let (device, mut queue) = take(kind::BLOCK, 0, 0)?;
    let (slot, page) = (memory::page(), memory::page());
    let nothing = Buffer::default();
    check_eq!(
        block::carry_out(&mut queue, slot, block::request::FLUSH, 0, nothing).unwrap_or(block::NO_STATUS),
        block::OK,
        "status of a flush"
    );
    let name = Buffer::writable(page, NAME_BYTES);
    check_eq!(
        block::carry_out(&mut queue, slot, block::request::GET_ID, 0, name).unwrap_or(block::NO_STATUS),
        block::OK,
        "status of the name"
    );
    check!(device.reset(), "no end of a reset");
    Ok(())
}

/// With an index of events the device asks for a doorbell at a certain request only.
fn block_notices_by_index() -> TestResult {
    let (device, mut queue) = take(kind::BLOCK, 0, feature::EVENT_IDX)?;
    let (slot, page) = (memory::page(), memory::page());
    for round in 0..200_u64 {
        transfer(&mut queue, slot, block::request::IN, round % 64, page)?;
    }
    check!(device.reset(), "no end of a reset");
    Ok(())
}

fn entropy_fills_buffers() -> TestResult {
    let (device, mut queue) = take(kind::ENTROPY, 0, 0)?;
    for _ in 0..8 {
        fill_randomly(&mut queue)?;
    }
    check!(device.reset(), "no end of a reset");
    Ok(())
}

fn net_sends_to_nobody() -> TestResult {
    let (device, mut queue) = take(kind::NET, 1, 0)?;
    for _ in 0..8 {
        send(&mut queue)?;
    }
    check!(device.reset(), "no end of a reset");
    Ok(())
}

fn console_shows_bytes() -> TestResult {
    let (device, mut queue) = take(kind::CONSOLE, 1, 0)?;
    let page = memory::page();
    memory::store(page, CONSOLE_TEXT);
    // What the serial port has sent is shown before, and what it sends next afterwards.
    tsc::delay_us(SHOWN_US);
    show(&mut queue, page, CONSOLE_TEXT.len() as u32)?;
    tsc::delay_us(SHOWN_US);
    check!(device.reset(), "no end of a reset");
    Ok(())
}
