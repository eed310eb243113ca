//! What can be delivered into a guest.

/// Exception and interrupt vectors with a fixed meaning (SDM vol. 3, "Protected-Mode Exceptions and
/// Interrupts").
pub mod vector {
    /// Debug.
    pub const DB: u8 = 1;
    /// Non-maskable interrupt.
    pub const NMI: u8 = 2;
    /// Breakpoint.
    pub const BP: u8 = 3;
    /// Overflow.
    pub const OF: u8 = 4;
    /// Invalid opcode.
    pub const UD: u8 = 6;
    /// Double fault.
    pub const DF: u8 = 8;
    /// Invalid TSS.
    pub const TS: u8 = 10;
    /// Segment not present.
    pub const NP: u8 = 11;
    /// Stack segment.
    pub const SS: u8 = 12;
    /// General protection.
    pub const GP: u8 = 13;
    /// Page fault.
    pub const PF: u8 = 14;
    /// Alignment check.
    pub const AC: u8 = 17;
    /// Machine check.
    pub const MC: u8 = 18;

    /// True for an exception that pushes an error code in protected mode.
    pub const fn has_error_code(vector: u8) -> bool {
        matches!(vector, DF | TS..=PF | AC)
    }
}

/// An event for delivery through the guest's interrupt table at the next entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// An external interrupt.
    Interrupt {
        /// Vector, 0 to 255.
        vector: u8,
    },
    /// A non-maskable interrupt.
    Nmi,
    /// A fault, trap or abort. For #PF the sender sets CR2 first.
    Exception {
        /// Vector, 0 to 31.
        vector: u8,
        /// Error code, for the vectors that push one in protected mode.
        error_code: Option<u32>,
    },
    /// INT n, INT3, INTO or INT1 that was interrupted in its delivery. Only the backend makes these.
    Software {
        /// Vector.
        vector: u8,
        /// Bytes of the instruction, which delivery skips.
        length: u8,
        /// Which instruction.
        kind: SoftwareKind,
    },
}

/// The instruction behind an [`Event::Software`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SoftwareKind {
    /// INT n.
    Interrupt,
    /// INT1 (privileged software exception).
    Privileged,
    /// INT3 or INTO.
    Exception,
}

/// What a guest sees that gets `second` while `first` was being delivered (SDM vol. 3, "Interrupt 8—Double
/// Fault Exception (#DF)"). Where the CPU would shut down, it is one more double fault.
const fn combined(first: u8, second: u8) -> Option<Event> {
    const DIVIDE: u8 = 0;
    const fn contributory(vector: u8) -> bool {
        matches!(vector, DIVIDE | vector::TS..=vector::GP)
    }
    let double = match first {
        vector::PF | vector::DF => contributory(second) || second == vector::PF,
        _ => contributory(first) && contributory(second),
    };
    if double { Some(Event::Exception { vector: vector::DF, error_code: Some(0) }) } else { None }
}

impl Event {
    /// #UD.
    pub const UNDEFINED: Self = Self::Exception { vector: vector::UD, error_code: None };
    /// #GP(0).
    pub const GENERAL_PROTECTION: Self = Self::Exception { vector: vector::GP, error_code: Some(0) };
}

/// The events a vCPU's next entries will deliver: one that an exit interrupted, which the backend must not
/// lose, and one that the hypervisor asked for. The hypervisor's goes first when it is an exception: it arose
/// in the delivery of the other. An interrupt waits behind it; an interrupted exception or INT n is merged
/// with it or dropped, because the guest comes to it again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PendingEvents {
    interrupted: Option<Event>,
    requested: Option<Event>,
}

impl PendingEvents {
    /// Nothing pending.
    pub const NONE: Self = Self { interrupted: None, requested: None };

    /// True where the next entry will deliver something.
    #[inline]
    pub const fn any(&self) -> bool {
        self.interrupted.is_some() || self.requested.is_some()
    }

    /// True where the last exit interrupted a delivery.
    #[inline]
    pub const fn interrupted(&self) -> Option<Event> {
        self.interrupted
    }

    /// The backend keeps what an exit interrupted. An interrupt that waits already goes on waiting.
    #[inline]
    pub const fn set_interrupted(&mut self, event: Event) {
        if let (Some(Event::Interrupt { .. } | Event::Nmi), Event::Exception { .. }) =
            (self.interrupted, event)
        {
            self.requested = Some(event);
            return;
        }
        self.interrupted = Some(event);
    }

