//! One event.

use core::fmt;

/// Words of an event.
pub(crate) const WORDS: usize = 4;
/// Bytes of an event, where it is handed on as bytes.
pub const EVENT_BYTES: usize = 8 * WORDS;

macro_rules! kinds {
    ($($(#[$about:meta])* $kind:ident = $value:literal $text:literal,)*) => {
        /// What has happened. The numbers are those of the management channel, and stay.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u16)]
        pub enum Kind { $($(#[$about])* $kind = $value,)* }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// The name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $text,)* }
            }

            const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($value => Some(Self::$kind),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// A vCPU's turn begins on the CPU.
    TurnBegins = 1 "turn-begins",
    /// It ends. First: why. Second: the vCPU's exits so far.
    TurnEnds = 2 "turn-ends",
    /// The guest has left for a reason for which none leaves often. First: the reason. Second: RIP.
    Exit = 3 "exit",
    /// Something is asked of a VM. First: what. Second: why, where it is to end.
    Asked = 4 "asked",
    /// A VM has come to a state. First: which. Second: why, where it ends or has ended.
    State = 5 "state",
    /// A vCPU goes to another CPU. First: from which. Second: to which.
    Moved = 6 "moved",
    /// A VM has crashed. First: why. Second: RIP.
    Crashed = 7 "crashed",
    /// A device of the management domain's has interrupted the CPU. First: the number of the source.
    Interrupt = 8 "interrupt",
    /// The management domain asks for something. First: the kind of the request. Second: its id.
    Request = 9 "request",
}

/// Whom an event is about: a vCPU of a VM, a VM, or nobody of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subject(u64);

impl Subject {
    const NO_VCPU: u64 = 0xffff << 16;
    /// Neither a VM nor a vCPU.
    pub const NOBODY: Self = Self((u32::MAX as u64) << 32 | Self::NO_VCPU);

    /// The VM of that number: the lower 32 bits of what the management channel calls it.
    #[inline]
    pub const fn vm(number: u32) -> Self {
        Self((number as u64) << 32 | Self::NO_VCPU)
    }

    /// A vCPU of it.
    #[inline]
    pub const fn vcpu(number: u32, index: u8) -> Self {
        Self((number as u64) << 32 | (index as u64) << 16)
    }
}

/// An event: the time-stamp counter, its kind (bits 0 to 15) and subject (the vCPU in bits 16 to 31, the VM above), and two numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event(pub(crate) [u64; WORDS]);

impl Event {
    /// At this moment, of this kind and subject, with these numbers.
    #[inline]
    pub const fn new(tsc: u64, kind: Kind, subject: Subject, first: u64, second: u64) -> Self {
        Self([tsc, subject.0 | kind as u64, first, second])
    }

    /// From little-endian words.
    pub fn from_bytes(bytes: &[u8; EVENT_BYTES]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let mut event = Self([0; WORDS]);
        for (word, bytes) in event.0.iter_mut().zip(words) {
            *word = u64::from_le_bytes(*bytes);
        }
        event
    }

    /// What the CPU's time-stamp counter showed.
    pub const fn tsc(&self) -> u64 {
        self.0[0]
    }

    /// What has happened; `None` for a kind of another day.
    pub const fn kind(&self) -> Option<Kind> {
        Kind::from_number(self.0[1] as u16)
    }

    /// Whom it is about.
    pub const fn subject(&self) -> Subject {
        Subject(self.0[1] & !0xffff)
    }

    /// The two numbers.
    pub const fn numbers(&self) -> [u64; 2] {
        [self.0[2], self.0[3]]
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [_, what, first, second] = self.0;
        f.write_str(self.kind().map_or("unknown", Kind::name))?;
        if self.subject() != Subject::NOBODY {
            write!(f, " vm {:#x}", what >> 32)?;
            if what & Subject::NO_VCPU != Subject::NO_VCPU {
                write!(f, " vcpu {}", what >> 16 & 0xffff)?;
            }
        }
        write!(f, " {first:#x} {second:#x}")
    }
}
