//! The timer in its three modes.

use super::*;

#[test]
fn one_shot_and_periodic_timer() {
    let mut apic = xapic(0);
    write(&mut apic, index::LOCAL_VECTOR, 0x40);
    write(&mut apic, index::DIVIDE, 0x3);
    assert_eq!(write(&mut apic, index::INITIAL_COUNT, 100_000), ApicEffect::TimerChanged);
    assert_eq!(apic.next_deadline(), Some(T0 + Nanos(1_600_000)));
    assert_eq!(read_at(&mut apic, index::CURRENT_COUNT, T0 + Nanos(800_000)), 50_000);
    assert_eq!(read_at(&mut apic, index::CURRENT_COUNT, T0 + Nanos(800_001)), 50_000);
    assert_eq!(read_at(&mut apic, index::CURRENT_COUNT, T0 + Nanos(800_016)), 49_999);
    assert!(!apic.advance(T0 + Nanos(1_599_999)));
    assert!(apic.advance(T0 + Nanos(1_600_000)));
    assert_eq!((apic.pending_vector(), apic.next_deadline()), (Some(0x40), None));
    assert_eq!(read_at(&mut apic, index::CURRENT_COUNT, T0 + Nanos(1_600_001)), 0);

    write(&mut apic, index::LOCAL_VECTOR, 0x2_0040);
    write(&mut apic, index::DIVIDE, 0xb);
    write(&mut apic, index::INITIAL_COUNT, 1_000_000);
    assert!(apic.advance(T0 + Nanos(3_400_000)), "lost ticks are one");
    assert_eq!(apic.next_deadline(), Some(T0 + Nanos(4_000_000)));
    assert_eq!(read_at(&mut apic, index::CURRENT_COUNT, T0 + Nanos(3_400_000)), 600_000);
    write(&mut apic, index::INITIAL_COUNT, 0);
    assert_eq!(apic.next_deadline(), None);
}

#[test]
fn a_masked_timer_does_not_interrupt_and_periodic_sleeps() {
    let mut apic = xapic(0);
    write(&mut apic, index::LOCAL_VECTOR, 0x3_0040);
    write(&mut apic, index::DIVIDE, 0xb);
    write(&mut apic, index::INITIAL_COUNT, 1_000_000);
    assert_eq!(apic.next_deadline(), None);
    let later = T0 + Nanos(2_300_000);
    assert_eq!(apic.mmio_write(0x320, Width::Dword, 0x2_0040, later), ApicEffect::TimerChanged);
    assert_eq!(apic.pending_vector(), None, "what passed while masked is lost");
    assert_eq!(apic.next_deadline(), Some(T0 + Nanos(3_000_000)));
}

#[test]
fn absurd_periods_do_not_storm_and_keep_their_grid() {
    let mut apic = xapic(0);
    write(&mut apic, index::LOCAL_VECTOR, 0x2_0040);
    write(&mut apic, index::DIVIDE, 0xb);
    write(&mut apic, index::INITIAL_COUNT, 7);
    assert!(apic.advance(T0 + Nanos(70)));
    let next = apic.next_deadline().unwrap();
    assert!(next >= T0 + Nanos(70 + 9_990) && (next - T0).0.is_multiple_of(7));
    assert_eq!(read_at(&mut apic, index::CURRENT_COUNT, T0 + Nanos(72)), 5);
}

#[test]
fn tsc_deadline_mode() {
    let mut apic = x2apic(0);
    assert!(!apic.write_tsc_deadline(1000, Some(T0)), "not in this mode");
    let _ = apic.msr_write(msr(index::LOCAL_VECTOR), 0x4_00ec, T0).unwrap();
    assert!(apic.write_tsc_deadline(1000, Some(T0 + Nanos(500))));
    assert_eq!((apic.tsc_deadline(), apic.next_deadline()), (1000, Some(T0 + Nanos(500))));
    assert_eq!(apic.msr_write(msr(index::INITIAL_COUNT), 5, T0), Ok(ApicEffect::TimerChanged));
    assert_eq!(apic.msr_read(msr(index::CURRENT_COUNT), T0), Ok(0));
    assert_eq!(apic.next_deadline(), Some(T0 + Nanos(500)), "the initial count is ignored");
    assert!(apic.advance(T0 + Nanos(501)));
    assert_eq!((apic.tsc_deadline(), apic.next_deadline(), apic.pending_vector()), (0, None, Some(0xec)));
    apic.write_tsc_deadline(2000, None);
    assert_eq!((apic.tsc_deadline(), apic.next_deadline()), (2000, None));
    apic.write_tsc_deadline(0, Some(T0));
    assert_eq!((apic.tsc_deadline(), apic.next_deadline()), (0, None));
    apic.write_tsc_deadline(3000, Some(T0 + Nanos(9)));
    let _ = apic.msr_write(msr(index::LOCAL_VECTOR), 0xec, T0).unwrap();
    assert_eq!((apic.tsc_deadline(), apic.next_deadline()), (0, None), "a change of mode disarms");
}
