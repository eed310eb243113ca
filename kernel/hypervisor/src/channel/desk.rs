//! What is in hand for the domain that listens: requests that wait, what it watches, what it is told unasked.

use abi::{Answer, Event, PowerAction, Refusal, Request};
use trace::{Kind, Subject};
use vcpu::{Backend, Host};

use super::carry_out::{carry_out, number, vm_of};
use super::draft::Draft;
use super::events::Events;
use super::waits::{News, Waits};
use super::watch::{CONSOLE_BYTES, Consoles, Log};
use super::{Service, refused, switches, traces};
use crate::run::Node;

/// All of it.
pub(crate) struct Desk {
    waits: Waits,
    draft: Draft,
    events: Events,
    consoles: Consoles,
    log: Log,
    power: Option<PowerAction>,
}

impl Desk {
    /// For VMs in so many places. `None` where there is no memory for it.
    pub(super) fn new(places: usize) -> Option<Self> {
        Some(Self {
            waits: Waits::default(),
            draft: Draft::default(),
            events: Events::new(places)?,
            consoles: Consoles::new(places)?,
            log: Log::default(),
            power: None,
        })
    }

    fn answer<B: Backend, H: Host>(
        &mut self,
        node: &Node<'_, B>,
        host: &mut H,
        id: u64,
        request: &Request<'_>,
    ) -> Option<Answer<'static>> {
        Some(match *request {
            Request::WatchConsole { vm, on } => match vm_of(node, vm) {
                Err(refusal) => refusal.answer(),
                Ok(vm) if !on => {
                    self.consoles.leave(vm.index());
                    Answer::Done {}
                }
                Ok(vm) if self.consoles.watch(vm) => Answer::Done {},
                Ok(_) => refused(Refusal::NoMemory, CONSOLE_BYTES as u64, node.free_memory()).answer(),
            },
            Request::WatchLog { on } => {
                self.log.watch(on);
                Answer::Done {}
            }
            Request::Power { action } => {
                self.power = self.power.or(Some(action));
                Answer::Done {}
            }
            _ => return carry_out(node, host, (&mut self.waits, &mut self.draft), id, request),
        })
    }

    /// What is to become of the machine.
    pub(super) const fn power(&self) -> Option<PowerAction> {
        self.power
    }

    pub(super) const fn events(&self) -> &Events {
        &self.events
    }

    pub(super) const fn consoles(&mut self) -> &mut Consoles {
        &mut self.consoles
    }
}

impl Service for Desk {
    fn begin<B: Backend>(&mut self, node: &Node<'_, B>) {
        // Whoever had the port before may have left without a trace.
        self.clear(node);
        self.events.begin(node);
    }

    fn clear<B: Backend>(&mut self, _node: &Node<'_, B>) {
        self.waits = Waits::default();
        self.draft = Draft::default();
        self.consoles.leave_all();
        self.log = Log::default();
    }

    fn carry_out<B: Backend, H: Host>(
        &mut self,
        node: &Node<'_, B>,
        host: &mut H,
        (id, request): (u64, &Request<'_>),
        to: &mut [u8],
    ) -> Option<usize> {
        if let Request::ReadTrace { cpu, from } = *request {
            // No event: who reads comes to an end.
            return traces::answer(host, (cpu, from), id, to);
        }
        host.trace(Kind::Request, Subject::NOBODY, request.kind().into(), id);
        // What has words in its answer is written where these are.
        switches::carry_out(node, host, id, request, to)
            .or_else(|| self.answer(node, host, id, request)?.write(id, to))
    }

    fn is_full(&self) -> bool {
        self.waits.is_full()
    }

    fn is_working(&self) -> bool {
        self.waits.is_working()
    }

    fn work<B: Backend>(&mut self, node: &Node<'_, B>) {
        self.waits.work(node);
    }

    fn next<B: Backend, H: Host>(
        &mut self,
        node: &Node<'_, B>,
        host: &H,
        buffer: &mut [u8],
    ) -> Option<usize> {
        if let Some(event) = self.events.next(node) {
            return event.write(0, buffer);
        }
        if let Some(vm) = node.take_full() {
            return Event::NoRoom { vm: number(vm) }.write(0, buffer);
        }
        match self.waits.next(node, host.now())? {
            News::Answer(id, answer) => answer.write(id, buffer),
            News::Progress(event) => event.write(0, buffer),
        }
    }

    fn next_watched<H: Host>(&mut self, host: &mut H, buffer: &mut [u8]) -> Option<usize> {
        let mut written = None;
        let _ = self.consoles.next(|event| written = event.write(0, buffer))
            || self.log.next(host, |event| written = event.write(0, buffer));
        written
    }
}
