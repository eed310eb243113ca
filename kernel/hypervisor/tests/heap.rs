//! What VMs that come and go take of the heap, counted: nothing is left of one that is gone. A test of its own, as nothing else may use the heap
//! meanwhile.

use std::alloc::System;

use cap::Cap;
use hypervisor::config::{Description, Nic};
use hypervisor::{Node, Options, VmState};
use vcpu::fake::{Clock, FakeBackend, FakeHost};

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

const TICKS: u64 = 2_000_000_000;

/// A VM with a device of each kind that has something of its own on the heap.
fn description(round: u64) -> Description {
    let mut description = Description {
        memory: (16 + round % 5) << 20,
        cpus: 1 + (round % 3) as usize,
        nics: vec![Nic::on("lan"), Nic::on("lan")],
        ..Description::new("vm")
    };
    description.ports.push("line".try_into().expect("a name"));
    description.devices.virtio_console = true;
    description.devices.vga_text = true;
    description.devices.fw_cfg = true;
    description
}

#[test]
fn nothing_on_the_heap_is_left_of_a_vm_that_is_gone() {
    let clock = Clock::new(TICKS);
    let backend = FakeBackend::new(&clock, 256 << 20);
    let journals: Vec<_> = (0..3).map(|_| backend.add_program(|_| vcpu::Exit::Pause)).collect();
    let mut host = FakeHost::new(&clock);
    let options = Options { later: Some(4), ..Options::default() };
    let node = Node::new(backend, &host, &[], &options);
    let mut first = node.prepare(&mut host);
    let mut cycle = |round: u64| {
        let id = node.create(first.host(), description(round)).expect("it can be made");
        let made = HEAP.allocated();
        if !round.is_multiple_of(4) {
            node.start(first.host(), id).expect("it has not run");
            for _ in 0..round % 300 {
                first.round();
            }
            while round % 4 == 1 && node.state(id) != Some(VmState::Held) {
                first.round();
            }
        }
        node.destroy(first.host(), id).expect("it is there");
        while node.state(id).is_some() {
            first.round();
        }
        // What the fakes have noted is not the hypervisor's.
        journals.iter().for_each(|journal| drop(journal.take()));
        drop(std::mem::take(&mut first.host().output));
        drop(std::mem::take(&mut first.host().kicks));
        made
    };
    // The network stays, with the memory of its ports; so do the buffers of the fakes.
    (0..8).for_each(|round| assert_ne!(cycle(round), 0));
    let before = HEAP.allocated();
    for round in 0..200 {
        let made = cycle(round);
        assert_eq!(HEAP.allocated(), before, "round {round}");
        assert!(made > before + 40_000, "it has taken something");
    }
}
