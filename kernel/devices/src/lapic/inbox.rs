//! What others send to a local APIC while its processor runs: posted at any time by anyone, taken in by the owner
//! before it goes on. It has the shape of a posted-interrupt descriptor: a bit for each vector, and one word that says
//! that there is something.
//!
//! All accesses are sequentially consistent, so that a sender who finds the owner not running after it posted, and an
//! owner who looks after it has said that it runs, cannot miss each other.
//!
//! Source: Intel SDM volume 3, "Posted-Interrupt Processing" (for the idea); "MP Initialization Protocol" for INIT and
//! start-up messages.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use super::{LocalApic, Routing};
use crate::message::{ApicMessage, DeliveryMode};

const VECTORS: u32 = 1 << 0;
const NMI: u32 = 1 << 1;
const INIT: u32 = 1 << 2;
const STARTUP: u32 = 1 << 3;
/// There is something else for the owner to look at.
const NUDGE: u32 = 1 << 4;
/// The processor's next HLT, or the present one, ends at once.
const UNHALT: u32 = 1 << 5;
/// The start-up page in the events.
const STARTUP_PAGE: u32 = 8;

/// What was in an inbox beside what its local APIC has taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Drained {
    /// The processor has something new to look at.
    pub news: bool,
    /// Its next HLT, or the present one, ends at once.
    pub unhalt: bool,
    /// There is something to look at that was not in there.
    pub nudged: bool,
}

/// The inbox of one local APIC.
#[derive(Debug, Default)]
pub struct Inbox {
    /// What there is; the last to be written by a sender.
    events: AtomicU32,
    vectors: [AtomicU64; 4],
    /// The trigger mode of the posted vectors: set for level.
    level: [AtomicU64; 4],
    routing: AtomicU64,
}

impl Inbox {
    /// Tells senders which messages are for this APIC; to be called whenever [`LocalApic::routing`] may have changed.
    #[inline]
    pub fn publish(&self, apic: &LocalApic) {
        let bits = apic.routing().to_bits();
        if self.routing.load(SeqCst) != bits {
            self.routing.store(bits, SeqCst);
        }
    }

    /// Which messages are for this APIC, as last published.
    #[inline]
    pub fn routing(&self) -> Routing {
        Routing::from_bits(self.routing.load(SeqCst))
    }

