//! A virtual machine: made once, started and restarted, stopped. Everything in here may be used by any CPU at any time;
//! what a vCPU alone uses is in its [`slot`].

mod birth;
pub(crate) mod boot;
mod error;
pub(crate) mod life;
mod rom;
pub(crate) mod slot;
mod space;
pub(crate) mod task;

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};

use alloc::sync::Arc;
use alloc::vec::Vec;

use devices::acpi::AcpiTables;
use devices::{ApicBus, ApicMessage, BusCounters, Chipset, ChipsetConfig, DeliveryMode, PowerEvent, Vga};
use spin::{Mutex, MutexGuard, RwLock};
use vcpu::{AddressSpace, Backend, Host, Nanos, Random};
use virtio::Progress;

use crate::config::{Name, Restart, VmConfig};
use crate::firmware::add_devices;
use crate::hardware::{Hardware, Interrupt};
use crate::heap;
use crate::links::Links;
use crate::mailbox::Mailboxes;
use crate::memory_map::{ACPI_TABLES, MemoryMap};
use crate::processor::Attention;
use crate::processor::VirtualCpu;
use crate::ratelimit::{RateLimits, Site};
use crate::schedule::{Shared, Times, VcpuId, VmId};
use crate::serial_line::SerialLine;
use crate::stop::StopReason;
use crate::virtio_bus::{Exchange, OnBoard, Others, VirtioBus, address};
use crate::wiring::Wiring;
pub(crate) use birth::Birth;
pub(crate) use error::StartError;
use life::{Life, Request, State, Task};
use slot::{Place, Slot};
use task::Stage;

/// How long the end of a VM waits for its last bytes to be shown.
const LAST_WORDS: Nanos = Nanos::from_secs(1);
/// Between two starts of a VM that ends by itself, again and again.
const RESTART_PERIOD: Nanos = Nanos::from_secs(1);

/// What the chipset tells those that do not hold its lock.
#[derive(Debug)]
struct Signals {
    /// The 8259 pair's output.
    pic: AtomicBool,
    /// When the chipset's timers need somebody; `u64::MAX` for never.
    deadline: AtomicU64,
    /// A device is at work for the guest, which waits.
    busy: AtomicBool,
    /// And that work waits for room in the console.
    stalls: AtomicBool,
}

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
    pub(crate) life: Life,
    /// How far its task has come.
    stage: Mutex<Stage<B>>,
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
    limits: Mutex<RateLimits>,
    /// Who gets the next message for the lowest priority.
    rotor: AtomicUsize,
}

/// What an access to the chipset has changed for others.
struct News {
    /// The 8259s' output has risen.
    interrupt: bool,
    /// A timer is due earlier.
    earlier: bool,
}

