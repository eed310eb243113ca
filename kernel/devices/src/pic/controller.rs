//! One 8259A.

/// ICW1, told from OCW2 and OCW3 by its bit 4.
const ICW1: u8 = 1 << 4;
const ICW1_NEEDS_ICW4: u8 = 1 << 0;
const ICW1_SINGLE: u8 = 1 << 1;
const ICW4_AUTO_EOI: u8 = 1 << 1;
const ICW4_SPECIAL_FULLY_NESTED: u8 = 1 << 4;

/// OCW3, told from OCW2 by its bit 3.
const OCW3: u8 = 1 << 3;
const OCW3_READ_ISR: u8 = 1 << 0;
const OCW3_READ: u8 = 1 << 1;
const OCW3_POLL: u8 = 1 << 2;
const OCW3_SPECIAL_MASK: u8 = 1 << 5;
const OCW3_SET_SPECIAL_MASK: u8 = 1 << 6;

/// The answer to a poll: a request was pending.
const POLL_PENDING: u8 = 1 << 7;

/// What the data port takes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Initialization {
    Done,
    Icw2,
    Icw3,
    Icw4,
}

#[derive(Clone, Debug)]
pub(super) struct Controller {
    /// The input lines as they are.
    lines: u8,
    /// Rising edges not yet acknowledged.
    edges: u8,
    /// Inputs that count by level.
    pub(super) level_triggered: u8,
    masked: u8,
    in_service: u8,
    vector_base: u8,
    /// The input of the highest priority; the others follow it around.
    highest: u8,
    initialization: Initialization,
    needs_icw3: bool,
    needs_icw4: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    special_fully_nested: bool,
    read_isr: bool,
    poll: bool,
}

impl Controller {
    /// The input whose vector answers an acknowledge without a request.
    pub(super) const SPURIOUS: u8 = 7;

    pub(super) const fn new() -> Self {
        Self {
            lines: 0,
            edges: 0,
            level_triggered: 0,
            // A chip that was never initialised gives no interrupts.
            masked: 0xff,
            in_service: 0,
            vector_base: 0,
            highest: 0,
            initialization: Initialization::Done,
            needs_icw3: false,
            needs_icw4: false,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_mask: false,
            special_fully_nested: false,
            read_isr: false,
            poll: false,
        }
    }

    pub(super) fn start_high(&mut self, input: u8) {
        self.lines |= 1u8.unbounded_shl(input.into());
    }

    #[inline]
    pub(super) fn set_line(&mut self, input: u8, level: bool) {
        let bit = 1 << input;
        if level {
            self.edges |= bit & !self.lines;
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
    }

    /// The interrupt request register.
    #[inline]
    pub(super) fn requests(&self) -> u8 {
        self.lines & self.level_triggered | self.edges & !self.level_triggered
    }

    /// Whether there is a request that is not masked.
    #[inline(always)]
    pub(super) fn has_requests(&self) -> bool {
        self.requests() & !self.masked != 0
    }

    /// The request that the chip asserts its output for.
    pub(super) fn pending(&self) -> Option<u8> {
        let requested = self.rank(self.requests() & !self.masked)?;
        let mut blocking = self.in_service;
        if self.special_mask {
            // A masked input in service does not hold back others.
            blocking &= !self.masked;
        }
        if self.special_fully_nested {
            // The slave may interrupt again while it is in service.
            blocking &= !(1 << super::CASCADE);
        }
        let served = self.rank(blocking);
        served.is_none_or(|served| requested < served).then(|| self.input(requested))
    }

    /// Takes the pending request into service and returns its input.
    pub(super) fn acknowledge(&mut self) -> Option<u8> {
        let input = self.pending()?;
        let bit = 1 << input;
        self.edges &= !bit;
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.highest = (input + 1) & 7;
            }
        } else {
            self.in_service |= bit;
        }
        Some(input)
    }

    pub(super) fn vector(&self, input: u8) -> u8 {
        self.vector_base | input
    }

    pub(super) fn read_command(&mut self) -> u8 {
        if self.poll {
            self.poll = false;
            return self.acknowledge().map_or(0, |input| POLL_PENDING | input);
        }
        if self.read_isr { self.in_service } else { self.requests() }
    }

    pub(super) fn read_data(&mut self) -> u8 {
        if self.poll {
            return self.read_command();
        }
        self.masked
    }

    pub(super) fn write_command(&mut self, value: u8) {
        if value & ICW1 != 0 {
            self.start_initialization(value);
        } else if value & OCW3 != 0 {
            self.write_ocw3(value);
        } else {
            self.write_ocw2(value);
        }
    }

    pub(super) fn write_data(&mut self, value: u8) {
        match self.initialization {
            Initialization::Done => self.masked = value,
            Initialization::Icw2 => {
                self.vector_base = value & !7;
                self.initialization = if self.needs_icw3 { Initialization::Icw3 } else { self.after_icw3() };
            }
            Initialization::Icw3 => self.initialization = self.after_icw3(),
            Initialization::Icw4 => {
                self.auto_eoi = value & ICW4_AUTO_EOI != 0;
                self.special_fully_nested = value & ICW4_SPECIAL_FULLY_NESTED != 0;
                self.initialization = Initialization::Done;
            }
        }
    }

    fn after_icw3(&self) -> Initialization {
        if self.needs_icw4 { Initialization::Icw4 } else { Initialization::Done }
    }

    fn start_initialization(&mut self, icw1: u8) {
        *self = Self {
            lines: self.lines,
            level_triggered: self.level_triggered,
            vector_base: self.vector_base,
            masked: 0,
            initialization: Initialization::Icw2,
            needs_icw3: icw1 & ICW1_SINGLE == 0,
            needs_icw4: icw1 & ICW1_NEEDS_ICW4 != 0,
            ..Self::new()
        };
    }

    fn write_ocw3(&mut self, value: u8) {
        if value & OCW3_SPECIAL_MASK != 0 {
            // "Enable special mask mode" says whether the set bit counts; 0 leaves it as it is.
            self.special_mask = value & OCW3_SET_SPECIAL_MASK != 0;
        }
        self.poll = value & OCW3_POLL != 0;
        if value & OCW3_READ != 0 {
            self.read_isr = value & OCW3_READ_ISR != 0;
        }
    }

    fn write_ocw2(&mut self, value: u8) {
        let level = value & 7;
        match value >> 5 {
            0b000 => self.rotate_on_auto_eoi = false,
            0b100 => self.rotate_on_auto_eoi = true,
            0b001 => {
                self.end_highest();
            }
            0b101 => {
                if let Some(input) = self.end_highest() {
                    self.highest = (input + 1) & 7;
                }
            }
            0b011 => self.in_service &= !(1 << level),
            0b111 => {
                self.in_service &= !(1 << level);
                self.highest = (level + 1) & 7;
            }
            0b110 => self.highest = (level + 1) & 7,
            _ => {}
        }
    }

    /// The non-specific end of interrupt: ends the one of the highest priority in service.
    fn end_highest(&mut self) -> Option<u8> {
        let candidates = if self.special_mask { self.in_service & !self.masked } else { self.in_service };
        let input = self.input(self.rank(candidates)?);
        self.in_service &= !(1 << input);
        Some(input)
    }

    /// The priority (0 is the highest) of the most urgent of `inputs`.
    #[inline]
    fn rank(&self, inputs: u8) -> Option<u8> {
        let rotated = inputs.rotate_right(self.highest.into());
        (rotated != 0).then(|| rotated.trailing_zeros() as u8)
    }

    #[inline]
    fn input(&self, rank: u8) -> u8 {
        (rank + self.highest) & 7
    }
}
