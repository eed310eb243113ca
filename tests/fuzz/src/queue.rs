//! A virtqueue alone.

use arbitrary::{Result, Unstructured};
use vcpu::fake::FakeSpace;
use vcpu::{AddressSpace, Gpa, GuestMemory};
use virtio::queue::{Abilities, Chain, Layout, Queue};

const RAM: u64 = 0x1_0000;

fn address(input: &mut Unstructured<'_>) -> Result<Gpa> {
    Ok(Gpa(if input.ratio(7_u8, 8_u8)? {
        input.int_in_range(0_u64..=0xfff)? << 4
    } else {
        input.arbitrary()?
    }))
}

fn attempt(input: &mut Unstructured<'_>) -> Result<()> {
    let mut memory = FakeSpace::with_memory(RAM);
    memory.grow_all(Gpa(0), RAM).expect("there is memory");
    let size =
        if input.ratio(3_u8, 4_u8)? { 1 << input.int_in_range(0_u8..=8)? } else { input.arbitrary()? };
    let layout =
        Layout { size, descriptors: address(input)?, driver: address(input)?, device: address(input)? };
    let abilities = Abilities { indirect: input.arbitrary()?, event_index: input.arbitrary()? };
    let Ok(mut queue) = Queue::new(layout, abilities) else { return Ok(()) };
    assert!(size.is_power_of_two() && size <= virtio::queue::MAX_SIZE);
    let mut chain = Chain::default();
    while !input.is_empty() {
        match input.int_in_range(0_u8..=4)? {
            0 | 1 => {
                let at = u64::from(input.arbitrary::<u16>()?);
                let bytes = input.arbitrary::<u64>()?.to_le_bytes();
                let _ = memory
                    .write(Gpa(at), bytes.get(..1 << input.int_in_range(0_u8..=3)?).unwrap_or_default());
            }
            2 => match queue.take(&memory, &mut chain) {
                Ok(Some(())) => look_at(&chain, size, &memory),
                Ok(None) => {}
                Err(_) => return Ok(()),
            },
            3 => {
                let mut batch = queue.batch();
                if let (Ok(Some(())), true) = (batch.take(&memory, &mut chain), input.arbitrary()?) {
                    let _ = batch.give(&memory, chain.head(), chain.writable_bytes());
                    batch.keep();
                    let _ = queue.wants_interrupt(&memory);
                }
            }
            _ => {
                let _ = queue.give(&memory, chain.head(), input.arbitrary()?);
                let _ = queue.wants_interrupt(&memory);
            }
        }
    }
    Ok(())
}

/// A chain is bounded, and its cursors come to its end.
fn look_at(chain: &Chain, size: u16, memory: &FakeSpace) {
    assert!((1..=usize::from(size)).contains(&chain.buffers()));
    for (mut place, bytes) in
        [(chain.readable(), chain.readable_bytes()), (chain.writable(), chain.writable_bytes())]
    {
        let (mut seen, mut parts) = (0, 0);
        while let Some(part) = place.next(chain, u32::MAX) {
            seen += part.length;
            parts += 1;
            assert!(part.length != 0 && parts <= chain.buffers());
        }
        assert_eq!(seen, bytes);
    }
    let mut start = chain.readable();
    let _ = start.read(chain, memory, &mut [0; 64]);
    let mut start = chain.writable();
    let _ = start.write(chain, memory, &[0; 64]);
}

pub(crate) fn run(bytes: &[u8]) {
    // An input that ends early has done what it says until there.
    let _ = attempt(&mut Unstructured::new(bytes));
}
