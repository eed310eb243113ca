//! A CPU of the machine: its descriptor tables, its block of per-CPU data, what it can do, and where its
//! exceptions and interrupts go.
//!
//! Source: Intel SDM vol. 3, "Interrupt and Exception Handling" and "Task Management in 64-Bit Mode".

// UNSAFETY: loads descriptor tables and segment registers; executes privileged instructions.
#![allow(unsafe_code)]

mod exceptions;
mod features;
pub(crate) mod interrupts;
pub(crate) mod registry;
mod tables;
mod traits;
pub(crate) mod wait;

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

pub use features::{Features, Vendor, features};
pub(crate) use interrupts::{InterruptFrame, set_handler};
use tables::{CODE_SELECTOR, DATA_SELECTOR, TSS_SELECTOR};
pub(crate) use traits::{Lack, Traits};
pub use wait::{Idle, choose_idle};
pub(crate) use wait::{WakeLine, wait_for_interrupt};

use spin::Once;
use trace::Ring;
use x86_64::registers::model_specific::GsBase;
use x86_64::{VirtAddr, instructions};

use self::tables::CpuTables;
use crate::stacks::CpuStacks;
use crate::svm::SvmCpu;
use crate::watchdog::Watched;

/// What belongs to one CPU. The GS segment's base points to it.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct PerCpu {
    /// Its own address, so that one load through GS finds it.
    address: AtomicU64,
    /// Number of the CPU, 0 for the one that booted.
    pub(crate) number: usize,
    /// The local APIC's id, once that is up.
    pub(crate) apic_id: AtomicU32,
    /// True from the timer's interrupt until somebody asks.
    pub(crate) timer_fired: AtomicBool,
    /// A virtualization extension is switched on.
    virtualized: AtomicBool,
    /// A vCPU's state is in the CPU.
    occupied: AtomicBool,
    /// Where the kernel stood when it was told to stop; 0 while it runs.
    pub(crate) stopped_at: AtomicU64,
    /// How often translations of guests' memory had to be dropped. A vCPU that was loaded before drops its own.
    pub(crate) guests_forgotten: AtomicU64,
    /// The number of the VM whose vCPU was loaded last.
    pub(crate) last_vm: AtomicU64,
    /// What it watches while it waits.
    pub(crate) wake_line: WakeLine,
    /// What the watchdog knows of it.
    pub(crate) watched: Watched,
    /// Bytes that it has taken for the kernel since it started, less what it has given back.
    taken: AtomicU64,
    /// What it did last.
    pub(crate) trace: &'static Ring,
    /// What SVM keeps for this CPU.
    pub(crate) svm: Once<SvmCpu>,
    stacks: Once<CpuStacks>,
    tables: CpuTables,
}

/// Apart from what follows, as all of it is zero: so it takes no room in the image's file.
static BOOT_TRACE: Ring = Ring::new();

static BOOT_CPU: PerCpu = PerCpu::new(0, &BOOT_TRACE);

static STARTED: AtomicBool = AtomicBool::new(false);

/// Where this CPU's tables are: what a virtualization extension restores at an exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HostTables {
    /// Linear address of the GDT.
    pub(crate) gdt_base: u64,
    /// Linear address of the IDT.
    pub(crate) idt_base: u64,
    /// Linear address of the TSS.
    pub(crate) tss_base: u64,
    /// Base of GS: the per-CPU block.
    pub(crate) gs_base: u64,
    /// Code selector.
    pub(crate) cs: u16,
    /// Data and stack selector.
    pub(crate) ss: u16,
    /// Task register.
    pub(crate) tr: u16,
}

/// Gives the boot CPU its own descriptor tables, so that an exception is reported and not a reset. Later
/// calls do nothing.
pub fn start() {
    if STARTED.swap(true, Ordering::SeqCst) {
        return;
    }
    BOOT_CPU.give_stacks(CpuStacks::boot());
    registry::list(&BOOT_CPU);
    // SAFETY: this CPU is the boot CPU, the flag above lets only one call through, and interrupts are off
    // since the entry code.
    unsafe { BOOT_CPU.load() };
}

/// True once [`start`] has run.
pub(crate) fn is_started() -> bool {
    STARTED.load(Ordering::Relaxed)
}

/// This CPU's block. Its callers run after [`start`]: handlers, because that loads the IDT, and the others
/// because they ask.
#[inline]
pub(crate) fn this() -> &'static PerCpu {
    let address: u64;
    // SAFETY: `start`, which has run, let GS point to a static block, whose first word is its own address.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) address, options(nostack, preserves_flags, readonly));
        &*(address as *const PerCpu)
    }
}

/// The number of the calling CPU, 0 for the one that booted.
#[inline]
pub fn current() -> usize {
    if is_started() { this().number } else { 0 }
}