    /// The hypervisor asks for a delivery. A second request before the entry replaces the first: the
    /// later exception is the one the guest must see.
    #[inline]
    pub const fn request(&mut self, event: Event) {
        let mut event = event;
        if let Event::Exception { vector: second, .. } = event {
            match self.interrupted {
                Some(Event::Exception { vector: first, .. }) => {
                    self.interrupted = None;
                    if let Some(double) = combined(first, second) {
                        event = double;
                    }
                }
                Some(Event::Software { .. }) => self.interrupted = None,
                _ => {}
            }
        }
        self.requested = Some(event);
    }

    /// Takes what the next entry has to deliver.
    #[inline]
    pub const fn take(&mut self) -> Option<Event> {
        if let Some(Event::Exception { .. }) = self.requested {
            return self.requested.take();
        }
        if self.interrupted.is_some() { self.interrupted.take() } else { self.requested.take() }
    }

    /// Forgets everything, as a reset does.
    pub const fn clear(&mut self) {
        *self = Self::NONE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_delivery_comes_before_a_new_interrupt() {
        let mut pending = PendingEvents::NONE;
        pending.request(Event::Interrupt { vector: 0x40 });
        pending.set_interrupted(Event::Interrupt { vector: 0x30 });
        assert_eq!(pending.take(), Some(Event::Interrupt { vector: 0x30 }));
        assert_eq!(pending.take(), Some(Event::Interrupt { vector: 0x40 }));
        assert!(!pending.any());
    }

    #[test]
    fn an_exception_in_a_delivery_comes_first_and_the_delivery_is_not_lost() {
        let mut pending = PendingEvents::NONE;
        pending.set_interrupted(Event::Interrupt { vector: 0x30 });
        pending.request(Event::GENERAL_PROTECTION);
        assert_eq!(pending.take(), Some(Event::GENERAL_PROTECTION));
        assert_eq!(pending.take(), Some(Event::Interrupt { vector: 0x30 }));
    }

    const fn exception(vector: u8) -> Event {
        let error_code = if vector::has_error_code(vector) { Some(0) } else { None };
        Event::Exception { vector, error_code }
    }

    /// What a guest gets whose delivery of `first` meets `second`, and what then.
    fn meet(first: u8, second: u8) -> (Option<Event>, Option<Event>) {
        let mut pending = PendingEvents::NONE;
        pending.set_interrupted(exception(first));
        pending.request(exception(second));
        (pending.take(), pending.take())
    }

    #[test]
    fn an_exception_in_the_delivery_of_another_follows_the_manuals_table() {
        let double = (Some(exception(vector::DF)), None);
        for (first, second) in [(13, 13), (0, 11), (14, 14), (14, 13), (10, 12), (8, 14)] {
            assert_eq!(meet(first, second), double, "{first} {second}");
        }
        for (first, second) in [(13, 14), (1, 13), (14, 1), (3, 14), (17, 17), (13, 6)] {
            assert_eq!(meet(first, second), (Some(exception(second)), None), "{first} {second}");
        }
    }

    #[test]
    fn an_interrupted_int_n_is_executed_again_and_not_repeated_behind_an_exception() {
        let mut pending = PendingEvents::NONE;
        pending.set_interrupted(Event::Software { vector: 0x80, length: 2, kind: SoftwareKind::Interrupt });
        pending.request(Event::GENERAL_PROTECTION);
        assert_eq!((pending.take(), pending.take()), (Some(Event::GENERAL_PROTECTION), None));
    }

    /// An interrupt that waits behind an exception is not lost where that exception's delivery is interrupted
    /// too.
    #[test]
    fn a_waiting_interrupt_survives_a_second_interrupted_delivery() {
        let mut pending = PendingEvents::NONE;
        pending.set_interrupted(Event::Interrupt { vector: 0x30 });
        pending.request(exception(vector::DB));
        assert_eq!(pending.take(), Some(exception(vector::DB)));
        pending.set_interrupted(exception(vector::DB));
        assert_eq!(pending.take(), Some(exception(vector::DB)));
        assert_eq!(pending.take(), Some(Event::Interrupt { vector: 0x30 }));
    }

    #[test]
    fn error_codes_belong_to_seven_exceptions() {
        let with: std::vec::Vec<u8> = (0..=255).filter(|vector| vector::has_error_code(*vector)).collect();
        assert_eq!(with, [8, 10, 11, 12, 13, 14, 17]);
    }
}
