//! Scenarios about virtio devices.

use crate::linux::READY;
use crate::log::Log;
use crate::scenario::{BOCHS_SVM, BOCHS_VMX, Check, Guest, QEMU_SVM, Scenario, Step, Tier};
use crate::smp::memory_is_back;

/// Stock Linux with drivers for all devices.
const VIRTIO: &str = "virtio";

/// A PC with SeaBIOS.
const SEABIOS: &str = "seabios";

/// The same with an installed Debian on its disk.
const DEBIAN: &str = "debian";

/// Stock Linux with fio, and with iperf3.
const FIO: &str = "fio";
const IPERF: &str = "iperf";

/// The guest's jobs: what each tries, and where. The CPU of bochs-svm has no RDRAND, so its VMs have no entropy device.
const JOBS: [(&str, &str, &[&str]); 2] = [
    (
        "disks",
        "stock Linux finds its disks, and what it writes is what it reads",
        &[QEMU_SVM, BOCHS_VMX, BOCHS_SVM],
    ),
    ("entropy", "stock Linux gets random bytes", &[QEMU_SVM, BOCHS_VMX]),
];

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    let names: Vec<&str> = JOBS.iter().map(|(name, ..)| *name).collect();
    let mut all = vec![
        reboot("virtio-reboot", Tier::Ci, &[QEMU_SVM]),
        reboot("virtio-reboot-everywhere", Tier::Full, &[BOCHS_VMX]),
        firmware(),
        debian(),
        installer(),
        fio(),
        iperf(),
        console("virtio-console", 1, Tier::Ci, &[QEMU_SVM]),
        console("virtio-console-everywhere", 2, Tier::Full, &[BOCHS_VMX]),
        link("virtio-link", 1, Tier::Ci, &[QEMU_SVM]),
        link("virtio-link-everywhere", 2, Tier::Full, &[BOCHS_VMX]),
        rebind(),
        lines("virtio-lines", Tier::Ci, &[QEMU_SVM]),
        lines("virtio-lines-everywhere", Tier::Full, &[BOCHS_VMX]),
        balloon("virtio-balloon", Tier::Ci, &[QEMU_SVM]),
        waits(),
        balloon("virtio-balloon-everywhere", Tier::Full, &[BOCHS_VMX, BOCHS_SVM]),
        jobs(
            "virtio-devices",
            "stock Linux uses all its virtio devices",
            &names,
            Tier::Ci,
            &[QEMU_SVM, BOCHS_VMX],
        ),
    ];
    all.extend(JOBS.iter().map(|(name, about, machines)| {
        jobs(&format!("virtio-{name}"), about, &[name], Tier::Full, machines)
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

/// A PC from power-up on: firmware, boot loader and kernel all come from the VM's own ROM and disk; twice.
fn firmware() -> Scenario {
    let boot = |step: Step| {
        [
            Step::vm(SEABIOS, "SeaBIOS (version").within(60),
            Step::vm(SEABIOS, "Booting from Hard Disk").within(120),
            Step::vm(SEABIOS, "GRUB starts the kernel from the disk").within(120),
            step.within(300),
        ]
    };
    let look = "ls /sys/bus/acpi/drivers/vmgenid\r";
    let mut steps = Vec::from(boot(Step::vm(SEABIOS, READY).then_send(look)));
    // The tables are where the firmware has put them.
    steps.push(Step::vm(SEABIOS, "VMGENCTR:00").within(60).then_send("reboot\r"));
    steps.extend(boot(Step::vm(SEABIOS, READY).then_send("poweroff\r")));
    steps.push(Step::end(SEABIOS).within(60));
    Scenario {
        name: "virtio-firmware".to_owned(),
        about: "SeaBIOS boots GRUB and stock Linux from a virtio disk, and again after a restart".to_owned(),
        tier: Tier::Ci,
        machines: vec![QEMU_SVM, BOCHS_VMX],
        cpus: None,
        options: String::new(),
        guests: vec![Guest::new(SEABIOS)],
        steps,
        checks: vec![],
    }
}

/// An installed Debian: from the firmware to a login, a look around, and off.
fn debian() -> Scenario {
    let look = "findmnt -no SOURCE,FSTYPE /; lsblk -no NAME,TYPE,SERIAL,MOUNTPOINTS; \
        echo state=$(systemctl is-system-running --wait); systemctl --failed --no-legend\r";
    Scenario {
        name: "virtio-debian".to_owned(),
        about: "an installed Debian boots by its own GRUB, kernel and systemd to a login, and no unit fails"
            .to_owned(),
        tier: Tier::Full,
        machines: vec![QEMU_SVM, BOCHS_VMX],
        cpus: None,
        options: String::new(),
        guests: vec![Guest::new(DEBIAN)],
        steps: vec![
            Step::vm(DEBIAN, "Welcome to GRUB!").within(240),
            Step::vm(DEBIAN, "GRUB loads the kernel from the disk's own file system").within(60),
            Step::vm(DEBIAN, "basalt-debian login:").within(400).then_send("root\r"),
            Step::vm(DEBIAN, "root@basalt-debian:~#").within(120).then_send(look),
            Step::vm(DEBIAN, "/dev/vda1 ext4").within(60),
            Step::vm(DEBIAN, "state=running").within(240).then_send("poweroff\r"),
            Step::end(DEBIAN).within(120),
        ],
        checks: vec![],
    }
}

/// Debian's own installer finds its way to its first question.
fn installer() -> Scenario {
    Scenario {
        name: "virtio-installer".to_owned(),
        about: "Debian's installer comes up on the serial console and asks for the language".to_owned(),
        tier: Tier::Full,
        machines: vec![QEMU_SVM, BOCHS_VMX],
        cpus: None,
        options: String::new(),
        guests: vec![Guest::new("installer")],
        steps: vec![Step::vm("installer", "Choose the language").within(400)],
        checks: vec![],
    }
}

/// Two guests with virtio consoles, and a port that joins them, on so many CPUs.
fn console(name: &str, cpus: u32, tier: Tier, machines: &[&'static str]) -> Scenario {
    let guest = |vm: &str, own: u32| {
        Guest::new(VIRTIO)
            .in_vm(vm)
            .settings("console=virtio port=channel")
            .append(&format!("basalt.run=\"/jobs/console {own}\""))
    };
    let mut steps = vec![
        Step::vm("one", "this came by hvc0 of 1").within(240),
        Step::vm("one", "type something").within(60).then_send("\x011an answer\r\x01a"),
        Step::vm("one", "make it larger").within(60).then_send("\x01:size one 132x43\r\r"),
    ];
    for vm in ["one", "two"] {
        steps.extend([
            Step::results(vm).within(300).anywhere(),
            Step::vm(vm, "basalt-demo job done: 0").within(60).anywhere(),
            Step::end(vm).within(60).anywhere(),
        ]);
    }
    Scenario {
        name: name.to_owned(),
        about: "stock Linux has a virtio console with a size, keys that arrive, and a port to another guest"
            .to_owned(),
        tier,
        machines: machines.to_vec(),
        cpus: Some(cpus),
        options: String::new(),
        guests: vec![guest("one", 1), guest("two", 2)],
        steps,
        checks: vec![],
    }
}

/// Each driver goes and comes a hundred times.
fn rebind() -> Scenario {
    Scenario {
        name: "virtio-rebind".to_owned(),
        about: "stock Linux' drivers leave their devices and take them again a hundred times".to_owned(),
        tier: Tier::Full,
        machines: vec![QEMU_SVM, BOCHS_VMX],
        cpus: None,
        options: "end=poweroff".to_owned(),
        guests: vec![
            Guest::new(VIRTIO)
                .settings("net=nowhere console=virtio")
                .append("basalt.run=\"/jobs/rebind 100\""),
        ],
        steps: vec![
            Step::results(VIRTIO).within(550),
            Step::vm(VIRTIO, "basalt-demo job done: 0").within(60),
            Step::end(VIRTIO).within(60),
            Step::kernel("all VMs have ended").within(60),
        ],
        checks: vec![Check { name: "as much memory is free as before", holds: memory_is_back }],
    }
}

/// Interrupts without messages: by the I/O APIC in one VM, by the 8259s in another.
fn lines(name: &str, tier: Tier, machines: &[&'static str]) -> Scenario {
    let guest = |vm: &str, controller: &str, options: &str| {
        let run = format!("pci=nomsi {options} basalt.run=\"/jobs/lines {controller}\"");
        Guest::new(VIRTIO).in_vm(vm).cpus(1).append(&run)
    };
    let steps = ["apic", "pic"].into_iter().flat_map(|vm| {
        [
            Step::results(vm).within(400).anywhere(),
            Step::vm(vm, "basalt-demo job done: 0").within(60).anywhere(),
            Step::end(vm).within(60).anywhere(),
        ]
    });
    Scenario {
        name: name.to_owned(),
        about: "stock Linux is interrupted by lines, through the I/O APIC and through the 8259s".to_owned(),
        tier,
        machines: machines.to_vec(),
        cpus: None,
        options: String::new(),
        guests: vec![guest("apic", "IO-APIC", ""), guest("pic", "XT-PIC", "noapic nolapic")],
        steps: steps.collect(),
        checks: vec![],
    }
}

/// A guest at work whose memory is taken and given again.
fn balloon(name: &str, tier: Tier, machines: &[&'static str]) -> Scenario {
    Scenario {
        name: name.to_owned(),
        about: "stock Linux at work gives memory back by its balloon and by itself, and has it again"
            .to_owned(),
        tier,
        machines: machines.to_vec(),
        cpus: None,
        options: "end=poweroff".to_owned(),
        guests: vec![Guest::new(VIRTIO).append("basalt.run=\"/jobs/balloon 64\"")],
        steps: vec![
            Step::vm(VIRTIO, "64 MiB to go").within(240).then_send("\x01:balloon virtio 192M\r\r"),
            Step::vm(VIRTIO, "balloon: inflated").within(240).then_send("\x01:balloon virtio 256M\r\r"),
            Step::results(VIRTIO).within(300),
            Step::vm(VIRTIO, "basalt-demo job done: 0").within(60),
            Step::end(VIRTIO).within(60),
            Step::kernel("all VMs have ended").within(60),
        ],
        checks: vec![
            Check { name: "the machine has had the memory", holds: balloon_has_taken },
            Check { name: "as much memory is free as before", holds: memory_is_back },
        ],
    }
}

/// The memory that a guest has given back is another VM's when it wants it again.
fn waits() -> Scenario {
    const OTHER: &str = "other";
    Scenario {
        name: "virtio-balloon-waits".to_owned(),
        about: "a guest waits for memory that it had given back and another VM has, and goes on when that is stopped"
            .to_owned(),
        tier: Tier::Full,
        machines: vec![QEMU_SVM],
        cpus: None,
        options: "end=poweroff".to_owned(),
        guests: vec![
            Guest::new(VIRTIO).append("basalt.run=\"/jobs/balloon 128\""),
            Guest::new("spin").in_vm(OTHER).settings("memory=840M start=no").append("beats=10000"),
        ],
        steps: vec![
            Step::vm(VIRTIO, "128 MiB to go").within(240).then_send("\x01:balloon virtio 128M\r\r"),
            Step::vm(VIRTIO, "balloon: inflated").within(240).then_send("\x01:start other\r\r"),
            Step::kernel("vm other: started").within(60).then_send("\x01:balloon virtio 256M\r\r"),
            Step::kernel("waits for memory that it had given back").within(240).then_send("\x01:stop other\r\r"),
            Step::end(OTHER).within(60),
            Step::results(VIRTIO).within(300),
            Step::vm(VIRTIO, "basalt-demo job done: 0").within(60),
            Step::end(VIRTIO).within(60),
            Step::kernel("all VMs have ended").within(60),
        ],
        checks: vec![Check { name: "as much memory is free as before", holds: memory_is_back }],
    }
}

/// The balloon's 64 MiB, and some that the guest had free of itself.
fn balloon_has_taken(log: &Log) -> Result<(), String> {
    const LEAST_KIB: u64 = (64 + 32) << 10;
    let line = log.kernel().find_map(|line| line.split_once("its balloon has taken "));
    let taken = line.and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok());
    match taken {
        Some(taken) if taken >= LEAST_KIB => Ok(()),
        _ => Err(format!("{taken:?} KiB")),
    }
}

/// Debian's fio on a disk, which checks all that it reads.
fn fio() -> Scenario {
    Scenario {
        name: "virtio-fio".to_owned(),
        about: "fio verifies a virtio disk and files on it in random sizes, depths and queues, and fsck finds it clean".to_owned(),
        tier: Tier::Full,
        machines: vec![QEMU_SVM, BOCHS_VMX],
        cpus: None,
        options: String::new(),
        guests: vec![Guest::new(FIO).append("basalt.run=/jobs/disk")],
        steps: vec![
            Step::vm(FIO, READY).within(300),
            Step::results(FIO).within(500),
            Step::vm(FIO, "basalt-demo job done: 0").within(60),
            Step::end(FIO).within(60),
        ],
        checks: vec![],
    }
}

/// Debian's iperf3 between two guests.
fn iperf() -> Scenario {
    let guest = |vm: &str, own: u32| {
        let job = format!("basalt.run=\"/jobs/network {own}\"");
        Guest::new(IPERF).in_vm(vm).append(&job)
    };
    Scenario {
        name: "virtio-iperf".to_owned(),
        about: "iperf3 both ways between two stock Linux guests".to_owned(),
        tier: Tier::Full,
        machines: vec![QEMU_SVM, BOCHS_VMX],
        cpus: Some(2),
        options: String::new(),
        guests: vec![guest("one", 1), guest("two", 2)],
        steps: vec![
            Step::vm("one", READY).within(300),
            Step::results("one").within(500),
            Step::vm("one", "basalt-demo job done: 0").within(60),
            Step::end("one").within(60).anywhere(),
            Step::end("two").within(120).anywhere(),
        ],
        checks: vec![],
    }
}

/// Two guests on a cable, on so many CPUs.
fn link(name: &str, cpus: u32, tier: Tier, machines: &[&'static str]) -> Scenario {
    let guest = |vm: &str, own: u32| {
        Guest::new(VIRTIO)
            .in_vm(vm)
            .settings("net=cable trunk=all")
            .append(&format!("basalt.run=\"/jobs/link {own}\""))
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
        cpus: Some(cpus),
        options: String::new(),
        guests: vec![guest("one", 1), guest("two", 2)],
        steps,
        checks: vec![],
    }
}

/// The guest restarts while both of its disks are busy.
fn reboot(name: &str, tier: Tier, machines: &[&'static str]) -> Scenario {
    const TIMES: usize = 3;
    let mut steps: Vec<_> = (0..=TIMES)
        .map(|count| Step::vm(VIRTIO, &format!("reboots: {count} of {TIMES}")).within(240))
        .collect();
    steps.extend([
        Step::vm(VIRTIO, "basalt-demo job done: 0").within(60),
        Step::end(VIRTIO).within(60),
        Step::kernel("all VMs have ended").within(60),
    ]);
    Scenario {
        name: name.to_owned(),
        about:
            "stock Linux restarts in the middle of reads and writes, finds its disks again, and leaks nothing"
                .to_owned(),
        tier,
        machines: machines.to_vec(),
        cpus: None,
        options: "end=poweroff".to_owned(),
        guests: vec![Guest::new(VIRTIO).append(&format!("basalt.run=\"/jobs/reboots {TIMES}\""))],
        steps,
        checks: vec![
            Check { name: "as much memory is free as before", holds: memory_is_back },
            Check { name: "no device was broken", holds: no_device_was_broken },
        ],
    }
}

fn no_device_was_broken(log: &Log) -> Result<(), String> {
    match log.kernel().find(|line| line.contains("devices broken by their drivers")) {
        Some(line) => Err(line.to_owned()),
        None => Ok(()),
    }
}
