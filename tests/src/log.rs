//! The machine's serial log, taken apart: Basalt's own lines, and those of each VM's console.
//!
//! Basalt shows all consoles merged. A VM's line begins with `[name] `, the kernel's with the time,
//! `[    0.123456] level target: text`. Anything else (the firmware, GRUB, a panic) counts as the kernel's.

/// Who wrote a line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// Basalt itself.
    Kernel,
    /// The console of the VM with this name.
    Vm(String),
}

impl Source {
    /// The VM's name, if a VM wrote it.
    #[must_use]
    pub fn vm(&self) -> Option<&str> {
        match self {
            Self::Kernel => None,
            Self::Vm(name) => Some(name),
        }
    }
}

/// One line, without its end and without the prefix that names the VM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    /// Who wrote it.
    pub source: Source,
    /// What it says.
    pub text: String,
}

/// A place in the log: nothing before it is looked at again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    line: usize,
    column: usize,
}

/// The log so far. The last line may still grow.
#[derive(Default)]
pub struct Log {
    lines: Vec<Line>,
    growing: String,
    pending: Vec<u8>,
    escape: Escape,
}

/// Where we are in a terminal control sequence (`ESC [ ... letter`), which is left out.
#[derive(Default)]
enum Escape {
    #[default]
    None,
    Started,
    Sequence,
}

impl Log {
    /// Takes what has come from the serial port.
    pub fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.push_byte(*byte);
        }
        if std::str::from_utf8(&self.pending).is_ok() {
            self.settle();
        }
    }

    fn push_byte(&mut self, byte: u8) {
        match (&self.escape, byte) {
            (_, 0x1b) => self.escape = Escape::Started,
            (Escape::Started, b'[') => self.escape = Escape::Sequence,
            (Escape::Sequence, b'@'..=b'~') | (Escape::Started, _) => self.escape = Escape::None,
            (Escape::Sequence, _) | (Escape::None, b'\r' | 0) => {}
            (Escape::None, b'\n') => {
                self.settle();
                let line = std::mem::take(&mut self.growing);
                self.lines.push(parse(&line));
            }
            (Escape::None, byte) => self.pending.push(byte),
        }
    }

    fn settle(&mut self) {
        self.growing.push_str(&String::from_utf8_lossy(&self.pending));
        self.pending.clear();
    }

    /// The finished lines.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The finished lines of one VM.
    pub fn vm<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines.iter().filter(move |line| line.source.vm() == Some(name)).map(|line| line.text.as_str())
    }

    /// The finished lines of Basalt itself.
    pub fn kernel(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter(|line| line.source == Source::Kernel).map(|line| line.text.as_str())
    }

    /// True when Basalt itself (not a guest) has panicked.
    #[must_use]
    pub fn panicked(&self) -> bool {
        self.kernel().any(|line| line.contains(PANIC) && !line.contains(EARLIER))
    }

    /// The place where the log ends now.
    #[must_use]
    pub fn end(&self) -> Cursor {
        Cursor { line: self.lines.len(), column: parse(&self.growing).text.len() }
    }

    /// The lines from number `first` on, with the one that still grows at the end.
    pub fn lines_from(&self, first: usize) -> impl Iterator<Item = Line> {
        let finished = self.lines.get(first..).unwrap_or_default().iter().cloned();
        finished.chain([parse(&self.growing)])
    }

    /// Looks for a text from the cursor on, in the lines that `wanted` accepts; the last line counts even
    /// while it grows (a prompt has no end). Gives the place behind the text.
    pub fn find(&self, from: Cursor, text: &str, wanted: impl Fn(&Source) -> bool) -> Option<Cursor> {
        let growing = parse(&self.growing);
        let lines = self.lines.iter().chain([&growing]).enumerate().skip(from.line);
        for (index, line) in lines.filter(|(_, line)| wanted(&line.source)) {
            let start = if index == from.line { from.column } else { 0 };
            if let Some(offset) = line.text.get(start..).and_then(|rest| rest.find(text)) {
                return Some(Cursor { line: index, column: start + offset + text.len() });
            }
        }
        None
    }

    /// The last lines, as they were shown.
    #[must_use]
    pub fn tail(&self, count: usize) -> Vec<String> {
        let start = self.lines.len().saturating_sub(count);
        self.lines[start..].iter().map(ToString::to_string).collect()
    }
}

/// Begins what Basalt repeats from the boot before, which may have panicked.
const EARLIER: &str = "previous boot: ";

/// What Basalt prints first when it panics.
pub const PANIC: &str = "KERNEL PANIC";

impl std::fmt::Display for Line {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.source {
            Source::Kernel => formatter.write_str(&self.text),
            Source::Vm(name) => write!(formatter, "[{name}] {}", self.text),
        }
    }
}

fn parse(line: &str) -> Line {
    if let Some((name, text)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic())
            && name.chars().all(|symbol| symbol.is_ascii_alphanumeric() || "-_.".contains(symbol));
        if is_name {
            let text = text.strip_prefix(' ').unwrap_or(text);
            return Line { source: Source::Vm(name.to_owned()), text: text.to_owned() };
        }
    }
    Line { source: Source::Kernel, text: line.to_owned() }
}

impl From<&str> for Log {
    /// All that was printed, at once.
    fn from(text: &str) -> Self {
        let mut log = Self::default();
        log.push(text.as_bytes());
        log
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(text: &str) -> Log {
        Log::from(text)
    }

    #[test]
    fn lines_are_told_apart() {
        let log = log("[    0.123456] info boot: up\r\n[demo] [    0.000000] Linux version 6.1\r\n[demo] \n");
        assert_eq!(log.kernel().collect::<Vec<_>>(), ["[    0.123456] info boot: up"]);
        assert_eq!(log.vm("demo").collect::<Vec<_>>(), ["[    0.000000] Linux version 6.1", ""]);
    }

    #[test]
    fn a_prompt_is_found_before_its_line_ends() {
        let mut log = log("[demo] basalt-demo:/# ");
        let demo = |source: &Source| source.vm() == Some("demo");
        let place = log.find(Cursor::default(), ":/# ", demo).expect("there");
        assert!(log.find(place, ":/# ", demo).is_none());
        log.push(b"ls\n[demo] basalt-demo:/# ");
        assert!(log.find(place, ":/# ", demo).is_some());
    }

    #[test]
    fn only_the_kernel_can_panic() {
        assert!(!log("[demo] KERNEL PANIC: made up\n").panicked());
        assert!(log("KERNEL PANIC: invariant broke\n").panicked());
        assert!(!log("[    0.1] WARN  logger: previous boot: KERNEL PANIC: invariant broke\n").panicked());
    }

    #[test]
    fn control_sequences_and_split_symbols_are_cleaned() {
        let mut log = log("[demo] \x1b[6n\x1b[1;32mgreen\x1b[0m caf");
        log.push(&[0xc3]);
        log.push(&[0xa9, b'\n', 0xff, b'\n']);
        assert_eq!(log.vm("demo").collect::<Vec<_>>(), ["green caf\u{e9}"]);
        assert_eq!(log.kernel().collect::<Vec<_>>(), ["\u{fffd}"]);
    }

    #[test]
    fn a_cursor_passes_over_what_was_found() {
        let log = log("[demo] ready\n[demo] ready\n");
        let any = |_: &Source| true;
        let first = log.find(Cursor::default(), "ready", any).expect("first");
        let second = log.find(first, "ready", any).expect("second");
        assert!(log.find(second, "ready", any).is_none());
    }
}
