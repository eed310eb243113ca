//! Steal time: what processors that share one are told, and flushes that wait for those that do not run.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use selftest::kvm::{self, StealArea, feature};
use selftest::memory::{self, PAGE};
use selftest::paging::{self, Level, P, W};
use selftest::smp::{self, MAX_CPUS};
use selftest::{PerCpu, Test, TestResult, catch, check, check_eq, cpu, need, tests, tsc};

pub(crate) const TESTS: &[Test] = tests![
    steal_time_is_told_whole,
    who_runs_is_not_called_preempted,
    a_flush_that_was_left_is_done,
    steal_areas_that_are_none_are_refused,
];

static AREAS: PerCpu<StealArea> = PerCpu::new([const { StealArea::EMPTY }; MAX_CPUS]);

fn area_of(cpu: usize) -> u64 {
    AREAS.of(cpu) as u64
}

fn own_area() -> u64 {
    area_of(smp::current())
}

fn start() -> TestResult {
    need!(kvm::has(feature::STEAL_TIME), "no steal time");
    smp::start_all()?;
    smp::call_all(|| StealArea::register(own_area()))
}

static STOP: AtomicBool = AtomicBool::new(false);
static WORST: AtomicU64 = AtomicU64::new(0);

/// It only grows, and never by more than the time that passes. `steal=some` on the command line says that there must be some,
/// because others want the machine's processors too.
fn steal_time_is_told_whole() -> TestResult {
    const SPAN_US: u64 = 100_000;
    start()?;
    WORST.store(0, SeqCst);
    smp::call_all(|| {
        let mut last = StealArea::steal(own_area());
        let first = last;
        let start = cpu::rdtsc();
        while cpu::rdtsc() - start < tsc::us(SPAN_US) {
            let now = StealArea::steal(own_area());
            if now < last {
                WORST.store(u64::MAX, SeqCst);
            }
            last = now;
        }
        let passed = (cpu::rdtsc() - start) * 1000 / tsc::us(1).max(1);
        if last - first > passed + 1_000_000 {
            WORST.store(last - first, SeqCst);
        }
    })?;
    check_eq!(WORST.load(SeqCst), 0, "time that ran back, or too much of it");
    let total: u64 = (0..smp::count()).map(|cpu| StealArea::steal(area_of(cpu))).sum();
    selftest::println!("steal {total} ns");
    if selftest::boot::option("steal") == Some("some") {
        check!(total > 0, "there was none");
    }
    Ok(())
}

fn who_runs_is_not_called_preempted() -> TestResult {
    start()?;
    for _ in 0..1000 {
        check_eq!(StealArea::state(own_area()), 0, "state of the processor that runs");
    }
    Ok(())
}

static SEEN: AtomicU64 = AtomicU64::new(0);
const PLACE: u64 = paging::WINDOW + 64 * PAGE;

/// A processor that sleeps has a translation; the page becomes another one; it is told by the area only.
fn a_flush_that_was_left_is_done() -> TestResult {
    need!(kvm::has(feature::PV_TLB_FLUSH) && smp::count() > 1, "no flushes that wait, or one processor");
    start()?;
    let (one, other) = (memory::page(), memory::page());
    cpu::write64(one, 1);
    cpu::write64(other, 2);
    paging::map(PLACE, one, P | W);
    STOP.store(false, SeqCst);
    let look: smp::Job = || {
        // The other one's tables are this one's.
        SEEN.store(cpu::read64(PLACE), SeqCst);
    };
    smp::call(1, look)?;
    check_eq!(SEEN.load(SeqCst), 1, "the first page");
    // It waits in HLT for its next job.
    let left = smp::wait_us(smp::PATIENCE_US, || {
        cpu::write64(paging::entry(PLACE, Level::Page), other | P | W);
        StealArea::leave_flush(area_of(1))
    });
    check!(left, "it never sleeps");
    cpu::invlpg(PLACE);
    smp::call(1, look)?;
    check_eq!(SEEN.load(SeqCst), 2, "the second page");
    Ok(())
}

fn steal_areas_that_are_none_are_refused() -> TestResult {
    need!(kvm::has(feature::STEAL_TIME), "no steal time");
    for value in [own_area() | 3, own_area() | 0x21, 0xd000_0001, u64::MAX] {
        let refused = catch(|| cpu::wrmsr(kvm::msr::STEAL_TIME, value)).is_err();
        check!(refused, "{value:#x} is taken");
    }
    cpu::wrmsr(kvm::msr::STEAL_TIME, 0);
    Ok(())
}
