//! One counter of the 8254 as a function of time, in oscillator ticks.

/// When an output changes, and what a count means (8254 data sheet, "Mode Definitions").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Mode {
    InterruptOnTerminalCount = 0,
    OneShot = 1,
    RateGenerator = 2,
    SquareWave = 3,
    SoftwareStrobe = 4,
    HardwareStrobe = 5,
}

impl Mode {
    const fn from_control(word: u8) -> Self {
        match word >> 1 & 7 {
            0 => Self::InterruptOnTerminalCount,
            1 => Self::OneShot,
            // Bit 2 of the field does not count for the periodic modes.
            2 | 6 => Self::RateGenerator,
            3 | 7 => Self::SquareWave,
            4 => Self::SoftwareStrobe,
            _ => Self::HardwareStrobe,
        }
    }

    const fn periodic(self) -> bool {
        matches!(self, Self::RateGenerator | Self::SquareWave)
    }

    /// Whether a rising gate, not the written count, starts the counter.
    const fn triggered_by_gate(self) -> bool {
        matches!(self, Self::OneShot | Self::HardwareStrobe)
    }
}

/// Which bytes of the count are read and written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Access {
    Low = 1,
    High = 2,
    LowThenHigh = 3,
}

/// The counting element.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// No count was loaded since the control word, or a gate-triggered mode waits for its first trigger.
    Idle,
    /// Held by the gate after so many ticks.
    Held(u64),
    /// Loaded at this tick and counting since.
    Running(u64),
}

