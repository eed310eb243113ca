//! Scenarios about the switch between VMs, with stock Linux on its ports.

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
        spoof(),
        mirror(),
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

fn spoof() -> Scenario {
    let guests = vec![guest("evil", "ip=10.9.0.1", "spoof"), guest("two", "ip=10.9.0.2", "serve 2")];
    let mut steps = vec![
        Step::results("evil").within(400).anywhere(),
        Step::vm("evil", "basalt-demo job done: 0").within(60).anywhere().then_send("\x01:ports lan\r\r"),
    ];
    steps.push(Step::end("evil").within(60).anywhere());
    let about = "a VM cannot send from addresses that are not its own";
    let made = scenario("vswitch-spoof", about, guests, steps);
    Scenario { checks: vec![Check { name: "what it has tried is counted", holds: lies_are_counted }], ..made }
}

fn lies_are_counted(log: &Log) -> Result<(), String> {
    for reason in ["spoofed-mac", "spoofed-address"] {
        if !log.kernel().any(|line| line.contains(reason)) {
            return Err(format!("no {reason} of evil's"));
        }
    }
    Ok(())
}

fn mirror() -> Scenario {
    let guests = vec![guest("watcher", "", "watch"), guest("one", "", "talk"), guest("two", "", "serve 2")];
    let about = "a VM sees by a mirror what two others say, as much of it as it may";
    let made = scenario("vswitch-mirror", about, guests, Vec::from(results("watcher")));
    Scenario { options: "mirror=lan:both=one,to=watcher,snap=200".to_owned(), ..made }
}

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
