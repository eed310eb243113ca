//! The port of disks that the domain serves: orders go to it, answers come back.

use abi::{DiskAnswer, DiskOrder, DiskStatus, DiskVerb, Event, HEADER_BYTES, Refusal, Request};
use arrayvec::ArrayVec;
use vcpu::{Backend, Gpa, Host};
use virtio::block::{Answer, Order, OrderVerb, SLOTS};

use super::carry_out::{number, vm_of, why_not};
use super::{Refused, Service, refused};
use crate::disks::{NotTold, WINDOW_BYTES};
use crate::run::Node;
use crate::schedule::VmId;

/// A window begins at a page.
const PAGE: u64 = vcpu::PAGE_SIZE;

/// Who serves the port. What is under way is kept with each VM ([`crate::disks`]).
pub(crate) struct DiskDesk;

impl Service for DiskDesk {
    fn begin<B: Backend>(&mut self, node: &Node<'_, B>) {
        // Whoever had the port before may have left without a trace.
        self.clear(node);
    }

    fn clear<B: Backend>(&mut self, node: &Node<'_, B>) {
        node.each_depot(|_, depot| depot.leave());
    }

    fn carry_out<B: Backend, H: Host>(
        &mut self,
        node: &Node<'_, B>,
        host: &mut H,
        (id, request): (u64, &Request<'_>),
        to: &mut [u8],
    ) -> Option<usize> {
        let done = match *request {
            Request::Ping { cookie } => return abi::Answer::Pong { cookie }.write(id, to),
            Request::ServeDisks { vm, window } => {
                serve(node, vm, window).map(|()| abi::Answer::Done {}.write(id, to))
            }
            Request::DisksDone { vm, answers } => finish(node, host, vm, answers).map(|()| None),
            _ => Err(refused(Refusal::Unsupported, request.kind().into(), 0)),
        };
        done.unwrap_or_else(|refused| refused.answer().write(id, to))
    }

    fn next<B: Backend, H: Host>(&mut self, node: &Node<'_, B>, _host: &H, to: &mut [u8]) -> Option<usize> {
        node.find_orders(|vm, depot| {
            let mut entries = ArrayVec::<[u8; DiskOrder::BYTES], SLOTS>::new();
            while !entries.is_full()
                && let Some((slot, number, order)) = depot.hand_over()
            {
                entries.push(told(slot, number, order).to_bytes());
            }
            // All of it has room: a message of a kilobyte.
            const { assert!(HEADER_BYTES + 12 + SLOTS * DiskOrder::BYTES < abi::MAX_MESSAGE) };
            (!entries.is_empty())
                .then(|| Event::DiskOrders { vm: number(vm), orders: entries.as_flattened() }.write(0, to))?
        })
    }
}

const fn told(slot: u16, number: u64, order: Order) -> DiskOrder {
    let Order { disk, verb, sector, sectors } = order;
    let verb = match verb {
        OrderVerb::Read => DiskVerb::Read,
        OrderVerb::Write => DiskVerb::Write,
        OrderVerb::Flush => DiskVerb::Flush,
        OrderVerb::Discard => DiskVerb::Discard,
        OrderVerb::Zero { may_unmap: false } => DiskVerb::Zero,
        OrderVerb::Zero { may_unmap: true } => DiskVerb::ZeroUnmap,
    };
    DiskOrder { slot, disk, verb, sectors, sector, number }
}

/// A VM gets a server.
fn serve<B: Backend>(node: &Node<'_, B>, vm: u64, window: u64) -> Result<(), Refused> {
    let vm = vm_of(node, vm)?;
    let domain = node.domain_id().ok_or(refused(Refusal::Unsupported, 0, 0))?;
    let is_own = node
        .with_map(domain, |map, _| {
            let end = window.checked_add(WINDOW_BYTES);
            map.ram.iter().any(|ram| {
                ram.start.0 <= window && end.is_some_and(|end| end <= ram.start.0.saturating_add(ram.length))
            })
        })
        .map_err(why_not)?;
    if !is_own || !window.is_multiple_of(PAGE) {
        return Err(refused(Refusal::Address, window, 0));
    }
    let depot = node.depot(vm).map_err(why_not)?;
    // It has no such disk.
    let depot = depot.ok_or(refused(Refusal::Unsupported, 0, 0))?;
    depot.serve(node.owner_of(domain), Gpa(window));
    Ok(())
}

/// Orders are answered. Of one that was not told, the rest is not looked at.
fn finish<B: Backend, H: Host>(
    node: &Node<'_, B>,
    host: &mut H,
    vm: u64,
    answers: &[u8],
) -> Result<(), Refused> {
    let malformed = refused(Refusal::Malformed, 0x0181, 0);
    let vm = vm_of(node, vm)?;
    let depot = node.depot(vm).map_err(why_not)?.ok_or(refused(Refusal::Unsupported, 0, 0))?;
    let (entries, rest) = answers.as_chunks::<{ DiskAnswer::BYTES }>();
    if !rest.is_empty() || entries.len() > SLOTS {
        return Err(malformed);
    }
    for entry in entries {
        let DiskAnswer { slot, status } = DiskAnswer::from_bytes(entry).map_err(|_| malformed)?;
        let answer = match status {
            DiskStatus::Done => Some(Answer::Done),
            DiskStatus::Failed => Some(Answer::Failed),
            DiskStatus::Unsupported => Some(Answer::Unsupported),
            DiskStatus::NoRoom => None,
        };
        depot
            .answered_by_domain(slot, answer)
            .map_err(|NotTold(slot)| refused(Refusal::Range, slot.into(), SLOTS as u64 - 1))?;
        if answer.is_none() {
            has_no_room(node, host, vm);
        }
    }
    Ok(())
}

/// A VM waits for room: it stands still until it is resumed.
fn has_no_room<B: Backend, H: Host>(node: &Node<'_, B>, host: &mut H, vm: VmId) {
    // One that stands still already, or ends, needs no more.
    if node.pause(host, vm).is_ok() {
        node.full.insert(vm.index());
    }
}
