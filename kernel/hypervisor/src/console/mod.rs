//! The machine's one serial console, shared by the guests' serial ports and the kernel's log.
//!
//! - **All** (at first): each line of a guest begins with `[name] `, the kernel's lines stand as they are. A guest's line is
//!   shown when it is complete, so that nobody's line breaks another's ([`merged`]).
//! - **One guest**: its bytes as they are; everything else only goes into histories.
//! - **Kernel**: the log.
//!
//! Changing the view replays the last bytes of what is shown next. Ctrl-A and a key commands; Ctrl-A h tells the keys.
//! Nothing here blocks, and all room is taken with the console, or with a VM: a byte that does not fit stays on the guest's line and is offered again.
//! Bytes of a shown guest are never lost.
//!
//! Not its job: how the machine sends bytes ([`vcpu::Host`]), the UART's registers ([`devices`]).

mod command;
mod guest;
mod keys;
mod merged;
mod network;
mod prompt;
mod ring;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use vcpu::Host;

pub use command::{Command, LINE_BYTES, help};
pub use guest::GuestConsole;
use keys::{Key, Keys, View};
use merged::MOST_FOR_ONE_LINE;
pub use network::{Change, Name, View as NetworkView, Words};
use prompt::Prompt;
pub(crate) use ring::Ring;

/// Bytes on their way to the machine's serial port.
const OUTPUT_BYTES: usize = 16 * 1024;
/// Guests leave this much of them free for replays and for the kernel.
const KERNEL_SHARE: usize = 6 * 1024;
/// Bytes of the log's, in which there is room for the lines of the kernel's start.
const LOG_HISTORY_BYTES: usize = 12 * 1024;
/// Typed bytes that are looked at in one go.
const INPUT_BATCH: usize = 64;
/// How often in a row a guest's full input makes the rest wait. Looks are some milliseconds apart.
const STALLED_LOOKS: u32 = 50;
/// Longest line of the kernel's log; what is longer is cut.
const LOG_LINE_BYTES: usize = 320;

/// Bytes that are sent in one go: what takes some 10 us.
const BYTES_AT_ONCE: usize = 128;

const HELP: &str = "\
Ctrl-A 1..9  console of that VM; of any: console NAME at the prompt
Ctrl-A n, p  console of the next VM, or of the one before
Ctrl-A a     lines of all VMs and of the kernel
Ctrl-A k     the kernel's log
Ctrl-A l     list the VMs
Ctrl-A :     a prompt for commands: start, stop, reset, dump, weight, cap, pin, networks, ... (also Ctrl-A m)
Ctrl-A x     end: stop all VMs and power the machine off
Ctrl-A Ctrl-A  send Ctrl-A to the VM
";

/// How a guest is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shown {
    /// It is not.
    Not,
    /// Among others, in lines that begin with its name.
    InLines,
    /// Its bytes as they are.
    Alone,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Writer {
    Kernel,
    Prompt,
    Guest(usize),
}

/// The multiplexer.
#[derive(Debug)]
pub struct Console {
    output: Ring,
    log: Ring,
    /// By their places; where there is none, there is no VM.
    guests: Vec<Option<Box<GuestConsole>>>,
    keys: Keys,
    prompt: Prompt,
    view: View,
    /// Where typed bytes go.
    target: usize,
    writer: Writer,
    line_start: bool,
    after_return: bool,
    /// How often in a row typed bytes were left with the machine.
    stalled: u32,
    /// A long answer goes on in the next look: until then there is no prompt.
    pub(crate) answers: bool,
}

impl Console {
    /// A console for so many guests, of which none is there yet; their numbers are their places.
    pub fn new(places: usize) -> Self {
        let mut guests = Vec::new();
        guests.resize_with(places, || None);
        Self {
            output: Ring::of_console(OUTPUT_BYTES),
            log: Ring::of_console(LOG_HISTORY_BYTES),
            guests,
            keys: Keys::default(),
            prompt: Prompt::default(),
            view: View::Merged,
            target: 0,
            writer: Writer::Kernel,
            line_start: true,
            after_return: false,
            stalled: 0,
            answers: false,
        }
    }

