//! Interrupts by MSI-X, and what can be done to their table.

use selftest::cpu::{read32, read64, write8, write16, write32, write64};
use selftest::interrupt::{self, Acknowledge};
use selftest::virtio::{NO_VECTOR, Queue, entry, feature};
use selftest::{Test, TestResult, Verdict, apic, check, check_eq, need, platform, tests, tsc};

use crate::rig::{Rig, on_each};

pub(crate) const TESTS: &[Test] = tests![
    messages_arrive,
    vectors_out_of_range,
    messages_to_nowhere,
    messages_of_odd_kinds,
    masked_messages_wait,
    masks_in_a_storm,
    tables_written_in_odd_ways,
    broken_devices_tell,
];

const INTERRUPT: u8 = 0x55;
/// The vector of the table that queues have, and that of the configuration.
const QUEUE_VECTOR: u16 = 1;
const CONFIGURATION_VECTOR: u16 = 0;

/// A queue whose interrupts come to this processor.
fn interrupting(rig: &mut Rig) -> Result<Queue, Verdict> {
    interrupt::expect(INTERRUPT, Acknowledge::LocalApic);
    rig.begin_with(feature::INDIRECT_DESC)?;
    let (device, index) = (rig.device, rig.served());
    need!(device.vectors > QUEUE_VECTOR, "no MSI-X");
    device.set_msix(true, false);
    device.route(QUEUE_VECTOR, apic::id(), INTERRUPT);
    let given = device.set_queue_vector(index, QUEUE_VECTOR);
    check_eq!(given, QUEUE_VECTOR, "{}: vector of a queue", rig.name());
    let queue = rig.queue(index, 64)?;
    device.go();
    Ok(queue)
}

/// A request, and how many interrupts came of it.
fn interrupts_of(rig: &Rig, queue: &mut Queue) -> Result<u32, Verdict> {
    let before = interrupt::count(INTERRUPT);
    let (buffers, count) = rig.request();
    check!(queue.request(&buffers[..count]).is_some(), "{}: a request does not come back", rig.name());
    Ok(taken_since(before))
}

fn taken_since(before: u32) -> u32 {
    interrupt::enabled(|| tsc::wait_us(100, || interrupt::count(INTERRUPT) != before));
    interrupt::count(INTERRUPT) - before
}

/// No more interrupts, whatever the table says.
fn silence(rig: &Rig) {
    rig.device.reset();
    for vector in 0..rig.device.vectors {
        rig.device.set_entry(vector, 0, 0, true);
    }
    rig.device.set_msix(false, false);
}

/// Attacks each device, and switches MSI-X off again.
fn with_messages(rig: &mut Rig, attack: impl FnOnce(&mut Rig, &mut Queue) -> TestResult) -> TestResult {
    let mut queue = interrupting(rig)?;
    let outcome = attack(rig, &mut queue);
    silence(rig);
    outcome
}

fn messages_arrive() -> TestResult {
    on_each(|rig| {
        with_messages(rig, |rig, queue| {
            // At once, and not with the next exit.
            for _ in 0..50 {
                check_eq!(interrupts_of(rig, queue)?, 1, "{}: interrupts of a request", rig.name());
            }
            queue.want_interrupts(false);
            check_eq!(interrupts_of(rig, queue)?, 0, "{}: interrupts that are not wanted", rig.name());
            Ok(())
        })
    })
}

fn vectors_out_of_range() -> TestResult {
    on_each(|rig| {
        with_messages(rig, |rig, queue| {
            let device = rig.device;
            for vector in [device.vectors, device.vectors + 1, 64, 2048, 0x7fff, 0xfffe, NO_VECTOR] {
                check_eq!(
                    device.set_queue_vector(queue.index, vector),
                    NO_VECTOR,
                    "{}: vector {vector:#x} of a queue",
                    rig.name()
                );
                check_eq!(
                    device.set_configuration_vector(vector),
                    NO_VECTOR,
                    "{}: vector {vector:#x} of the configuration",
                    rig.name()
                );
                check_eq!(interrupts_of(rig, queue)?, 0, "{}: interrupts without a vector", rig.name());
            }
            // Of a queue that there is not.
            check_eq!(device.set_queue_vector(0xfff, 0), NO_VECTOR, "{}: vector of no queue", rig.name());
            Ok(())
        })
    })
}

