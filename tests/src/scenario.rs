//! What a scenario is made of.

use std::sync::LazyLock;
use std::time::Duration;

use crate::log::{Log, Source};
use crate::{many, stretch};

/// The machine on which everything is tested with one CPU. With several it is seldom right: QEMU 7.2's TCG then has a thread for each, and two of
/// them may write the first CPU's flags at once, so that it loses an interrupt or is in nested paging when it is not (FXRSTOR and XRSTOR
/// on any CPU do `cpu_clear_ignne`). That is for [`QEMU_SVM_COUNTED`], which has one thread.
pub const QEMU_SVM: &str = "qemu-svm";
/// The same, with time that counts instructions: for tests that measure time and must repeat, and for several CPUs.
pub const QEMU_SVM_COUNTED: &str = "qemu-svm-counted";
/// The same, without GRUB.
pub const QEMU_PVH: &str = "qemu-pvh";
/// The same, with much memory and as many CPUs as eight bits can name.
pub const QEMU_LARGE: &str = "qemu-large";
/// A machine whose CPU has all that QEMU's TCG can do, such as linear addresses of 57 bits.
pub const QEMU_MAX: &str = "qemu-q35-bios-cd-max";
/// The same CPU, with time that counts instructions. Guests that sleep often and at once behind STI want this one: QEMU 7.2's VMRUN does
/// not load the interrupt shadow (upstream since 9.1), so with real time a busy host may have interrupts come just where the guest then
/// sleeps on. What the kernel can do against that is in `svm/shadow.rs`.
pub const QEMU_MAX_COUNTED: &str = "qemu-max-counted";
/// The second machine of every run.
pub const BOCHS_VMX: &str = "bochs-vmx";
/// The one whose CPU has IBRS and IBPB.
pub const BOCHS_ICELAKE: &str = "bochs-vmx-icelake";
/// AMD SVM with exact counts.
pub const BOCHS_SVM: &str = "bochs-svm";

/// Two of the machines of `cargo xtask test --matrix`: what one has, the other has not.
pub const MATRIX_SHARE: [&str; 2] = ["qemu-q35-uefi-usb-epyc", "qemu-i440fx-bios-nvme-max"];

/// The content of a disk without anything on it.
pub static BLANK_DISK: LazyLock<String> = LazyLock::new(|| "\0".repeat(1 << 20));

/// When a scenario is run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tier {
    /// Always.
    Ci,
    /// When it is named.
    Full,
}

impl Tier {
    /// Its name in lists.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ci => "ci",
            Self::Full => "full",
        }
    }
}

/// A build of Basalt.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kernel {
    /// The one for users.
    Users,
    /// Breaks itself on request (`fault=NAME`).
    WithFaults,
    /// Tells the longest stretch without a look for pending work.
    Measuring,
}

/// A boot, what is done with it, and what must hold.
pub struct Scenario {
    /// Its name, as in `cargo xtask test NAME`.
    pub name: String,
    /// What it shows, in one line.
    pub about: String,
    /// When it is run.
    pub tier: Tier,
    /// The machines that it is run on, unless another is asked for.
    pub machines: Vec<&'static str>,
    /// The machine's CPUs, instead of its own number.
    pub cpus: Option<u32>,
    /// Options for Basalt.
    pub options: String,
    /// The VMs, in order.
    pub guests: Vec<Guest>,
    /// Done one after the other.
    pub steps: Vec<Step>,
    /// Looked at when all steps are done.
    pub checks: Vec<Check>,
}

impl Scenario {
    /// The kernel that it wants.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        match self.options.contains("fault=") {
            _ if stretch::NAMES.contains(&self.name.as_str()) => Kernel::Measuring,
            true => Kernel::WithFaults,
            false => Kernel::Users,
        }
    }

    /// The machine's memory, instead of its own.
    #[must_use]
    pub fn memory(&self) -> Option<&'static str> {
        (self.name == many::NAME).then_some(many::MEMORY)
    }
}

/// A VM of a scenario.
pub struct Guest {
    /// The VM's name.
    pub vm: String,
    /// The guest that runs in it, as in `--guest NAME`.
    pub guest: String,
    /// Virtual CPUs, instead of the guest's own number.
    pub cpus: Option<u32>,
    /// Memory, instead of the guest's own.
    pub memory: Option<&'static str>,
    /// Added to the guest's command line.
    pub append: String,
    /// Added to the settings in the line of the VM's kernel, such as `protocol=pvh`.
    pub settings: String,
    /// More modules of the VM: the words of their lines behind `vm=NAME`, and their content.
    pub modules: Vec<(&'static str, &'static str)>,
    /// What is wrong with its kernel image.
    pub damage: Damage,
}

impl Guest {
    /// The guest `guest` in a VM of that name.
    #[must_use]
    pub fn new(guest: &str) -> Self {
        Self {
            vm: guest.to_owned(),
            guest: guest.to_owned(),
            cpus: None,
            memory: None,
            append: String::new(),
            settings: String::new(),
            modules: Vec::new(),
            damage: Damage::None,
        }
    }

    /// Whether this is the VM of that name, or makes it: by `count=`, or as the management domain, which has its VMs in its guest's name.
    #[must_use]
    pub fn makes(&self, name: &str) -> bool {
        let makes = |vms: &str| vms.split('+').any(|vm| vm == name);
        self.guest.split_once('+').is_some_and(|(_, vms)| makes(vms))
            || name.strip_prefix(&self.vm).is_some_and(|rest| {
                rest.is_empty() || rest.starts_with('-') && self.settings.contains("count=")
            })
    }

