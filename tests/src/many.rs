//! As many small VMs as the machine's memory holds.

use crate::log::{Log, Source};
use crate::scenario::{Check, Guest, QEMU_SVM_COUNTED, Scenario, Step, Tier};
use crate::stretch;

/// The scenario, whose kernel tells the longest stretch without a look for pending work.
pub(crate) const NAME: &str = "many-vms";
/// Its machine's memory.
pub(crate) const MEMORY: &str = "4G";
/// The VMs by the line's `count=`: together they would have all of the memory.
const COUNT: u32 = 4096 / 32;
/// The first so many are to run at least; Xen has 113 in the same machine.
const LEAST: u32 = 120;
/// For this one there is no memory before another has ended.
const LATER: &str = "small-128";
/// What each says when it runs.
const THERE: &str = "spin is there";

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    let settings = format!("memory=32M count={COUNT}");
    let small = |name: &str| Guest::new("spin").in_vm(name).settings(&settings).append("beats=none");
    let refused = Step::kernel("vm small-128: not started: not enough memory: 32640 KiB wanted").within(120);
    let there = (1..=LEAST).map(|number| Step::vm(&format!("small-{number}"), THERE).within(120).anywhere());
    let mut steps: Vec<_> = std::iter::once(refused).chain(there).collect();
    if let Some(last) = steps.pop() {
        steps.push(last.then_send("\x01:console small-120\r"));
    }
    steps.extend([
        // Its last bytes are shown again.
        Step::kernel("--- console of small-120 ---").within(60),
        Step::kernel(THERE).within(60).then_send("\x01p"),
        Step::kernel("--- console of small-119 ---").within(60).then_send("\x01a\x01:stop small-120\r"),
        Step::kernel("vm small-120: all is given back").within(60).then_send("start 128\r"),
        Step::vm(LATER, THERE).within(60).then_send("cpus\rlist\r\r"),
        Step::kernel("128 small-128").within(60),
    ]);
    vec![Scenario {
        name: NAME.to_owned(),
        about: "120 and more VMs of 32 MiB run in 4 GiB, and each can be reached; one more starts when another has ended"
            .to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM_COUNTED],
        cpus: None,
        options: String::new(),
        guests: vec![small("small")],
        steps,
        checks: vec![
            Check { name: "all are in the list", holds: all_are_listed },
            stretch::SHORT,
        ],
    }]
}

fn all_are_listed(log: &Log) -> Result<(), String> {
    let is_listed = |number: &u32| {
        let start = format!("{number:<3} small-{number} ");
        log.lines().iter().any(|line| line.source == Source::Kernel && line.text.starts_with(&start))
    };
    let listed = (1..=COUNT).filter(is_listed).count();
    if listed as u32 == COUNT { Ok(()) } else { Err(format!("{listed} of {COUNT}")) }
}