    /// Leaves a message, whoever it is addressed to. False where the processor has nothing to do with it.
    pub fn post(&self, message: &ApicMessage) -> bool {
        match message.delivery {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                self.post_vector(message.vector, message.level_triggered);
            }
            DeliveryMode::Nmi => {
                self.events.fetch_or(NMI, SeqCst);
            }
            // An INIT makes an earlier start-up message void.
            DeliveryMode::Init if message.assert => self.change(|events| events & !STARTUP | INIT),
            DeliveryMode::Startup => {
                let page = u32::from(message.vector) << STARTUP_PAGE;
                self.change(|events| events & !(0xff << STARTUP_PAGE) | page | STARTUP);
            }
            DeliveryMode::Init | DeliveryMode::Smi | DeliveryMode::ExtInt => return false,
        }
        true
    }

    /// Makes the owner look at what is not in here, such as the 8259s' output.
    #[inline]
    pub fn nudge(&self) {
        self.events.fetch_or(NUDGE, SeqCst);
    }

    /// Ends the owner's next HLT, or the present one.
    #[inline]
    pub fn unhalt(&self) {
        self.events.fetch_or(UNHALT, SeqCst);
    }

    fn post_vector(&self, vector: u8, level_triggered: bool) {
        let (word, bit) = (usize::from(vector >> 6), 1u64 << (vector & 63));
        if let (Some(vectors), Some(level)) = (self.vectors.get(word), self.level.get(word)) {
            if level_triggered {
                level.fetch_or(bit, SeqCst);
            } else {
                level.fetch_and(!bit, SeqCst);
            }
            vectors.fetch_or(bit, SeqCst);
        }
        self.events.fetch_or(VECTORS, SeqCst);
    }

    fn change(&self, new: impl Fn(u32) -> u32) {
        let mut events = self.events.load(SeqCst);
        while let Err(now) = self.events.compare_exchange_weak(events, new(events), SeqCst, SeqCst) {
            events = now;
        }
    }

    /// Whether there is something for the processor.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.events.load(SeqCst) == 0
    }

    /// The owner takes everything in.
    pub fn drain(&self, apic: &mut LocalApic) -> Drained {
        let events = self.events.swap(0, SeqCst);
        if events == 0 {
            return Drained::default();
        }
        // An INIT resets the local APIC; what came with it or later is taken in behind it.
        let unhalt = events & UNHALT != 0;
        let nudged = events & NUDGE != 0;
        let mut news = unhalt || nudged;
        if events & INIT != 0 {
            apic.note_init();
            news = true;
        }
        if events & STARTUP != 0 {
            apic.note_startup((events >> STARTUP_PAGE) as u8);
            news = true;
        }
        if events & NMI != 0 {
            apic.note_nmi();
            news = true;
        }
        if events & VECTORS != 0 {
            for (word, (vectors, level)) in self.vectors.iter().zip(&self.level).enumerate() {
                let mut posted = vectors.swap(0, SeqCst);
                let level = level.load(SeqCst);
                while posted != 0 {
                    let bit = posted.trailing_zeros();
                    posted &= posted - 1;
                    let vector = (word as u32 * 64 + bit) as u8;
                    news |= apic.deliver_vector(vector, level >> bit & 1 != 0);
                }
            }
        }
        Drained { news, unhalt, nudged }
    }

    /// Forgets everything, as a reset of the machine does.
    pub fn clear(&self) {
        self.events.store(0, SeqCst);
        self.vectors.iter().for_each(|vectors| vectors.store(0, SeqCst));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{APIC_TIMER_HZ, LocalApicConfig, svr};
    use super::*;
    use proptest::prelude::*;

    extern crate std;

    fn apic() -> LocalApic {
        assert_ne!(APIC_TIMER_HZ, 0);
        let mut apic =
            LocalApic::new(LocalApicConfig { apic_id: 1, bootstrap: false, physical_address_bits: 40 });
        apic.spurious |= svr::ENABLE;
        apic
    }

    fn message(delivery: DeliveryMode, vector: u8) -> ApicMessage {
        ApicMessage { delivery, ..ApicMessage::fixed(1, vector) }
    }

    #[test]
    fn a_startup_behind_an_init_counts_and_one_before_it_is_void() {
        let (inbox, mut apic) = (Inbox::default(), apic());
        assert!(inbox.is_empty() && !inbox.drain(&mut apic).news);
        inbox.unhalt();
        assert_eq!(inbox.drain(&mut apic), Drained { news: true, unhalt: true, nudged: false });
        inbox.nudge();
        assert_eq!(inbox.drain(&mut apic), Drained { news: true, unhalt: false, nudged: true });
        inbox.post(&message(DeliveryMode::Init, 0));
        inbox.post(&message(DeliveryMode::Startup, 0x9a));
        assert!(!inbox.is_empty() && inbox.drain(&mut apic).news && inbox.is_empty());
        assert!(apic.take_init());
        apic.init();
        assert_eq!(apic.take_startup(), Some(0x9a));

        inbox.post(&message(DeliveryMode::Startup, 0x10));
        inbox.post(&message(DeliveryMode::Init, 0));
        assert!(inbox.drain(&mut apic).news && apic.take_init());
        assert_eq!(apic.take_startup(), None);

        let deassert = ApicMessage { assert: false, ..message(DeliveryMode::Init, 0) };
        assert!(!inbox.post(&deassert) && inbox.is_empty());
    }

    #[test]
    fn senders_know_the_routing_once_it_is_published() {
        let (inbox, mut apic) = (Inbox::default(), apic());
        let to_one = message(DeliveryMode::Fixed, 0x40);
        assert!(!inbox.routing().accepts(&to_one), "nothing published yet");
        inbox.publish(&apic);
        assert!(inbox.routing().accepts(&to_one) && inbox.routing().software_enabled());
        apic.write_base(0).expect("off");
        inbox.publish(&apic);
        assert!(!inbox.routing().accepts(&to_one));
    }

    #[test]
    fn no_vector_is_lost_between_threads() {
        const SENDERS: u8 = 3;
        let (inbox, mut apic) = (Inbox::default(), apic());
        let mut seen = [false; 256];
        std::thread::scope(|scope| {
            for sender in 0..SENDERS {
                let inbox = &inbox;
                scope.spawn(move || {
                    for vector in (32 + sender..=255).step_by(SENDERS.into()) {
                        inbox.post(&message(DeliveryMode::Fixed, vector));
                    }
                });
            }
            while seen[32..].iter().any(|seen| !seen) {
                inbox.drain(&mut apic);
                while let Some(vector) = apic.pending_vector() {
                    apic.acknowledge(vector);
                    assert_eq!(apic.end_of_interrupt(), None);
                    seen[usize::from(vector)] = true;
                }
                std::thread::yield_now();
            }
        });
    }

    proptest! {
        #[test]
        fn what_is_posted_arrives_as_if_delivered(messages in prop::collection::vec((any::<u8>(), any::<bool>()), 0..40)) {
            let (inbox, mut by_post, mut direct) = (Inbox::default(), apic(), apic());
            for (vector, level_triggered) in messages {
                let message = ApicMessage { level_triggered, ..ApicMessage::fixed(1, vector) };
                inbox.post(&message);
                direct.deliver(&message);
            }
            inbox.drain(&mut by_post);
            prop_assert_eq!(by_post.pending_vector(), direct.pending_vector());
            while let Some(vector) = direct.pending_vector() {
                prop_assert_eq!(by_post.pending_vector(), Some(vector));
                by_post.acknowledge(vector);
                direct.acknowledge(vector);
                prop_assert_eq!(by_post.end_of_interrupt(), direct.end_of_interrupt());
            }
        }
    }
}
