use std::vec::Vec;

use proptest::prelude::*;
use vcpu::{Gpa, GuestMemory};

use super::driver::{BUFFERS, Driver, INDIRECT, NEXT, RAM, WRITE};
use super::{Abilities, Broken, Chain, Layout, MAX_SIZE, Queue};

const ALL: Abilities = Abilities { indirect: true, event_index: false };

fn queue(driver: &Driver, abilities: Abilities) -> Queue {
    Queue::new(driver.layout, abilities).expect("a good layout")
}

fn take(queue: &mut Queue, driver: &Driver, chain: &mut Chain) -> Result<Option<()>, Broken> {
    queue.take(&driver.memory, chain)
}

#[test]
fn a_request_goes_there_and_back() {
    let mut driver = Driver::new(8);
    let (mut queue, mut chain) = (queue(&driver, ALL), Chain::default());
    assert_eq!(take(&mut queue, &driver, &mut chain), Ok(None));
    let head =
        driver.offer_chain(&[(BUFFERS, 6, false), (BUFFERS + 0x100, 4, false), (BUFFERS + 0x200, 8, true)]);
    driver.memory.write(Gpa(BUFFERS), b"to the").unwrap();
    driver.memory.write(Gpa(BUFFERS + 0x100), b" end").unwrap();
    assert_eq!(take(&mut queue, &driver, &mut chain), Ok(Some(())));
    assert_eq!((chain.head(), chain.readable_bytes(), chain.writable_bytes()), (head, 10, 8));
    let (mut text, mut place) = ([0; 10], chain.readable());
    place.read(&chain, &driver.memory, &mut text).unwrap();
    assert_eq!(&text, b"to the end");
    assert_eq!(place.read(&chain, &driver.memory, &mut [0]), Err(Broken::Request), "that was all");
    chain.writable().write(&chain, &driver.memory, b"and back").unwrap();
    assert_eq!(chain.writable().write(&chain, &driver.memory, &[0; 9]), Err(Broken::Request));
    queue.give(&driver.memory, chain.head(), 8).unwrap();
    assert_eq!(driver.collect(), [], "it is shown with others");
    assert_eq!(queue.wants_interrupt(&driver.memory), Ok(true));
    assert_eq!(driver.collect(), [(u32::from(head), 8)]);
    assert_eq!(take(&mut queue, &driver, &mut chain), Ok(None));
}

#[test]
fn a_cursor_goes_over_buffers_of_any_size() {
    let mut driver = Driver::new(8);
    let (mut queue, mut chain) = (queue(&driver, ALL), Chain::default());
    driver.offer_chain(&[(BUFFERS, 3, true), (BUFFERS + 0x10, 0, true), (BUFFERS + 0x20, 5, true)]);
    take(&mut queue, &driver, &mut chain).unwrap();
    let mut place = chain.writable();
    let parts: Vec<_> = core::iter::from_fn(|| place.next(&chain, 4))
        .map(|part| (part.gpa.0 - BUFFERS, part.length))
        .collect();
    assert_eq!(parts, [(0, 3), (0x20, 4), (0x24, 1)]);
    let mut place = chain.writable();
    place.skip(&chain, 7);
    assert_eq!(place.next(&chain, 9).map(|part| (part.gpa.0 - BUFFERS, part.length)), Some((0x24, 1)));
}

#[test]
fn indirect_tables_where_both_sides_have_them() {
    let mut driver = Driver::new(4);
    let table = BUFFERS + 0x1000;
    for index in 0..4 {
        let more = if index == 3 { 0 } else { NEXT };
        driver.describe(table, index, (BUFFERS + u64::from(index) * 16, 16), more | WRITE, index + 1);
    }
    driver.own(2, (table, 4 * 16), INDIRECT, 0);
    driver.offer(2);
    let mut chain = Chain::default();
    take(&mut queue(&driver, ALL), &driver, &mut chain).unwrap();
    assert_eq!((chain.head(), chain.writable_bytes()), (2, 64));
    // A table is not to be written, whatever its descriptor says.
    driver.own(2, (table, 4 * 16), INDIRECT | WRITE, 0);
    take(&mut queue(&driver, ALL), &driver, &mut chain).unwrap();
    assert_eq!(chain.writable_bytes(), 64);
    let plain = Abilities::default();
    assert_eq!(take(&mut queue(&driver, plain), &driver, &mut chain), Err(Broken::Indirect));
    // A table in a table; one with a successor; one of no whole descriptors; one that is too long a chain.
    driver.describe(table, 0, (table, 16), INDIRECT, 0);
    assert_eq!(take(&mut queue(&driver, ALL), &driver, &mut chain), Err(Broken::Indirect));
    for (length, flags) in [(64, INDIRECT | NEXT), (63, INDIRECT), (0, INDIRECT)] {
        driver.own(2, (table, length), flags, 0);
        assert_eq!(take(&mut queue(&driver, ALL), &driver, &mut chain), Err(Broken::Indirect));
    }
    driver.own(2, (table, 5 * 16), INDIRECT, 0);
    for index in 0..5 {
        driver.describe(table, index, (BUFFERS, 1), if index == 4 { 0 } else { NEXT }, index + 1);
    }
    assert_eq!(take(&mut queue(&driver, ALL), &driver, &mut chain), Err(Broken::Length));
}

