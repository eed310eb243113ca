//! The PCI function moved, switched off and on, and reached through the window in its configuration space.

use selftest::cpu::{inb, inl, outl, read8, read16, read32, write8, write32};
use selftest::memory::{self, PAGE};
use selftest::virtio::{Buffer, Device, block, feature, kind, register, status};
use selftest::{Test, TestResult, apic, check, check_eq, ioapic, need, pci, tests};

use crate::rig::{Guard, Rig, on, on_each};

pub(crate) const TESTS: &[Test] = tests![
    bar_moved_under_way,
    bar_over_memory,
    bar_over_the_local_apic,
    bar_over_the_io_apic,
    bar_over_the_configuration_window,
    bar_at_the_end_of_addresses,
    bars_of_two_devices,
    decoding_switched_off_under_way,
    mastering_switched_off_under_way,
    commands_in_a_storm,
    block_large_requests_without_mastering,
    configuration_written_all_over,
    window_on_odd_places,
    window_works_as_the_bar,
];

/// Room for a BAR where nothing is.
const ELSEWHERE: u32 = 0xd000_0000;

/// The device with its registers somewhere else.
fn moved(device: Device, to: u32) -> Device {
    device.move_bar(to);
    let there = |address: u64| address - device.bar + u64::from(to);
    Device {
        bar: to.into(),
        common: there(device.common),
        isr: there(device.isr),
        configuration: there(device.configuration),
        doorbells: there(device.doorbells),
        table: there(device.table),
        pending: there(device.pending),
        ..device
    }
}

/// Has the registers somewhere for a while.
fn while_moved(rig: &mut Rig, to: u32, attack: impl FnOnce(&mut Rig) -> TestResult) -> TestResult {
    let home = rig.device;
    rig.device = moved(home, to);
    let outcome = attack(rig);
    home.move_bar(home.bar as u32);
    rig.device = home;
    outcome
}

fn serves(rig: &mut Rig) -> TestResult {
    let mut queue = rig.serving()?;
    let (buffers, count) = rig.request();
    check!(queue.request(&buffers[..count]).is_some(), "{}: it does not serve there", rig.name());
    Ok(())
}

fn bar_moved_under_way() -> TestResult {
    on_each(|rig| {
        let home = rig.device;
        let mut queue = rig.serving()?;
        let (buffers, count) = rig.request();
        for round in 0..20_u32 {
            let head = queue.chain(&buffers[..count]);
            queue.offer(head);
            let to = ELSEWHERE + (round % 4) * 0x8000;
            let there = moved(home, to);
            // The old place is nobody's.
            check_eq!(read32(home.common), u32::MAX, "{}: registers where they were", rig.name());
            check!(there.status() & status::DRIVER_OK != 0, "{}: no registers where they are", rig.name());
            check!(queue.wait().is_some(), "{}: a request is lost", rig.name());
            queue.doorbell = there.doorbells + (queue.doorbell & 0xfff);
        }
        home.move_bar(home.bar as u32);
        Ok(())
    })
}

/// Memory goes first, so that the device cannot be reached, and memory is as it was.
fn bar_over_memory() -> TestResult {
    on_each(|rig| {
        let pages = memory::pages_aligned(8, 0x8000);
        let guard = Guard::over(pages, 8);
        while_moved(rig, pages as u32, |rig| {
            guard.check()?;
            for page in 0..8 {
                write32(pages + PAGE * page, read32(pages + PAGE * page));
            }
            check!(rig.device.status() == read8(pages + register::STATUS), "memory is not memory");
            guard.check()
        })?;
        guard.check()
    })
}

fn bar_over_the_local_apic() -> TestResult {
    on_each(|rig| {
        let version = apic::read(apic::register::VERSION);
        while_moved(rig, apic::XAPIC_BASE as u32, |rig| {
            check_eq!(apic::read(apic::register::VERSION), version, "the local APIC's version");
            apic::write(apic::register::TPR, 0x20);
            check_eq!(apic::read(apic::register::TPR), 0x20, "the local APIC's TPR");
            apic::write(apic::register::TPR, 0);
            // The page behind it is the device's.
            read32(rig.device.isr);
            Ok(())
        })?;
        check_eq!(apic::read(apic::register::VERSION), version, "the local APIC's version");
        Ok(())
    })
}