/// Messages are no way to write to memory or to registers.
fn messages_to_nowhere() -> TestResult {
    on_each(|rig| {
        with_messages(rig, |rig, queue| {
            let timer = apic::read(apic::register::LVT_TIMER);
            for address in [
                0,
                rig.guarded(),
                0xfed0_0000,
                0xfef0_0000,
                0xfec0_0010,
                0xc000_0004,
                rig.device.bar,
                apic::XAPIC_BASE | 1 << 32,
                u64::MAX,
                rig.device.doorbells,
            ] {
                rig.device.set_entry(QUEUE_VECTOR, address, 0xffff_0055, false);
                check_eq!(interrupts_of(rig, queue)?, 0, "{}: interrupts by {address:#x}", rig.name());
            }
            check_eq!(apic::read(apic::register::LVT_TIMER), timer, "{}: the local APIC's timer", rig.name());
            // To a processor that there is not, and to a cluster without anybody.
            for address in [apic::XAPIC_BASE | 0x7f << 12, apic::XAPIC_BASE | 0x80 << 12 | 0xc] {
                rig.device.set_entry(QUEUE_VECTOR, address, INTERRUPT.into(), false);
                check_eq!(interrupts_of(rig, queue)?, 0, "{}: interrupts to nobody", rig.name());
            }
            // Offsets in the local APIC's page are no registers to a message.
            let eoi = u64::from(apic::id()) << 12 | apic::XAPIC_BASE | 0xb0;
            rig.device.set_entry(QUEUE_VECTOR, eoi, INTERRUPT.into(), false);
            let came = interrupts_of(rig, queue)?;
            check!(came <= 1, "{}: {came} interrupts by an offset", rig.name());
            Ok(())
        })
    })
}

/// A reserved delivery mode, and vectors that no interrupt has.
fn messages_of_odd_kinds() -> TestResult {
    on_each(|rig| {
        with_messages(rig, |rig, queue| {
            let to_me = apic::XAPIC_BASE | u64::from(apic::id()) << 12;
            for data in [0x355, 0x255, 0, 1, 15, 0xffff_0000] {
                rig.device.set_entry(QUEUE_VECTOR, to_me, data, false);
                check_eq!(interrupts_of(rig, queue)?, 0, "{}: interrupts by data {data:#x}", rig.name());
            }
            apic::write(apic::register::ESR, 0);
            apic::write(apic::register::ESR, 0);
            Ok(())
        })
    })
}

fn masked_messages_wait() -> TestResult {
    on_each(|rig| {
        with_messages(rig, |rig, queue| {
            let device = rig.device;
            device.mask(QUEUE_VECTOR, true);
            for _ in 0..3 {
                check_eq!(interrupts_of(rig, queue)?, 0, "{}: interrupts of a masked vector", rig.name());
            }
            check!(device.is_pending(QUEUE_VECTOR), "{}: it does not wait", rig.name());
            // What waits cannot be written.
            write32(device.pending, 0);
            write64(device.pending, u64::MAX);
            check!(device.is_pending(QUEUE_VECTOR), "{}: it waits no more", rig.name());
            let before = interrupt::count(INTERRUPT);
            device.mask(QUEUE_VECTOR, false);
            check_eq!(taken_since(before), 1, "{}: interrupts that waited", rig.name());
            check!(!device.is_pending(QUEUE_VECTOR), "{}: it waits still", rig.name());
            device.set_msix(true, true);
            check_eq!(interrupts_of(rig, queue)?, 0, "{}: interrupts with all masked", rig.name());
            let before = interrupt::count(INTERRUPT);
            device.set_msix(true, false);
            check_eq!(taken_since(before), 1, "{}: interrupts with all unmasked", rig.name());
            Ok(())
        })
    })
}