/// Counts bytes that the calling CPU takes for the kernel; modulo 2^64, so that what is given back counts against it.
pub(crate) fn count_taken(bytes: u64) {
    if is_started() {
        this().taken.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Bytes that the calling CPU has taken for the kernel, less what it has given back, modulo 2^64.
pub(crate) fn taken() -> u64 {
    if is_started() { this().taken.load(Ordering::Relaxed) } else { 0 }
}

/// CPUs that the kernel runs on; their numbers count from 0.
#[inline]
pub fn count() -> usize {
    registry::count()
}

/// Where this CPU's tables are.
///
/// # Panics
///
/// Before [`start`].
pub(crate) fn tables() -> HostTables {
    assert!(is_started(), "a CPU's tables are asked for before it has any");
    let cpu = this();
    HostTables {
        gdt_base: cpu.tables.gdt_base(),
        idt_base: tables::idt_base(),
        tss_base: cpu.tables.tss_base(),
        gs_base: cpu.address.load(Ordering::Relaxed),
        cs: CODE_SELECTOR,
        ss: DATA_SELECTOR,
        tr: TSS_SELECTOR,
    }
}

impl PerCpu {
    /// The block of the CPU with this number, which does not run yet, with a ring of its own.
    pub(crate) const fn new(number: usize, trace: &'static Ring) -> Self {
        Self {
            address: AtomicU64::new(0),
            number,
            apic_id: AtomicU32::new(0),
            timer_fired: AtomicBool::new(false),
            virtualized: AtomicBool::new(false),
            occupied: AtomicBool::new(false),
            stopped_at: AtomicU64::new(0),
            guests_forgotten: AtomicU64::new(0),
            last_vm: AtomicU64::new(0),
            wake_line: WakeLine::new(),
            watched: Watched::new(),
            taken: AtomicU64::new(0),
            trace,
            svm: Once::new(),
            stacks: Once::new(),
            tables: CpuTables::new(),
        }
    }

    /// Says where its stacks are. The first call counts.
    pub(crate) fn give_stacks(&self, stacks: CpuStacks) {
        self.stacks.call_once(|| stacks);
    }

    /// Its stacks, once it has any.
    pub(crate) fn stacks(&self) -> Option<&CpuStacks> {
        self.stacks.get()
    }

    /// Loads the CPU's own descriptor tables, and lets GS point to this block.
    ///
    /// # Safety
    ///
    /// 1. The calling CPU is the one this block is for, and loads it once.
    /// 2. Interrupts are off.
    ///
    /// # Panics
    ///
    /// Where it has no stacks.
    pub(crate) unsafe fn load(&'static self) {
        self.address.store(&raw const *self as u64, Ordering::Relaxed);
        let stacks = self.stacks();
        assert!(stacks.is_some(), "a CPU without stacks");
        if let Some(stacks) = stacks {
            // SAFETY: conditions 1 and 2 are `CpuTables::load`'s.
            unsafe { self.tables.load(stacks) };
        }
        // SAFETY: it only switches breakpoints off that firmware or a debugger may have left. Guests' addresses
        // in DR0 to DR3 rely on that.
        unsafe { asm!("mov dr7, {}", in(reg) vcpu::power_up::DR7, options(nomem, nostack, preserves_flags)) };
        // After the segment loads, which clear the base.
        GsBase::write(VirtAddr::new(&raw const *self as u64));
    }
}

impl PerCpu {
    /// Puts it on the list of CPUs.
    pub(crate) fn list(&'static self) {
        registry::list(self);
    }
}

/// Notes that a virtualization extension is being switched on. False where one is already, or this CPU has no
/// tables yet for it to come back to.
pub(crate) fn virtualize() -> bool {
    is_started() && !this().virtualized.swap(true, Ordering::Relaxed)
}

/// Notes that a vCPU's state goes into this CPU. Two at once would run with each other's host state.
///
/// # Panics
///
/// Where another vCPU's is in it.
pub(crate) fn occupy() {
    let cpu = this();
    assert!(!cpu.occupied.swap(true, Ordering::Relaxed), "two vCPUs are loaded on CPU {}", cpu.number);
}

/// Makes this CPU drop the translations of guests' memory that it has, before it enters a guest again.
///
/// # Panics
///
/// Where a vCPU is loaded: it would go on with them.
pub(crate) fn forget_guests() {
    let cpu = this();
    assert!(!cpu.occupied.load(Ordering::Relaxed), "a CPU forgets guests while it has one loaded");
    cpu.guests_forgotten.fetch_add(1, Ordering::Relaxed);
    if let Some(svm) = cpu.svm.get() {
        svm.forget_guests();
    }
}

/// Notes that it has left.
pub(crate) fn vacate() {
    this().occupied.store(false, Ordering::Relaxed);
}

/// Runs the NMI handler, as the architecture would: for an NMI that ended a guest's run.
pub(crate) fn invoke_nmi() {
    // SAFETY: vector 2 has a handler on its own stack, which returns here with all registers kept.
    unsafe { asm!("int 2") };
}

/// Runs the machine-check handler: for a machine check that ended a guest's run.
pub(crate) fn invoke_machine_check() {
    // SAFETY: vector 18 has a handler; it reports and stops the machine.
    unsafe { asm!("int 18") };
}

/// Non-maskable interrupts so far.
pub fn nmis() -> u64 {
    exceptions::NMIS.load(Ordering::Relaxed)
}

/// Stops this CPU for good.
pub fn halt_forever() -> ! {
    instructions::interrupts::disable();
    loop {
        instructions::hlt();
    }
}
