//! All CPUs of the machine. The boot CPU starts the others one after the other: INIT, start-up message, and from a page
//! below 1 MiB into the kernel ([`trampoline`]). Each gets a block of its own with stacks and descriptor tables, is
//! compared with the boot CPU, has its TSC compared with the boot CPU's, switches the virtualization extension on, and
//! goes where `basalt` sends it ([`arrival`]). A CPU that cannot take part is named in the log and left out; nothing
//! waits for it for good.
//!
//! Sources: Intel SDM vol. 3, "Multiple-Processor (MP) Initialization"; AMD APM vol. 2, "Multiprocessor
//! Initialization". No locks but that around the word of a CPU that gives up.

mod arrival;
pub(crate) mod stop;
mod trampoline;
mod tsc;

extern crate alloc;

use alloc::boxed::Box;
use core::fmt;
use core::sync::atomic::Ordering;

use log::{info, warn};
use trace::Ring;
use vcpu::Nanos;

use self::arrival::Phase;
use self::trampoline::Trap;
pub use self::trampoline::{
    PARAMETERS_OFFSET, Parameters, TICKET_OFFERED, TICKET_TAKEN, TICKET_UNFIT, Trampoline,
};
pub use self::tsc::largest_difference;
use crate::acpi::Acpi;
use crate::apic::{self, ipi};
use crate::boot_info::BootInfo;
use crate::cpu::registry::{self, MAX_CPUS};
use crate::cpu::{Lack, PerCpu, Traits};
use crate::fault::{self, Fault};
use crate::limbo::{Epoch, Epochs};
use crate::memory::{self, MapError};
use crate::stacks::CpuStacks;
use crate::virtualization::Refusal;
use crate::{clock, cpu};

/// Time that a CPU has to begin after a start-up message before it gets a second, in ns (SDM vol. 3, "Typical AP
/// Initialization Sequence"). The 10 ms between INIT and the first one that stand there are for processors without
/// virtualization extensions; those that have them need none, as Linux has found for all of their families.
const STARTUP_NS: u64 = 200_000;
/// A CPU is waited for at least so long, in ns.
const LEAST_PATIENCE_NS: u64 = 100_000_000;
/// What all CPUs that do not come can cost beyond that, in ns: an emulator's CPU may have to wait for its turn.
const PATIENCE_NS: u64 = 2_000_000_000;

/// The epochs of the machine's CPUs: see [`crate::limbo`].
pub static EPOCHS: Epochs<MAX_CPUS> = Epochs::new();

/// Begins an epoch, after something was unmapped, and interrupts the CPUs that may know it still. Does not wait for them.
pub(crate) fn begin_epoch() -> Epoch {
    let epoch = EPOCHS.begin();
    let here = cpu::current();
    for other in registry::all().filter(|other| other.number != here && EPOCHS.holds(other.number, epoch)) {
        ipi::send_kick(other.apic_id.load(Ordering::Relaxed));
    }
    epoch
}

/// What a started CPU does.
#[derive(Clone, Copy, Debug)]
pub struct Roles {
    /// Switches the virtualization extension on, as on the boot CPU.
    pub join: fn() -> Result<(), Refusal>,
    /// What it does for good, given its number. Interrupts are off.
    pub run: fn(usize) -> !,
}

/// Why a CPU is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LeftOut {
    /// Its id takes more than the eight bits that the local APICs' mode has for it.
    OutOfReach,
    /// It did not begin.
    NoAnswer,
    /// It began and was not heard of again.
    Lost,
    /// It has no 64-bit mode or no no-execute pages.
    Unfit,
    /// There is no memory for its stacks.
    NoMemory(MapError),
    /// It lacks something that the boot CPU has.
    Lacks(Lack),
    /// Its local APIC is in x2APIC mode, which it cannot leave, and the boot CPU's is not.
    ApicMode,
    /// Another CPU came in its place.
    Impostor {
        /// The other's APIC id.
        found: u32,
    },
    /// Its TSC is not the boot CPU's.
    TscDiffers {
        /// By so many ticks at least.
        ticks: u64,
    },
    /// Its virtualization extension cannot be switched on.
    Refused(Refusal),
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfReach => f.write_str("has an id that needs x2APIC mode"),
            Self::NoAnswer => f.write_str("does not start"),
            Self::Lost => f.write_str("starts and then says nothing more"),
            Self::Unfit => f.write_str("has no 64-bit mode or no no-execute pages"),
            Self::NoMemory(error) => write!(f, "gets no stacks: {error}"),
            Self::Lacks(lack) => write!(f, "lacks what the boot CPU has: {lack}"),
            Self::ApicMode => f.write_str("is in x2APIC mode, unlike the boot CPU"),
            Self::Impostor { found } => write!(f, "says that its local APIC is {found}"),
            Self::TscDiffers { ticks } => write!(f, "has a TSC that differs by {ticks} ticks or more"),
            Self::Refused(refusal) => write!(f, "cannot run guests: {refusal}"),
        }
    }
}

