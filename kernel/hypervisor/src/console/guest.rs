//! One guest's console: what it showed last, and what was typed for it. Guests come and go.

use alloc::boxed::Box;

use super::keys::View;
use super::merged::PartialLine;
use super::ring::Ring;
use super::{Console, Writer};
use crate::config::{FirstView, Name};
use crate::heap;

/// Bytes of each guest's history.
const HISTORY_BYTES: usize = 4 * 1024;
/// Typed bytes that wait for a guest.
const INPUT_BYTES: usize = 512;

/// A guest's console.
#[derive(Debug)]
pub struct GuestConsole {
    pub(super) name: Name,
    pub(super) history: Ring,
    pub(super) input: Ring,
    /// What the merged view does not show yet.
    pub(super) line: PartialLine,
    pub(super) ended: bool,
}

impl GuestConsole {
    /// An empty one. `None` where there is no memory for it.
    pub(crate) fn new(name: Name) -> Option<Box<Self>> {
        heap::boxed(Self {
            name,
            history: Ring::new(HISTORY_BYTES)?,
            input: Ring::new(INPUT_BYTES)?,
            line: PartialLine::default(),
            ended: false,
        })
    }
}

impl Console {
    /// How many guests there can be.
    pub(crate) fn places(&self) -> usize {
        self.guests.len()
    }

    /// A guest has come. Where typed bytes go to nobody, they go to it.
    pub fn add(&mut self, place: usize, guest: Box<GuestConsole>) {
        if self.guest(self.target).is_none_or(|target| target.ended) {
            self.target = place;
        }
        if let Some(empty) = self.guests.get_mut(place) {
            *empty = Some(guest);
        }
    }

    /// A guest is no more, and neither is its console.
    pub fn remove(&mut self, place: usize) {
        self.end_guest(place);
        self.guests.get_mut(place).map(Option::take);
    }

    /// Shows this at first.
    pub fn begin_with(&mut self, first: FirstView<'_>) {
        self.view = match first {
            FirstView::Merged => View::Merged,
            FirstView::Kernel => View::Kernel,
            FirstView::Guest(name) => {
                self.names().position(|guest| guest == name).map_or(View::Merged, View::Guest)
            }
        };
        if let View::Guest(guest) = self.view {
            self.target = guest;
        }
    }

    /// The guests' names, by their places. Where there is none, there is no name.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.guests.iter().map(|guest| guest.as_ref().map_or("", |guest| guest.name.as_str()))
    }

    pub(super) fn guest(&self, place: usize) -> Option<&GuestConsole> {
        self.guests.get(place)?.as_deref()
    }

    pub(super) fn guest_mut(&mut self, place: usize) -> Option<&mut GuestConsole> {
        self.guests.get_mut(place)?.as_deref_mut()
    }

    /// The guest has ended: its console is no longer where typed bytes go, and if it was shown alone, all are.
    pub fn end_guest(&mut self, guest: usize) {
        if let Some(guest) = self.guest_mut(guest) {
            guest.ended = true;
        }
        self.show_line(guest);
        if self.target == guest {
            let goes_on =
                |guest: &Option<Box<GuestConsole>>| guest.as_ref().is_some_and(|guest| !guest.ended);
            self.target = self.guests.iter().position(goes_on).unwrap_or(guest);
        }
        if self.view == View::Guest(guest) {
            self.view = View::Merged;
        }
        if self.writer == Writer::Guest(guest) {
            self.break_line();
            self.writer = Writer::Kernel;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Command;
    use super::super::tests::{guest, host, put, shown, type_keys};
    use super::*;

    #[test]
    fn consoles_come_and_go() {
        let mut console = Console::new(4);
        let mut host = host();
        type_keys(&mut console, &mut host, b"nobody hears this");
        console.add(2, guest("b"));
        console.add(0, guest("a"));
        type_keys(&mut console, &mut host, b"x");
        assert_eq!((console.input(2), console.input(0)), (Some(b'x'), None), "the first one that came");
        assert_eq!(type_keys(&mut console, &mut host, b"\x01:stop 3\r"), Some(Command::Stop(2)));
        assert_eq!(type_keys(&mut console, &mut host, b"stop 2\rconsole b\r"), None);
        assert!(shown(&mut console, &mut host).contains("there is no VM '2'"));
        assert_eq!(console.view, View::Guest(2));
        put(&mut console, 2, "half a line");
        console.remove(2);
        assert_eq!((console.view, console.target), (View::Merged, 0));
        assert!(console.put(2, b'y') && console.put(9, b'y'), "what comes from nobody is nobody's");
        type_keys(&mut console, &mut host, b"\x01n\x01n");
        assert_eq!(console.view, View::Guest(0), "there is no other");
        console.add(2, guest("c"));
        type_keys(&mut console, &mut host, b"\x01n");
        let shown = shown(&mut console, &mut host);
        assert!(shown.ends_with("--- console of c ---\r\n"), "nothing of the last one: {shown}");
        for place in [2, 0] {
            console.remove(place);
        }
        host.input.extend(&[b'z'; 600]);
        assert!((0..10).all(|_| console.read_keys(&mut host).is_none()));
        assert!(host.input.is_empty(), "it is thrown away");
    }
}
