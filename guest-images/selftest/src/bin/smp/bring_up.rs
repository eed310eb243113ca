//! INIT and start-up messages (SDM vol. 3, "MP Initialization Protocol", "Processor State After INIT").

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use selftest::apic::{self, BASE_BSP, DELIVERY_INIT, DELIVERY_STARTUP, TO_OTHERS};
use selftest::cpu::{self, cr0, msr, rdmsr};
use selftest::smp::{self, MAX_CPUS, PATIENCE_US, START_PAGE};
use selftest::{Test, TestResult, boot, check, check_eq, need, tests};

pub(crate) const TESTS: &[Test] = tests![
    all_processors_of_the_madt_come_up,
    jobs_are_done_by_the_right_processor,
    one_is_the_bootstrap_processor,
    init_leaves_protected_mode,
    startup_begins_at_its_page,
    init_stops_a_running_processor,
    init_stops_a_spinning_processor,
    init_stops_a_halted_processor,
    startup_of_a_running_processor_is_ignored,
    interrupts_do_not_start_a_processor,
    broadcast_starts_all,
    init_and_startup_in_a_row,
];

/// Another page for the trampoline.
const OTHER_PAGE: u8 = 0x0a;
/// How long nothing must happen.
const SILENCE_US: u64 = 5_000;

static ALIVE: AtomicU64 = AtomicU64::new(0);
static SEEN: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

fn all_processors_of_the_madt_come_up() -> TestResult {
    let wanted: usize = boot::option("cpus").and_then(|cpus| cpus.parse().ok()).unwrap_or(smp::count());
    check_eq!(smp::count(), wanted, "processors in the MADT");
    for cpu in 0..wanted {
        let id = smp::id_of(cpu);
        check!(
            smp::listed_ids().filter(|&other| other == id).count() == 1,
            "the MADT lists id {id:#x} more than once"
        );
    }
    smp::start_all()?;
    for cpu in 1..wanted {
        check!(smp::starts(cpu) > 0, "processor {cpu} did not start");
    }
    Ok(())
}

fn jobs_are_done_by_the_right_processor() -> TestResult {
    smp::start_all()?;
    smp::call_all(|| SEEN[smp::current()].store(0x100 | u64::from(smp::initial_id()), SeqCst))?;
    for cpu in 0..smp::count() {
        check_eq!(
            SEEN[cpu].load(SeqCst),
            0x100 | u64::from(smp::id_of(cpu)),
            "what processor {cpu} says its id is"
        );
    }
    Ok(())
}

fn one_is_the_bootstrap_processor() -> TestResult {
    smp::start_all()?;
    smp::call_all(|| SEEN[smp::current()].store(rdmsr(msr::APIC_BASE) & BASE_BSP, SeqCst))?;
    for cpu in 0..smp::count() {
        check!(
            (SEEN[cpu].load(SeqCst) != 0) == (cpu == 0),
            "bootstrap processor flag of processor {cpu} is wrong"
        );
    }
    Ok(())
}

fn init_leaves_protected_mode() -> TestResult {
    need!(smp::count() > 1, "one processor");
    for _ in 0..2 {
        smp::start_all()?;
        for cpu in 1..smp::count() {
            // INIT does not touch the two cache bits.
            let seen = u64::from(smp::first_cr0(cpu)) & !(cr0::CD | cr0::NW);
            check_eq!(seen, cr0::ET, "CR0 as processor {cpu} starts");
        }
    }
    Ok(())
}

fn startup_begins_at_its_page() -> TestResult {
    smp::prepare();
    for page in [OTHER_PAGE, START_PAGE] {
        smp::place_trampoline(page);
        selftest::memory::fill(u64::from(page ^ OTHER_PAGE ^ START_PAGE) << 12, 0xf4, 0x100); // HLT
        for cpu in 1..smp::count() {
            smp::start_at(cpu, page)?;
        }
    }
    Ok(())
}

fn live() -> ! {
    loop {
        ALIVE.fetch_add(1, SeqCst);
        cpu::pause();
    }
}

/// Whether a processor counts on.
fn is_alive() -> bool {
    let before = ALIVE.load(SeqCst);
    smp::wait_us(100 * SILENCE_US, || ALIVE.load(SeqCst) != before)
}

/// Whether none does.
fn is_silent() -> bool {
    smp::rest_us(SILENCE_US);
    let before = ALIVE.load(SeqCst);
    for _ in 0..3 {
        smp::rest_us(SILENCE_US);
    }
    ALIVE.load(SeqCst) == before
}

