//! Scenarios about virtio devices.

use crate::linux::READY;
use crate::scenario::{BOCHS_SVM, BOCHS_VMX, Guest, QEMU_SVM, Scenario, Step, Tier};

/// Stock Linux with drivers for all devices.
const VIRTIO: &str = "virtio";

/// The guest's jobs: what each tries.
const JOBS: [(&str, &str); 2] = [
    ("disks", "stock Linux finds its disks, and what it writes is what it reads"),
    ("entropy", "stock Linux gets random bytes"),
];

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    let names: Vec<&str> = JOBS.iter().map(|(name, _)| *name).collect();
    let mut all = vec![
        reboot(),
        link("virtio-link", Tier::Ci, &[QEMU_SVM]),
        link("virtio-link-everywhere", Tier::Full, &[BOCHS_VMX, BOCHS_SVM]),
        jobs(
            "virtio-devices",
            "stock Linux uses all its virtio devices",
            &names,
            Tier::Ci,
            &[QEMU_SVM, BOCHS_VMX],
        ),
    ];
    all.extend(JOBS.iter().map(|(name, about)| {
        jobs(&format!("virtio-{name}"), about, &[name], Tier::Full, &[QEMU_SVM, BOCHS_VMX, BOCHS_SVM])
    }));
    all
}

/// Some of the guest's jobs, one after the other.
fn jobs(name: &str, about: &str, jobs: &[&str], tier: Tier, machines: &[&'static str]) -> Scenario {
    let run: Vec<String> = jobs.iter().map(|job| format!("/jobs/{job}")).collect();
    let mut steps = vec![Step::vm(VIRTIO, READY).within(180)];
    steps.extend(jobs.iter().map(|_| Step::results(VIRTIO).within(240)));
    steps.extend([Step::vm(VIRTIO, "basalt-demo job done: 0").within(60), Step::end(VIRTIO).within(60)]);
    Scenario {
        name: name.to_owned(),
        about: about.to_owned(),
        tier,
        machines: machines.to_vec(),
        cpus: None,
        options: String::new(),
        guests: vec![Guest::new(VIRTIO).append(&format!("basalt.run=\"{}\"", run.join(" && ")))],
        steps,
        checks: vec![],
    }
}

/// Two guests on a cable.
fn link(name: &str, tier: Tier, machines: &[&'static str]) -> Scenario {
    let guest = |vm: &str, own: u32| {
        Guest::new(VIRTIO).in_vm(vm).settings("net=cable").append(&format!("basalt.run=\"/jobs/link {own}\""))
    };
    let mut steps = vec![];
    for vm in ["one", "two"] {
        steps.extend([
            Step::vm(vm, READY).within(180).anywhere(),
            Step::results(vm).within(400).anywhere(),
            Step::vm(vm, "basalt-demo job done: 0").within(60).anywhere(),
            Step::end(vm).within(60).anywhere(),
        ]);
    }
    Scenario {
        name: name.to_owned(),
        about: "two stock Linux guests talk over a cable: all offloads, several queues, VLANs, drivers that go and come".to_owned(),
        tier,
        machines: machines.to_vec(),
        cpus: Some(2),
        options: String::new(),
        guests: vec![guest("one", 1), guest("two", 2)],
        steps,
        checks: vec![],
    }
}

/// The guest restarts while both of its disks are busy.
fn reboot() -> Scenario {
    let job =
        "basalt.run=\"dd if=/dev/zero of=/dev/vda bs=64k & dd if=/dev/vdb of=/dev/null bs=4k & reboot\"";
    Scenario {
        name: "virtio-reboot".to_owned(),
        about: "stock Linux restarts in the middle of reads and writes, and finds its disks again".to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM],
        cpus: None,
        options: String::new(),
        guests: vec![Guest::new(VIRTIO).append(job)],
        steps: (0..4).map(|_| Step::vm(VIRTIO, READY).within(180)).collect(),
        checks: vec![],
    }
}