    /// In a VM of another name.
    #[must_use]
    pub fn in_vm(self, vm: &str) -> Self {
        Self { vm: vm.to_owned(), ..self }
    }

    /// With so many virtual CPUs.
    #[must_use]
    pub fn cpus(self, cpus: u32) -> Self {
        Self { cpus: Some(cpus), ..self }
    }

    /// With this at the end of its command line.
    #[must_use]
    pub fn append(self, append: &str) -> Self {
        Self { append: append.to_owned(), ..self }
    }

    /// With these settings of its VM.
    #[must_use]
    pub fn settings(self, settings: &str) -> Self {
        Self { settings: settings.to_owned(), ..self }
    }

    /// With another module: the words of its line behind `vm=NAME`, and its content.
    #[must_use]
    pub fn module(mut self, words: &'static str, content: &'static str) -> Self {
        self.modules.push((words, content));
        self
    }

    /// With a damaged kernel image.
    #[must_use]
    pub fn damaged(self, damage: Damage) -> Self {
        Self { damage, ..self }
    }
}

/// What is wrong with a kernel image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Damage {
    /// Nothing.
    None,
    /// The second half is missing.
    Truncated,
    /// It is no kernel.
    Garbage,
}

impl Damage {
    /// The name of the damaged file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "whole",
            Self::Truncated => "truncated",
            Self::Garbage => "garbage",
        }
    }

    /// Does the damage.
    pub fn apply(self, image: &mut Vec<u8>) {
        match self {
            Self::None => {}
            Self::Truncated => image.truncate(image.len() / 2),
            Self::Garbage => *image = b"this is not a kernel\n".repeat(512),
        }
    }
}

/// Whose lines a step looks at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Speaker {
    /// Those of one VM.
    Vm(String),
    /// Those of Basalt.
    Kernel,
}

impl Speaker {
    /// The VM's name.
    #[must_use]
    pub fn vm(&self) -> Option<&str> {
        match self {
            Self::Vm(name) => Some(name),
            Self::Kernel => None,
        }
    }

    /// True when a line of that source is meant.
    #[must_use]
    pub fn accepts(&self, source: &Source) -> bool {
        self.vm() == source.vm()
    }
}

/// One step: wait for something, then perhaps type something.
pub struct Step {
    /// Whose lines are looked at.
    pub from: Speaker,
    /// What is waited for.
    pub awaited: Awaited,
    /// What is typed when it has come. `\x01` is Ctrl-A.
    pub send: Option<&'static str>,
    /// Tests that talk to the node from this computer, when it has come: a group of the program `node-tests`.
    pub talk: Option<&'static str>,
    /// It may have come before what earlier steps waited for: what several VMs say has no order.
    pub anywhere: bool,
    /// A safety bound in real time, before the machine's patience is taken into account.
    pub limit: Duration,
}

/// What a step waits for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Awaited {
    /// A text.
    Text(String),
    /// All results of a test guest: each counts as a test.
    Results,
    /// Basalt's report that the VM has ended.
    End,
    /// A text on the machine's screen, in one line. Only QEMU tells what is on it.
    Screen(String),
}

const LIMIT: Duration = Duration::from_secs(120);

impl Step {
    /// Waits for a text on a VM's console.
    #[must_use]
    pub fn vm(vm: &str, text: &str) -> Self {
        Self::new(Speaker::Vm(vm.to_owned()), Awaited::Text(text.to_owned()))
    }

    /// Waits for a text in Basalt's own log.
    #[must_use]
    pub fn kernel(text: &str) -> Self {
        Self::new(Speaker::Kernel, Awaited::Text(text.to_owned()))
    }

    /// Waits for all results of a test guest.
    #[must_use]
    pub fn results(vm: &str) -> Self {
        Self::new(Speaker::Vm(vm.to_owned()), Awaited::Results)
    }

    /// Waits for Basalt's report that the VM has ended.
    #[must_use]
    pub fn end(vm: &str) -> Self {
        Self::new(Speaker::Vm(vm.to_owned()), Awaited::End)
    }

    /// Waits for a text on the machine's screen.
    #[must_use]
    pub fn screen(text: &str) -> Self {
        Self::new(Speaker::Kernel, Awaited::Screen(text.to_owned()))
    }

    /// Then types this.
    #[must_use]
    pub fn then_send(self, send: &'static str) -> Self {
        Self { send: Some(send), ..self }
    }

    /// Then has a group of tests talk to the node over its API, for which the same limit holds.
    #[must_use]
    pub fn then_talk(self, group: &'static str) -> Self {
        Self { talk: Some(group), ..self }
    }

    /// In at most that many seconds, on QEMU.
    #[must_use]
    pub fn within(self, seconds: u64) -> Self {
        Self { limit: Duration::from_secs(seconds), ..self }
    }

    /// Also where it came before what earlier steps waited for. The next step goes on from there.
    #[must_use]
    pub fn anywhere(self) -> Self {
        Self { anywhere: true, ..self }
    }

    fn new(from: Speaker, awaited: Awaited) -> Self {
        Self { from, awaited, send: None, talk: None, anywhere: false, limit: LIMIT }
    }
}

/// Something that must hold in the whole log.
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// Gives the reason when it does not hold.
    pub holds: fn(&Log) -> Result<(), String>,
}
