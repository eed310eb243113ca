//! Scenarios of the management domain: stock Linux drives the machine's own devices, on Basalt.

use crate::log::Log;
use crate::scenario::{Check, Guest, Scenario, Step, Tier};

/// The management domain, and the name of its VM.
pub const DOM0: &str = "dom0";
/// The VM that it makes.
const NODE: &str = "node";
/// The one whose disk it serves.
const SERVED: &str = "served";
/// The one that boots from its disk.
const BIOS: &str = "bios";
/// What it says when its devices have their drivers and its network cards an address.
pub const READY: &str = "basaltd: ready";

/// Fills the file system of the node's data: nearly all of it at once, and the rest byte by byte.
const FILL: &str = "\rfallocate -l $(($(stat -f -c '%f * %S' /data) - 4194304)) /data/filler; \
    dd if=/dev/zero of=/data/rest bs=64k; echo fi''lled\r";

/// What the kernel says when the domain has asked for power: the domain does not switch it.
pub const SWITCHED_OFF: &str = "switched off by the management domain";

/// Machines with the devices that nodes have: UEFI, NVMe and PCI Express, and an old PC with lines instead of messages.
const MACHINES: [&str; 2] = ["qemu-node-q35-uefi-nvme-e1000e", "bochs-node-vmx"];
/// More of them: what one has, the others have not.
const MORE_MACHINES: [&str; 4] = [
    "qemu-node-q35-bios-ahci-virtio-net",
    "qemu-node-i440fx-bios-virtio-virtio-net",
    "qemu-node-i440fx-uefi-ide-e1000",
    "qemu-node-q35-bios-nvme-e1000",
];

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    let on = |name: &str, about: &str, tier, machines: &[&'static str], guest: Guest| Scenario {
        name: name.to_owned(),
        about: about.to_owned(),
        tier,
        machines: machines.to_vec(),
        cpus: None,
        options: String::new(),
        guests: vec![guest.append("basalt.rescue")],
        steps: vec![
            Step::vm(DOM0, READY).within(200),
            Step::vm(DOM0, "Basalt's kernel answers").within(60).anywhere(),
            Step::vm(DOM0, "events of CPU 0, the last one: ").within(60).anywhere(),
            Step::vm(DOM0, "mounted at /data")
                .within(60)
                .anywhere()
                .then_send("\rdate -us '2033-05-18 03:33:20'\r"),
            Step::vm(DOM0, "basaltd: the machine's clock is set")
                .within(60)
                .anywhere()
                .then_send("\rcat /sys/class/rtc/rtc0/date\r"),
            Step::vm(DOM0, "2033-05-18").within(60).then_send("\rpoweroff\r"),
            Step::end(DOM0).within(60),
            Step::kernel(SWITCHED_OFF).within(60),
        ],
        checks: vec![
            Check { name: "a network card has an address", holds: has_address },
            Check { name: "Linux has nothing to complain of", holds: complains_not },
        ],
    };
    vec![
        makes_a_vm(),
        serves_a_disk(),
        serves_it_again(),
        boots_from_a_disk("dom0-bios", Tier::Ci, MACHINES[0]),
        boots_from_a_disk("dom0-bios-everywhere", Tier::Full, MACHINES[1]),
        has_no_room(),
        serves_fio(),
        shuts_down(),
        is_hostile(),
        on(
            "dom0",
            "the management domain drives the machine's disk and network card, and powers off",
            Tier::Ci,
            &MACHINES,
            Guest::new(DOM0),
        ),
        on(
            "dom0-cpus",
            "the management domain with four vCPUs and a part of the machine that nobody takes from it",
            Tier::Full,
            &MACHINES,
            Guest::new(DOM0).cpus(4).settings("reservation=50"),
        ),
        on(
            "dom0-machines",
            "the same on boards, firmwares, disks and cards of other kinds",
            Tier::Full,
            &MORE_MACHINES,
            Guest::new(DOM0),
        ),
    ]
}

