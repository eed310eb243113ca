//! Registers, written and read as no driver does.

use selftest::cpu::{read8, read16, read32, read64, write8, write16, write32, write64};
use selftest::virtio::{Layout, Queue, feature, register, status};
use selftest::{Test, TestResult, check, check_eq, platform, tests};

use crate::rig::{Rig, on_each};

pub(crate) const TESTS: &[Test] = tests![
    queues_that_change_when_enabled,
    queues_of_impossible_sizes,
    queues_that_are_not_aligned,
    queues_that_there_are_not,
    features_that_are_not_offered,
    features_that_change_when_settled,
    ready_without_features,
    doorbells_of_nobody,
    doorbells_before_and_after,
    all_reads_of_all_widths,
    all_writes_of_all_widths,
    selectors_out_of_range,
];

/// Bytes of the BAR that are looked at, and where its doorbells are.
const BAR_BYTES: u64 = 0x8000;

/// What is enabled stays as it is, and works.
fn queues_that_change_when_enabled() -> TestResult {
    on_each(|rig| {
        let mut queue = rig.serving()?;
        let (device, index) = (rig.device, rig.served());
        device.select(index);
        write16(device.common + register::QUEUE_SIZE, 8);
        for (register, place) in [
            (register::QUEUE_DESCRIPTORS, rig.guarded()),
            (register::QUEUE_DRIVER, u64::MAX),
            (register::QUEUE_DEVICE, rig.guarded()),
        ] {
            device.set_address(register, place);
        }
        for value in [0, 2, 0xffff, 1] {
            write16(device.common + register::QUEUE_ENABLE, value);
        }
        check_eq!(device.select(index), 64, "{}: size of an enabled queue", rig.name());
        check_eq!(read16(device.common + register::QUEUE_ENABLE), 1, "{}: it is enabled", rig.name());
        check_eq!(
            read32(device.common + register::QUEUE_DESCRIPTORS),
            queue.layout.descriptors as u32,
            "{}: where the table is",
            rig.name()
        );
        let (buffers, count) = rig.request();
        check!(queue.request(&buffers[..count]).is_some(), "{}: it serves no more", rig.name());
        Ok(())
    })
}

fn enable(rig: &mut Rig, layout: &Layout) -> TestResult {
    rig.begin()?;
    rig.device.select(rig.served());
    rig.device.place(layout);
    rig.device.go();
    rig.device.doorbell(rig.served());
    write16(rig.device.doorbells, rig.served());
    Ok(())
}

fn queues_of_impossible_sizes() -> TestResult {
    on_each(|rig| {
        for size in [0, 3, 5, 100, 255, 257, 512, 1024, 0x7fff, 0x8000, 0xffff] {
            let layout = Layout { size, ..Layout::fresh(256) };
            enable(rig, &layout)?;
            check!(rig.is_broken(), "{}: a queue of {size} entries is taken", rig.name());
        }
        Ok(())
    })
}

fn queues_that_are_not_aligned() -> TestResult {
    on_each(|rig| {
        let good = Layout::fresh(64);
        for layout in [
            Layout { descriptors: good.descriptors + 8, ..good },
            Layout { driver: good.driver + 1, ..good },
            Layout { device: good.device + 2, ..good },
        ] {
            enable(rig, &layout)?;
            check!(rig.is_broken(), "{}: {layout:x?} is taken", rig.name());
        }
        Ok(())
    })
}

fn queues_that_there_are_not() -> TestResult {
    on_each(|rig| {
        rig.begin()?;
        for queue in [rig.device.queues(), 63, 64, 255, 0x8000, 0xffff] {
            check_eq!(rig.device.select(queue), 0, "{}: size of queue {queue}", rig.name());
            rig.device.place(&Layout::fresh(8));
            check_eq!(
                read16(rig.device.common + register::QUEUE_ENABLE),
                0,
                "{}: queue {queue} is enabled",
                rig.name()
            );
        }
        rig.device.go();
        check!(!rig.is_broken(), "{}: a queue that there is not breaks it", rig.name());
        Ok(())
    })
}

const BEGUN: u8 = status::ACKNOWLEDGE | status::DRIVER;

fn features_that_are_not_offered() -> TestResult {
    on_each(|rig| {
        let device = rig.device;
        let offered = device.features();
        let unknown = [1 << 27, 1 << 63, 1 << 33, 1 << 34, !offered, u64::MAX];
        for features in unknown.into_iter().chain([0, offered & !feature::VERSION_1]) {
            check!(device.reset(), "{} does not come out of its reset", rig.name());
            device.set_status(BEGUN);
            let sensible = if features & !offered == 0 { 0 } else { feature::VERSION_1 };
            device.set_features(features | sensible);
            device.set_status(BEGUN | status::FEATURES_OK);
            let refused = device.status() & status::FEATURES_OK == 0;
            check!(refused, "{} agrees to {features:#x} of {offered:#x}", rig.name());
        }
        Ok(())
    })
}

fn features_that_change_when_settled() -> TestResult {
    on_each(|rig| {
        let mut queue = rig.serving_with(0)?;
        rig.device.set_features(u64::MAX);
        let device = rig.device;
        for (select, wanted) in [(0, 0), (1, 1)] {
            write32(device.common + register::DRIVER_FEATURE_SELECT, select);
            check_eq!(read32(device.common + register::DRIVER_FEATURE), wanted, "{}: features", rig.name());
        }
        let (buffers, count) = rig.request();
        check!(queue.request(&buffers[..count]).is_some(), "{}: it serves no more", rig.name());
        Ok(())
    })
}

