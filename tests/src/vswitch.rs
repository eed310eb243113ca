//! Scenarios about the switch between VMs: with stock Linux on its ports, and with a guest that sends what no Linux does.

use std::collections::BTreeSet;

use crate::log::Log;
use crate::scenario::{BOCHS_VMX, Check, Guest, QEMU_SVM, QEMU_SVM_COUNTED, Scenario, Step, Tier};

/// Stock Linux with iperf3 and tcpdump.
const SWITCH: &str = "switch";

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    vec![
        traffic("vswitch-traffic", "2M", Tier::Ci, &[QEMU_SVM]),
        traffic("vswitch-traffic-everywhere", "16M", Tier::Full, &[QEMU_SVM, BOCHS_VMX]),
        vlans(),
        spoof("vswitch-spoof", Tier::Ci, &[QEMU_SVM]),
        spoof("vswitch-spoof-everywhere", Tier::Full, &[BOCHS_VMX]),
        mirror("vswitch-mirror", Tier::Ci, &[QEMU_SVM]),
        mirror("vswitch-mirror-everywhere", Tier::Full, &[BOCHS_VMX]),
        hostile("vswitch-hostile", Tier::Ci, &[QEMU_SVM]),
        hostile("vswitch-hostile-everywhere", Tier::Full, &[BOCHS_VMX]),
        racing(),
        all_ports(),
        limits("vswitch-limits", Tier::Ci, &[QEMU_SVM_COUNTED]),
        limits("vswitch-limits-everywhere", Tier::Full, &[BOCHS_VMX]),
        fair("vswitch-fair", Tier::Ci, &[QEMU_SVM_COUNTED]),
        fair("vswitch-fair-everywhere", Tier::Full, &[BOCHS_VMX]),
    ]
}

/// A guest that runs a job.
fn guest(vm: &str, settings: &str, job: &str) -> Guest {
    Guest::new(SWITCH).in_vm(vm).settings(settings).append(&format!("basalt.run=\"/jobs/{job}\""))
}

/// The results of a VM's job, and its end.
fn results(vm: &str) -> [Step; 3] {
    [
        Step::results(vm).within(500).anywhere(),
        Step::vm(vm, "basalt-demo job done: 0").within(60).anywhere(),
        Step::end(vm).within(60).anywhere(),
    ]
}

fn scenario(name: &str, about: &str, guests: Vec<Guest>, steps: Vec<Step>) -> Scenario {
    Scenario {
        name: name.to_owned(),
        about: about.to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM],
        cpus: Some(1),
        options: String::new(),
        guests,
        steps,
        checks: vec![],
    }
}