    /// Takes a byte that guest number `guest` sent; false where it has no room now.
    pub fn put(&mut self, guest: usize, byte: u8) -> bool {
        if self.guest(guest).is_none() {
            return true;
        }
        let shown = match self.view {
            View::Merged => true,
            View::Guest(focused) => focused == guest,
            View::Kernel => false,
        };
        if shown {
            let waits = self.prompt.is_open() && self.view != View::Merged;
            if waits || !self.has_room() {
                return false;
            }
            if self.view == View::Merged {
                self.put_merged(guest, byte);
            } else {
                self.writer = Writer::Guest(guest);
                self.emit(byte);
            }
        }
        if let Some(guest) = self.guest_mut(guest) {
            guest.history.push_over(byte);
        }
        true
    }

    /// A typed byte for guest number `guest` that it has not got yet.
    #[inline]
    pub fn input(&self, guest: usize) -> Option<u8> {
        self.guest(guest)?.input.first()
    }

    /// The guest has got that byte.
    #[inline]
    pub fn input_taken(&mut self, guest: usize) {
        if let Some(guest) = self.guest_mut(guest) {
            guest.input.pop();
        }
    }

    /// Looks at what was typed. At most one command is returned at a time; call again.
    pub fn read_keys<H: Host>(&mut self, host: &mut H) -> Option<Command> {
        for _ in 0..INPUT_BATCH {
            if !self.prompt.is_open() && self.must_wait() {
                return None;
            }
            let key = self.keys.typed(host.console_read()?);
            match key {
                None => {}
                Some(Key::Byte(byte)) if self.prompt.is_open() => {
                    if let Some(command) = self.type_at_prompt(byte) {
                        return Some(command);
                    }
                }
                Some(Key::Byte(byte)) => self.type_byte(byte),
                Some(Key::Prompt) => self.open_prompt(),
                Some(Key::Show(view)) => {
                    self.close_prompt();
                    self.show(view);
                }
                Some(Key::Step { back }) => {
                    self.close_prompt();
                    self.show(View::Guest(self.step(back)));
                }
                Some(Key::Help) => self.say(HELP),
                Some(Key::Unknown) => self.say("no such command; Ctrl-A h helps\n"),
                Some(Key::List) => return Some(Command::List),
                Some(Key::End) => return Some(Command::End),
            }
        }
        None
    }

    fn type_byte(&mut self, byte: u8) {
        if let Some(guest) = self.guest_mut(self.target) {
            guest.input.push(byte);
        }
    }

    /// Whether the machine should keep what was typed, because the guest has not read what it has. But a guest that
    /// never reads must not make the commands unreachable: after a while, its oldest byte is given up.
    fn must_wait(&mut self) -> bool {
        let Some(guest) = self.guests.get_mut(self.target).and_then(Option::as_mut) else { return false };
        if guest.input.free() > 0 {
            self.stalled = 0;
            return false;
        }
        if self.stalled < STALLED_LOOKS {
            self.stalled += 1;
            return true;
        }
        guest.input.pop();
        false
    }

    /// The guest behind the one that is shown alone, or before it; going round. Where none is, the one that typed bytes go to.
    fn step(&self, back: bool) -> usize {
        let View::Guest(shown) = self.view else { return self.target };
        let count = self.guests.len();
        let step = |step: usize| (shown + if back { count - step } else { step }) % count;
        (1..=count).map(step).find(|place| self.guest(*place).is_some()).unwrap_or(shown)
    }

    fn show(&mut self, view: View) {
        if let View::Guest(guest) = view {
            if self.guest(guest).is_none() {
                self.say("there is no such VM; Ctrl-A l lists them\n");
                return;
            }
            self.target = guest;
        }
        self.show_lines();
        self.break_line();
        self.view = view;
        match view {
            View::Merged => self.say("--- all VMs and the kernel ---\n"),
            View::Kernel => self.say("--- kernel log ---\n"),
            View::Guest(guest) => {
                let name = self.guest(guest).map_or(Name::new(), |guest| guest.name);
                self.say("--- console of ");
                self.say(&name);
                self.say(" ---\n");
            }
        }
        self.replay(view);
    }

