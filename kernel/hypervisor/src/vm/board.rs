//! The board of a VM: the use of its chipset and devices, and what those who do not hold the chipset's lock know of it.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use devices::{BusCounters, Chipset, PowerEvent, Vga};
use spin::MutexGuard;
use trace::Kind;
use vcpu::{Backend, Host, Nanos};
use virtio::Progress;

use super::Vm;
use super::life::Request;
use crate::hardware::Interrupt;
use crate::processor::Attention;
use crate::stop::StopReason;
use crate::virtio_bus::{Exchange, OnBoard, Others};
use crate::wiring::Wiring;
use devices::ApicBus;

/// What the chipset tells those that do not hold its lock.
#[derive(Debug)]
pub(super) struct Signals {
    /// The 8259 pair's output.
    pic: AtomicBool,
    /// When the chipset's timers need somebody; `u64::MAX` for never.
    deadline: AtomicU64,
    /// A device is at work for the guest, which waits.
    busy: AtomicBool,
    /// And that work waits for room in the console.
    stalls: AtomicBool,
}

impl Signals {
    /// Of a chipset that nobody has used.
    pub(super) const fn new() -> Self {
        Self {
            pic: AtomicBool::new(false),
            deadline: AtomicU64::new(Nanos::NEVER.0),
            busy: AtomicBool::new(false),
            stalls: AtomicBool::new(false),
        }
    }
}

/// What an access to the chipset has changed for others.
struct News {
    /// The 8259s' output has risen.
    interrupt: bool,
    /// A timer is due earlier.
    earlier: bool,
}

impl<'m, B: Backend> Vm<'m, B> {
    /// Devices as after power-up.
    pub(super) fn reset_chipset(&self, now: Nanos) {
        self.virtio.power_up();
        let mut chipset = self.chipset.lock();
        chipset.reset(now);
        self.virtio.plug(&mut chipset);
        self.mirror(&chipset);
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
            if let (Some(_), Some(base)) = (&self.hardware, configured.base) {
                // What lay there as the machine's does not hide it.
                wiring.withdraw(base..base.saturating_add(virtio::pci::BAR_BYTES.into()));
            }
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
                PowerEvent::Reset => self.own_reset(),
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
        Some(function.step(space, &mut Exchange { at: self.virtio.address(index), wiring, others }))
    }

    /// Interrupts of the machine have come for it.
    #[cold]
    pub(crate) fn take_machine_interrupts<H: Host>(&self, wiring: &mut Wiring<'_, 'm, B, H>) {
        let Some(hardware) = &self.hardware else { return };
        hardware.machine().take_interrupts(&mut |source| {
            wiring.host.trace(Kind::Interrupt, self.id.subject(), source.0.into(), 0);
            match hardware.interrupt(source) {
                Some(Interrupt::Pin { pin, level }) => {
                    self.with_chipset(wiring, |chipset, wiring| {
                        chipset.outside_interrupt(pin, level, wiring);
                    });
                }
                Some(Interrupt::Message(message)) => wiring.deliver(message),
                None => {}
            }
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

    /// Accesses to the chipset's bus that nobody served.
    pub(crate) fn bus_counters(&self) -> BusCounters {
        self.chipset.lock().counters()
    }

    /// The registers of its VGA adapter, where it has one.
    pub(crate) fn vga(&self) -> Option<Vga> {
        self.chipset.lock().vga().cloned()
    }
}
