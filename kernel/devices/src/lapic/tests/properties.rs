//! What holds whatever is written and delivered.

use proptest::prelude::*;

use super::*;

fn step(apic: &mut LocalApic, action: u8, register: u16, value: u64, now: Nanos) {
    match action % 10 {
        0 => drop(apic.msr_write(msr(register % 0x40), value, now)),
        1 => drop(apic.msr_read(msr(register % 0x40), now)),
        2 => drop(apic.mmio_write(u64::from(register % 0x40) * 16, Width::Dword, value, now)),
        3 => drop(apic.mmio_read(u64::from(register % 0x410), Width::Dword, now)),
        4 => drop(apic.write_base(value & 0xc00 | 0xfee0_0100 | if value & 1 == 0 { 0x800 } else { 0 })),
        5 => drop(apic.write_tsc_deadline(value, Some(now + Nanos(value >> 40)))),
        6 => {
            let level_triggered = value & 0x100 != 0;
            apic.deliver(&ApicMessage { level_triggered, ..ApicMessage::fixed(0, value as u8) });
        }
        7 => {
            let delivery = DeliveryMode::from_bits(value as u8).unwrap_or(DeliveryMode::Init);
            apic.deliver(&ApicMessage { delivery, ..ApicMessage::fixed(0, register as u8) });
            if apic.take_init() {
                apic.init();
            }
        }
        8 => drop(apic.end_of_interrupt()),
        _ => {
            apic.mmio_write(0xf0, Width::Dword, ENABLED, now);
            apic.mmio_write(0x320, Width::Dword, value & !MASKED & 0x6_00ff, now);
            apic.mmio_write(0x380, Width::Dword, value >> 40, now);
        }
    }
}

proptest! {
    /// What is delivered is a request above the processor priority, the highest; acknowledging it makes it the
    /// priority, and the end of it the one before.
    #[test]
    fn priority_invariants(vectors in prop::collection::vec(16u8..=255, 0..40), task: u8, takes in 1usize..20) {
        let mut apic = xapic(0);
        write(&mut apic, index::TASK_PRIORITY, task.into());
        let mut requested: Vec<u8> = Vec::new();
        let mut served: Vec<u8> = Vec::new();
        let mut arrivals = vectors.into_iter();
        for _ in 0..takes {
            for vector in arrivals.by_ref().take(3) {
                apic.deliver(&ApicMessage::fixed(0, vector));
                requested.push(vector);
            }
            requested.sort_unstable();
            requested.dedup();
            let class = served.iter().copied().max().unwrap_or(0).max(task) >> 4;
            prop_assert_eq!(apic.processor_priority() >> 4, class);
            let expected = requested.last().copied().filter(|vector| vector >> 4 > class);
            prop_assert_eq!(apic.pending_vector(), expected);
            match expected {
                Some(vector) => {
                    apic.acknowledge(vector);
                    requested.retain(|other| *other != vector);
                    served.push(vector);
                }
                None => {
                    served.sort_unstable();
                    prop_assert_eq!(apic.end_of_interrupt(), None);
                    served.pop();
                }
            }
        }
    }

    #[test]
    fn nothing_panics_and_deadlines_lie_ahead(
        steps in prop::collection::vec(any::<(u8, u16, u64, u32)>(), 0..200)
    ) {
        let mut apic = apic(0);
        let mut now = T0;
        for (action, register, value, wait) in steps {
            now = now + Nanos(u64::from(wait) >> (register % 24));
            step(&mut apic, action, register, value, now);
            if let Some(vector) = apic.pending_vector() {
                prop_assert!(vector >= FIRST_LEGAL_VECTOR);
                if action & 0x80 != 0 {
                    apic.acknowledge(vector);
                }
            }
            apic.advance(now);
            if let Some(deadline) = apic.next_deadline() {
                prop_assert!(deadline > now);
                if action & 0x40 != 0 {
                    now = deadline;
                    apic.advance(now);
                    prop_assert!(apic.next_deadline().is_none_or(|next| next > now));
                }
            }
        }
    }

    /// The count goes down by one each divided tick, and the deadline is where it reaches zero.
    #[test]
    fn counts_agree_with_the_deadline(count in 1u32.., divide in 0u32..16, wait: u32) {
        let mut apic = xapic(0);
        write(&mut apic, index::LOCAL_VECTOR, 0x40);
        write(&mut apic, index::DIVIDE, divide);
        write(&mut apic, index::INITIAL_COUNT, count);
        let divisor = [2, 4, 8, 16, 32, 64, 128, 1][(divide >> 1 & 4 | divide & 3) as usize];
        prop_assert_eq!(apic.next_deadline(), Some(T0 + Nanos(u64::from(count) * divisor)));
        let left = u64::from(count).saturating_sub(u64::from(wait));
        let now = T0 + Nanos(u64::from(wait) * divisor);
        apic.advance(now);
        prop_assert_eq!(u64::from(read_at(&mut apic, index::CURRENT_COUNT, now)), left);
    }
}
