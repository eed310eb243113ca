//! What requests to devices cost: the guest counts their instructions, and two boots, of which one makes no requests, their exits and, for frames on a
//! switch, Basalt's own instructions.

use std::collections::BTreeMap;

use ::tests::exits::BENCH;
use ::tests::log::Log;
use ::tests::report;
use ::tests::scenario::{BLANK_DISK, Guest, Scenario, Step};

use super::Row;
use super::boots::{scenario, with_everything};

/// Kinds of requests to a disk, and kinds of frames with how many there are in a batch.
const DISK: [&str; 4] =
    ["disk_read_4_kib_qd1", "disk_read_4_kib_qd32", "disk_write_4_kib_qd1", "disk_write_4_kib_qd32"];
const NET: [(&str, u32); 4] =
    [("packet_64", 32), ("switch_64", 128), ("switch_1500", 128), ("frame_64_kib", 2)];
/// The beginning of the names of those of which Basalt's own part counts.
const SWITCH: &str = "switch_";
/// Rules that the switch has then. None fits.
const RULES: u16 = 100;

/// The beginning of the scenarios' names, and the end of those without requests.
const PREFIX: &str = "bench-device-";
pub(crate) const NOTHING: &str = "-idle";

/// With requests, and without.
pub(super) fn scenarios() -> Vec<Scenario> {
    let disks = DISK.into_iter().flat_map(|name| [disk(name, true), disk(name, false)]);
    let nets = NET.into_iter().flat_map(|(name, batch)| [net(name, batch, true), net(name, batch, false)]);
    disks.chain(nets).collect()
}

fn named(name: &str, busy: bool) -> (String, String) {
    let (end, rounds) = if busy { ("", 64) } else { (NOTHING, 0) };
    (format!("{PREFIX}{name}{end}"), format!("only={name} rounds={rounds}"))
}

fn steps() -> Vec<Step> {
    vec![Step::vm(BENCH, "selftest bench done:").within(300), Step::end(BENCH).within(60)]
}

fn disk(kind: &str, busy: bool) -> Scenario {
    let (name, append) = named(kind, busy);
    let guest = Guest::new(BENCH).append(&append).module("disk", &BLANK_DISK);
    with_everything(scenario(&name, guest, steps()))
}

/// Two guests on one CPU.
fn net(kind: &str, batch: u32, busy: bool) -> Scenario {
    let (name, append) = named(kind, busy);
    let guest = |vm: &str, append: &str| Guest::new(BENCH).in_vm(vm).settings("net=bench").append(append);
    let mut made = with_everything(scenario(&name, guest(BENCH, &append), steps()));
    if kind.starts_with(SWITCH) {
        let rules = (1..=RULES).map(|port| format!(" rule=bench:deny,protocol=udp,port={port}"));
        made.options.extend(rules);
        made.steps.push(Step::end("sink").within(60).anywhere());
    }
    made.guests.push(guest("sink", &format!("only=sink batch={batch}")));
    Scenario { cpus: Some(1), ..made }
}

/// Exits of all VMs of a scenario of this module, and Basalt's instructions on their behalf, by machine and scenario.
pub(super) type Exits = BTreeMap<(String, String), (u64, u64)>;

/// Takes note of what a boot needed.
pub(super) fn note(exits: &mut Exits, machine: &str, scenario: &str, log: &Log) {
    if scenario.starts_with(PREFIX) {
        let all =
            [BENCH, "sink"].into_iter().flat_map(|vm| report::exits(log, vm)).map(|(_, count)| count).sum();
        let root =
            [BENCH, "sink"].into_iter().filter_map(|vm| report::ticks(log, vm)).map(|it| it.root).sum();
        exits.insert((machine.to_owned(), scenario.to_owned()), (all, root));
    }
}

/// Rows of exits a request, in place of the rows of their number; for frames on a switch, Basalt's part in place of the whole.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub(super) fn per_request(rows: &mut Vec<Row>, exits: &Exits) {
    let of = |machine: &str, name: &str, end| {
        exits.get(&(machine.to_owned(), format!("{PREFIX}{name}{end}"))).copied()
    };
    let requests: BTreeMap<(String, String), f64> = rows
        .iter()
        .filter_map(|row| {
            Some(((row.machine.clone(), row.name.strip_suffix("_requests")?.to_owned()), row.value))
        })
        .collect();
    rows.retain_mut(|row| {
        if row.name.starts_with(SWITCH) && !row.name.ends_with("_requests") {
            let (Some((_, busy)), Some((_, idle))) =
                (of(&row.machine, &row.name, ""), of(&row.machine, &row.name, NOTHING))
            else {
                return false;
            };
            let count = requests.get(&(row.machine.clone(), row.name.clone()));
            row.value = busy.saturating_sub(idle) as f64 / count.copied().unwrap_or(f64::INFINITY);
            return true;
        }
        let Some(name) = row.name.strip_suffix("_requests") else { return true };
        let (Some((busy, _)), Some((idle, _))) =
            (of(&row.machine, name, ""), of(&row.machine, name, NOTHING))
        else {
            return false;
        };
        row.value = busy.saturating_sub(idle) as f64 / row.value;
        "exits".clone_into(&mut row.unit);
        row.name = format!("{name}_exits");
        true
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_those_of_the_requests() {
        let (mut exits, mut busy, mut idle) = (Exits::new(), Log::default(), Log::default());
        busy.push(b"[ 9.0] info hv: vm bench: exits io 30\n[ 9.0] info hv: vm sink: exits halt 80\n");
        idle.push(b"[ 9.0] info hv: vm bench: exits io 10\n");
        note(&mut exits, "m", "bench-device-packet_64", &busy);
        note(&mut exits, "m", "bench-device-packet_64-idle", &idle);
        note(&mut exits, "m", "bench-linux", &idle);
        let row = |name: &str| Row {
            name: name.to_owned(),
            machine: "m".to_owned(),
            value: 50.0,
            unit: String::new(),
        };
        let mut rows = vec![row("packet_64"), row("packet_64_requests"), row("frame_64_kib_requests")];
        per_request(&mut rows, &exits);
        let found: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.value)).collect();
        assert_eq!(found, [("packet_64", 50.0), ("packet_64_exits", 2.0)]);
    }
}
