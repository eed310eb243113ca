//! Whose room is whose, and what has bounds.

use proptest::prelude::*;

use super::*;

/// A table of one bucket, of which a port may own a quarter, or more for all.
fn small(entries: usize) -> Net {
    Net { table: Table::new(entries, 1000).expect("memory"), ..Net::new() }
}

fn reasons(net: &Net) -> Vec<EndReason> {
    records(&net.table).iter().map(|record| record.reason).collect()
}

#[test]
fn a_port_displaces_its_own_flows_only() {
    let mut net = small(8);
    for from in 0..4 {
        net.now += SECOND;
        net.send(&udp(A, from, B, 53), 1, 2);
    }
    assert_eq!(net.table.port_totals(port(1)).owned, 2, "a quarter");
    assert_eq!(reasons(&net), [EndReason::NoResources; 2]);
    let mut ports: Vec<_> = net.flows().iter().map(|flow| flow.ends.source_port).collect();
    ports.sort_unstable();
    assert_eq!(ports, [2, 3], "the oldest go first");
    // Four ports fill the bucket, and a fifth has nothing in it to displace.
    for other in 2..5 {
        for from in 0..2 {
            assert!(matches!(net.send(&udp(A, from, B, 53), other, 1), Passed::Decided(_)));
        }
    }
    assert!(matches!(net.send(&udp(A, 9, B, 53), 6, 1), Passed::Untracked(Verdict { allowed: true, .. })));
    let totals = net.table.port_totals(port(6));
    assert_eq!((totals.untracked, totals.owned, net.flows().len()), (1, 0, 8));
    assert!(reasons(&net).is_empty());
    // What has expired is nobody's.
    net.now += UDP_UNREPLIED;
    assert!(matches!(net.send(&udp(A, 9, B, 53), 6, 1), Passed::Decided(_)));
    assert_eq!((net.flows().len(), reasons(&net)), (1, [EndReason::IdleTimeout; 8].to_vec()));
}

#[test]
fn what_is_sent_in_vain_costs_no_connection() {
    let mut net = small(8);
    net.segment(false, SYN);
    net.segment(true, SYN | ACK);
    net.now += SECOND;
    for from in 0..10 {
        net.send(&udp(A, from, B, 53), 1, 2);
    }
    assert!(net.flows().iter().any(|flow| flow.state == State::Established), "older, and worth more");
    net.send(&udp(B, 53, A, 9), 2, 1);
    net.allow = |_| false;
    assert!(matches!(net.send(&udp(A, 10, B, 53), 1, 2), Passed::Untracked(_)));
    assert!(net.flows().iter().all(|flow| flow.verdict.allowed));
    // Where all are worth the same, the oldest goes.
    net.allow = |_| true;
    net.send(&udp(A, 10, B, 53), 1, 2);
    let states: Vec<_> = net.flows().iter().map(|flow| flow.state).collect();
    assert!(states.contains(&State::Replied) && states.contains(&State::Unreplied));
}

#[test]
fn a_port_that_goes_takes_its_flows_along() {
    let mut net = Net::new();
    for from in 0..90 {
        net.send(&udp(A, from, B, 53), 1 + usize::from(from % 3), 1 + usize::from((from + 1) % 3));
    }
    let (mut next, mut calls) = (Some(0), 0);
    while let Some(at) = next {
        (next, calls) = (net.table.forget_port(port(1), at), calls + 1);
    }
    assert_eq!(calls, net.table.totals().capacity / 8 / STEP_BUCKETS);
    assert_eq!(reasons(&net), [EndReason::Forced; 60]);
    assert!(net.flows().iter().all(|flow| (flow.from, flow.to) == (port(2), Some(port(3)))));
    assert_eq!((net.table.port_totals(port(1)).owned, net.table.totals().ports.owned), (0, 30));
    assert_eq!(net.table.forget_port(port(1), usize::MAX), None);
}

#[test]
fn records_that_find_no_room_are_counted() {
    let mut net = Net { table: Table::new(1024, 10).expect("memory"), ..Net::new() };
    for from in 0..25 {
        net.send(&udp(A, from, B, 53), 1, 2);
    }
    net.now += UDP_UNREPLIED;
    net.table.sweep(net.now, usize::MAX);
    let totals = net.table.totals();
    assert_eq!((totals.waiting_records, totals.lost_records), (10, 15));
    assert_eq!(net.table.drain(3, |_| ()), 3);
    assert_eq!((net.table.totals().waiting_records, records(&net.table).len()), (7, 7));
}

#[test]
fn sizes_have_bounds() {
    let capacity = |entries| Some(Table::new(entries, 0)?.totals().capacity);
    assert_eq!([0, 8, 9, 1000].map(capacity), [Some(8), Some(8), Some(16), Some(1024)]);
    assert_eq!(capacity(usize::MAX), None);
    assert_eq!(capacity(usize::MAX / 64), None);
    assert!(Table::new(8, usize::MAX).is_none());
}

#[test]
fn seeds_move_entries_and_ports_that_follow_each_other_spread() {
    let order = |seed| {
        let table = Table::seeded(8192, 1000, seed).expect("memory");
        let net = &mut Net { table, ..Net::new() };
        for from in 0..1500 {
            net.send(&udp(A, from, B, 53), 1, 2);
        }
        assert_eq!((net.flows().len(), net.table.totals().waiting_records), (1500, 0));
        net.flows().iter().map(|flow| flow.ends.source_port).collect::<Vec<_>>()
    };
    assert_eq!(order(1), order(1));
    assert_ne!(order(1), order(2));
}

proptest! {
    /// Whatever a port sends, what others own is there as before.
    #[test]
    fn a_flood_removes_nothing_of_others(
        quiet in prop::collection::vec((any::<u16>(), 2_usize..6), 1..40),
        flood in prop::collection::vec((0_u16..2000, any::<bool>(), any::<bool>()), 0..400),
        entries in 1_usize..200,
    ) {
        let mut net = small(entries);
        for (from, owner) in quiet {
            net.send(&udp(A, from, B, 53), owner, 1);
        }
        let owned = |net: &Net| {
            net.flows().into_iter().filter(|flow| flow.from != port(1)).collect::<Vec<_>>()
        };
        let before = owned(&net);
        for (from, fragment, denied) in flood {
            // Also in the name of others.
            let packet = udp(A, from, B, 53);
            net.allow = if denied { |_| false } else { |_| true };
            net.send(&packet, 1, 7);
            if fragment {
                let first = Internet { fragment: Fragment::First(from.into()), ..packet };
                let (key, _) = Key::of_fragment(&first, VLAN).expect("a key");
                let packet = net.packet(1, Some(7), None);
                net.table.remember_fragment(&key, &packet, 1, Verdict { allowed: !denied, rule: 0 });
            }
            let capacity = net.table.totals().capacity;
            prop_assert!(net.table.port_totals(port(1)).owned as usize <= capacity / 4);
        }
        prop_assert_eq!(owned(&net), before);
        for at in 0..crate::port::MAX_PORTS {
            let live = net.flows().iter().filter(|flow| flow.from == port(at)).count();
            prop_assert_eq!(net.table.port_totals(port(at)).owned as usize, live);
        }
    }
}