#[test]
fn nonsense_is_found() {
    let mut chain = Chain::default();
    let mut attempt = |prepare: &dyn Fn(&mut Driver)| {
        let mut driver = Driver::new(4);
        prepare(&mut driver);
        take(&mut queue(&driver, ALL), &driver, &mut chain).map(|_| ())
    };
    // A ring of descriptors.
    assert_eq!(
        attempt(&|driver| {
            driver.own(0, (BUFFERS, 1), NEXT, 1);
            driver.own(1, (BUFFERS, 1), NEXT, 0);
            driver.offer(0);
        }),
        Err(Broken::Length)
    );
    assert_eq!(attempt(&|driver| driver.offer(4)), Err(Broken::Descriptor));
    assert_eq!(
        attempt(&|driver| {
            driver.own(0, (BUFFERS, 1), NEXT, 77);
            driver.offer(0);
        }),
        Err(Broken::Descriptor)
    );
    let order = [(BUFFERS, 1, true), (BUFFERS, 1, false)];
    assert_eq!(attempt(&|driver| _ = driver.offer_chain(&order)), Err(Broken::Order));
    let long = [(BUFFERS, u32::MAX, true), (BUFFERS, 2, true)];
    assert_eq!(attempt(&|driver| _ = driver.offer_chain(&long)), Err(Broken::Length));
    assert_eq!(attempt(&|driver| driver.set_index(5)), Err(Broken::Index));
    assert!(matches!(attempt(&|driver| driver.layout.driver = Gpa(RAM)), Err(Broken::NotRam(_))));
    assert!(matches!(
        attempt(&|driver| {
            driver.offer(0);
            driver.layout.descriptors = Gpa(!15);
        }),
        Err(Broken::NotRam(_))
    ));
}

#[test]
fn layouts_that_cannot_be() {
    let good = Driver::new(8).layout;
    for bad in [
        Layout { size: 0, ..good },
        Layout { size: 6, ..good },
        Layout { size: 2 * MAX_SIZE, ..good },
        Layout { descriptors: Gpa(0x1008), ..good },
        Layout { driver: Gpa(0x2001), ..good },
        Layout { device: Gpa(0x3002), ..good },
    ] {
        assert_eq!(Queue::new(bad, ALL).err(), Some(Broken::Layout), "{bad:?}");
    }
}

#[test]
fn the_driver_is_told_when_it_wants_to() {
    let mut driver = Driver::new(8);
    let mut queue = queue(&driver, ALL);
    assert_eq!(queue.wants_interrupt(&driver.memory), Ok(false), "for nothing");
    queue.give(&driver.memory, 0, 0).unwrap();
    assert_eq!(queue.wants_interrupt(&driver.memory), Ok(true));
    assert_eq!(queue.wants_interrupt(&driver.memory), Ok(false), "once");
    driver.set_flags(1);
    queue.give(&driver.memory, 0, 0).unwrap();
    assert_eq!(queue.wants_interrupt(&driver.memory), Ok(false));
    assert_eq!(driver.collect().len(), 2);
}

proptest! {
    /// With event indices: an interrupt exactly when an entry of the wanted index is among those given back.
    #[test]
    fn event_indices_are_kept(rounds in prop::collection::vec((0_u16..8, any::<i8>()), 1..60)) {
        let driver = Driver::new(8);
        let mut queue = queue(&driver, Abilities { indirect: false, event_index: true });
        let mut used = 0_u16;
        for (count, ahead) in rounds {
            let event = used.wrapping_add(ahead as u16);
            driver.set_event(event);
            let among = (0..count).any(|at| used.wrapping_add(at) == event);
            for _ in 0..count {
                queue.give(&driver.memory, 0, 0).unwrap();
            }
            used = used.wrapping_add(count);
            prop_assert_eq!(queue.wants_interrupt(&driver.memory), Ok(among));
        }
    }

    /// A queue that has run dry says so, and from where on it wants to hear of more.
    #[test]
    fn a_dry_queue_asks_to_be_told(counts in prop::collection::vec(0_u16..8, 1..40)) {
        let mut driver = Driver::new(8);
        let mut queue = queue(&driver, Abilities { indirect: false, event_index: true });
        let (mut chain, mut taken) = (Chain::default(), 0_u16);
        for count in counts {
            for _ in 0..count {
                driver.offer_chain(&[(BUFFERS, 1, true)]);
            }
            let found = core::iter::from_fn(|| take(&mut queue, &driver, &mut chain).unwrap()).count();
            prop_assert_eq!(found, usize::from(count));
            taken = taken.wrapping_add(count);
            prop_assert_eq!(driver.device_event(), taken);
        }
    }

    /// Whatever is in memory, taking a request ends, and its buffers are no more than the queue has entries.
    #[test]
    fn any_memory_is_survived(bytes in prop::collection::vec(any::<u8>(), 0x400), size in 0_u32..6, seed: u64) {
        let mut driver = Driver::new(1 << size);
        for at in (0..0x4000).step_by(bytes.len()) {
            driver.memory.write(Gpa(at as u64), &bytes).unwrap();
        }
        driver.set_index(1 << size);
        driver.layout.descriptors = Gpa((seed % 0x2000) & !15);
        let (mut queue, mut chain) = (queue(&driver, ALL), Chain::default());
        for _ in 0..2 << size {
            match take(&mut queue, &driver, &mut chain) {
                Ok(Some(())) => {
                    let (mut place, mut parts) = (chain.writable(), 0);
                    while place.next(&chain, u32::MAX).is_some() {
                        parts += 1;
                    }
                    prop_assert!(parts <= 1 << size);
                }
                Ok(None) | Err(_) => break,
            }
        }
    }
}
