//! Requests to network, console and entropy devices that make no sense.

use selftest::cpu::{read8, write8, write16, write32};
use selftest::memory::{self, PAGE};
use selftest::virtio::{Buffer, feature, kind};
use selftest::{Test, TestResult, check, check_eq, need, platform, tests};

use crate::honest;
use crate::rig::{Rig, on};

pub(crate) const TESTS: &[Test] = tests![
    net_headers_that_make_no_sense,
    net_frames_of_all_lengths,
    net_commands_that_make_no_sense,
    net_receive_buffers_that_make_no_sense,
    console_messages_that_make_no_sense,
    console_input_buffers_that_make_no_sense,
    entropy_takes_what_it_can,
];

/// Features of a network device (VIRTIO 1.2, "Network Device", "Feature bits").
const NET_ALL: u64 = 0x00ff_ffff | 7 << 54;
const CTRL_VQ: u64 = 1 << 17;
const MQ: u64 = 1 << 22;
/// Feature of a console: several ports.
const MULTIPORT: u64 = 1 << 1;

/// The frame is dropped, and given back.
fn net_headers_that_make_no_sense() -> TestResult {
    on(kind::NET, |rig| {
        let at = rig.buffers;
        for features in [0, NET_ALL] {
            let mut queue = rig.serving_with(features)?;
            for round in 0..300_u64 {
                honest::make_frame(at);
                for byte in 0..12 {
                    let noise = platform::random() as u8;
                    // Some fields are right at times.
                    let value = if round % 3 == 0 { noise } else { noise & 5 };
                    write8(at + byte, value);
                }
                let used = queue.request(&[Buffer::readable(at, 72)]);
                check!(used.is_some_and(|used| used.written == 0), "frame {round} is {used:?}");
            }
            check!(!rig.is_broken(), "headers break it");
        }
        Ok(())
    })
}

fn net_frames_of_all_lengths() -> TestResult {
    on(kind::NET, |rig| {
        let at = rig.buffers;
        honest::make_frame(at);
        let mut queue = rig.serving()?;
        for length in [12, 13, 25, 26, 1526, 1527, 65_535, 65_536, 65_569, 65_570, 131_072] {
            // Addresses come again: what is sent is nobody's concern.
            let mut buffers = [Buffer::default(); 33];
            let (mut left, mut count) = (length, 0);
            while left > 0 {
                let part = left.min(PAGE as u32);
                buffers[count] = Buffer::readable(at, part);
                (left, count) = (left - part, count + 1);
            }
            check!(queue.request(&buffers[..count]).is_some(), "a frame of {length} bytes is not given back");
        }
        for length in [0, 1, 11] {
            let mut queue = rig.serving()?;
            let head = queue.chain(&[Buffer::readable(at, length)]);
            queue.offer(head);
            rig.must_break(&mut queue, "a frame without a header")?;
        }
        Ok(())
    })
}

fn command(rig: &mut Rig, bytes: &[u8], length: u32, wanted: Option<u8>) -> TestResult {
    const ERROR: u8 = 1;
    let (at, end) = (rig.buffers, rig.buffers + PAGE);
    rig.begin_with(CTRL_VQ | 7 << 18 | 1 << 23)?;
    need!(rig.features & CTRL_VQ != 0, "no queue for commands");
    check!(rig.features & MQ == 0, "several pairs unasked for");
    let mut queue = rig.queue(2, 64)?;
    rig.device.go();
    memory::fill(at, 0xff, 256);
    memory::store(at, bytes);
    write8(end, 0xaa);
    let head = queue.chain(&[Buffer::readable(at, length), Buffer::writable(end, 1)]);
    queue.offer(head);
    match wanted {
        Some(wanted) => {
            check!(queue.wait().is_some(), "command {bytes:?} is not answered");
            check_eq!(read8(end), wanted, "answer to command {bytes:?}");
            check!(wanted <= ERROR, "an answer");
            Ok(())
        }
        None => rig.must_break(&mut queue, "a command that is none"),
    }
}

fn net_commands_that_make_no_sense() -> TestResult {
    on(kind::NET, |rig| {
        const ERROR: Option<u8> = Some(1);
        for (bytes, length) in [
            (&[0xff, 0xff][..], 2),
            (&[0, 0], 2),
            (&[0, 200, 1], 3),
            (&[1, 0], 2),
            // Tables of 4,294,967,295 and of 17 addresses that are not there.
            (&[1, 0, 0xff, 0xff, 0xff, 0xff], 6),
            (&[1, 0, 0xff, 0xff, 0xff, 0xff], 200),
            (&[1, 0, 17, 0, 0, 0], 20),
            (&[1, 1, 2], 3),
            (&[2, 0], 2),
            (&[2, 7, 1, 0], 4),
            (&[4, 0, 0, 0], 4),
            (&[4, 0, 0xff, 0xff], 4),
        ] {
            command(rig, bytes, length, ERROR)?;
        }
        command(rig, &[], 0, None)?;
        command(rig, &[0], 1, None)
    })
}

