//! What the management domain costs: until its first process runs, for a message there and back, and for a VM that it makes.

use ::tests::dom0::{self, DOM0};
use ::tests::exits::BENCH;
use ::tests::log::Log;
use ::tests::scenario::{Guest, Scenario, Step};

use super::boots::scenario;

/// The boot's name.
pub(super) const NODE: &str = "bench-node";

/// The domain makes a small VM that says when it was entered.
pub(super) fn boot() -> Scenario {
    let guest = Guest {
        vm: DOM0.to_owned(),
        ..Guest::new(&format!("{DOM0}+{BENCH}")).append("only=start basalt.rescue")
    };
    let steps = vec![
        Step::vm(BENCH, "selftest bench done:").within(300),
        Step::vm(DOM0, dom0::READY).within(300).anywhere().then_send("\rpoweroff\r"),
        Step::kernel(dom0::SWITCHED_OFF).within(60),
    ];
    scenario(NODE, guest, steps)
}

/// Names of rows and ticks. What a line with a time tells is exact to a microsecond.
pub(super) fn rows(log: &Log) -> Vec<(&'static str, f64)> {
    let Some(hz) = hz(log) else { return Vec::new() };
    let kernel = |text: &str| log.kernel().find(|line| line.contains(text)).and_then(seconds);
    let domain = |text: &str| log.vm(DOM0).find(|line| line.contains(text));
    let begins = domain("basaltd: dom0 begins").and_then(seconds);
    let vm = |what: &str| kernel(&format!("vm {BENCH}: {what}"));
    let round_trip = domain("answers, in ")
        .and_then(|line| line.split_once("answers, in ")?.1.split(' ').next()?.parse::<f64>().ok());
    let found = [
        // The domain's clock begins with it.
        ("dom0_init", kernel(&format!("vm {DOM0}: started")).zip(begins).map(|(before, own)| before + own)),
        ("dom0_round_trip", round_trip.map(|micros| micros / 1e6)),
        (
            "dom0_vm_create_to_first_instruction",
            vm("is made").zip(vm("begins")).map(|(made, begins)| begins - made),
        ),
    ];
    found.into_iter().filter_map(|(name, seconds)| Some((name, (seconds? * hz).round()))).collect()
}

/// Ticks in a second, as the kernel has measured.
fn hz(log: &Log) -> Option<f64> {
    let line = log.kernel().find(|line| line.contains("clock: TSC at "))?;
    let megahertz: f64 = line.split_once("TSC at ")?.1.split(' ').next()?.parse().ok()?;
    Some(megahertz * 1e6)
}

/// The time at which a line begins.
fn seconds(line: &str) -> Option<f64> {
    line.split_once('[')?.1.split_once(']')?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_of_lines() {
        let mut log = Log::default();
        log.push(
            b"[    0.000000] INFO  clock: TSC at 200.000 MHz by the HPET\n\
              [    0.372240] INFO  work: vm dom0: started, 63740755 ticks of work\n\
              [dom0] [   13.992065] basaltd: dom0 begins\n\
              [dom0] [   16.000000] basaltd: Basalt's kernel answers, in 150 us\n\
              [   22.272047] INFO  create: vm bench: is made, with 16M of memory to come and 1 vCPUs\n\
              [   22.280000] INFO  work: vm bench: held, 1000 ticks of work\n\
              [   22.292047] INFO  work: vm bench: begins\n",
        );
        assert_eq!(
            rows(&log),
            [
                ("dom0_init", 2_872_861_000.0),
                ("dom0_round_trip", 30_000.0),
                ("dom0_vm_create_to_first_instruction", 4_000_000.0)
            ]
        );
    }
}
