//! Clocks agree with each other: the paravirtual clock, the TSC, the APIC timer, the PM timer.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use selftest::cpu::{self, inl, rdtsc};
use selftest::kvm::{self, ClockArea, ClockPage, feature};
use selftest::platform::{self, HYPERVISOR_LEAF, Vendor};
use selftest::smp::{self, MAX_CPUS};
use selftest::tsc::{PM_TIMER_HZ, PM_TIMER_MASK};
use selftest::{
    Global, PerCpu, Test, TestResult, acpi, apic, boot, catch, check, check_eq, need, tests, tsc,
};

pub(crate) const TESTS: &[Test] = tests![
    frequencies_are_the_timers_own,
    the_clock_page_follows_the_tsc,
    the_clock_page_follows_a_tsc_step,
    clock_pages_agree_on_all_processors,
    the_clock_never_runs_backwards,
    clock_areas_outside_memory_are_refused,
    the_wall_clock_is_this_century,
    clocks_do_not_drift,
];

static AREAS: PerCpu<ClockArea> = PerCpu::new([const { ClockArea::EMPTY }; MAX_CPUS]);

fn own_area() -> u64 {
    AREAS.of(smp::current()) as u64
}

/// The frequencies that CPUID tells, in kHz: TSC and local APIC timer.
fn told() -> (u64, u64) {
    let leaf = cpu::cpuid(HYPERVISOR_LEAF + 0x10, 0);
    (leaf.eax.into(), leaf.ebx.into())
}

fn need_clock() -> TestResult {
    need!(kvm::has(feature::CLOCKSOURCE2), "no paravirtual clock");
    Ok(())
}

fn frequencies_are_the_timers_own() -> TestResult {
    const SPAN_US: u64 = 20_000;
    const READINGS: usize = 20;
    need_clock()?;
    let (tsc_khz, apic_khz) = told();
    if let Some(wanted) = boot::option("tsc-khz").and_then(|text| text.parse().ok()) {
        check!(tsc_khz == wanted, "TSC {tsc_khz} kHz, {wanted} asked for");
    }
    let measured = tsc::frequency() / 1000;
    check!(tsc_khz.abs_diff(measured) <= measured / 200, "TSC {tsc_khz} kHz, measured {measured}");
    // The APIC timer, without its divider, against the TSC.
    // The host may run others between two instructions: of some readings the one that took least counts.
    let read_once = || {
        let before = rdtsc();
        let count = apic::get(apic::register::CURRENT_COUNT);
        let after = rdtsc();
        (after - before, count, before.midpoint(after))
    };
    let read = || {
        let mut best = read_once();
        for _ in 1..READINGS {
            let next = read_once();
            if next.0 < best.0 {
                best = next;
            }
        }
        (best.1, best.2)
    };
    apic::set(apic::register::INITIAL_COUNT, u32::MAX);
    let (first, start) = read();
    tsc::delay_us(SPAN_US);
    let (last, end) = read();
    apic::set(apic::register::INITIAL_COUNT, 0);
    let khz = u64::from(first - last) * tsc_khz / (end - start);
    check!(khz.abs_diff(apic_khz) <= apic_khz / 200, "APIC timer {apic_khz} kHz, measured {khz}");
    if platform::vendor() == Vendor::Intel {
        let leaf = cpu::cpuid(0x15, 0);
        let crystal = u64::from(leaf.ecx);
        check_eq!(crystal, apic_khz * 1000, "the crystal is what drives the APIC timer");
        let hz = crystal * u64::from(leaf.ebx) / u64::from(leaf.eax.max(1));
        check!((hz / 1000).abs_diff(tsc_khz) <= tsc_khz / 5000, "leaf 15H says {hz} Hz");
        let mhz = u64::from(cpu::cpuid(0x16, 0).eax);
        check!(mhz.abs_diff(tsc_khz / 1000) <= 1, "leaf 16H says {mhz} MHz");
    }
    Ok(())
}

/// Within a microsecond over half a second: the told frequency is rounded to whole kHz.
fn the_clock_page_follows_the_tsc() -> TestResult {
    const SPAN_US: u64 = 500_000;
    need_clock()?;
    ClockPage::register(own_area());
    let page = ClockPage::read(own_area());
    check!(page.version != 0 && page.version.is_multiple_of(2), "version {}", page.version);
    if kvm::has(feature::CLOCKSOURCE_STABLE) {
        check!(page.flags & kvm::TSC_STABLE != 0, "flags {:#x}", page.flags);
    }
    let start = rdtsc();
    tsc::delay_us(SPAN_US);
    let end = rdtsc();
    let by_clock = page.nanos_at(end) - page.nanos_at(start);
    let khz = told().0;
    let by_tsc = (u128::from(end - start) * 1_000_000 / u128::from(khz)) as u64;
    let rounding = by_tsc / khz + 1;
    let off = by_clock.abs_diff(by_tsc);
    check!(off <= 1000 + rounding, "{by_clock} ns by the clock, {by_tsc} by the TSC");
    check_eq!(ClockPage::read(own_area()).version, page.version, "the page is left alone");
    Ok(())
}

/// Software that sets its TSC keeps its time.
fn the_clock_page_follows_a_tsc_step() -> TestResult {
    const STEP: u64 = 1 << 44;
    need_clock()?;
    need!(platform::has(platform::features::TSC_ADJUST), "no TSC_ADJUST");
    ClockPage::register(own_area());
    let before = ClockPage::now(own_area());
    cpu::wrmsr(cpu::msr::TSC_ADJUST, STEP);
    let after = ClockPage::now(own_area());
    cpu::wrmsr(cpu::msr::TSC_ADJUST, 0);
    let back = ClockPage::now(own_area());
    check!(before <= after && after <= back, "{before}, {after}, {back} ns");
    check!(back - before < 1_000_000 * platform::lateness_us(), "{before} to {back} ns");
    Ok(())
}

