//! A machine on which VMs come and go. What a guest does stands in RBX where it begins, so any vCPU can be any VM's.

use std::boxed::Box;
use std::rc::Rc;
use std::vec::Vec;

use loader::{EntryState, SegmentState};
use vcpu::fake::{Bank, Clock, FakeBackend, FakeHardware, FakeHost, Guest};
use vcpu::{Exit, Gpa, GuestMemory, HostMemory, HostRange, Hpa};

use super::bench::{Bench, KERNEL, Step, halt, kernel, power_off};
use super::disks::told;
use crate::config::Description;
use crate::schedule::VmId;
use crate::{Module, Node, Options, Prepared, VmState};

/// Where guests begin.
pub(super) const ENTRY: u64 = 0x20_0000;
/// What a guest does: it switches itself off,
pub(super) const ENDS: u64 = 1;
/// halts for ever,
pub(super) const HALTS: u64 = 2;
/// or loops.
pub(super) const LOOPS: u64 = 3;

/// Memory of a management domain, from where its kernel is on.
const DOMAIN_BYTES: u64 = 16 << 20;

/// Rounds after which something should have happened that does.
const ROUNDS: usize = 20_000;

/// A machine before its node is made.
pub(super) struct Yard {
    backend: FakeBackend,
    pub(super) host: FakeHost,
    pub(super) bank: Rc<Bank>,
    pub(super) clock: Rc<Clock>,
    /// The boot line's.
    modules: Vec<Module<'static>>,
}

/// What a guest of another kind does, step by step.
pub(super) type Role = (u64, fn() -> Vec<Step>);

impl Yard {
    /// With so many CPUs, and vCPUs for so many VMs at once.
    pub(super) fn new(cpus: usize, vcpus: usize, roles: &'static [Role]) -> Self {
        let yard = Self::empty(cpus);
        yard.add_vcpus(vcpus, roles);
        yard
    }

