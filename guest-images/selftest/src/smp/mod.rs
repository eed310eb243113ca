//! Other processors: started by INIT and start-up messages, given jobs, waited for (SDM vol. 3, "MP Initialization
//! Protocol").
//!
//! Processors have numbers: 0 is the first one, the others follow in the order of the MADT. Each has a stack, GDT, TSS,
//! exception guard and interrupt counts of its own; where the stack is tells which processor it is. Between jobs it
//! waits in HLT with interrupts on. A job is a function; what it and others share is in atomics, and it prints nothing.
//!
//! The first processor waits in HLT too ([`wait_us`]), so that processors which share one have their turn at once.

#[cfg(target_os = "none")]
mod start;

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};

use crate::apic::{self, DELIVERY_INIT, DELIVERY_STARTUP, register};
use crate::cpu::{self, msr, read8, read32};
use crate::interrupt::{self, Acknowledge};
use crate::{Exception, PerCpu, TestResult, acpi, exception, memory, tsc, verdict};

/// Processors at most.
pub const MAX_CPUS: usize = 64;
/// The vector that tells a processor of its next job. Tests leave it alone on all processors but the first.
pub const JOB_VECTOR: u8 = 0xf0;
/// The vector that ends a rest of the first processor. Tests that rest leave it and the timer alone.
pub const REST_VECTOR: u8 = 0xf1;
/// Where start-up messages send processors, unless a test wants another page: below 64 KiB, above what firmware keeps there.
pub const START_PAGE: u8 = 0x08;

/// Bytes of a processor's stacks: four of 4 KiB for the interrupt-stack table, and above them the usual one.
const STACK_SIZE: usize = 32 << 10;
const INTERRUPT_STACK_SIZE: u64 = 4096;
/// One rest.
const REST_US: u64 = 100;
/// How long a processor may take to come up, and to finish a job that does not say otherwise.
pub const PATIENCE_US: u64 = 3_000_000;

#[repr(C, align(4096))]
struct Stacks([[u8; STACK_SIZE]; MAX_CPUS]);

/// The first processor's is not used: it keeps the one it started with.
static STACKS: crate::Global<Stacks> = crate::Global::new(Stacks([[0; STACK_SIZE]; MAX_CPUS]));
/// Processors' numbers by their initial APIC ids; 0 where there is none.
static NUMBERS: [AtomicU8; 256] = [const { AtomicU8::new(0) }; 256];
/// How often each has come up.
static STARTS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
/// CR0 as the last start-up message found it.
static FIRST_CR0: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
/// The address of each one's job; 0 where it has none.
static JOBS: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];
/// IA32_APIC_BASE as the last start-up message found it.
static FIRST_APIC_BASE: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// What ended each one's last job early.
static FAULTS: PerCpu<Option<Exception>> = PerCpu::new([None; MAX_CPUS]);

/// A processor's work.
pub type Job = fn();

/// Which processor this is: by the stack.
#[inline]
pub fn current() -> usize {
    let here: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rsp", out(reg) here, options(nomem, nostack, preserves_flags)) };
    let offset = here.wrapping_sub(STACKS.as_ptr() as u64);
    // A stack's end belongs to it: RSP is there before the first push.
    let number = offset.wrapping_sub(1) / STACK_SIZE as u64;
    if number < MAX_CPUS as u64 { number as usize } else { 0 }
}

/// The end of the calling processor's stack of an interrupt-stack-table slot.
pub(crate) fn interrupt_stack(slot: u8) -> u64 {
    let start = STACKS.as_ptr() as u64 + (current() * STACK_SIZE) as u64;
    let slot = if slot == 0 { 4 } else { u64::from(slot) };
    start + slot * INTERRUPT_STACK_SIZE
}

