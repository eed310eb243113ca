use std::collections::BTreeSet;
use std::format;
use std::vec::Vec;

use super::bench::{Bench, halt, kernel, power_off};
use crate::{End, Options};

/// Keys for a prompt, after a while: what is typed is looked at in small pieces.
fn later(keys: &str) -> Vec<u8> {
    [b"\x01:", b"x\x7f".repeat(32 * 200).as_slice(), keys.as_bytes()].concat()
}

/// All begin at the same time, so each must find memory that the others have not taken yet.
#[test]
fn as_many_start_as_there_is_memory_for() {
    let mut bench = Bench::new();
    bench.add_module("vm=web count=20 memory=16M kernel", &kernel());
    (0..17).for_each(|_| drop(bench.backend.add_program(halt)));
    bench.host.input.extend(later("stop web-7\r"));
    bench.host.input.extend(later("start web-20\r"));
    bench.host.input.extend(later("power-off\r"));
    let run = bench.run_with(&Options::default());
    let of = |text: &str| {
        let lines = run.log.iter().filter(|line| line.contains(text));
        lines.map(|line| line.split(':').next().unwrap_or_default()).collect::<BTreeSet<_>>()
    };
    // 16 of them in 256 MiB: the hole for a VGA adapter leaves a little for the rest.
    let started = of(": started, ");
    assert_eq!(started.len(), 17, "{started:?}");
    assert_eq!(of("not started: not enough memory: 16256 KiB wanted").len(), 4);
    assert!(started.contains("vm web-16") && started.contains("vm web-20") && !started.contains("vm web-19"));
    assert_eq!(of("stopped: ended by the user").len(), 17);
}

#[test]
fn hundreds_are_listed_and_looked_after() {
    let mut bench = Bench::new();
    bench.add_module("vm=web count=255 memory=16M start=no kernel", &kernel());
    bench.add_vm("last", Vec::new());
    bench.backend.add_program(power_off);
    bench.host.input.extend(b"\x01:start web-200\rlist\rconsole web-255\r");
    let run = bench.run_with(&Options { end: End::PowerOff, ..Options::default() });
    for name in (1..=255).map(|number| format!("{number:<3} web-{number} ")).chain(["256 last ".into()]) {
        assert_eq!(run.shown.matches(&name).count(), 1, "{name}: {}", run.shown);
    }
    assert!(run.logged("256 VMs") && run.shown.contains("--- console of web-255 ---"));
    for name in ["last", "web-200"] {
        assert!(run.logged(&format!("vm {name}: stopped: powered off")));
    }
}

#[test]
fn vms_for_which_the_machine_has_no_room_are_refused() {
    let mut bench = Bench::new();
    bench.add_vm("demo", Vec::new());
    bench.backend.bank = vcpu::fake::Bank::new(1 << 20);
    let run = bench.run();
    assert!(run.logged("vm demo: not started: not enough memory: 2048 KiB wanted, 1024 KiB free"));
}