/// Without features that were agreed to nothing is served.
fn ready_without_features() -> TestResult {
    on_each(|rig| {
        let device = rig.device;
        for before in [0, BEGUN, status::DRIVER_OK, status::FAILED, status::NEEDS_RESET] {
            check!(device.reset(), "{} does not come out of its reset", rig.name());
            device.set_status(before);
            device.select(rig.served());
            let layout = Layout::fresh(64);
            device.place(&layout);
            device.set_status(before | status::DRIVER_OK);
            let doorbell = device.doorbell(rig.served());
            let mut queue = Queue::new(layout, rig.served(), doorbell, false);
            let (buffers, count) = rig.request();
            let head = queue.chain(&buffers[..count]);
            queue.offer(head);
            check!(!rig.is_broken(), "{}: it is broken", rig.name());
            check!(queue.poll().is_none(), "{}: it serves without features", rig.name());
        }
        Ok(())
    })
}

fn doorbells_of_nobody() -> TestResult {
    on_each(|rig| {
        let mut queue = rig.serving()?;
        for offset in 0..4096 - 8 {
            let at = rig.device.doorbells + offset;
            match offset % 4 {
                0 => write32(at, offset as u32),
                1 => write8(at, 0xff),
                2 => write16(at, 0xffff),
                _ => write64(at, u64::MAX),
            }
        }
        // Over its end, into the table of MSI-X, and back.
        write32(rig.device.doorbells + 4094, 0);
        write64(rig.device.doorbells + 4092, 0);
        check_eq!(read32(rig.device.doorbells), u32::MAX, "{}: a doorbell is read", rig.name());
        let (buffers, count) = rig.request();
        check!(queue.request(&buffers[..count]).is_some(), "{}: it serves no more", rig.name());
        Ok(())
    })
}

fn doorbells_before_and_after() -> TestResult {
    on_each(|rig| {
        let (device, index) = (rig.device, rig.served());
        check!(device.reset(), "{} does not come out of its reset", rig.name());
        let doorbell = device.doorbell(index);
        (0..100).for_each(|_| write16(doorbell, index));
        rig.begin()?;
        (0..100).for_each(|_| write16(doorbell, index));
        // Ready without a queue.
        device.go();
        (0..100).for_each(|_| write16(doorbell, index));
        check!(!rig.is_broken(), "{}: doorbells without a queue break it", rig.name());
        // A queue that comes later than it should.
        let mut queue = rig.queue(index, 64)?;
        let (buffers, count) = rig.request();
        let head = queue.chain(&buffers[..count]);
        queue.offer(head);
        let served = queue.wait().is_some();
        check!(served || !rig.is_broken(), "{}: a late queue breaks it", rig.name());
        check!(device.reset(), "{} does not come out of its reset", rig.name());
        (0..100).for_each(|_| write16(doorbell, index));
        check_eq!(device.status(), 0, "{}: status after a reset", rig.name());
        Ok(())
    })
}

/// Offsets near the beginning and the end of each page, and in the common configuration all.
fn offsets() -> impl Iterator<Item = u64> {
    (0..BAR_BYTES).filter(|at| at % 4096 < 0x48 || at % 4096 > 4096 - 12)
}

fn all_reads_of_all_widths() -> TestResult {
    on_each(|rig| {
        let mut queue = rig.serving()?;
        let bar = rig.device.bar;
        for at in offsets().filter(|at| *at < BAR_BYTES - 8) {
            read8(bar + at);
            read16(bar + at);
            read32(bar + at);
            read64(bar + at);
        }
        let (buffers, count) = rig.request();
        check!(queue.request(&buffers[..count]).is_some(), "{}: it serves no more", rig.name());
        Ok(())
    })
}

fn all_writes_of_all_widths() -> TestResult {
    on_each(|rig| {
        let device = rig.device;
        for at in offsets().filter(|at| *at < BAR_BYTES - 8) {
            // No messages: what the table says would reach the local APIC as an interrupt of any kind.
            let noise = platform::random() & if at >> 12 == 2 { 0 } else { u64::MAX };
            write8(device.bar + at, noise as u8);
            write16(device.bar + at, (noise >> 8) as u16);
            write32(device.bar + at, (noise >> 16) as u32);
            write64(device.bar + at, noise);
        }
        for vector in 0..device.vectors {
            device.set_entry(vector, 0, 0, true);
        }
        check!(device.reset(), "{} does not come out of its reset", rig.name());
        check_eq!(device.status(), 0, "{}: status after a reset", rig.name());
        check_eq!(read16(device.common + register::QUEUE_ENABLE), 0, "{}: a queue after a reset", rig.name());
        Ok(())
    })
}

fn selectors_out_of_range() -> TestResult {
    on_each(|rig| {
        let common = rig.device.common;
        for select in [2, 3, 31, 0x8000_0000, u32::MAX] {
            write32(common + register::DEVICE_FEATURE_SELECT, select);
            check_eq!(read32(common + register::DEVICE_FEATURE), 0, "{}: features {select:#x}", rig.name());
            write32(common + register::DRIVER_FEATURE_SELECT, select);
            write32(common + register::DRIVER_FEATURE, u32::MAX);
            check_eq!(read32(common + register::DRIVER_FEATURE), 0, "{}: features {select:#x}", rig.name());
        }
        Ok(())
    })
}