/// A scenario of the management domain, whose Linux is to have nothing to complain of.
fn of_node(
    (name, about): (&str, &str),
    tier: Tier,
    machines: Vec<&'static str>,
    guest: Guest,
    steps: Vec<Step>,
) -> Scenario {
    Scenario {
        name: name.to_owned(),
        about: about.to_owned(),
        tier,
        machines,
        cpus: None,
        options: String::new(),
        guests: vec![guest],
        steps,
        checks: vec![Check { name: "Linux has nothing to complain of", holds: complains_not }],
    }
}

/// The management domain makes a VM of files of its own, which finds its devices, switches itself off and is unmade.
fn makes_a_vm() -> Scenario {
    let about = "the management domain makes a VM with disk, network and console, sees it end, and gets all of it back";
    let guest = Guest {
        vm: DOM0.to_owned(),
        ..Guest::new("dom0+node").append("basalt.rescue basalt.run=/jobs/devices")
    };
    of_node(
        ("dom0-vm", about),
        Tier::Ci,
        MACHINES.to_vec(),
        guest,
        vec![
            Step::vm(DOM0, "basaltd: VM node: runs").within(200),
            Step::results(NODE).within(200),
            Step::vm(NODE, "basalt-demo job done: 0").within(60),
            Step::vm(DOM0, "basaltd: VM node: has ended: it has switched itself off").within(120).anywhere(),
            Step::vm(DOM0, "basaltd: VM node: all that it had is free").within(60).then_send("\rpoweroff\r"),
            Step::end(DOM0).within(60),
            Step::kernel(SWITCHED_OFF).within(60),
        ],
    )
}

/// A VM's disk is a file of the management domain's: the guest reads and writes it, and all of it is where it was written.
fn serves_a_disk() -> Scenario {
    let about =
        "the management domain serves a disk out of a file: reads, writes, flushes and discards of a guest";
    let guest = Guest {
        vm: DOM0.to_owned(),
        ..Guest::new("dom0+served").append("basalt.rescue basalt.run=/jobs/disk")
    };
    of_node(
        ("dom0-disk", about),
        Tier::Ci,
        MACHINES.to_vec(),
        guest,
        vec![
            Step::vm(DOM0, "basaltd: VM served: runs").within(200),
            Step::results(SERVED).within(200),
            Step::vm(SERVED, "basalt-demo job done: 0").within(60),
            Step::vm(DOM0, "basaltd: VM served: all that it had is free")
                .within(60)
                .anywhere()
                .then_send("\rpoweroff\r"),
            Step::end(DOM0).within(60),
            Step::kernel(SWITCHED_OFF).within(60),
        ],
    )
}

/// Who serves a disk dies, and is there again: the guest hears nothing of it.
fn serves_it_again() -> Scenario {
    let about =
        "the processes that serve a disk are killed while a guest writes to it: no error, nothing is lost";
    let guest = Guest {
        vm: DOM0.to_owned(),
        ..Guest::new("dom0+served").append("basalt.rescue basalt.run=/jobs/death")
    };
    of_node(
        ("dom0-disk-death", about),
        Tier::Ci,
        vec![MACHINES[0]],
        guest,
        vec![
            Step::vm(SERVED, "basalt-served round 2").within(200).then_send(
                "\rfor p in /proc/[0-9]*; do grep -q worker $p/cmdline && kill -9 ${p#/proc/}; done\r",
            ),
            Step::vm(DOM0, "has died, and is started again").within(60),
            Step::vm(SERVED, "basalt-served round 6").within(120).then_send(
                "\rfor p in /proc/[0-9]*; do grep -q disks $p/cmdline && kill -9 ${p#/proc/}; done\r",
            ),
            Step::vm(DOM0, "its disks are served again").within(60),
            Step::vm(SERVED, "basalt-served round 12").within(120).then_send(
                "\rfor p in /proc/[0-9]*; do grep -q control $p/cmdline && kill -9 ${p#/proc/}; done\r",
            ),
            Step::results(SERVED).within(300),
            Step::vm(SERVED, "basalt-demo job done: 0").within(60),
            Step::vm(DOM0, "basaltd: VM served: all that it had is free")
                .within(60)
                .anywhere()
                .then_send("\rpoweroff\r"),
            Step::end(DOM0).within(60),
            Step::kernel(SWITCHED_OFF).within(60),
        ],
    )
}