/// A count that a periodic mode takes over at the end of its (half-)cycle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Pending {
    count: u64,
    /// The tick of the change, and the tick at which the new cycle can be thought to have begun.
    at: u64,
    origin: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Counter {
    mode: Mode,
    access: Access,
    bcd: bool,
    gate: bool,
    /// The count in force, 1 to 65536; 0 before the first.
    count: u64,
    pending: Option<Pending>,
    /// A count that waits for a rising gate.
    armed: Option<u64>,
    phase: Phase,
    /// The low byte of a count whose high byte has not come yet.
    low_byte: Option<u8>,
    /// The next byte read is the high one.
    read_high: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Counter {
    /// Not programmed. The output is high, as in a PC whose firmware has programmed square waves.
    pub(super) const fn new() -> Self {
        Self {
            mode: Mode::SquareWave,
            access: Access::LowThenHigh,
            bcd: false,
            gate: true,
            count: 0,
            pending: None,
            armed: None,
            phase: Phase::Idle,
            low_byte: None,
            read_high: false,
            latched_count: None,
            latched_status: None,
        }
    }

    /// A control word for this channel; the access field 0 is the counter-latch command.
    pub(super) fn control(&mut self, word: u8, tick: u64) {
        let access = match word >> 4 & 3 {
            0 => return self.latch_count(tick),
            1 => Access::Low,
            2 => Access::High,
            _ => Access::LowThenHigh,
        };
        let (mode, bcd) = (Mode::from_control(word), word & 1 != 0);
        *self = Self { mode, access, bcd, gate: self.gate, ..Self::new() };
    }

    /// Freezes the count for reading, unless one is frozen already.
    pub(super) fn latch_count(&mut self, tick: u64) {
        self.settle(tick);
        if self.latched_count.is_none() {
            self.latched_count = Some(self.value(tick));
        }
    }

    /// Freezes the status byte for reading, unless one is frozen already.
    pub(super) fn latch_status(&mut self, tick: u64) {
        self.settle(tick);
        let not_loaded = self.pending.is_some()
            || self.armed.is_some()
            || match self.phase {
                Phase::Idle => true,
                Phase::Running(origin) => tick < origin,
                Phase::Held(_) => false,
            };
        let status = u8::from(self.output(tick)) << 7
            | u8::from(not_loaded) << 6
            | (self.access as u8) << 4
            | (self.mode as u8) << 1
            | u8::from(self.bcd);
        self.latched_status.get_or_insert(status);
    }

    /// Reads the channel's port.
    pub(super) fn read(&mut self, tick: u64) -> u8 {
        self.settle(tick);
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let value = self.latched_count.unwrap_or_else(|| self.value(tick));
        let [low, high] = value.to_le_bytes();
        let take_high = match self.access {
            Access::Low => false,
            Access::High => true,
            Access::LowThenHigh => {
                self.read_high = !self.read_high;
                !self.read_high
            }
        };
        if take_high || self.access == Access::Low {
            self.latched_count = None;
        }
        if take_high { high } else { low }
    }

    /// Writes the channel's port.
    pub(super) fn write(&mut self, value: u8, tick: u64) {
        let raw = match (self.access, self.low_byte.take()) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::LowThenHigh, None) => {
                self.low_byte = Some(value);
                if self.mode == Mode::InterruptOnTerminalCount {
                    // The first of two bytes stops the counting, with the output low.
                    self.phase = Phase::Idle;
                }
                return;
            }
            (Access::LowThenHigh, Some(low)) => u16::from_le_bytes([low, value]),
        };
        self.load(self.decode(raw), tick);
    }

    pub(super) fn set_gate(&mut self, gate: bool, tick: u64) {
        if gate == self.gate {
            return;
        }
        self.settle(tick);
        self.gate = gate;
        if self.mode.triggered_by_gate() {
            if gate && (self.armed.is_some() || self.count > 0) {
                self.count = self.armed.take().unwrap_or(self.count);
                self.phase = Phase::Running(tick + 1);
            }
            return;
        }
        self.phase = match (self.phase, gate) {
            (Phase::Running(origin), false) => Phase::Held(tick.saturating_sub(origin)),
            (Phase::Held(_), true) if self.mode.periodic() => {
                self.count = self.pending.take().map_or(self.count, |pending| pending.count);
                Phase::Running(tick + 1)
            }
            (Phase::Held(elapsed), true) => Phase::Running(tick.saturating_sub(elapsed)),
            (phase, _) => phase,
        };
        if let (Phase::Held(_), Some(pending)) = (self.phase, self.pending.take()) {
            self.count = pending.count;
        }
    }

    /// Takes over a pending count whose time has come.
    pub(super) fn settle(&mut self, tick: u64) {
        if let Some(pending) = self.pending
            && pending.at <= tick
        {
            self.count = pending.count;
            self.phase = Phase::Running(pending.origin);
            self.pending = None;
        }
    }

    /// The level of the output at `tick`.
    pub(super) fn output(&self, tick: u64) -> bool {
        let (count, elapsed) = match self.at(tick) {
            (_, Phase::Idle) => return self.mode != Mode::InterruptOnTerminalCount,
            (_, Phase::Held(_)) if self.mode.periodic() => return true,
            (count, Phase::Held(elapsed)) => (count, elapsed),
            (_, Phase::Running(origin)) if tick < origin => {
                return self.mode != Mode::InterruptOnTerminalCount;
            }
            (count, Phase::Running(origin)) => (count, tick - origin),
        };
        match self.mode {
            Mode::InterruptOnTerminalCount | Mode::OneShot => elapsed >= count,
            Mode::RateGenerator => elapsed % count != count - 1,
            Mode::SquareWave => elapsed % count < count.div_ceil(2),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => elapsed != count,
        }
    }

    /// The first tick after `tick` at which the output rises, if nothing is written until then.
    pub(super) fn next_rise(&self, tick: u64) -> Option<u64> {
        if let Some(pending) = self.pending
            && pending.at > tick
        {
            // Until the change the old count holds; a rise at the change itself belongs to it.
            let rise = self.rise_of(self.count, self.phase, tick)?;
            if rise <= pending.at {
                return Some(rise);
            }
            return self.rise_of(pending.count, Phase::Running(pending.origin), pending.at);
        }
        let (count, phase) = self.at(tick);
        self.rise_of(count, phase, tick)
    }

    /// Ticks between two rises of a periodic mode that runs.
    pub(super) fn period(&self) -> Option<u64> {
        (self.mode.periodic() && matches!(self.phase, Phase::Running(_))).then_some(self.count)
    }

    fn rise_of(&self, count: u64, phase: Phase, tick: u64) -> Option<u64> {
        let Phase::Running(origin) = phase else { return None };
        let rise = match self.mode {
            Mode::InterruptOnTerminalCount | Mode::OneShot => origin + count,
            Mode::SoftwareStrobe | Mode::HardwareStrobe => origin + count + 1,
            Mode::RateGenerator | Mode::SquareWave => {
                let cycles = tick.checked_sub(origin).map_or(1, |elapsed| elapsed / count + 1);
                origin + cycles * count
            }
        };
        (rise > tick).then_some(rise)
    }

    /// Count and phase in force at `tick`.
    fn at(&self, tick: u64) -> (u64, Phase) {
        match self.pending {
            Some(pending) if pending.at <= tick => (pending.count, Phase::Running(pending.origin)),
            _ => (self.count, self.phase),
        }
    }

    /// A whole count was written.
    fn load(&mut self, count: u64, tick: u64) {
        // A period of one tick does not exist; the data sheet calls the count illegal.
        let count = if self.mode.periodic() { count.max(2) } else { count };
        if self.mode.triggered_by_gate() {
            self.armed = Some(count);
            return;
        }
        self.settle(tick);
        if let (true, Phase::Running(origin)) = (self.mode.periodic(), self.phase) {
            self.pending = Some(self.change_at_end_of_cycle(count, origin, tick));
            return;
        }
        self.count = count;
        self.phase = if self.gate { Phase::Running(tick + 1) } else { Phase::Held(0) };
    }

    /// A running rate generator changes its count at the end of the cycle, a square wave at the end of the half.
    fn change_at_end_of_cycle(&self, count: u64, origin: u64, tick: u64) -> Pending {
        let cycle = tick.checked_sub(origin).map_or(origin, |elapsed| tick - elapsed % self.count);
        let high_ends = cycle + self.count.div_ceil(2);
        if self.mode == Mode::SquareWave && tick < high_ends {
            return Pending { count, at: high_ends, origin: high_ends - count.div_ceil(2) };
        }
        let at = cycle + self.count;
        Pending { count, at, origin: at }
    }

    /// What the counting element holds at `tick`, as it is read.
    fn value(&self, tick: u64) -> u16 {
        let (count, phase) = self.at(tick);
        let elapsed = match phase {
            Phase::Idle => return 0,
            Phase::Held(elapsed) => elapsed,
            Phase::Running(origin) => tick.saturating_sub(origin),
        };
        let value = match self.mode {
            Mode::RateGenerator => count - elapsed % count,
            Mode::SquareWave => {
                let position = elapsed % count;
                let high = count.div_ceil(2);
                let steps = if position < high { position } else { position - high };
                (count & !1) - 2 * steps
            }
            // Past zero the counter wraps and counts on.
            _ => (count + self.modulus() - elapsed % self.modulus()) % self.modulus(),
        };
        self.encode(value)
    }

    fn modulus(&self) -> u64 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// A written count as a number; zero stands for the largest.
    fn decode(&self, raw: u16) -> u64 {
        let value = if self.bcd {
            (0..4).rev().fold(0, |value, digit| value * 10 + u64::from(raw >> (4 * digit) & 0xf))
        } else {
            u64::from(raw)
        };
        if value == 0 { self.modulus() } else { value }
    }

    fn encode(&self, value: u64) -> u16 {
        let value = value % self.modulus();
        if !self.bcd {
            return value as u16;
        }
        (0..4).fold(0, |raw, digit| raw | ((value / 10u64.pow(digit) % 10) as u16) << (4 * digit))
    }
}