/// An INIT ends the job, and a start-up message afterwards starts the processor.
fn stops_by_init(job: smp::Job, lives: bool) -> TestResult {
    need!(smp::count() > 1, "one processor");
    smp::start_all()?;
    for cpu in 1..smp::count() {
        smp::begin(cpu, job);
        check!(smp::wait_us(PATIENCE_US, || STAGE.swap(false, SeqCst)), "processor {cpu} did not begin");
        check!(!lives || is_alive(), "processor {cpu} does not count");
        let starts = smp::starts(cpu);
        smp::send_init(cpu);
        check!(is_silent(), "processor {cpu} runs on after an INIT");
        smp::start_at(cpu, START_PAGE)?;
        check_eq!(smp::starts(cpu), starts + 1, "starts of processor {cpu}");
        smp::call(cpu, || ())?;
    }
    Ok(())
}

static STAGE: AtomicBool = AtomicBool::new(false);

fn init_stops_a_running_processor() -> TestResult {
    stops_by_init(
        || {
            STAGE.store(true, SeqCst);
            cpu::sti();
            live();
        },
        true,
    )
}

fn init_stops_a_spinning_processor() -> TestResult {
    stops_by_init(
        || {
            cpu::cli();
            STAGE.store(true, SeqCst);
            live();
        },
        true,
    )
}

fn init_stops_a_halted_processor() -> TestResult {
    stops_by_init(
        || {
            STAGE.store(true, SeqCst);
            cpu::halt_forever()
        },
        false,
    )
}

fn startup_of_a_running_processor_is_ignored() -> TestResult {
    need!(smp::count() > 1, "one processor");
    smp::start_all()?;
    smp::place_trampoline(OTHER_PAGE);
    for cpu in 1..smp::count() {
        let starts = smp::starts(cpu);
        smp::begin(cpu, || live());
        check!(is_alive(), "processor {cpu} did not begin");
        for page in [START_PAGE, OTHER_PAGE] {
            smp::send_startup(cpu, page);
            check!(is_alive(), "processor {cpu} stopped");
            check_eq!(smp::starts(cpu), starts, "starts of processor {cpu}");
        }
        smp::send_init(cpu);
    }
    Ok(())
}

fn interrupts_do_not_start_a_processor() -> TestResult {
    need!(smp::count() > 1, "one processor");
    smp::start_all()?;
    for cpu in 1..smp::count() {
        smp::begin(cpu, || live());
        check!(is_alive(), "processor {cpu} did not begin");
        let starts = smp::starts(cpu);
        smp::send_init(cpu);
        for vector in 0x20..0x28 {
            apic::send_any(smp::id_of(cpu), vector);
        }
        check!(is_silent(), "processor {cpu} runs on after an INIT");
        check_eq!(smp::starts(cpu), starts, "starts of processor {cpu}");
    }
    smp::start_all()?;
    smp::call_all(|| ())
}

fn broadcast_starts_all() -> TestResult {
    need!(smp::count() > 1, "one processor");
    smp::start_all()?;
    for _ in 0..3 {
        let before: [u32; MAX_CPUS] = core::array::from_fn(smp::starts);
        apic::send_any(0, TO_OTHERS | DELIVERY_INIT);
        smp::rest_us(200);
        apic::send_any(0, TO_OTHERS | DELIVERY_STARTUP | u32::from(START_PAGE));
        for cpu in 1..smp::count() {
            check!(
                smp::wait_us(PATIENCE_US, || smp::starts(cpu) != before[cpu]),
                "processor {cpu} does not come up"
            );
        }
        smp::call_all(|| ())?;
    }
    Ok(())
}

fn init_and_startup_in_a_row() -> TestResult {
    need!(smp::count() > 1, "one processor");
    smp::start_all()?;
    for cpu in 1..smp::count() {
        let starts = smp::starts(cpu);
        // What the second INIT finds depends on the moment; in the end the processor starts.
        for _ in 0..2 {
            smp::send_init(cpu);
            smp::send_startup(cpu, START_PAGE);
            smp::send_startup(cpu, START_PAGE);
        }
        check!(smp::wait_us(PATIENCE_US, || smp::starts(cpu) != starts), "processor {cpu} does not come up");
        smp::call(cpu, || ())?;
    }
    Ok(())
}