/// Nothing comes, so nothing is looked at; and a doorbell is no reason to.
fn net_receive_buffers_that_make_no_sense() -> TestResult {
    on(kind::NET, |rig| {
        rig.begin()?;
        let mut receive = rig.queue(0, 64)?;
        rig.device.go();
        for address in [u64::MAX, 0xfee0_0000, rig.guarded()] {
            let head = receive.chain(&[Buffer::readable(address, u32::MAX)]);
            receive.offer(head);
        }
        receive.set_index(0x7fff);
        (0..100).for_each(|_| receive.ring());
        check!(receive.poll().is_none(), "a frame from nobody");
        Ok(())
    })
}

fn console_messages_that_make_no_sense() -> TestResult {
    on(kind::CONSOLE, |rig| {
        let at = rig.buffers;
        rig.begin_with(MULTIPORT)?;
        need!(rig.features & MULTIPORT != 0, "one port only");
        // Its messages for the driver have no buffers, or bad ones.
        let mut hear = rig.queue(3, 64)?;
        rig.device.go();
        for (port, event, value) in [
            (0_u32, 0_u16, 1_u16),
            (0, 3, 1),
            (0, 3, 0),
            (0, 6, 1),
            (0, 6, 0),
            (u32::MAX, 3, 1),
            (77, 6, 1),
            (0, 0xffff, 0xffff),
            (1, 1, 1),
            (0, 4, 1),
        ] {
            for _ in 0..4 {
                write32(at, port);
                write16(at + 4, event);
                write16(at + 6, value);
                check!(hear.request(&[Buffer::readable(at, 8)]).is_some(), "message {event} is not heard");
            }
        }
        check!(!rig.is_broken(), "messages break it");
        let head = hear.chain(&[Buffer::readable(at, 7)]);
        hear.offer(head);
        rig.must_break(&mut hear, "a message that is too short")?;
        // One for the driver, and a buffer that is too small for it.
        rig.begin_with(MULTIPORT)?;
        let (mut tell, mut hear) = (rig.queue(2, 64)?, rig.queue(3, 64)?);
        rig.device.go();
        let head = tell.chain(&[Buffer::writable(rig.buffers + PAGE, 3)]);
        tell.offer(head);
        memory::fill(at, 0, 8);
        write16(at + 6, 1);
        let head = hear.chain(&[Buffer::readable(at, 8)]);
        hear.offer(head);
        rig.must_break(&mut tell, "a buffer that is too small for a message")
    })
}

fn console_input_buffers_that_make_no_sense() -> TestResult {
    on(kind::CONSOLE, |rig| {
        rig.begin()?;
        let mut input = rig.queue(0, 64)?;
        rig.device.go();
        for address in [u64::MAX, 0xfee0_0000, rig.guarded()] {
            let head = input.chain(&[Buffer::readable(address, u32::MAX)]);
            input.offer(head);
        }
        (0..100).for_each(|_| input.ring());
        check!(input.poll().is_none(), "input from nobody");
        // The configuration has one byte that can be written.
        for offset in 0..64 {
            write8(rig.device.configuration + offset, 0);
            write32(rig.device.configuration + (offset & !3), 0);
        }
        Ok(())
    })
}

/// Bytes are written in the order of the buffers, and no more than it says.
fn entropy_takes_what_it_can() -> TestResult {
    on(kind::ENTROPY, |rig| {
        let mut queue = rig.serving_with(feature::INDIRECT_DESC)?;
        let at = rig.buffers;
        let used =
            queue.request(&[Buffer::writable(at, 3 * PAGE as u32), Buffer::writable(rig.guarded(), 0)]);
        let Some(used) = used else {
            return Err(selftest::verdict::fail(format_args!("a large buffer is not filled")));
        };
        check!(used.written > 0 && u64::from(used.written) <= 3 * PAGE, "{} bytes", used.written);
        let rest = at + u64::from(used.written)..at + 3 * PAGE;
        check!(rest.clone().all(|at| read8(at) == 0), "bytes behind the last that it tells of");
        // Beside bytes to be read, which it has no use for.
        let used = queue.request(&[Buffer::readable(rig.guarded(), 64), Buffer::writable(at, 16)]);
        check!(used.is_some_and(|used| used.written == 16), "with something to be read: {used:?}");
        for length in [0, 64] {
            let mut queue = rig.serving()?;
            let head = queue.chain(&[Buffer::readable(rig.guarded(), length)]);
            queue.offer(head);
            rig.must_break(&mut queue, "nothing to be written")?;
        }
        Ok(())
    })
}