fn bar_over_the_io_apic() -> TestResult {
    on_each(|rig| {
        let version = ioapic::read(ioapic::VERSION);
        while_moved(rig, 0xfec0_0000, |rig| {
            // One of the two answers.
            ioapic::read(ioapic::VERSION);
            rig.device.reset();
            Ok(())
        })?;
        check_eq!(ioapic::read(ioapic::VERSION), version, "the I/O APIC's version");
        Ok(())
    })
}

fn bar_over_the_configuration_window() -> TestResult {
    on_each(|rig| {
        const WINDOW: u64 = 0xc000_0000;
        let bridge = read32(WINDOW);
        while_moved(rig, WINDOW as u32, |rig| {
            rig.device.reset();
            // By ports everything is as it was.
            check_eq!(pci::read(0, 0, 0, 0), bridge, "the host bridge");
            Ok(())
        })?;
        check_eq!(read32(WINDOW), bridge, "the host bridge in memory");
        Ok(())
    })
}

fn bar_at_the_end_of_addresses() -> TestResult {
    on_each(|rig| {
        while_moved(rig, 0xffff_8000, |rig| {
            serves(rig)?;
            read8(rig.device.bar + 0x7fff);
            rig.device.reset();
            Ok(())
        })
    })
}

/// Whoever answers, it is one of them, and afterwards each is where it was.
fn bars_of_two_devices() -> TestResult {
    on_each(|rig| {
        let Some(other) = Device::all().find(|other| other.number != rig.device.number) else {
            return Ok(());
        };
        let to = other.bar as u32;
        while_moved(rig, to, |rig| {
            rig.device.reset();
            let queues = rig.device.queues();
            check!(queues != 0 && queues != 0xffff, "nobody answers");
            Ok(())
        })?;
        check!(other.reset(), "the other device does not come out of its reset");
        Ok(())
    })
}

fn decoding_switched_off_under_way() -> TestResult {
    on_each(|rig| {
        let device = rig.device;
        let mut queue = rig.serving()?;
        let (buffers, count) = rig.request();
        for _ in 0..20 {
            let head = queue.chain(&buffers[..count]);
            queue.offer(head);
            device.enable(false, true);
            check_eq!(device.status(), 0xff, "{}: status of a device that does not answer", rig.name());
            queue.ring();
            device.enable(true, true);
            check!(device.status() & status::DRIVER_OK != 0, "{}: the status is lost", rig.name());
            check!(queue.wait().is_some(), "{}: a request is lost", rig.name());
        }
        Ok(())
    })
}

/// What is offered meanwhile is served afterwards, and not before.
fn mastering_switched_off_under_way() -> TestResult {
    on_each(|rig| {
        let device = rig.device;
        let mut queue = rig.serving()?;
        let (buffers, count) = rig.request();
        for _ in 0..5 {
            device.enable(true, false);
            let head = queue.chain(&buffers[..count]);
            queue.offer(head);
            selftest::tsc::delay_us(200);
            check!(queue.poll().is_none(), "{}: it reaches memory by itself", rig.name());
            device.enable(true, true);
            check!(queue.wait().is_some(), "{}: a request is lost", rig.name());
        }
        // Broken requests break nothing as long as they are not looked at.
        device.enable(true, false);
        queue.offer(0xffff);
        check!(!rig.is_broken(), "{}: it reads memory by itself", rig.name());
        check!(device.reset(), "{} does not come out of its reset", rig.name());
        device.enable(true, true);
        check!(!rig.is_broken(), "{}: it remembers what was before its reset", rig.name());
        Ok(())
    })
}

fn commands_in_a_storm() -> TestResult {
    on_each(|rig| {
        let device = rig.device;
        let mut queue = rig.serving()?;
        let (buffers, count) = rig.request();
        for round in 0..300_u32 {
            if round % 8 == 0 {
                while queue.poll().is_some() {}
                if queue.offered.wrapping_sub(queue.collected) < 16 {
                    let head = queue.chain(&buffers[..count]);
                    queue.offer(head);
                }
            }
            device.set_command((round * 7) & 0xffff);
            queue.ring();
        }
        device.enable(true, true);
        queue.ring();
        while queue.collected != queue.offered {
            check!(queue.wait().is_some(), "{}: a request is lost", rig.name());
        }
        Ok(())
    })
}