/// The APIC ids of the processors that the MADT says can be used, in its order.
pub fn listed_ids() -> impl Iterator<Item = u32> {
    const LOCAL_APIC: u8 = 0;
    const LOCAL_X2APIC: u8 = 9;
    const ENABLED: u32 = 1;
    acpi::madt_entries().filter_map(|(kind, at)| match kind {
        LOCAL_APIC if read32(at + 4) & ENABLED != 0 => Some(read8(at + 3).into()),
        LOCAL_X2APIC if read32(at + 8) & ENABLED != 0 => Some(read32(at + 4)),
        _ => None,
    })
}

/// The calling processor's initial APIC id.
pub fn initial_id() -> u32 {
    cpu::cpuid(1, 0).ebx >> 24
}

fn other_ids() -> impl Iterator<Item = u32> {
    let own = initial_id();
    listed_ids().filter(move |&id| id != own)
}

/// How many processors the MADT lists. For the first processor.
pub fn count() -> usize {
    (other_ids().count() + 1).min(MAX_CPUS)
}

/// How many processors have been started, the first one included. For all of them.
pub fn processors() -> usize {
    1 + STARTS.iter().filter(|starts| starts.load(SeqCst) != 0).count()
}

/// The APIC id of a processor. For the first processor.
pub fn id_of(cpu: usize) -> u32 {
    if cpu == 0 { initial_id() } else { other_ids().nth(cpu - 1).unwrap_or(u32::MAX) }
}

/// How often a processor has come up.
pub fn starts(cpu: usize) -> u32 {
    STARTS[cpu].load(SeqCst)
}

/// CR0 as a processor's last start found it.
pub fn first_cr0(cpu: usize) -> u32 {
    FIRST_CR0[cpu].load(SeqCst)
}

/// IA32_APIC_BASE as a processor's last start found it.
pub fn first_apic_base(cpu: usize) -> u64 {
    FIRST_APIC_BASE[cpu].load(SeqCst)
}

/// Lets others run for a short while: waits in HLT for the local APIC's timer. Interrupts are off afterwards.
pub fn rest_us(microseconds: u64) {
    interrupt::expect(REST_VECTOR, Acknowledge::LocalApic);
    let before = interrupt::count(REST_VECTOR);
    apic::set(register::LVT_TIMER, u32::from(REST_VECTOR));
    apic::set(register::INITIAL_COUNT, tsc::us(microseconds).max(1) as u32);
    // With interrupts on it may have come with the end of that exit, where others held the processor.
    if interrupt::count(REST_VECTOR) == before {
        cpu::wait_for_interrupt();
    }
    cpu::cli();
    apic::set(register::LVT_TIMER, apic::MASKED | u32::from(REST_VECTOR));
    apic::set(register::INITIAL_COUNT, 0);
}

/// Waits in HLT until the condition holds, at most that long, with interrupts on. Says whether it held.
pub fn wait_us(microseconds: u64, mut condition: impl FnMut() -> bool) -> bool {
    let (start, ticks) = (cpu::rdtsc(), tsc::us(microseconds));
    while !condition() {
        if cpu::rdtsc().wrapping_sub(start) >= ticks {
            return condition();
        }
        rest_us(REST_US);
    }
    true
}

/// Puts the code that receives processors in a page below 1 MiB.
pub fn place_trampoline(page: u8) {
    #[cfg(target_os = "none")]
    memory::store(u64::from(page) << 12, start::trampoline());
    #[cfg(not(target_os = "none"))]
    memory::store(u64::from(page) << 12, &[]);
}

/// Makes ready to be started: numbers of all processors, and the trampoline at [`START_PAGE`].
pub fn prepare() {
    place_trampoline(START_PAGE);
    for (index, id) in other_ids().take(MAX_CPUS - 1).enumerate() {
        if let Some(number) = NUMBERS.get(id as usize) {
            number.store(index as u8 + 1, SeqCst);
        }
    }
}

/// Sends an INIT to a processor.
pub fn send_init(cpu: usize) {
    JOBS[cpu].store(0, SeqCst);
    apic::send_any(id_of(cpu), DELIVERY_INIT);
}