    /// Shows again what was shown last there, as much as there is room for.
    fn replay(&mut self, view: View) {
        let length = match view {
            View::Merged => return,
            View::Kernel => self.log.len(),
            View::Guest(guest) => self.guest(guest).map_or(0, |guest| guest.history.len()),
        };
        for at in length.saturating_sub(self.output.free())..length {
            let byte = match view {
                View::Guest(guest) => self.guest(guest).and_then(|guest| guest.history.get(at)),
                _ => self.log.get(at),
            };
            if let Some(byte) = byte {
                self.emit(byte);
            }
        }
        if let View::Guest(guest) = view {
            self.writer = Writer::Guest(guest);
        }
    }

    /// Takes the lines of the kernel's log that were shown before the hypervisor had the console, for [`View::Kernel`].
    pub fn remember<H: Host>(&mut self, host: &mut H) {
        let mut line = [0; LOG_LINE_BYTES];
        loop {
            let length = host.log_read_shown(&mut line).min(line.len());
            let Some(text) = line.get(..length).filter(|text| !text.is_empty()) else { return };
            text.iter().chain(b"\r\n").for_each(|byte| self.log.push_over(*byte));
        }
    }

    /// Fetches new lines of the kernel's log and sends what the machine takes. True where bytes are left over: call again
    /// soon.
    pub fn pump<H: Host>(&mut self, host: &mut H) -> bool {
        self.send(host);
        let unfinished = self.show_quiet_lines(host.now());
        let mut line = [0; LOG_LINE_BYTES];
        // One line at once, and there may be another behind it.
        let mut fetched = false;
        if self.output.free() > LOG_LINE_BYTES + 4 {
            let length = host.log_read(&mut line).min(line.len());
            if let Some(text) = line.get(..length).filter(|text| !text.is_empty()) {
                self.log_line(text);
                fetched = true;
            }
        }
        self.draw_prompt();
        self.send(host);
        unfinished || fetched || self.output.len() > 0
    }

    /// How a guest is shown now.
    pub fn shown(&self, guest: usize) -> Shown {
        match self.view {
            View::Merged => Shown::InLines,
            View::Guest(focused) if focused == guest => Shown::Alone,
            View::Guest(_) | View::Kernel => Shown::Not,
        }
    }

    /// Whether so many bytes of one guest, shown alone, would fit now.
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.output.free() >= KERNEL_SHARE + MOST_FOR_ONE_LINE + bytes
    }

    /// Bytes of the kernel's voice that fit now.
    pub(crate) fn room(&self) -> usize {
        self.output.free()
    }

    /// Whether a guest's byte would fit now.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.output.free() >= KERNEL_SHARE + MOST_FOR_ONE_LINE
    }

    /// Sends what the machine takes, some bytes at once.
    #[inline]
    pub fn send<H: Host>(&mut self, host: &mut H) {
        let front = self.output.front();
        let some = front.get(..BYTES_AT_ONCE).unwrap_or(front);
        if !some.is_empty() {
            let sent = host.console_write(some);
            self.output.discard(sent);
        }
    }

    fn log_line(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        for &byte in line.iter().chain(b"\r\n") {
            self.log.push_over(byte);
        }
        if !matches!(self.view, View::Guest(_)) {
            self.break_line();
            self.writer = Writer::Kernel;
            line.iter().chain(b"\r\n").for_each(|byte| self.emit(*byte));
        }
    }

    /// The kernel speaks to the one who typed, whatever is shown. What does not fit is lost.
    fn say(&mut self, text: &str) {
        if self.writer != Writer::Kernel {
            self.break_line();
            self.writer = Writer::Kernel;
        }
        for byte in text.bytes() {
            if byte == b'\n' {
                self.emit(b'\r');
            }
            self.emit(byte);
        }
    }

    /// The kernel's voice, for formatted text.
    pub fn voice(&mut self) -> impl fmt::Write {
        Voice { console: self }
    }

    fn break_line(&mut self) {
        if !self.line_start {
            self.emit(b'\r');
            self.emit(b'\n');
        }
    }

    #[inline]
    fn emit(&mut self, byte: u8) {
        self.output.push(byte);
        self.line_start = byte == b'\n';
        self.after_return = byte == b'\r';
    }
}

struct Voice<'c> {
    console: &'c mut Console,
}

impl fmt::Write for Voice<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.console.say(text);
        Ok(())
    }
}
