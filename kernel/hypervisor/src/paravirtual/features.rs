//! Which of KVM's paravirtual features a VM is offered.

use bitflags::bitflags;

bitflags! {
    /// Paravirtual features. The CPUID bits that tell a guest of them are in [`crate::cpuid`].
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Features: u16 {
        /// The clock page (`clock`).
        const CLOCK = 1 << 0;
        /// How long a vCPU was kept from running (`steal`).
        const STEAL_TIME = 1 << 1;
        /// The end of an interrupt without an exit (`eoi`).
        const EOI = 1 << 2;
        /// Spin locks that sleep (`unhalt`).
        const UNHALT = 1 << 3;
        /// Flushes of translations that wait for vCPUs which do not run (`tlb`). Goes by the area of `steal`.
        const TLB_FLUSH = 1 << 4;
        /// Interrupts to many vCPUs with one exit (`ipi`).
        const IPI = 1 << 5;
        /// The guest says whether the host is to wait a little at a HLT (`poll`).
        const POLL_CONTROL = 1 << 6;
        /// A vCPU gives its time to one that it waits for (`yield`).
        const YIELD = 1 << 7;
    }
}

impl Default for Features {
    fn default() -> Self {
        Self::all()
    }
}

/// The features' names in a VM's line.
const NAMES: [(&str, Features); 8] = [
    ("clock", Features::CLOCK),
    ("steal", Features::STEAL_TIME),
    ("eoi", Features::EOI),
    ("unhalt", Features::UNHALT),
    ("tlb", Features::TLB_FLUSH),
    ("ipi", Features::IPI),
    ("poll", Features::POLL_CONTROL),
    ("yield", Features::YIELD),
];

impl Features {
    /// The names there are, for messages.
    pub const KNOWN: &'static str = "clock, steal, eoi, unhalt, tlb, ipi, poll, yield";

    /// Reads `all`, `none`, or names with commas between them: those features; or such names behind `-`: all but those.
    /// `None` where a name is unknown.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "all" => return Some(Self::all()),
            "none" => return Some(Self::empty()),
            _ => {}
        }
        let (names, without) = text.strip_prefix('-').map_or((text, false), |names| (names, true));
        let mut chosen = Self::empty();
        for name in names.split(',') {
            chosen |= NAMES.iter().find(|(known, _)| *known == name)?.1;
        }
        Some(if without { Self::all() - chosen } else { chosen }.consistent())
    }

    /// Without those that need one which is missing.
    fn consistent(self) -> Self {
        if self.contains(Self::STEAL_TIME) { self } else { self - Self::TLB_FLUSH }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_chosen_by_name() {
        assert_eq!(Features::parse("all"), Some(Features::default()));
        assert_eq!(Features::parse("none"), Some(Features::empty()));
        assert_eq!(Features::parse("clock,eoi"), Some(Features::CLOCK | Features::EOI));
        assert_eq!(Features::parse("-ipi"), Some(Features::all() - Features::IPI));
        assert_eq!(
            Features::parse("-steal"),
            Some(Features::all() - Features::STEAL_TIME - Features::TLB_FLUSH)
        );
        assert_eq!(Features::parse("tlb"), Some(Features::empty()), "it needs the area of steal");
        for wrong in ["", "-", "clock,", "time", "ALL", "-clock,-eoi"] {
            assert_eq!(Features::parse(wrong), None, "{wrong}");
        }
        let known: std::vec::Vec<_> = Features::KNOWN.split(", ").collect();
        assert_eq!(known, NAMES.map(|(name, _)| name));
    }
}