impl<'m, B: Backend> Vm<'m, B> {
    /// A VM that is not started: what it takes to have it in the list, and its chipset. Memory and vCPUs come with the
    /// start.
    pub(crate) fn new<H: Host>(
        host: &H,
        backend: &B,
        (name, config): (Name, &Arc<VmConfig<'m>>),
        id: VmId,
        links: &mut Links<'_>,
    ) -> Result<Self, StartError> {
        let hardware = match config.hardware {
            true => Some(Hardware::new(backend.hardware().ok_or(StartError::NoHardware)?)),
            false => None,
        };
        let (mut map, tables_at) = match &hardware {
            Some(hardware) => {
                MemoryMap::of_machine(hardware.machine().memory_map()).ok_or(StartError::NoHardware)?
            }
            None => (MemoryMap::new(config.memory), ACPI_TABLES),
        };
        if config.devices.vga_text {
            map = map.with_text_memory();
        }
        if config.firmware {
            map = map.with_rom(config.kernel.len() as u64);
        }
        let mut chipset = Chipset::new(&ChipsetConfig {
            memory: map.size,
            wall_clock: host.wall_clock_s(),
            now: host.now(),
            outside: config.hardware,
        });
        // As long as the machine runs: a VM that starts anew there finds its disks as it left them, one on another machine does not.
        let generation_id = backend.create_random().map(|mut random| {
            let mut id = [0; 16];
            random.fill(&mut id);
            id
        });
        add_devices(&mut chipset, config, &map, generation_id)?;
        let vcpus = config.cpus;
        let mut slots = Vec::new();
        slots.try_reserve_exact(vcpus).map_err(|_| StartError::NoProcessors { vcpus })?;
        for _ in 0..vcpus {
            slots.push(Slot::new().ok_or(StartError::NoProcessors { vcpus })?);
        }
        let terminal = config.devices.virtio_console.then(|| Arc::new(SerialLine::new()));
        Ok(Self {
            number: id.index(),
            id,
            tables: match &hardware {
                Some(hardware) => hardware.tables(config.cpus, tables_at)?,
                None => task::tables(config.cpus, generation_id)?,
            },
            hardware,
            life: Life::new(links.asked, id.index()),
            virtio: VirtioBus::new(backend, config, (links, id, name), terminal.as_ref())?,
            terminal,
            name,
            config: Arc::clone(config),
            map,
            space: RwLock::new(heap::arc(None).ok_or(StartError::NoProcessors { vcpus })?),
            slots,
            serial: SerialLine::new(),
            stage: Mutex::new(Stage::Begin),
            speaks_until: AtomicU64::new(0),
            work: AtomicU64::new(0),
            birth: Birth::default(),
            own: AtomicU64::new(0),
            promised: AtomicU64::new(0),
            restarts: AtomicU32::new(0),
            waits_until: AtomicU64::new(0),
            chipset: Mutex::new(chipset),
            signals: Signals {
                pic: AtomicBool::new(false),
                deadline: AtomicU64::new(Nanos::NEVER.0),
                busy: AtomicBool::new(false),
                stalls: AtomicBool::new(false),
            },
            limits: Mutex::new(RateLimits::default()),
            rotor: AtomicUsize::new(0),
        })
    }

    /// Devices as after power-up.
    fn reset_chipset(&self, now: Nanos) {
        self.virtio.power_up();
        let mut chipset = self.chipset.lock();
        chipset.reset(now);
        self.virtio.plug(&mut chipset);
        self.mirror(&chipset);
    }

    /// Whether it starts anew after such an end; counts the starts. Where there is no end of them, they are
    /// [`RESTART_PERIOD`] apart, so that a VM that ends at once is no burden.
    pub(crate) fn starts_anew(&self, reason: StopReason, now: Nanos) -> bool {
        if !reason.is_guests_own() {
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

    /// Uses the chipset. Afterwards everybody who must know of what has changed does.
    #[inline]
    pub(crate) fn with_chipset<H: Host, R>(
        &self,
        wiring: &mut Wiring<'_, 'm, B, H>,
        run: impl FnOnce(&mut Chipset<'m>, &mut Wiring<'_, 'm, B, H>) -> R,
    ) -> R {
        self.use_chipset::<true, H, R>(wiring, run)
    }

    /// The same for a guest's access, with nothing that is a call.
    #[inline(always)]
    pub(crate) fn access_chipset<H: Host, R>(
        &self,
        wiring: &mut Wiring<'_, 'm, B, H>,
        run: impl FnOnce(&mut Chipset<'m>, &mut Wiring<'_, 'm, B, H>) -> R,
    ) -> R {
        self.use_chipset::<false, H, R>(wiring, run)
    }

    #[inline(always)]
    fn use_chipset<const SELDOM: bool, H: Host, R>(
        &self,
        wiring: &mut Wiring<'_, 'm, B, H>,
        run: impl FnOnce(&mut Chipset<'m>, &mut Wiring<'_, 'm, B, H>) -> R,
    ) -> R {
        let mut chipset = self.chipset.lock();
        let result = run(&mut chipset, wiring);
        if SELDOM {
            self.end_seldom_use(chipset, wiring);
        } else {
            self.end_use(chipset, wiring);
        }
        result
    }

    #[inline(never)]
    fn end_seldom_use<H: Host>(
        &self,
        chipset: MutexGuard<'_, Chipset<'m>>,
        wiring: &mut Wiring<'_, 'm, B, H>,
    ) {
        self.end_use(chipset, wiring);
    }

    /// The end of a use of the chipset.
    #[inline(always)]
    fn end_use<H: Host>(&self, mut chipset: MutexGuard<'_, Chipset<'m>>, wiring: &mut Wiring<'_, 'm, B, H>) {
        if self.serial.has_input() {
            // The serial port may have room now. Only who holds the chipset empties the ring.
            self.serial.feed(|byte| chipset.receive(byte, wiring));
        }
        if chipset.has_events() {
            return self.end_eventful_use(chipset, wiring);
        }
        let news = self.mirror(&chipset);
        drop(chipset);
        if let Some(News { interrupt, earlier }) = news {
            wiring.signals_changed(interrupt, earlier);
        }
    }

    /// The end of a use of the chipset that has configured a device, or asks for something of the whole VM.
    #[cold]
    fn end_eventful_use<H: Host>(
        &self,
        mut chipset: MutexGuard<'_, Chipset<'m>>,
        wiring: &mut Wiring<'_, 'm, B, H>,
    ) {
        if let Some((at, space)) = chipset.take_configured() {
            let configured = virtio::pci::configured(space);
            let mut signals = OnBoard { at, chipset: &mut chipset, wiring: &mut *wiring };
            self.virtio.configure(at, &configured, &mut signals);
            // What waited for bus mastering goes on at once.
            if let Some(own) = &mut wiring.own
                && self.virtio.is_rung()
            {
                *own.attention |= Attention::DEVICES;
            }
        }
        let power = chipset.take_power_event();
        let news = self.mirror(&chipset);
        drop(chipset);
        if let Some(News { interrupt, earlier }) = news {
            wiring.signals_changed(interrupt, earlier);
        }
        if let Some(event) = power {
            wiring.ask(match event {
                PowerEvent::PowerOff => Request::Stop(StopReason::PowerOff),
                PowerEvent::Reset => Request::Reset,
                PowerEvent::DebugExit(value) => Request::Stop(StopReason::DebugExit(value)),
            });
        }
    }

    /// Shows who does not hold the chipset the 8259s' output, the timers' deadline and whether a device is at work; most accesses change nothing of
    /// it. What somebody has to look at.
    #[inline(always)]
    fn mirror(&self, chipset: &Chipset<'m>) -> Option<News> {
        let (pic, deadline) = (chipset.pic_interrupt(), chipset.next_deadline().unwrap_or(Nanos::NEVER));
        let before = (self.pic_interrupt(), self.chipset_deadline());
        if before.0 != pic {
            self.signals.pic.store(pic, SeqCst);
        }
        if before.1 != deadline {
            self.signals.deadline.store(deadline.0, SeqCst);
        }
        // Only optional devices work so.
        let busy = chipset.can_be_busy() && self.mirror_work(chipset);
        (busy || before != (pic, deadline))
            .then_some(News { interrupt: !before.0 && pic, earlier: deadline < before.1 })
    }

    fn mirror_work(&self, chipset: &Chipset<'m>) -> bool {
        let busy = chipset.is_busy();
        self.signals.busy.store(busy, SeqCst);
        self.signals.stalls.store(chipset.console_stalls(), SeqCst);
        busy
    }

    /// Whether a device is at work for the guest, which must not go on before.
    #[inline]
    pub(crate) fn is_busy(&self) -> bool {
        self.signals.busy.load(SeqCst)
    }

    /// Whether that work waits for room in the console.
    pub(crate) fn console_stalls(&self) -> bool {
        self.signals.stalls.load(SeqCst)
    }

    /// Does a step of that work.
    pub(crate) fn device_work<H: Host>(&self, space: &B::Space, wiring: &mut Wiring<'_, 'm, B, H>) {
        self.with_chipset(wiring, |chipset, wiring| chipset.work(space, wiring));
    }

    /// Does a step of what drivers have told a virtio device of; devices take turns. `None` where there is nothing to do.
    pub(crate) fn queue_work<H: Host>(
        &self,
        space: &B::Space,
        wiring: &mut Wiring<'_, 'm, B, H>,
        others: &Others<'_, 'm, B>,
    ) -> Option<Progress> {
        let (index, function) = self.virtio.rung()?;
        Some(function.step(space, &mut Exchange { at: address(index), wiring, others }))
    }

    /// Interrupts of the machine have come for it.
    #[cold]
    pub(crate) fn take_machine_interrupts<H: Host>(&self, wiring: &mut Wiring<'_, 'm, B, H>) {
        let Some(hardware) = &self.hardware else { return };
        hardware.machine().take_interrupts(&mut |source| match hardware.interrupt(source) {
            Some(Interrupt::Pin { pin, level }) => {
                self.with_chipset(wiring, |chipset, wiring| chipset.outside_interrupt(pin, level, wiring));
            }
            Some(Interrupt::Message(message)) => wiring.deliver(message),
            None => {}
        });
    }

    /// The 8259 pair's output to the processor (INTR).
    #[inline]
    pub(crate) fn pic_interrupt(&self) -> bool {
        self.signals.pic.load(SeqCst)
    }

    /// When a timer of the chipset needs [`Chipset::advance`].
    #[inline]
    pub(crate) fn chipset_deadline(&self) -> Nanos {
        Nanos(self.signals.deadline.load(SeqCst))
    }

    /// When a device needs [`Self::advance_devices`].
    #[inline]
    pub(crate) fn device_deadline(&self) -> Nanos {
        self.chipset_deadline().min(self.virtio.deadline())
    }

    /// Devices that have waited for a time may go on. True where that is for a vCPU to see to.
    pub(crate) fn advance_devices<H: Host>(&self, now: Nanos, wiring: &mut Wiring<'_, 'm, B, H>) -> bool {
        if self.chipset_deadline() <= now {
            self.with_chipset(wiring, |chipset, wiring| chipset.advance(now, wiring));
        }
        self.virtio.advance(now)
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

    /// Accesses to the chipset's bus that nobody served.
    pub(crate) fn bus_counters(&self) -> BusCounters {
        self.chipset.lock().counters()
    }

    /// The registers of its VGA adapter, where it has one.
    pub(crate) fn vga(&self) -> Option<Vga> {
        self.chipset.lock().vga().cloned()
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
