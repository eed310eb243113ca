//! Runs the tables of tests.

use crate::cpu::{cr0, cr4, efer, msr};
use crate::{
    TestResult, Verdict, apic, boot, catch, cpu, descriptor, exception, interrupt, ioapic, memory, paging,
    pic, pit, platform, println, rtc, serial, smp, tsc, verdict,
};

/// One test.
#[derive(Clone, Copy)]
pub struct Test {
    /// Unique in its group.
    pub name: &'static str,
    /// The test.
    pub run: fn() -> TestResult,
}

/// A table of tests, named as their functions.
#[macro_export]
macro_rules! tests {
    ($($function:ident),+ $(,)?) => {
        &[$($crate::Test { name: stringify!($function), run: $function }),+]
    };
}

/// The micro-kernel's main: runs these tables as one group.
#[macro_export]
macro_rules! group {
    ($name:literal: $($table:expr),+ $(,)?) => {
        const TABLES: &[&[$crate::Test]] = &[$($table),+];
        $crate::program!($crate::runner::run_group($name, TABLES));
    };
}

/// The micro-kernel's main: evaluates the expression, then powers off.
#[macro_export]
macro_rules! program {
    ($main:expr) => {
        #[cfg(target_os = "none")]
        // SAFETY: the framework's entry code declares this symbol so, and nothing else defines it.
        #[unsafe(no_mangle)]
        extern "C" fn selftest_main() -> ! {
            $main;
            $crate::power::off()
        }

        // On a host there is nothing to test: the program only has to compile.
        #[cfg(not(target_os = "none"))]
        fn main() {
            if std::env::args().count() > usize::MAX - 1 {
                $main;
            }
            println!("This is a micro-kernel: boot it in a virtual machine.");
        }
    };
}

/// Once, before anything else: serial line, descriptors, memory.
pub fn bring_up() {
    cpu::cli();
    serial::init();
    descriptor::install();
    memory::init();
    pic::baseline();
}

/// The state every test starts from.
pub fn baseline() {
    cpu::cli();
    cpu::write_dr7(0x400);
    cpu::write_cr0(cr0::BASELINE);
    cpu::write_cr4(cr4::BASELINE);
    if cpu::read_cr8() != 0 {
        cpu::write_cr8(0);
    }
    if cpu::rdmsr(msr::EFER) != efer::BASELINE {
        cpu::wrmsr(msr::EFER, efer::BASELINE);
    }
    descriptor::install();
    exception::clear_hooks();
    memory::reset();
    paging::reset();
    interrupt::reset();
    pit::baseline();
    pic::baseline();
    ioapic::baseline();
    apic::baseline();
    interrupt::reset();
    cpu::write_dr6(0xffff_0ff0);
}

fn selected(name: &str) -> bool {
    let Some(list) = boot::option("test") else { return true };
    list.split(',').any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    })
}

fn run_one(test: &Test) -> TestResult {
    baseline();
    let outcome = exception::catch_value(test.run);
    cpu::cli();
    match outcome {
        Err(exception) => Err(Verdict::Exception(exception)),
        Ok(Ok(())) => interrupt::verdict_on(smp::current()),
        Ok(outcome) => outcome,
    }
}

/// How many tests ended how.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "three counts")]
pub struct Counts {
    pub passed: u32,
    pub failed: u32,
    pub skipped: u32,
}

impl Counts {
    /// Prints the group's last line.
    pub fn print(self, group: &str) {
        let Self { passed, failed, skipped } = self;
        println!("selftest {group} done: {passed} passed, {failed} failed, {skipped} skipped");
    }

    /// Prints a test's line and counts it.
    pub fn record(&mut self, name: &str, outcome: TestResult) {
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("ok {name}");
            }
            Err(Verdict::Skipped) => {
                self.skipped += 1;
                println!("skipped {name}: {}", verdict::reason());
            }
            Err(Verdict::Failed) => {
                self.failed += 1;
                println!("FAILED {name}: {}", verdict::reason());
            }
            Err(Verdict::Exception(exception)) => {
                self.failed += 1;
                println!("FAILED {name}: unexpected {exception}");
                exception::print_registers();
            }
        }
    }
}

/// Runs the tests that the command line selects, and prints the summary.
pub fn run_group(group: &str, tables: &[&[Test]]) {
    announce(group);
    let mut counts = Counts::default();
    run_tests(tables, &mut counts);
    if catch(baseline).is_err() {
        println!("selftest {group}: the last test left a state that cannot be repaired");
    }
    counts.print(group);
}

/// Runs the tests that the command line selects.
pub fn run_tests(tables: &[&[Test]], counts: &mut Counts) {
    rtc::baseline();
    for test in tables.iter().copied().flatten().filter(|test| selected(test.name)) {
        println!("start {}", test.name);
        serial::drain();
        let outcome = run_one(test);
        // The next test's baseline repairs what this one left; the console it needs first.
        serial::init();
        counts.record(test.name, outcome);
    }
}

/// Runs all tests without a line for each: only those that fail are printed. Returns how many these were.
pub fn run_quietly(tables: &[&[Test]]) -> u32 {
    let mut counts = Counts::default();
    for test in tables.iter().copied().flatten().filter(|test| selected(test.name)) {
        let outcome = run_one(test);
        if !matches!(outcome, Ok(()) | Err(Verdict::Skipped)) {
            serial::init();
            counts.record(test.name, outcome);
        }
    }
    counts.failed
}

/// Prints what the micro-kernel runs on.
pub fn announce(group: &str) {
    let text = |bytes: &[u8; 12]| {
        let mut copy = *bytes;
        copy.iter_mut().filter(|byte| !byte.is_ascii_graphic()).for_each(|byte| *byte = b'.');
        copy
    };
    let vendor = text(&platform::vendor_text());
    let below = platform::signature().map_or(*b"no..........", |signature| text(&signature));
    println!(
        "selftest {group} starts: {} under {} ({:?}), TSC {} MHz, {} MiB",
        core::str::from_utf8(&vendor).unwrap_or("?"),
        core::str::from_utf8(&below).unwrap_or("?"),
        boot::protocol(),
        tsc::frequency() / 1_000_000,
        memory::available() >> 20,
    );
}