/// Sends a start-up message to a processor.
pub fn send_startup(cpu: usize, page: u8) {
    apic::send_any(id_of(cpu), DELIVERY_STARTUP | u32::from(page));
}

/// Starts a processor, or starts it anew, at a page.
///
/// # Errors
/// It does not come up.
pub fn start_at(cpu: usize, page: u8) -> TestResult {
    let before = starts(cpu);
    send_init(cpu);
    rest_us(REST_US);
    for _ in 0..2 {
        send_startup(cpu, page);
        if wait_us(PATIENCE_US, || starts(cpu) != before) {
            return Ok(());
        }
    }
    Err(verdict::fail(format_args!("processor {cpu} (APIC id {:#x}) does not come up", id_of(cpu))))
}

/// Starts all processors but the first, or starts them anew.
///
/// # Errors
/// One does not come up.
pub fn start_all() -> TestResult {
    prepare();
    (1..count()).try_for_each(|cpu| start_at(cpu, START_PAGE))
}

/// Gives a processor a job.
pub fn begin(cpu: usize, job: Job) {
    JOBS[cpu].store(job as *const () as usize, SeqCst);
    apic::send_any(id_of(cpu), u32::from(JOB_VECTOR));
}

/// Whether a processor has done its job.
pub fn is_idle(cpu: usize) -> bool {
    JOBS[cpu].load(SeqCst) == 0
}

/// Waits for the end of a processor's job.
///
/// # Errors
/// It takes too long, an exception ended it, or the processor had an interrupt that it did not expect.
pub fn finish(cpu: usize) -> TestResult {
    if !wait_us(PATIENCE_US, || is_idle(cpu)) {
        return Err(verdict::fail(format_args!("processor {cpu} does not finish its job")));
    }
    // SAFETY: it was written before the job was taken off, and is not written until the next one.
    if let Some(exception) = unsafe { FAULTS.of(cpu).read_volatile() } {
        return Err(verdict::fail(format_args!("{exception} on processor {cpu}")));
    }
    interrupt::verdict_on(cpu)
}

/// Lets a processor do a job, and waits.
///
/// # Errors
/// As [`finish`].
pub fn call(cpu: usize, job: Job) -> TestResult {
    begin(cpu, job);
    finish(cpu)
}

/// The same for any processor, the first one as well.
///
/// # Errors
/// As [`finish`].
pub fn call_on(cpu: usize, job: Job) -> TestResult {
    if cpu == 0 {
        job();
        Ok(())
    } else {
        call(cpu, job)
    }
}

/// Lets all processors do a job, the first one as well, and waits.
///
/// # Errors
/// As [`finish`].
pub fn call_all(job: Job) -> TestResult {
    (1..count()).for_each(|cpu| begin(cpu, job));
    job();
    (1..count()).try_for_each(finish)
}

/// A processor that was started: does its jobs.
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "the entry code calls it"))]
extern "C" fn secondary(cpu: usize, cr0: u32) -> ! {
    FIRST_APIC_BASE[cpu].store(cpu::rdmsr(msr::APIC_BASE), SeqCst);
    crate::descriptor::install();
    exception::reset();
    interrupt::reset();
    apic::baseline();
    interrupt::reset();
    interrupt::expect(JOB_VECTOR, Acknowledge::LocalApic);
    FIRST_CR0[cpu].store(cr0, SeqCst);
    STARTS[cpu].fetch_add(1, SeqCst);
    loop {
        let job = JOBS[cpu].load(SeqCst);
        if job == 0 {
            cpu::wait_for_interrupt();
            continue;
        }
        // SAFETY: what is stored there is a `Job`.
        let job: Job = unsafe { core::mem::transmute(job) };
        FAULTS.set(crate::catch(job).err());
        cpu::cli();
        JOBS[cpu].store(0, SeqCst);
    }
}