/// The file system with a disk's file is full for a while: its VM stands still, and goes on.
fn has_no_room() -> Scenario {
    let about = "a file system of the management domain's is full while a guest writes: it waits for room, and nothing is lost";
    let guest = Guest {
        vm: DOM0.to_owned(),
        ..Guest::new("dom0+served").append("basalt.rescue basalt.run=/jobs/room")
    };
    of_node(
        ("dom0-disk-room", about),
        Tier::Ci,
        vec![MACHINES[0]],
        guest,
        vec![
            Step::vm(SERVED, "basalt-served round 1").within(200).then_send(FILL),
            Step::vm(DOM0, "filled").within(120).anywhere(),
            Step::vm(DOM0, "VM served: it stands still: there is no room for what it writes")
                .within(60)
                .anywhere()
                .then_send("\rsleep 5; rm /data/filler /data/rest\r"),
            Step::vm(DOM0, "VM served: goes on: there is room again").within(120),
            Step::results(SERVED).within(200),
            Step::vm(SERVED, "basalt-demo job done: 0").within(60),
            Step::vm(DOM0, "basaltd: VM served: all that it had is free")
                .within(60)
                .anywhere()
                .then_send("\rpoweroff\r"),
            Step::end(DOM0).within(60),
            Step::kernel(SWITCHED_OFF).within(60),
        ],
    )
}

/// The same as [`serves_a_disk`], with more of everything.
fn serves_fio() -> Scenario {
    const FIO: &str = "fio-node";
    let about = "fio writes to disks that the management domain serves out of raw and qcow2 files, with flushes and discards, and checks them";
    let guest = Guest {
        vm: DOM0.to_owned(),
        // fio comes with many libraries, which dom0 has in memory.
        memory: Some("480M"),
        ..Guest::new("dom0+fio-node").append("basalt.rescue basalt.run=/jobs/fio")
    };
    of_node(
        ("dom0-fio", about),
        Tier::Full,
        vec![MACHINES[0]],
        guest,
        vec![
            Step::vm(DOM0, "basaltd: VM fio-node: runs").within(200),
            Step::results(FIO).within(600),
            Step::vm(FIO, "basalt-demo job done: 0").within(60),
            Step::vm(DOM0, "basaltd: VM fio-node: all that it had is free")
                .within(60)
                .anywhere()
                .then_send("\rpoweroff\r"),
            Step::end(DOM0).within(60),
            Step::kernel(SWITCHED_OFF).within(60),
        ],
    )
}

/// A VM without a kernel boots from an image that the management domain serves, and again after it has reset itself.
fn boots_from_a_disk(name: &str, tier: Tier, machine: &'static str) -> Scenario {
    let boot = || {
        [
            Step::vm(BIOS, "SeaBIOS (version").within(200).anywhere(),
            Step::vm(BIOS, "Booting from Hard Disk").within(120),
            Step::vm(BIOS, "GRUB starts the kernel from the disk").within(120),
        ]
    };
    let mut steps = Vec::from(boot());
    steps.push(Step::vm(BIOS, "bios: the first time").within(300));
    steps.push(Step::vm(DOM0, "basaltd: VM bios: starts over").within(60).anywhere());
    steps.extend(boot());
    steps.extend([
        Step::results(BIOS).within(300),
        Step::vm(BIOS, "basalt-demo job done: 0").within(60),
        Step::vm(DOM0, "basaltd: VM bios: all that it had is free")
            .within(60)
            .anywhere()
            .then_send("\rpoweroff\r"),
        Step::end(DOM0).within(60),
        Step::kernel(SWITCHED_OFF).within(60),
    ]);
    Scenario {
        name: name.to_owned(),
        about: "SeaBIOS, GRUB and stock Linux boot from a qcow2 file over an image, both served by the management domain".to_owned(),
        tier,
        machines: vec![machine],
        cpus: None,
        options: String::new(),
        guests: vec![Guest { vm: DOM0.to_owned(), ..Guest::new("dom0+bios").append("basalt.rescue") }],
        steps,
        checks: vec![Check { name: "Linux has nothing to complain of", holds: complains_not }],
    }
}