    /// The same with one CPU and a management domain, which does that.
    pub(super) fn with_domain(
        vcpus: usize,
        roles: &'static [Role],
        domain: impl FnMut(&mut Guest<'_>) -> Exit + 'static,
    ) -> Self {
        let mut yard = Self::empty(1);
        let own = |start, length| HostRange { start: Hpa(start), length, kind: HostMemory::Own };
        let memory = std::vec![own(0x1000, 0x9_e000), own(KERNEL, DOMAIN_BYTES)];
        yard.backend.hardware = Some(Box::leak(Box::new(FakeHardware::new(memory, 8))));
        yard.add_module("vm=dom0 hardware memory=16M kernel");
        yard.backend.add_program(domain);
        yard.add_vcpus(vcpus, roles);
        yard
    }

    fn empty(cpus: usize) -> Self {
        let Bench { backend, host, .. } = Bench::new();
        let (bank, clock) = (Rc::clone(&backend.bank), Rc::clone(&host.clock));
        Self { backend, host: host.with_cpus(cpus), bank, clock, modules: Vec::new() }
    }

    /// Adds a VM of the boot line. It takes the next program.
    pub(super) fn add_module(&mut self, line: &'static str) {
        self.modules.push(Module { line, bytes: kernel().leak() });
    }

    fn add_vcpus(&self, vcpus: usize, roles: &'static [Role]) {
        let backend = &self.backend;
        for _ in 0..vcpus {
            let (mut role, mut steps) = (0, Vec::new());
            backend.add_program(move |guest| {
                if guest.step == 0 {
                    role = guest.cpu.registers.rbx();
                    steps = roles
                        .iter()
                        .find(|(number, _)| *number == role)
                        .map_or(Vec::new(), |(_, steps)| steps());
                }
                act(guest, role, &mut steps)
            });
        }
    }

    /// With so much memory.
    pub(super) fn set_memory(&mut self, bytes: u64) {
        self.bank = Bank::new(bytes);
        self.backend.bank = Rc::clone(&self.bank);
    }

    /// Makes the node, with so many places, and runs its first CPU's part.
    pub(super) fn run(self, places: usize, test: impl FnOnce(&mut Place<'_, '_>)) {
        let Self { backend, mut host, bank, clock, modules } = self;
        let options = Options { later: Some(places), ..Options::default() };
        let node = Node::new(backend, &host, &modules, &options);
        let first = node.prepare(&mut host);
        test(&mut Place { node: &node, first, bank, clock });
    }
}

/// One exit of a guest.
fn act(guest: &mut Guest<'_>, role: u64, steps: &mut [Step]) -> Exit {
    // The last step of a role is all that comes.
    let at = guest.step.min(steps.len().saturating_sub(1));
    match (steps.get_mut(at), role) {
        (Some(step), _) => {
            let exit = step(guest);
            if !matches!(exit, Exit::NestedFault(_)) {
                told(guest);
            }
            exit
        }
        (_, HALTS) => halt(guest),
        (_, LOOPS) => {
            guest.clock.pass(10_000);
            Exit::Pause
        }
        _ => power_off(guest),
    }
}

/// The machine, running.
pub(super) struct Place<'n, 'h> {
    pub(super) node: &'n Node<'static, FakeBackend>,
    pub(super) first: Prepared<'n, 'static, 'h, FakeBackend, FakeHost>,
    pub(super) bank: Rc<Bank>,
    pub(super) clock: Rc<Clock>,
}

/// A VM of that name with 16 MiB.
pub(super) fn small(name: &str) -> Description {
    Description { memory: 16 << 20, ..Description::new(name) }
}

/// The 64-bit entry at [`ENTRY`] of a guest that does that.
pub(super) fn entry(role: u64) -> EntryState {
    let segment = |selector, attributes| SegmentState { selector, base: 0, limit: 0xffff_ffff, attributes };
    EntryState {
        rip: ENTRY,
        rax: 0,
        rbx: role,
        rsi: 0,
        rsp: 0,
        rflags: 2,
        cr0: 0x11,
        cr3: 0,
        cr4: 0,
        efer: 0,
        gdt_base: 0,
        gdt_limit: 0,
        code: segment(8, 0xc09b),
        data: segment(16, 0xc093),
    }
}

impl Place<'_, '_> {
    /// Runs until that is so.
    #[track_caller]
    pub(super) fn until(&mut self, what: &str, mut is: impl FnMut(&Node<'static, FakeBackend>) -> bool) {
        for _ in 0..ROUNDS {
            if is(self.node) {
                return;
            }
            self.first.round();
        }
        panic!("not in {ROUNDS} rounds: {what}");
    }

    #[track_caller]
    pub(super) fn until_state(&mut self, id: VmId, state: VmState) {
        self.until("a state", |node| node.state(id) == Some(state));
    }

    #[track_caller]
    pub(super) fn until_gone(&mut self, id: VmId) {
        self.until("it is gone", |node| node.state(id).is_none());
    }

    #[track_caller]
    pub(super) fn create(&mut self, description: Description) -> VmId {
        self.node.create(self.first.host(), description).expect("it can be made")
    }

    #[track_caller]
    pub(super) fn start(&mut self, id: VmId) {
        self.node.start(self.first.host(), id).expect("it can be started");
    }

    #[track_caller]
    pub(super) fn destroy(&mut self, id: VmId) {
        self.node.destroy(self.first.host(), id).expect("it can be destroyed");
    }

    /// Makes a VM, puts something into its memory, and has it do that.
    #[track_caller]
    pub(super) fn begin(&mut self, description: Description, role: u64) -> VmId {
        let id = self.create(description);
        self.start(id);
        self.until_state(id, VmState::Held);
        let written = self.node.with_memory(id, |space| space.write(Gpa(ENTRY), b"a kernel"));
        assert_eq!(written, Ok(Ok(())));
        self.node.set_entry(id, entry(role)).expect("it has no kernel");
        self.start(id);
        id
    }
}
