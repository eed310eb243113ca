use std::format;
use std::rc::Rc;
use std::vec;

use vcpu::fake::Bank;

use super::bench::{Bench, kernel, power_off};
use crate::memory_map::MemoryMap;

/// A VM with two vCPUs, of which the first one switches it off, and a neighbour.
fn bench(settings: &str) -> (Bench, Rc<Bank>) {
    let mut bench = Bench::new();
    bench.add_module(&format!("vm=demo memory=16M cpus=2 {settings} kernel"), &kernel());
    bench.backend.add_program(power_off);
    bench.backend.add_program(power_off);
    bench.add_vm("good", vec![]);
    let bank = Rc::clone(&bench.backend.bank);
    (bench, bank)
}

#[test]
fn a_vm_that_ends_gives_everything_back_and_can_start_anew() {
    let (bench, bank) = bench("restart=50");
    let free = bank.free();
    let run = bench.run();
    assert_eq!(bank.free(), free);
    let count = |text: &str| run.log.iter().filter(|line| line.contains(text)).count();
    assert_eq!(count("vm demo: stopped: powered off"), 51);
    assert_eq!(count("vm demo: starting anew"), 50);
    assert_eq!(count("vm good: stopped: powered off"), 1);
}

#[test]
fn each_allocation_of_a_start_may_fail() {
    let mut failures = 0u64;
    for number in 0.. {
        let (bench, bank) = bench("");
        let free = bank.free();
        bank.fail_after(number);
        let run = bench.run();
        assert_eq!(bank.free(), free, "allocation {number}: all is given back");
        if !bank.has_failed() {
            break;
        }
        failures += 1;
        // Two VMs start side by side: the failure meets one, and the other does not notice.
        let failed =
            ["demo", "good"].map(|vm| run.logged(&format!("vm {vm}: not started: not enough memory")));
        let ended = ["demo", "good"].map(|vm| run.logged(&format!("vm {vm}: stopped: powered off")));
        assert!(failed[0] != failed[1], "allocation {number}: {:#?}", run.log);
        assert_eq!(failed.map(|failed| !failed), ended, "allocation {number}: {:#?}", run.log);
    }
    // Two spaces, their memory in pieces of 64 KiB, and three vCPUs.
    let map = MemoryMap::new(16 << 20).expect("memory");
    let pieces: u64 = map.ram.iter().map(|ram| ram.length.div_ceil(64 << 10)).sum();
    assert_eq!(failures, 2 + 2 * pieces + 3);
}

#[test]
fn a_vm_that_is_not_to_start_does_not() {
    let (bench, _) = bench("start=no");
    let run = bench.run();
    assert!(!run.logged("vm demo: starting") && run.logged("vm good: stopped: powered off"));
}

/// A user stops, starts and changes VMs at the prompt.
#[test]
fn vms_are_managed_at_the_prompt() {
    let mut bench = Bench::new();
    bench.add_module("vm=demo memory=16M start=no weight=200 kernel", &kernel());
    bench.add_vm("halts", vec![super::bench::step(super::bench::halt)]);
    bench.backend.add_program(power_off);
    let lines = "list\rstop demo\rstart demo\rstart demo\rcap demo 50\rreservation demo 60\rpin demo 5\rcpus\rmemory\r";
    bench.host.input.extend(b"\x01:");
    bench.host.input.extend(lines.bytes());
    bench.host.input.extend(b"dump halts\rstop 2\rpower-off\r");
    let run = bench.run_with(&crate::Options::default());
    for text in [
        "2   halts            starting ",
        "1   demo             stopped ",
        "vm demo does not run; start demo starts it",
        "vm demo: starting",
        "vm demo is starting or ending; list shows when it is done",
        "vm demo: weight 200, cap 50 %, reservation 0 %, pool 0, on CPUs 0",
        "nothing has changed: 60 % is more than the cap",
        "nothing has changed: vCPU 0 would have no CPU",
        "CPU  0  pool  0  idle",
        "KiB are free",
        "vm halts: stopping",
    ] {
        assert!(run.shown.contains(text), "no {text:?} in {}", run.shown);
    }
    assert!(run.logged("goodbye"));
}