static TIMES: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static MOMENT: AtomicU64 = AtomicU64::new(0);

/// At one and the same TSC value all pages say the same to the nanosecond.
fn clock_pages_agree_on_all_processors() -> TestResult {
    need_clock()?;
    smp::start_all()?;
    smp::call_all(|| ClockPage::register(own_area()))?;
    MOMENT.store(rdtsc(), SeqCst);
    smp::call_all(|| {
        let page = ClockPage::read(own_area());
        TIMES[smp::current()].store(page.nanos_at(MOMENT.load(SeqCst)), SeqCst);
    })?;
    let first = TIMES[0].load(SeqCst);
    for (cpu, time) in TIMES.iter().enumerate().take(smp::count()) {
        check_eq!(time.load(SeqCst), first, "nanoseconds on processor {cpu}");
    }
    Ok(())
}

static LOCK: AtomicBool = AtomicBool::new(false);
static LAST: AtomicU64 = AtomicU64::new(0);
static BACKWARDS: AtomicU32 = AtomicU32::new(0);

fn the_clock_never_runs_backwards() -> TestResult {
    const LOOKS: u32 = 5_000;
    need_clock()?;
    smp::start_all()?;
    LAST.store(0, SeqCst);
    BACKWARDS.store(0, SeqCst);
    smp::call_all(|| {
        ClockPage::register(own_area());
        for _ in 0..LOOKS {
            while LOCK.swap(true, SeqCst) {
                cpu::pause();
            }
            let now = ClockPage::now(own_area());
            BACKWARDS.fetch_add(u32::from(now < LAST.load(SeqCst)), SeqCst);
            LAST.store(now, SeqCst);
            LOCK.store(false, SeqCst);
        }
    })?;
    check_eq!(BACKWARDS.load(SeqCst), 0, "steps back");
    Ok(())
}

fn clock_areas_outside_memory_are_refused() -> TestResult {
    need_clock()?;
    let mut bad = [(0, 0); 3];
    let addresses = [0xd000_0001, 0xfff_ffff_f001, u64::MAX];
    for (result, address) in bad.iter_mut().zip(addresses) {
        let refused = catch(|| cpu::wrmsr(kvm::msr::SYSTEM_TIME, address)).is_err();
        *result = (address, u64::from(refused));
    }
    for (address, refused) in bad {
        check_eq!(refused, 1, "refusal of {address:#x}");
    }
    Ok(())
}

static WALL: Global<[u32; 4]> = Global::new([0; 4]);

/// Seconds since 1970 when the guest's time began: after this was written, and before the counter overflows.
fn the_wall_clock_is_this_century() -> TestResult {
    const FIRST: u32 = 1_600_000_000;
    need_clock()?;
    cpu::wrmsr(kvm::msr::WALL_CLOCK, WALL.as_ptr() as u64);
    let [version, seconds, nanos, _] = WALL.get();
    check!(
        version != 0 && version.is_multiple_of(2) && nanos < 1_000_000_000,
        "version {version}, {nanos} ns"
    );
    check!(seconds > FIRST, "{seconds} s");
    Ok(())
}

static STOP: AtomicBool = AtomicBool::new(false);
static BUSY: AtomicU64 = AtomicU64::new(0);

/// The PM timer and the clock, as close together as a few reads get.
fn both(port: u16) -> (u32, u64) {
    let read = |_| {
        let before = ClockPage::now(own_area());
        let ticks = inl(port);
        let after = ClockPage::now(own_area());
        (after - before, ticks, before.midpoint(after))
    };
    let closest = (0..8).map(read).min_by_key(|&(took, ..)| took).unwrap_or_default();
    (closest.1, closest.2)
}

/// A millisecond in a minute, while all processors are busy.
fn clocks_do_not_drift() -> TestResult {
    const STEP_US: u64 = 500_000;
    const SLACK_NS: u64 = 2_000;
    need_clock()?;
    let Some(port) = acpi::fadt().map(|fadt| fadt.pm_timer).filter(|port| *port != 0) else {
        selftest::skip!("no PM timer");
    };
    let seconds = boot::option("seconds").and_then(|text| text.parse().ok()).unwrap_or(2u64);
    smp::start_all()?;
    ClockPage::register(own_area());
    STOP.store(false, SeqCst);
    for cpu in 1..smp::count() {
        smp::begin(cpu, || {
            // Busy, not waiting: without PAUSE. Bochs' SVM lets interrupts of the host in only where the guest does.
            selftest::interrupt::enabled(|| {
                while !STOP.load(SeqCst) {
                    BUSY.fetch_add(1, SeqCst);
                }
            });
        });
    }
    let (mut last, start) = both(port);
    let (mut ticks, mut now) = (0u64, start);
    while now - start < seconds * 1_000_000_000 {
        smp::wait_us(STEP_US, || false);
        let (value, time) = both(port);
        // The timer wraps every 4.7 seconds.
        ticks += u64::from(value.wrapping_sub(last) & PM_TIMER_MASK);
        (last, now) = (value, time);
    }
    STOP.store(true, SeqCst);
    (1..smp::count()).try_for_each(smp::finish)?;
    let by_pm_timer = (u128::from(ticks) * 1_000_000_000 / u128::from(PM_TIMER_HZ)) as u64;
    let by_clock = now - start;
    let drift = by_clock.abs_diff(by_pm_timer);
    selftest::println!("drift {drift} ns in {by_clock} ns");
    let allowed = by_clock / 60_000 + SLACK_NS;
    check!(drift <= allowed, "{by_clock} ns by the clock, {by_pm_timer} by the PM timer");
    Ok(())
}