/// Before the machine goes off, VMs are asked to shut down.
fn shuts_down() -> Scenario {
    let about = "before the machine goes off, the management domain presses the power buttons of its VMs";
    let guest = Guest { vm: DOM0.to_owned(), ..Guest::new("dom0+node").append("basalt.rescue") };
    of_node(
        ("dom0-shutdown", about),
        Tier::Ci,
        vec![MACHINES[0]],
        guest,
        vec![
            Step::vm(DOM0, "basaltd: VM node: runs").within(200),
            Step::vm(NODE, "basalt-demo login ready").within(200).anywhere().then_send("\rpoweroff\r"),
            Step::vm(DOM0, "basaltd: VM node: is asked to shut down").within(60),
            Step::vm(NODE, "reboot: Power down").within(60).anywhere(),
            Step::vm(DOM0, "basaltd: VM node: has ended: it has switched itself off").within(60).anywhere(),
            Step::end(DOM0).within(60),
            Step::kernel(SWITCHED_OFF).within(60),
        ],
    )
}

/// Root of the management domain tries what it must not reach; kernel and VM take no harm. Its own kernel is told not to refuse that before.
fn is_hostile() -> Scenario {
    Scenario {
        name: "dom0-hostile".to_owned(),
        about:
            "the management domain reaches neither memory nor interrupts nor registers that are not its own"
                .to_owned(),
        tier: Tier::Ci,
        machines: MACHINES.to_vec(),
        cpus: None,
        options: String::new(),
        guests: vec![Guest {
            vm: DOM0.to_owned(),
            ..Guest::new("dom0+node").append("basalt.rescue iomem=relaxed")
        }],
        steps: vec![
            Step::vm(DOM0, "basaltd: ready").within(200),
            Step::vm(NODE, "basalt-demo login ready")
                .within(200)
                .anywhere()
                .then_send("\rsh /etc/basalt/vms/node/disk1\r"),
            // All consoles are shown again then, each line with its VM's name.
            Step::results(DOM0).within(120).then_send("\x012\r/jobs/devices; poweroff\r\x01a"),
            Step::results(NODE).within(120),
            // What it has done to its own devices is its own affair: it may not be able to end by itself.
            Step::vm(DOM0, "basaltd: VM node: all that it had is free")
                .within(60)
                .anywhere()
                .then_send("\x01x"),
            Step::kernel("ended by the user").within(60),
        ],
        checks: vec![],
    }
}

fn has_address(log: &Log) -> Result<(), String> {
    // Emulators' networks are all the same.
    match log.vm(DOM0).any(|line| line.contains("basaltd: network: eth0: address 10.0.2.15/24")) {
        true => Ok(()),
        false => Err("no line tells of it".to_owned()),
    }
}

/// Signs of a fault in Linux, such as of an interrupt that nobody wants or a device that does not answer.
const COMPLAINTS: [&str; 9] = [
    "Call Trace",
    "BUG:",
    "WARNING: CPU",
    "nobody cared",
    "timed out",
    "Spurious",
    "firmware bug",
    "failed to load",
    "I/O error",
];

fn complains_not(log: &Log) -> Result<(), String> {
    match log.vm(DOM0).find(|line| COMPLAINTS.iter().any(|sign| line.contains(sign))) {
        Some(line) => Err(line.to_owned()),
        None => Ok(()),
    }
}