/// Starts the other CPUs, at most so many that `limit` run with the boot CPU. To be called once, on the boot CPU, when
/// memory, interrupt controllers and clock are up and the virtualization extension is on.
pub fn start(boot: &BootInfo, acpi: &Acpi, limit: Option<usize>, roles: Roles) {
    let own = apic::local::id();
    let others = || acpi.madt.processors.iter().copied().filter(move |id| *id != own);
    if let Some(cpu) = registry::get(0) {
        cpu.apic_id.store(own, Ordering::Relaxed);
    }
    Traits::remember_boot_cpu();
    arrival::set_roles(roles);
    let limit = limit.unwrap_or(MAX_CPUS).clamp(1, MAX_CPUS);
    let wanted = others().count().min(limit - 1);
    if wanted != 0 {
        match memory::startup_space().map(|space| Trap::lay(space, &boot.image.trampoline)) {
            Some(Some(trap)) => start_all(&trap, others(), limit),
            _ => warn!("there is no free memory below 640 KiB: the other CPUs cannot be started"),
        }
    }
    let (count, known) = (registry::count(), others().count() + 1);
    let why = if count < known && limit < known { " (as the option cpus= says)" } else { "" };
    info!("{count} of {known} CPUs run{why}; their TSCs differ by at most {} ticks", largest_difference());
}

fn start_all(trap: &Trap, others: impl Iterator<Item = u32> + Clone, limit: usize) {
    let (reachable, unreachable) =
        (others.clone().filter(|id| ipi::reaches(*id)), others.filter(|id| !ipi::reaches(*id)));
    for id in unreachable {
        report(id, LeftOut::OutOfReach);
    }
    reachable.clone().for_each(ipi::send_init);
    let mut patience = Patience { left_ns: PATIENCE_NS };
    let mut spare = None;
    for id in reachable {
        let number = registry::count();
        if number == limit {
            return;
        }
        let cpu = match spare.take().map_or_else(|| prepare(number), Ok) {
            Ok(cpu) => cpu,
            Err(error) => return report(id, LeftOut::NoMemory(error)),
        };
        cpu.apic_id.store(id, Ordering::Relaxed);
        cpu.list();
        match start_one(trap, id, cpu, &mut patience) {
            Ok(()) => registry::set_count(number + 1),
            Err(why) => {
                registry::unlist(number);
                // From wherever it is, it goes back to waiting for a start-up message, of which there is no more.
                ipi::send_init(id);
                // What it never touched serves the next.
                spare = (why == LeftOut::NoAnswer).then_some(cpu);
                report(id, why);
            }
        }
    }
}

fn report(id: u32, why: LeftOut) {
    warn!("the CPU with local APIC {id} {why}: it is left out");
}

/// What a CPU needs.
fn prepare(number: usize) -> Result<&'static PerCpu, MapError> {
    let trace = Box::leak(Box::new(Ring::new()));
    let cpu = Box::leak(Box::new(PerCpu::new(number, trace)));
    cpu.give_stacks(CpuStacks::allocate()?);
    Ok(cpu)
}

fn start_one(trap: &Trap, id: u32, cpu: &'static PerCpu, patience: &mut Patience) -> Result<(), LeftOut> {
    arrival::expect();
    let ticket = trap.offer(cpu).ok_or(LeftOut::NoMemory(MapError::OutOfFrames))?;
    call(id, trap.page());
    if !wait(STARTUP_NS, || ticket.is_taken()) {
        call(id, trap.page());
        if !patience.wait(|| ticket.is_taken()) && ticket.withdraw() {
            return Err(LeftOut::NoAnswer);
        }
    }
    let heard = |phases: &[Phase]| phases.contains(&arrival::phase()) || ticket.is_unfit();
    if !patience.wait(|| heard(&[Phase::Refused, Phase::Comparing, Phase::Running])) {
        return Err(LeftOut::Lost);
    }
    if ticket.is_unfit() {
        return Err(LeftOut::Unfit);
    }
    if arrival::phase() == Phase::Comparing {
        tsc::answer(LEAST_PATIENCE_NS + patience.left_ns);
    }
    if !patience.wait(|| heard(&[Phase::Refused, Phase::Running])) {
        return Err(LeftOut::Lost);
    }
    arrival::refusal().map_or(Ok(()), Err)
}

fn call(id: u32, page: u8) {
    if !fault::is(Fault::SilentCpu) {
        ipi::send_startup(id, page);
    }
}

/// How long CPUs that do not come may still be waited for.
struct Patience {
    left_ns: u64,
}

impl Patience {
    fn wait(&mut self, come: impl Fn() -> bool) -> bool {
        let has = wait(LEAST_PATIENCE_NS + self.left_ns, come);
        if !has {
            self.left_ns = 0;
        }
        has
    }
}

/// Waits by the clock. False where it did not come.
fn wait(ns: u64, come: impl Fn() -> bool) -> bool {
    /// Looks between two at the clock, which may be slow to read.
    const LOOKS: usize = 64;
    let deadline = clock::uptime() + Nanos(ns);
    loop {
        for _ in 0..LOOKS {
            if come() {
                return true;
            }
            core::hint::spin_loop();
        }
        if clock::clock().is_none() || clock::uptime() >= deadline {
            return come();
        }
    }
}
