//! A machine with scripted guests on it.

use std::boxed::Box;
use std::cell::RefCell;
use std::format;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use assert_no_alloc::{assert_no_alloc, permit_alloc};
use vcpu::fake::{Action, Clock, FakeBackend, FakeHost, Guest, Journal};
use vcpu::{CpuidResult, Event, Exit};

use crate::{End, Ended, Module, Node, Options};

/// What a guest does between two exits.
pub(super) type Step = Box<dyn FnMut(&mut Guest<'_>) -> Exit>;

/// A step.
pub(super) fn step(run: impl FnMut(&mut Guest<'_>) -> Exit + 'static) -> Step {
    Box::new(run)
}

/// Ticks of the fake TSC in a second: not the nanoseconds' rate, so that a missing conversion shows.
pub(super) const TSC_HZ: u64 = 2_000_000_000;
/// Where the test kernel lies and starts.
pub(super) const KERNEL: u64 = 0x20_0000;
/// PM1a control, and SLP_EN with the type of S5.
const PM1_CONTROL: u16 = devices::PowerManagement::PORT + devices::PowerManagement::CONTROL;
const SLEEP_S5: u32 = 1 << 13 | (devices::PowerManagement::SLEEP_TYPE_S5 as u32) << 10;

/// The guest switches itself off.
pub(super) fn power_off(guest: &mut Guest<'_>) -> Exit {
    guest.port_write(PM1_CONTROL, 2, SLEEP_S5)
}

/// The guest waits for an interrupt.
pub(super) fn halt(guest: &mut Guest<'_>) -> Exit {
    guest.halt()
}

std::thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        permit_alloc(|| LINES.with_borrow_mut(|lines| lines.push(record.args().to_string())));
    }

    fn flush(&self) {}
}

/// The log's lines so far.
pub(super) fn log_lines() -> Vec<String> {
    LINES.with_borrow(Clone::clone)
}

/// What a run left behind.
pub(super) struct Run {
    /// Log lines.
    pub(super) log: Vec<String>,
    /// Everything the console showed.
    pub(super) shown: String,
    /// The machine.
    pub(super) host: FakeHost,
}

impl Run {
    /// True where a log line contains `text`.
    pub(super) fn logged(&self, text: &str) -> bool {
        self.log.iter().any(|line| line.contains(text))
    }

    /// The number at the end of the log line that begins with `text`.
    #[track_caller]
    pub(super) fn count(&self, text: &str) -> u64 {
        let line = self.log.iter().find_map(|line| line.strip_prefix(text));
        let line = line.unwrap_or_else(|| panic!("no line {text:?} in {:#?}", self.log));
        line.trim().parse().unwrap()
    }
}

/// A machine before it runs.
pub(super) struct Bench {
    pub(super) backend: FakeBackend,
    pub(super) host: FakeHost,
    modules: Vec<(String, Vec<u8>)>,
}

impl Bench {
    /// A machine with 256 MiB and an Intel CPU with common features.
    pub(super) fn new() -> Self {
        let _ = log::set_logger(&Lines);
        log::set_max_level(log::LevelFilter::Info);
        LINES.with_borrow_mut(Vec::clear);
        let clock = Clock::new(TSC_HZ);
        let mut backend = FakeBackend::new(&clock, 256 << 20);
        let result = |eax, ebx, ecx, edx| CpuidResult { eax, ebx, ecx, edx };
        let word = |text: &[u8; 4]| u32::from_le_bytes(*text);
        backend.set_cpuid(0, 0, result(0x16, word(b"Genu"), word(b"ntel"), word(b"ineI")));
        backend.set_cpuid(1, 0, result(0x506e3, 0x800, 0x7ffa_f3ff, 0xbfeb_fbff));
        backend.set_cpuid(7, 0, result(0, 0x029c_6fbf, 0, 0));
        backend.set_cpuid(0xd, 0, result(7, 832, 832, 0));
        backend.set_cpuid(0xd, 1, result(7, 832, 0, 0));
        backend.set_cpuid(0xd, 2, result(256, 576, 0, 0));
        backend.set_cpuid(0x8000_0001, 0, result(0, 0, 0x121, 0x2c10_0800));
        backend.set_cpuid(0x8000_0008, 0, result(0x3027, 0, 0, 0));
        let host = FakeHost::new(&clock);
        Self { backend, host, modules: Vec::new() }
    }

    /// Adds a VM with 16 MiB whose guest does these steps and then switches itself off.
    pub(super) fn add_vm(&mut self, name: &str, steps: Vec<Step>) -> Journal {
        self.modules.push((format!("vm={name} memory=16M kernel -- console=ttyS0"), kernel()));
        let mut steps = steps;
        self.backend.add_program(move |guest| match steps.get_mut(guest.step) {
            Some(step) => step(guest),
            None => power_off(guest),
        })
    }

    /// Adds a module as it is.
    pub(super) fn add_module(&mut self, line: &str, bytes: &[u8]) {
        self.modules.push((line.to_string(), bytes.to_vec()));
    }

    /// Runs until all VMs have ended, then powers off.
    pub(super) fn run(self) -> Run {
        self.run_with(&Options { end: End::PowerOff, ..Options::default() })
    }

    pub(super) fn run_with(self, options: &Options<'_>) -> Run {
        self.run_between(options, |_| (), |_| ())
    }

    /// Runs; looks at the machine when its VMs are made, and at its end.
    pub(super) fn run_between(
        mut self,
        options: &Options<'_>,
        before: impl FnOnce(&Node<'_, FakeBackend>),
        after: impl FnOnce(&Node<'_, FakeBackend>),
    ) -> Run {
        let modules: Vec<Module<'_>> =
            self.modules.iter().map(|(line, bytes)| Module { line, bytes }).collect();
        let node = Node::new(self.backend, &self.host, &modules, options);
        before(&node);
        let mut prepared = node.prepare(&mut self.host);
        // Bring-up is over: from here on there is no heap, but for the fakes and for the guests' programs.
        let ended = assert_no_alloc(|| prepared.run());
        drop(prepared);
        after(&node);
        drop(node);
        assert_eq!(ended, Ended::PoweredOff);
        assert!(self.host.powered_off);
        let log = LINES.take();
        let shown = String::from_utf8_lossy(&self.host.output).into_owned();
        Run { log, shown, host: self.host }
    }

    /// One VM that does these steps; returns what the hypervisor did to its vCPU too.
    pub(super) fn run_steps(steps: Vec<Step>) -> (Run, Vec<Action>) {
        let mut bench = Self::new();
        let journal = bench.add_vm("demo", steps);
        let run = bench.run();
        let actions = journal.take();
        (run, actions)
    }
}

/// The events that were injected.
pub(super) fn injected(actions: &[Action]) -> Vec<Event> {
    let event = |action: &Action| if let Action::Inject(event) = action { Some(*event) } else { None };
    actions.iter().filter_map(event).collect()
}

/// A minimal ELF64 kernel: a page of zeros at [`KERNEL`].
pub(super) fn kernel() -> Vec<u8> {
    const CONTENT: usize = 120;
    let mut file = vec![0; CONTENT + 4096];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2u16.to_le_bytes());
    put(18, &62u16.to_le_bytes());
    put(24, &KERNEL.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &1u16.to_le_bytes());
    put(64, &1u32.to_le_bytes());
    put(72, &(CONTENT as u64).to_le_bytes());
    put(80, &KERNEL.to_le_bytes());
    put(88, &KERNEL.to_le_bytes());
    put(96, &4096u64.to_le_bytes());
    put(104, &4096u64.to_le_bytes());
    file
}
