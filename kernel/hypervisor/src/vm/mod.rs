//! A virtual machine: made once, started and restarted, stopped. Everything in here may be used by any CPU at any time;
//! what a vCPU alone uses is in its [`slot`].

mod birth;
mod board;
pub(crate) mod boot;
mod error;
pub(crate) mod life;
mod make;
pub(crate) mod past;
mod rom;
pub(crate) mod slot;
mod space;
pub(crate) mod task;

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};

use alloc::sync::Arc;
use alloc::vec::Vec;

use devices::acpi::AcpiTables;
use devices::{ApicMessage, Chipset, DeliveryMode};
use loader::EntryState;
use spin::{Mutex, RwLock};
use trace::Kind;
use vcpu::{AddressSpace, Backend, Gpa, Host, Nanos};

use crate::config::{Name, Restart, VmConfig};
use crate::disks::Depot;
use crate::hardware::Hardware;
use crate::mailbox::Mailboxes;
use crate::memory_map::MemoryMap;
use crate::processor::VirtualCpu;
use crate::ratelimit::{RateLimits, Site};
use crate::run::presence::Presence;
use crate::schedule::{Shared, Times, VcpuId, VmId};
use crate::serial_line::SerialLine;
use crate::stop::StopReason;
use crate::virtio_bus::VirtioBus;
pub(crate) use birth::Birth;
use board::Signals;
pub use error::StartError;
use life::{Life, Request, State, Task};
use past::Past;
use slot::{Place, Slot};
use task::Stage;

/// How long the end of a VM waits for its last bytes to be shown.
const LAST_WORDS: Nanos = Nanos::from_secs(1);
/// Between two starts of a VM that ends by itself, again and again.
const RESTART_PERIOD: Nanos = Nanos::from_secs(1);

/// A virtual machine.
pub(crate) struct Vm<'m, B: Backend> {
    /// Its place in the list.
    pub(crate) number: usize,
    /// Its name for the scheduler.
    pub(crate) id: VmId,
    pub(crate) name: Name,
    pub(crate) config: Arc<VmConfig<'m>>,
    pub(crate) map: MemoryMap,
    /// The machine's own devices, where it has them.
    pub(crate) hardware: Option<Hardware>,
    /// Its firmware's tables.
    tables: AcpiTables,
    /// Its memory, from its start to its end. Who runs a vCPU has a share of it as long as the vCPU is loaded; it grows and shrinks when nobody has.
    space: RwLock<Arc<Option<B::Space>>>,
    pub(crate) slots: Vec<Slot<B>>,
    pub(crate) serial: SerialLine,
    /// The line behind its virtio console, where it has one.
    pub(crate) terminal: Option<Arc<SerialLine>>,
    /// What of its disks is under way, where the management domain serves some.
    pub(crate) depot: Option<Arc<Depot>>,
    pub(crate) life: Life,
    /// How far its task has come.
    stage: Mutex<Stage<B>>,
    /// Where its first vCPU begins, where that was told from outside.
    pub(super) entry: Mutex<Option<EntryState>>,
    /// What the first CPU needs to show it, until that takes it.
    presence: Mutex<Option<Presence>>,
    /// Until when its end waits for its last words; 0 where it does not.
    speaks_until: AtomicU64,
    /// Ticks that its task has taken so far.
    work: AtomicU64,
    /// What its start took.
    pub(crate) birth: Birth,
    /// Bytes of the kernel's that it has, modulo 2^64.
    own: AtomicU64,
    /// Bytes that its start will take yet.
    promised: AtomicU64,
    /// How often it has started anew by itself.
    restarts: AtomicU32,
    /// When it may start anew; a time that has passed where it need not wait.
    waits_until: AtomicU64,
    chipset: Mutex<Chipset<'m>>,
    pub(crate) virtio: VirtioBus<B::Image<'m>>,
    signals: Signals,
    past: Mutex<Past>,
    limits: Mutex<RateLimits>,
    /// Who gets the next message for the lowest priority.
    rotor: AtomicUsize,
}

impl<'m, B: Backend> Vm<'m, B> {
    /// Says where its first vCPU begins, the next time that it does.
    pub(crate) fn set_entry(&self, entry: EntryState) {
        *self.entry.lock() = Some(entry);
    }

    /// Whether that was said, or need not be, as it begins in firmware.
    pub(crate) fn has_entry(&self) -> bool {
        self.config.firmware.is_some() || self.entry.lock().is_some()
    }

    /// Where the root pointer of its firmware's tables is.
    pub(crate) fn rsdp(&self) -> Gpa {
        self.tables.rsdp()
    }

    /// Leaves what shows it to the first CPU.
    pub(crate) fn leave_presence(&self, presence: Presence) {
        *self.presence.lock() = Some(presence);
    }

