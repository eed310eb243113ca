//! What is typed: bytes for a guest, and commands behind Ctrl-A.

/// Begins a command.
pub(crate) const ESCAPE: u8 = 0x01;

/// What to show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum View {
    /// All guests' lines, each with its name, and the kernel's log.
    Merged,
    /// The kernel's log.
    Kernel,
    /// One guest's console, as it is.
    Guest(usize),
}

/// What a typed byte means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Key {
    /// A byte for the guest.
    Byte(u8),
    /// Show this from now on.
    Show(View),
    /// Show the next guest's console, or else that of the one before.
    Step { back: bool },
    /// Show the help.
    Help,
    /// Open the prompt.
    Prompt,
    /// List the VMs.
    List,
    /// End everything.
    End,
    /// No command.
    Unknown,
}

/// Whether the escape was typed last.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Keys {
    escaped: bool,
}

impl Keys {
    /// What `byte` means; `None` where it only begins a command.
    pub(crate) fn typed(&mut self, byte: u8) -> Option<Key> {
        if !self.escaped {
            self.escaped = byte == ESCAPE;
            return (!self.escaped).then_some(Key::Byte(byte));
        }
        self.escaped = false;
        Some(match byte {
            ESCAPE => Key::Byte(ESCAPE),
            b'1'..=b'9' => Key::Show(View::Guest(usize::from(byte - b'1'))),
            b'a' => Key::Show(View::Merged),
            b'k' => Key::Show(View::Kernel),
            b'n' => Key::Step { back: false },
            b'p' => Key::Step { back: true },
            b'h' | b'?' => Key::Help,
            b'l' => Key::List,
            b':' | b'm' => Key::Prompt,
            b'x' => Key::End,
            _ => Key::Unknown,
        })
    }
}