fn traffic(name: &str, bytes: &str, tier: Tier, machines: &[&'static str]) -> Scenario {
    let guests = vec![
        guest("one", "", &format!("traffic {bytes}")),
        guest("two", "", "serve 2"),
        guest("three", "", "serve 3"),
    ];
    let about = "three VMs on a switch exchange pings, TCP and UDP";
    let [all, done, end] = results("one");
    let steps = vec![
        all,
        done.then_send("\x01:flows lan\rrecords lan\r\r"),
        Step::kernel("icmp 10.9.0.1").within(60).anywhere(),
        Step::kernel("more records wait").within(60).anywhere(),
        end,
    ];
    let made = scenario(name, about, guests, steps);
    Scenario { tier, machines: machines.to_vec(), ..made }
}

fn vlans() -> Scenario {
    let guests = vec![
        guest("one", "vlan=10", "apart 1 3"),
        guest("two", "trunk=10,20 native=none", "serve 2 10 20"),
        guest("three", "vlan=20", "serve 3"),
    ];
    let about = "VMs in different VLANs do not reach each other, and one on a trunk reaches both";
    let made = scenario("vswitch-vlans", about, guests, Vec::from(results("one")));
    Scenario { machines: vec![QEMU_SVM, BOCHS_VMX], tier: Tier::Full, ..made }
}

fn spoof(name: &str, tier: Tier, machines: &[&'static str]) -> Scenario {
    let guests = vec![guest("evil", "ip=10.9.0.1", "spoof"), guest("two", "ip=10.9.0.2", "serve 2")];
    let steps = vec![
        Step::results("evil").within(400).anywhere(),
        Step::vm("evil", "basalt-demo job done: 0").within(60).anywhere().then_send("\x01:ports lan\r\r"),
        Step::end("evil").within(60).anywhere(),
    ];
    let about = "a VM cannot send from addresses that are not its own";
    let checks = vec![Check { name: "what it has tried is counted", holds: lies_are_counted }];
    let made = scenario(name, about, guests, steps);
    Scenario { tier, machines: machines.to_vec(), checks, ..made }
}

fn lies_are_counted(log: &Log) -> Result<(), String> {
    for reason in ["spoofed-mac", "spoofed-address"] {
        if !log.kernel().any(|line| line.contains(reason)) {
            return Err(format!("no {reason} of evil's"));
        }
    }
    Ok(())
}

fn mirror(name: &str, tier: Tier, machines: &[&'static str]) -> Scenario {
    let guests = vec![guest("watcher", "", "watch"), guest("one", "", "talk"), guest("two", "", "serve 2")];
    let about = "a VM sees by a mirror what two others say, as much of it as it may";
    let options = "mirror=lan:both=one,to=watcher,snap=200".to_owned();
    let made = scenario(name, about, guests, Vec::from(results("watcher")));
    Scenario { tier, machines: machines.to_vec(), options, ..made }
}

/// The devices of the selftest guest `frames`: what it relies on of each is written there.
const FRAMES: &str = "net=lan mac=02:00:00:00:00:01 ip=10.9.0.1,fd00::1 \
    net=lan mac=02:00:00:00:00:02 ip=10.9.0.2,fd00::2 \
    net=lan mac=02:00:00:00:00:03 trunk=all native=none \
    net=lan mac=02:00:00:00:00:04 spoof=yes \
    net=lan mac=02:00:00:00:00:05 \
    net=lan mac=02:00:00:00:00:06 mtu=1500 \
    net=lan mac=02:00:00:00:00:07 vlan=20";

fn hostile(name: &str, tier: Tier, machines: &[&'static str]) -> Scenario {
    let guests = vec![Guest::new("frames").in_vm("evil").settings(FRAMES).append("wait=yes")];
    let look = Step::vm("evil", "frames: look at the ports");
    let steps = vec![
        look.within(240).then_send("\x01:ports lan\r\r\x011\r\x01a"),
        Step::results("evil").within(60).anywhere(),
        Step::end("evil").within(60).anywhere(),
    ];
    let about = "frames of all kinds that a hostile guest may send arrive where they may, and nowhere else";
    let checks = vec![Check { name: "the switch has counted each by its reason", holds: losses_are_told }];
    let made = scenario(name, about, guests, steps);
    Scenario { tier, machines: machines.to_vec(), checks, ..made }
}

/// As many ports as a switch has, on each of which there is a device; one of eight has a driver, which sends to all.
fn all_ports() -> Scenario {
    const VMS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let devices = "net=lan ".repeat(8);
    let guests = VMS
        .map(|vm| Guest::new("bench").in_vm(vm).settings(devices.trim_end()).append("only=flood rounds=1"));
    let mut steps = vec![Step::kernel("network lan: 64 ports").within(60)];
    steps
        .extend(VMS.map(|vm| Step::vm(vm, "selftest bench done: 0 passed, 0 failed").within(200).anywhere()));
    let about = "a switch has 64 ports, and VMs with 8 devices each are on it";
    let made = scenario("vswitch-ports", about, guests.into(), steps);
    Scenario { tier: Tier::Full, machines: vec![QEMU_SVM, BOCHS_VMX], ..made }
}

/// Two virtual CPUs, each on a CPU of its own: one sends what the other changes.
fn racing() -> Scenario {
    let guest = Guest::new("frames").in_vm("evil").settings(FRAMES).cpus(2);
    let steps = vec![Step::results("evil").within(240), Step::end("evil").within(60)];
    let about = "a frame that its sender changes while the switch looks at it arrives as it was looked at";
    let guests = vec![guest.append("test=frames_change_under_way")];
    let made = scenario("vswitch-hostile-racing", about, guests, steps);
    Scenario { tier: Tier::Full, machines: vec![BOCHS_VMX], cpus: Some(2), ..made }
}

/// What the guest has reckoned with, and what the prompt has told of its ports. What a port has lost that is full, or for which a frame is too
/// long, the guest does not reckon with.
fn losses_are_told(log: &Log) -> Result<(), String> {
    let reckoned: BTreeSet<String> = log
        .vm("evil")
        .filter_map(|line| line.strip_prefix("frames: device "))
        .map(|rest| rest.replacen(" has lost", "", 1))
        .collect();
    let mut told = BTreeSet::new();
    let mut port = "";
    for line in log.kernel() {
        if let Some((number, _)) = line.strip_prefix("evil.").and_then(|rest| rest.split_once(' ')) {
            port = number;
        } else if let Some(losses) = line.trim_start().strip_prefix("lost: ") {
            let losses = losses.split(", ").filter(|loss| !UNRECKONED.iter().any(|it| loss.starts_with(it)));
            told.extend(losses.map(|loss| format!("{port} {loss}")));
        }
    }
    if reckoned.is_empty() || reckoned != told {
        let one_sided: Vec<_> = reckoned.symmetric_difference(&told).collect();
        return Err(format!("{one_sided:?} of only one side"));
    }
    Ok(())
}

const UNRECKONED: [&str; 3] = ["mtu ", "unsuited ", "down "];

fn limits(name: &str, tier: Tier, machines: &[&'static str]) -> Scenario {
    // Bursts of 200 ms: where three VMs share a CPU of an emulated machine, a sender is away for longer than the usual 50.
    let guests = vec![
        guest("one", "outbound=40M:1M", "limited"),
        guest("two", "", "serve 2"),
        guest("three", "inbound=20M:512K", "serve 3"),
    ];
    let about = "what a VM may send and receive is kept within 5 % over 5 seconds";
    let [all, done, end] = results("one");
    let steps = vec![all.then_send("\x01:ports lan\r\r"), done, end];
    let made = scenario(name, about, guests, steps);
    Scenario { tier, machines: machines.to_vec(), ..made }
}

fn fair(name: &str, tier: Tier, machines: &[&'static str]) -> Scenario {
    let guests = vec![
        guest("flood", "start=no", "flood"),
        guest("fair", "", "fair"),
        guest("three", "inbound=20M", "serve 3"),
    ];
    let mut steps = vec![
        Step::vm("fair", "start the flood").within(400).then_send("\x01:start flood\r\r"),
        Step::vm("flood", "flooding").within(300).anywhere().then_send("\x012\r\x01a"),
        Step::vm("fair", "guarantee it 15M")
            .within(400)
            .then_send("\x01:port fair guaranteed=15M\r\r\x012\r\x01a"),
    ];
    steps.extend(results("fair"));
    let about = "TCP of a VM has its fair share beside one that floods, and what it is guaranteed";
    let made = scenario(name, about, guests, steps);
    Scenario { tier, machines: machines.to_vec(), ..made }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_the_same_on_both_sides() {
        let check = |guest: &str, prompt: &str| {
            let mut log = Log::default();
            log.push(format!("{guest}\n{prompt}\n").as_bytes());
            losses_are_told(&log)
        };
        let guest = "[evil] frames: device 0 has lost vlan 7\n[evil] frames: device 2 has lost malformed 1";
        let prompt = |vlan: u32| {
            format!(
                "evil.0   up  9\n    vlan=1\n    lost: vlan {vlan}\nevil.2   up 1\n    lost: malformed 1, mtu 3"
            )
        };
        assert_eq!(check(guest, &prompt(7)), Ok(()));
        assert!(check(guest, &prompt(6)).is_err() && check(guest, "").is_err() && check("", "").is_err());
        assert!(check(guest, "evil.0  up\n    lost: vlan 7").is_err());
    }
}
