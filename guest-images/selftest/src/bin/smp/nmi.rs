//! NMIs from one processor to another (SDM vol. 3, "Nonmaskable Interrupt (NMI)").

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use selftest::apic::{self, DELIVERY_NMI, LOGICAL, SVR_ENABLE, TO_OTHERS, register};
use selftest::cpu;
use selftest::exception::{self, vector::NMI};
use selftest::smp::{self, MAX_CPUS, PATIENCE_US};
use selftest::{Test, TestResult, check, check_eq, need, tests};

pub(crate) const TESTS: &[Test] = tests![
    nmi_reaches_each_processor,
    nmi_reaches_a_spinning_processor,
    nmi_wakes_a_halted_processor,
    nmi_reaches_a_software_disabled_processor,
    nmi_is_blocked_in_the_handler,
    nmi_to_all_others,
    nmi_by_logical_id,
];

static NMIS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
/// The handler waits while this is set.
static HOLD: AtomicBool = AtomicBool::new(false);
static DEPTH: AtomicU32 = AtomicU32::new(0);
static DEEPEST: AtomicU32 = AtomicU32::new(0);
/// A job has come as far as that.
static STAGE: AtomicU32 = AtomicU32::new(0);

fn count_nmi(_: &mut exception::Frame) {
    DEEPEST.fetch_max(DEPTH.fetch_add(1, SeqCst) + 1, SeqCst);
    NMIS[smp::current()].fetch_add(1, SeqCst);
    while HOLD.load(SeqCst) {
        cpu::pause();
    }
    DEPTH.fetch_sub(1, SeqCst);
}

fn nmis(cpu: usize) -> u32 {
    NMIS[cpu].load(SeqCst)
}

fn prepare() -> TestResult {
    NMIS.iter().for_each(|count| count.store(0, SeqCst));
    [&DEPTH, &DEEPEST, &STAGE].into_iter().for_each(|count| count.store(0, SeqCst));
    HOLD.store(false, SeqCst);
    smp::start_all()?;
    smp::call_all(|| exception::on(NMI, count_nmi))
}

fn stage(wanted: u32) -> TestResult {
    check!(
        smp::wait_us(PATIENCE_US, || STAGE.load(SeqCst) >= wanted),
        "the job does not reach stage {wanted}"
    );
    Ok(())
}

fn arrives(cpu: usize, wanted: u32) -> TestResult {
    smp::wait_us(PATIENCE_US, || nmis(cpu) >= wanted);
    smp::rest_us(300);
    check_eq!(nmis(cpu), wanted, "NMIs at processor {cpu}");
    Ok(())
}

fn nmi_reaches_each_processor() -> TestResult {
    prepare()?;
    for cpu in 1..smp::count() {
        for wanted in 1..=3 {
            apic::send_any(smp::id_of(cpu), DELIVERY_NMI);
            arrives(cpu, wanted)?;
        }
    }
    check_eq!(nmis(0), 0, "NMIs at the sender");
    Ok(())
}

fn nmi_reaches_a_spinning_processor() -> TestResult {
    need!(smp::count() > 1, "one processor");
    prepare()?;
    smp::begin(1, || {
        cpu::cli();
        STAGE.store(1, SeqCst);
        while STAGE.load(SeqCst) != 2 {
            cpu::pause();
        }
    });
    stage(1)?;
    for wanted in 1..=5 {
        apic::send_any(smp::id_of(1), DELIVERY_NMI);
        arrives(1, wanted)?;
    }
    STAGE.store(2, SeqCst);
    smp::finish(1)
}

fn nmi_wakes_a_halted_processor() -> TestResult {
    need!(smp::count() > 1, "one processor");
    prepare()?;
    smp::begin(1, || {
        cpu::cli();
        for stage in 1..=3 {
            STAGE.store(stage, SeqCst);
            selftest::probe!("hlt", options(nostack));
        }
        STAGE.store(4, SeqCst);
    });
    for wanted in 1..=3 {
        stage(wanted)?;
        smp::rest_us(300);
        check_eq!(STAGE.load(SeqCst), wanted, "stage of the halted processor");
        apic::send_any(smp::id_of(1), DELIVERY_NMI);
        arrives(1, wanted)?;
    }
    stage(4)?;
    smp::finish(1)
}

fn nmi_reaches_a_software_disabled_processor() -> TestResult {
    need!(smp::count() > 1, "one processor");
    prepare()?;
    smp::begin(1, || {
        apic::set(register::SVR, u32::from(apic::SPURIOUS_VECTOR));
        STAGE.store(1, SeqCst);
        while STAGE.load(SeqCst) != 2 {
            cpu::pause();
        }
        apic::set(register::SVR, u32::from(apic::SPURIOUS_VECTOR) | SVR_ENABLE);
    });
    stage(1)?;
    apic::send_any(smp::id_of(1), DELIVERY_NMI);
    arrives(1, 1)?;
    STAGE.store(2, SeqCst);
    smp::finish(1)
}

/// While a handler runs one NMI is kept, and further ones merge with it.
fn nmi_is_blocked_in_the_handler() -> TestResult {
    need!(smp::count() > 1, "one processor");
    prepare()?;
    for cpu in 1..smp::count() {
        HOLD.store(true, SeqCst);
        apic::send_any(smp::id_of(cpu), DELIVERY_NMI);
        arrives(cpu, 1)?;
        for _ in 0..3 {
            apic::send_any(smp::id_of(cpu), DELIVERY_NMI);
            smp::rest_us(2_000);
            check_eq!(nmis(cpu), 1, "NMIs at processor {cpu} while it handles one");
        }
        HOLD.store(false, SeqCst);
        arrives(cpu, 2)?;
        check_eq!(DEEPEST.load(SeqCst), 1, "nesting of handlers");
    }
    Ok(())
}

fn nmi_to_all_others() -> TestResult {
    prepare()?;
    for wanted in 1..=3 {
        apic::send_any(0, TO_OTHERS | DELIVERY_NMI);
        for cpu in 1..smp::count() {
            arrives(cpu, wanted)?;
        }
    }
    check_eq!(nmis(0), 0, "NMIs at the sender");
    Ok(())
}

fn nmi_by_logical_id() -> TestResult {
    need!(smp::count() > 1, "one processor");
    prepare()?;
    smp::call(1, || apic::write(register::LDR, 0x20 << 24))?;
    apic::send_any(0x60, LOGICAL | DELIVERY_NMI);
    arrives(1, 1)?;
    check!((0..smp::count()).all(|cpu| cpu == 1 || nmis(cpu) == 0), "others had an NMI, too");
    Ok(())
}