    /// Takes that; where nobody has left it, it is made. `None` where there is no memory for it.
    pub(crate) fn take_presence(&self) -> Option<Presence> {
        let left = self.presence.lock().take();
        left.or_else(|| Presence::new(self.name, &self.config))
    }

    /// Whether it starts anew after such an end; counts the starts. Where there is no end of them, they are
    /// [`RESTART_PERIOD`] apart, so that a VM that ends at once is no burden.
    pub(crate) fn starts_anew(&self, reason: StopReason, now: Nanos) -> bool {
        if self.life.is_condemned() || !reason.is_guests_own() || self.switches_machine(reason) {
            return false;
        }
        match self.config.restart {
            Restart::No => false,
            Restart::Times(most) => self.restarts.fetch_add(1, SeqCst) < most,
            Restart::Always => {
                let at = now.max(self.waits_until() + RESTART_PERIOD);
                self.waits_until.store(at.0, SeqCst);
                true
            }
        }
    }

    /// Whether such an end of it is meant for the machine: who has that switches it.
    pub(crate) fn switches_machine(&self, reason: StopReason) -> bool {
        self.hardware.is_some() && matches!(reason, StopReason::PowerOff | StopReason::Restart)
    }

    /// What a reset is that the guest itself asks for: of the machine, where it has that.
    pub(crate) fn own_reset(&self) -> Request {
        match self.hardware {
            Some(_) => Request::Stop(StopReason::Restart),
            None => Request::Reset,
        }
    }

    /// Whether bytes of a VM that ends are still on their way to the console: they come before the report of its end. But
    /// nobody waits for them longer than [`LAST_WORDS`].
    pub(crate) fn has_last_words(&self, now: Nanos) -> bool {
        if !self.has_output() {
            return false;
        }
        let until = self.speaks_until.load(SeqCst);
        if until == 0 {
            self.speaks_until.store((now + LAST_WORDS).0, SeqCst);
        }
        until == 0 || now.0 < until
    }

    /// Its task has taken so many ticks more.
    pub(crate) fn count_work(&self, ticks: u64) {
        self.work.fetch_add(ticks, SeqCst);
    }

    /// So many bytes more of the kernel's are its own; modulo 2^64, so that what it gives back counts against it.
    pub(crate) fn count_own(&self, bytes: u64) {
        self.own.fetch_add(bytes, SeqCst);
    }

    /// Bytes of the kernel's that are its own, without its memory and what maps it.
    pub(crate) fn own_bytes(&self) -> u64 {
        self.own.load(SeqCst)
    }

    /// Bytes of the nested tables that map its memory.
    pub(crate) fn table_bytes(&self) -> u64 {
        self.space.read().as_ref().as_ref().map_or(0, AddressSpace::table_bytes)
    }

    /// How many ticks its task has taken, which is done.
    pub(crate) fn take_work(&self) -> u64 {
        self.speaks_until.store(0, SeqCst);
        self.work.swap(0, SeqCst)
    }

    /// When its task may begin.
    pub(crate) fn waits_until(&self) -> Nanos {
        Nanos(self.waits_until.load(SeqCst))
    }

    /// Has its clocks say that it was paused. Its vCPUs stand still.
    pub(crate) fn tell_pause(&self) {
        self.with_space(|space| {
            for slot in &self.slots {
                slot.with_processor(|processor| {
                    let Some(VirtualCpu { cpu, .. }) = processor else { return };
                    let tsc_at_zero = cpu.clock.guest_tsc(cpu.started);
                    cpu.paravirtual.clock.tell_pause(tsc_at_zero, space);
                });
            }
        });
    }

    /// Its vCPU number `index`, for the scheduler.
    pub(crate) fn vcpu_id(&self, index: usize) -> VcpuId {
        VcpuId { vm: self.id, index: index as u8 }
    }

    /// The CPU that looks after the VM's chipset and its life: the home of its first vCPU.
    pub(crate) fn home(&self) -> usize {
        self.slots.first().map_or(0, Slot::home)
    }

    /// Where who types is heard: at the virtio console where the guest has opened that.
    pub(crate) fn listening_line(&self) -> &SerialLine {
        self.terminal.as_deref().filter(|line| line.is_opened()).unwrap_or(&self.serial)
    }

    /// Whether bytes of its wait to be shown.
    pub(crate) fn has_output(&self) -> bool {
        self.serial.has_output() || self.terminal.as_ref().is_some_and(|line| line.has_output())
    }