/// A large request stops between two of its steps, and nothing is written meanwhile.
fn block_large_requests_without_mastering() -> TestResult {
    const BYTES: u64 = 512 << 10;
    on(kind::BLOCK, |rig| {
        let device = rig.device;
        let pages = memory::pages(BYTES / PAGE);
        let mut queue = rig.serving_with(feature::INDIRECT_DESC)?;
        block::prepare(rig.buffers, block::request::IN, 0);
        let head = queue.chain(&block::buffers(rig.buffers, Buffer::writable(pages, BYTES as u32)));
        queue.offer(head);
        device.enable(true, false);
        if queue.poll().is_none() {
            let guard = Guard::over(pages, BYTES / PAGE);
            selftest::tsc::delay_us(500);
            guard.check()?;
        }
        device.enable(true, true);
        queue.ring();
        check!(
            queue.collected == 1 || queue.wait().is_some(),
            "a large request is lost (status {})",
            block::status(rig.buffers)
        );
        Ok(())
    })
}

/// Every register of configuration space, with all kinds of values; what decides where things are is repaired.
fn configuration_written_all_over() -> TestResult {
    on_each(|rig| {
        let device = rig.device;
        let identity = device.config(0);
        for register in (0..=0xfc).step_by(4) {
            for value in [0, u32::MAX, 0x5555_5555, 0xaaaa_aaaa] {
                // No line interrupt, and no messages that somebody has routed.
                device.set_config(register, value);
            }
        }
        device.enable(true, true);
        device.move_bar(device.bar as u32);
        device.set_msix(false, false);
        check_eq!(device.config(0), identity, "{}: identity", rig.name());
        let found = Device::all().find(|found| found.number == device.number);
        check!(found == Some(device), "{}: it is found as {found:x?}", rig.name());
        Ok(())
    })
}

/// The window's fields: BAR, offset, length; data.
fn set_window(device: &Device, bar: u32, offset: u32, length: u32) {
    device.set_config(device.window_at + 4, bar);
    device.set_config(device.window_at + 8, offset);
    device.set_config(device.window_at + 12, length);
}

fn window_on_odd_places() -> TestResult {
    on_each(|rig| {
        let device = rig.device;
        need!(device.window_at != 0, "no window");
        let data = device.window_at + 16;
        for (bar, offset, length) in [
            (1, 0, 4),
            (5, 0, 4),
            (255, 0, 4),
            (0, 0x8000, 4),
            (0, 0x7fff, 4),
            (0, u32::MAX, 4),
            (0, u32::MAX - 3, 4),
            (0, 0x8000_0000, 1),
            (0, 1, 4),
            (0, 2, 4),
            (0, 1, 2),
            (0, 0, 0),
            (0, 0, 3),
            (0, 0, 8),
            (0, 0, u32::MAX),
        ] {
            set_window(&device, bar, offset, length);
            device.config(data);
            device.set_config(data, u32::MAX);
            outl(pci::ADDRESS, pci::address(0, device.number, 0, data));
            for lane in 0..4 {
                inb(pci::DATA + lane);
            }
        }
        // All of the BAR by bytes, words and double words, reads only.
        for length in [1, 2, 4] {
            for offset in (0..0x8000).step_by(0x3c) {
                set_window(&device, 0, offset / length * length, length);
                device.config(data);
            }
        }
        set_window(&device, 0, 0, 0);
        Ok(())
    })
}

fn window_works_as_the_bar() -> TestResult {
    on_each(|rig| {
        let device = rig.device;
        need!(device.window_at != 0, "no window");
        let data = device.window_at + 16;
        let at = |address: u64| (address - device.bar) as u32;
        let mut queue = rig.serving()?;
        set_window(&device, 0, at(device.common) + register::STATUS as u32, 1);
        check_eq!(device.config(data) as u8, device.status(), "{}: status by the window", rig.name());
        set_window(&device, 0, at(device.common) + register::QUEUES as u32, 2);
        check_eq!(
            device.config(data) as u16,
            read16(device.common + register::QUEUES),
            "{}: queues by the window",
            rig.name()
        );
        // A doorbell by the window.
        let (buffers, count) = rig.request();
        let head = queue.chain(&buffers[..count]);
        queue.put(head);
        queue.publish();
        set_window(&device, 0, at(queue.doorbell), 2);
        device.set_config(data, queue.index.into());
        check!(queue.wait().is_some(), "{}: a doorbell by the window is not heard", rig.name());
        // And a reset.
        set_window(&device, 0, at(device.common) + register::STATUS as u32, 1);
        device.set_config(data, 0);
        check_eq!(device.status(), 0, "{}: status after a reset by the window", rig.name());
        set_window(&device, 0, 0, 0);
        write8(device.isr, 0);
        inl(pci::DATA);
        Ok(())
    })
}
