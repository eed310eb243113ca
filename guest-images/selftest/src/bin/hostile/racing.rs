//! Two processors at one device: what one has the device look at, the other changes meanwhile.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use selftest::cpu::{read8, write8, write16, write32, write64};
use selftest::memory::PAGE;
use selftest::virtio::{Buffer, Device, NO_VECTOR, descriptor, feature, kind, register, status};
use selftest::{Test, TestResult, Verdict, check, need, smp, tests, tsc};

use crate::rig::{Rig, on_each};

pub(crate) const TESTS: &[Test] =
    tests![rings_change_under_way, registers_change_under_way, resets_from_both_sides];

/// Where the other processor writes: the table, the driver's ring, buffers, the longest of these, a doorbell, registers.
static PLACES: [AtomicU64; 6] = [const { AtomicU64::new(0) }; 6];
/// The other processor goes on as long as this is not 0.
static GO_ON: AtomicU64 = AtomicU64::new(0);
/// Entries of a ring.
const ENTRIES: u64 = 64;
/// How often a device is taken into use.
const ROUNDS: u64 = 60;

fn place(index: usize) -> u64 {
    PLACES[index].load(SeqCst)
}

fn next(noise: &mut u64) -> u64 {
    *noise ^= *noise << 13;
    *noise ^= *noise >> 7;
    *noise ^= *noise << 17;
    *noise
}

/// Writes to rings and descriptors. All buffers are in the attack's pages, or nowhere.
fn scribble() {
    let mut noise = 0x1234_5678_9abc_def1;
    while GO_ON.load(SeqCst) != 0 {
        let (a, b) = (next(&mut noise), next(&mut noise));
        let [table, ring, buffers, longest, doorbell, _] = [0, 1, 2, 3, 4, 5].map(place);
        let at = table + descriptor::BYTES * (a % ENTRIES);
        match a >> 8 & 7 {
            0 | 1 => write64(at, buffers + PAGE * (b % 16)),
            2 => write64(at, [u64::MAX, 0xfee0_0000, 0xc000_0000, 1 << 46][(b % 4) as usize]),
            3 | 4 => {
                let (length, flags, next) = (b % longest, b >> 32 & 7, b >> 40 & 63);
                write64(at + 8, next << 48 | flags << 32 | length);
            }
            5 => write16(ring + 4 + 2 * (b % ENTRIES), (b >> 8) as u16 % 65),
            6 => write16(ring + 2, (b >> 8) as u16),
            _ => write16(doorbell, 0),
        }
    }
}

/// Writes to registers, but for MSI-X' addresses and the console's own configuration.
fn fiddle() {
    let mut noise = 0x0fed_cba9_8765_4321;
    while GO_ON.load(SeqCst) != 0 {
        let (a, b) = (next(&mut noise), next(&mut noise));
        let common = place(5);
        match a & 7 {
            0 => write16(common + register::QUEUE_SELECT, b as u16 & 3),
            1 => write16(common + register::QUEUE_ENABLE, 1),
            2 => write16(common + register::QUEUE_VECTOR, NO_VECTOR),
            3 => write32(common + register::DRIVER_FEATURE, b as u32),
            4 => write8(common + register::STATUS, b as u8 | 1),
            5 => write16(common + register::QUEUE_SIZE, 1 << (b & 15)),
            6 => {
                read8(common + register::STATUS);
            }
            _ => write16(place(4), 0),
        }
    }
}

/// Resets the device over and over.
fn reset() {
    while GO_ON.load(SeqCst) != 0 {
        write8(place(5) + register::STATUS, 0);
        read8(place(5) + register::STATUS);
    }
}

fn aim(rig: &Rig, device: &Device) {
    let longest = if device.kind == kind::CONSOLE { 16 } else { 4 * PAGE };
    for (place, value) in PLACES.iter().zip([0, 0, rig.buffers, longest, device.doorbells, device.common]) {
        place.store(value, SeqCst);
    }
}

/// Has the other processor do that while this one uses the device as well as it can.
fn race(rig: &mut Rig, job: smp::Job) -> TestResult {
    let device = rig.device;
    aim(rig, &device);
    // Something to scribble on, until there is a queue.
    for place in &PLACES[..2] {
        place.store(rig.buffers + 31 * PAGE, SeqCst);
    }
    GO_ON.store(1, SeqCst);
    smp::begin(1, job);
    let outcome = (0..ROUNDS).try_for_each(|_| use_it(rig));
    GO_ON.store(0, SeqCst);
    smp::finish(1)?;
    outcome
}

/// Whatever comes of a request: the device can be reset.
fn use_it(rig: &mut Rig) -> TestResult {
    let device = rig.device;
    // Two processors at its registers may leave it in any state, for which nobody waits.
    const BEGUN: u8 = status::ACKNOWLEDGE | status::DRIVER;
    device.set_status(0);
    device.set_status(BEGUN);
    device
        .set_features(device.features() & (feature::INDIRECT_DESC | feature::EVENT_IDX | feature::VERSION_1));
    device.set_status(BEGUN | status::FEATURES_OK);
    if let Some(mut queue) = device.queue(rig.served(), ENTRIES as u16, 0) {
        PLACES[0].store(queue.layout.descriptors, SeqCst);
        PLACES[1].store(queue.layout.driver, SeqCst);
        device.go();
        let (buffers, count) = rig.request();
        for _ in 0..8 {
            let head = queue.chain(&buffers[..count]);
            queue.put(head);
            queue.publish();
            queue.ring();
            tsc::delay_us(5);
        }
        // As much as it likes.
        let all = Buffer::writable(rig.buffers, 64);
        let head = queue.chain(&[all]);
        queue.offer(head);
        tsc::delay_us(20);
        PLACES[0].store(rig.buffers + 30 * PAGE, SeqCst);
        PLACES[1].store(rig.buffers + 31 * PAGE, SeqCst);
    }
    device.set_status(0);
    Ok(())
}

fn with_another(attack: fn(&mut Rig) -> TestResult) -> TestResult {
    need!(smp::count() > 1, "one processor");
    smp::start_all()?;
    on_each(attack)
}

/// After the race nobody but this processor is at the device, and its reset is complete.
fn settles(rig: &Rig) -> Result<(), Verdict> {
    check!(rig.device.reset(), "{} does not come out of its reset", rig.name());
    check!(!rig.is_broken(), "{}: it is broken after its reset", rig.name());
    Ok(())
}

fn rings_change_under_way() -> TestResult {
    with_another(|rig| {
        race(rig, scribble)?;
        settles(rig)
    })
}

fn registers_change_under_way() -> TestResult {
    with_another(|rig| {
        race(rig, fiddle)?;
        settles(rig)
    })
}

fn resets_from_both_sides() -> TestResult {
    with_another(|rig| {
        race(rig, reset)?;
        settles(rig)
    })
}