fn masks_in_a_storm() -> TestResult {
    on_each(|rig| {
        with_messages(rig, |rig, queue| {
            let device = rig.device;
            let before = interrupt::count(INTERRUPT);
            let (buffers, count) = rig.request();
            let mut requests = 0;
            interrupt::enabled(|| {
                for round in 0..400_u32 {
                    if queue.offered.wrapping_sub(queue.collected) < 16 {
                        let head = queue.chain(&buffers[..count]);
                        queue.offer(head);
                        requests += 1;
                    }
                    device.mask(QUEUE_VECTOR, round % 2 == 0);
                    if round % 16 == 0 {
                        device.set_msix(round % 32 == 0, round % 64 == 0);
                    }
                    while queue.poll().is_some() {}
                }
                device.set_msix(true, false);
                device.mask(QUEUE_VECTOR, false);
            });
            while queue.collected != queue.offered {
                check!(queue.wait().is_some(), "{}: a request is lost", rig.name());
            }
            interrupt::enabled(|| tsc::delay_us(50));
            let came = taken_since(before);
            check!(came <= requests, "{}: {came} interrupts of {requests} requests", rig.name());
            check_eq!(interrupts_of(rig, queue)?, 1, "{}: interrupts after the storm", rig.name());
            Ok(())
        })
    })
}

fn tables_written_in_odd_ways() -> TestResult {
    on_each(|rig| {
        with_messages(rig, |rig, queue| {
            let device = rig.device;
            let end = device.table + u64::from(device.vectors) * entry::BYTES;
            let entry_at = device.entry(QUEUE_VECTOR, 0);
            let before = [read64(entry_at), read64(entry_at + 8)];
            // Bytes, words and what is not aligned change nothing.
            for at in 0..entry::BYTES {
                write8(entry_at + at, 0xff);
                if at % 4 != 0 && at < 12 {
                    write32(entry_at + at, u32::MAX);
                }
                if at < 14 {
                    write16(entry_at + at, 0xffff);
                }
            }
            check!(
                before == [read64(entry_at), read64(entry_at + 8)],
                "{}: an entry was changed",
                rig.name()
            );
            // Nor is there anything behind the table.
            for at in (end..device.table + 4096).step_by(4) {
                write32(at, platform::random() as u32);
                check_eq!(read32(at), u32::MAX, "{}: behind the table", rig.name());
            }
            // An address' lowest bits, and reserved bits of the control.
            write32(device.entry(QUEUE_VECTOR, entry::CONTROL), 0xffff_fffe);
            check_eq!(interrupts_of(rig, queue)?, 1, "{}: interrupts", rig.name());
            Ok(())
        })
    })
}

/// A device that is broken says so by an interrupt for changes of its configuration.
fn broken_devices_tell() -> TestResult {
    on_each(|rig| {
        with_messages(rig, |rig, queue| {
            let device = rig.device;
            device.route(CONFIGURATION_VECTOR, apic::id(), INTERRUPT);
            let given = device.set_configuration_vector(CONFIGURATION_VECTOR);
            check_eq!(given, CONFIGURATION_VECTOR, "{}: vector of the configuration", rig.name());
            let before = interrupt::count(INTERRUPT);
            queue.offer(0xffff);
            rig.must_break(queue, "a head that there is not")?;
            check_eq!(taken_since(before), 1, "{}: interrupts of a broken device", rig.name());
            let before = interrupt::count(INTERRUPT);
            (0..100).for_each(|_| queue.ring());
            check_eq!(taken_since(before), 0, "{}: more interrupts of a broken device", rig.name());
            Ok(())
        })
    })
}