    /// The times of all its vCPUs together.
    pub(crate) fn times(&self, scheduled: &Shared) -> Times {
        let all = (0..self.slots.len()).filter_map(|index| scheduled.times(self.vcpu_id(index)).ok());
        all.fold(Times::default(), |sum, times| Times {
            charged: sum.charged + times.charged,
            steal: sum.steal + times.steal,
            throttled: sum.throttled + times.throttled,
        })
    }

    /// Whether a line of `site` may be logged: how many were left out before.
    pub(crate) fn may_log(&self, site: Site, now: Nanos) -> Option<u32> {
        self.limits.lock().allow(site, now)
    }

    /// Something is in the inbox of vCPU `index`, or is asked of it: sees to it that it looks. `docs/smp.md` tells why
    /// nothing is missed.
    pub(crate) fn poke<H: Host>(&self, index: usize, mailboxes: &Mailboxes, host: &mut H) {
        let Some(slot) = self.slots.get(index) else { return };
        match slot.place() {
            Place::Running(cpu) if cpu != host.cpu() => host.kick(cpu),
            Place::Running(_) | Place::Queued => {}
            Place::Blocked => {
                if slot.wake() {
                    let home = slot.home();
                    mailboxes.wake(home, self.number, index);
                    if home != host.cpu() {
                        host.kick(home);
                    }
                }
            }
        }
    }

    /// The vCPUs but `own` that `message` is for: `to(index)` is called for each.
    pub(crate) fn route(&self, message: &ApicMessage, own: Option<usize>, mut to: impl FnMut(usize)) {
        let others = self.slots.iter().enumerate().filter(|(index, _)| Some(*index) != own);
        for (index, slot) in others {
            if slot.inbox.routing().accepts(message) {
                to(index);
            }
        }
    }

    /// The one vCPU that a message for the lowest priority goes to: they take turns.
    pub(crate) fn arbitrate(&self, message: &ApicMessage) -> Option<usize> {
        debug_assert_eq!(message.delivery, DeliveryMode::LowestPriority);
        let count = self.slots.len();
        let start = self.rotor.fetch_add(1, SeqCst);
        (0..count).map(|step| start.wrapping_add(step) % count).find(|index| {
            let routing = self.slots.get(*index).map(|slot| slot.inbox.routing());
            routing.is_some_and(|routing| routing.software_enabled() && routing.accepts(message))
        })
    }

    /// Asks for a change of the whole VM. CPUs that run its vCPUs, or have one in their registers, are kicked.
    /// False where nothing comes of it.
    pub(crate) fn ask<H: Host>(&self, request: Request, host: &mut H) -> bool {
        let changes = self.life.ask(request);
        if changes {
            self.trace_request(request, host);
        }
        if changes && request == Request::Start {
            self.birth.asked(host.tsc());
        }
        let here = host.cpu();
        for slot in &self.slots {
            let running = if let Place::Running(cpu) = slot.place() { Some(cpu) } else { slot.loaded_on() };
            if let Some(cpu) = running.filter(|cpu| *cpu != here) {
                host.kick(cpu);
            }
        }
        if self.home() != here {
            host.kick(self.home());
        }
        changes
    }

    /// Records that something is asked of it.
    pub(crate) fn trace_request<H: Host>(&self, request: Request, host: &H) {
        let (what, why) = request.numbers();
        host.trace(Kind::Asked, self.id.subject(), what, why);
    }

    /// Goes from one state to another, see [`Life::pass`].
    pub(crate) fn pass<H: Host>(&self, from: State, to: State, host: &H) {
        if self.life.pass(from, to) {
            let (which, why) = to.numbers();
            host.trace(Kind::State, self.id.subject(), which, why);
        }
    }

    /// Whether no vCPU runs, is in a queue or on its way there, or is in a CPU's registers.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.slots.iter().all(|slot| slot.place() == Place::Blocked && slot.loaded_on().is_none())
    }

    /// Whether a vCPU runs or waits for its turn.
    pub(crate) fn is_awake(&self) -> bool {
        self.slots.iter().any(|slot| slot.place() != Place::Blocked)
    }

    /// Whether all vCPUs sleep, and nothing can send what would wake one.
    pub(crate) fn is_asleep_for_ever(&self) -> bool {
        // Only what the I/O APIC sends so can come yet: nothing drives LINT0 or LINT1 to an NMI.
        let comes =
            |message: ApicMessage| self.slots.iter().any(|slot| slot.inbox.routing().accepts(&message));
        self.slots.iter().all(Slot::is_dormant) && !self.chipset.lock().unmaskable().any(comes)
    }

    /// Whether it ends or has ended.
    pub(crate) fn is_ending(&self) -> bool {
        matches!(
            self.life.state(),
            State::Stopped(_) | State::Halting(Request::Stop(_)) | State::Working(Task::End(_))
        )
    }
}
