//! What becomes of a request.

use abi::{Answer, Refusal, Request};
use loader::{CODE_SELECTOR, DATA_SELECTOR, EntryState, SegmentState};
use vcpu::{Backend, Gpa, GuestMemory, Host};

use super::draft::Draft;
use super::waits::{Copy, Target, Wait, Waits};
use super::{Refused, dealings, refused};
use crate::config::Description;
use crate::run::{Node, ROOM_FOR_ONE};
use crate::schedule::VmId;
use crate::{CreateVmError, ManageError, VmState};

/// The segments that an entry has (Intel SDM vol. 3, "Guest Register State": access rights): 64-bit code, 32-bit code, data.
const LONG_CODE: u32 = 0xa09b;
const CODE: u32 = 0xc09b;
const DATA: u32 = 0xc093;
/// RFLAGS with its constant bit and nothing else.
const RFLAGS: u64 = 2;
const LONG_MODE_ACTIVE: u64 = 1 << 10;

/// A VM's number in messages: its place, and what tells it from others that were there.
pub(super) const fn number(id: VmId) -> u64 {
    (id.generation() as u64) << 16 | id.index() as u64
}

/// The VM of a number.
pub(super) fn vm_of<B: Backend>(node: &Node<'_, B>, wanted: u64) -> Result<VmId, Refused> {
    let mut found = None;
    node.each_vm(|id, _| found = found.or((number(id) == wanted).then_some(id)));
    found.ok_or(refused(Refusal::NoVm, wanted, 0))
}

/// Carries a request out. `None` where the answer comes later.
pub(super) fn carry_out<B: Backend, H: Host>(
    node: &Node<'_, B>,
    host: &mut H,
    (waits, draft): (&mut Waits, &mut Draft),
    id: u64,
    request: &Request<'_>,
) -> Option<Answer<'static>> {
    let done = match *request {
        Request::Ping { cookie } => Ok(Answer::Pong { cookie }),
        Request::AddDevice { kind, first, second } => draft.add(kind, first, second),
        Request::AddNetwork { network, mac } => draft.add_network(network.as_str(), mac),
        Request::ForgetDevices {} => {
            *draft = Draft::default();
            Ok(Answer::Done {})
        }
        Request::CreateVm { name, cpus, memory } => {
            create(node, host, name.as_str(), draft.take(name.as_str(), cpus, memory))
        }
        Request::MemoryMap { vm } => vm_of(node, vm).and_then(|vm| memory_map(node, vm)),
        Request::NextVm { after } => next(node, after),
        Request::WriteMemory { vm, gpa, bytes } => vm_of(node, vm).and_then(|vm| write(node, vm, gpa, bytes)),
        Request::SetEntry { vm, .. } => vm_of(node, vm).and_then(|vm| {
            let entry = entry(request).ok_or(refused(Refusal::Malformed, request.kind().into(), 0))?;
            manage(node.set_entry(vm, entry))
        }),
        Request::Pause { vm } => vm_of(node, vm).and_then(|vm| manage(node.pause(host, vm))),
        Request::Resume { vm } => vm_of(node, vm).and_then(|vm| manage(node.resume(host, vm))),
        Request::Reset { vm } => vm_of(node, vm).and_then(|vm| manage(node.reset(host, vm))),
        Request::Stop { vm } => {
            return later(waits, id, vm_of(node, vm), |vm| {
                Ok(node.stop(host, vm).map(|()| Wait::Settled(vm)))
            });
        }
        Request::Start { vm } => {
            return later(waits, id, vm_of(node, vm), |vm| {
                Ok(node.start(host, vm).map(|()| Wait::Settled(vm)))
            });
        }
        Request::DestroyVm { vm } => {
            return later(waits, id, vm_of(node, vm), |vm| {
                Ok(node.destroy(host, vm).map(|()| Wait::Gone(vm)))
            });
        }
        Request::CopyIn { vm, gpa, from, length } => {
            return later(waits, id, vm_of(node, vm), |vm| {
                copy(Target::Memory(vm, gpa), (domain_of(node)?, from), length)
            });
        }
        Request::FillDisk { vm, disk, offset, from, length } => {
            return later(waits, id, vm_of(node, vm), |vm| {
                copy(Target::Disk(vm, disk, offset), (domain_of(node)?, from), length)
            });
        }
        Request::CopyOut { vm, gpa, to, length } => {
            return later(waits, id, vm_of(node, vm), |vm| {
                copy(Target::Memory(domain_of(node)?, to), (vm, gpa), length)
            });
        }
        Request::ExitCounters { .. }
        | Request::Machine {}
        | Request::ConsoleInput { .. }
        | Request::PressPowerButton { .. }
        | Request::SetShare { .. }
        | Request::Pin { .. }
        | Request::SetWallClock { .. } => dealings::deal(node, host, request),
        _ => Err(refused(Refusal::Unsupported, request.kind().into(), 0)),
    };
    Some(done.unwrap_or_else(Refused::answer))
}

/// The domain, whose memory is copied from or to.
fn domain_of<B: Backend>(node: &Node<'_, B>) -> Result<VmId, Refused> {
    node.domain_id().ok_or(refused(Refusal::Unsupported, 0, 0))
}

const fn copy(to: Target, from: (VmId, u64), length: u64) -> Result<Result<Wait, ManageError>, Refused> {
    Ok(Ok(Wait::Copy(Copy { to, from, length })))
}

/// A request whose answer comes later, unless it is refused now.
fn later(
    waits: &mut Waits,
    id: u64,
    vm: Result<VmId, Refused>,
    begin: impl FnOnce(VmId) -> Result<Result<Wait, ManageError>, Refused>,
) -> Option<Answer<'static>> {
    match vm.and_then(begin).and_then(|begun| begun.map_err(why_not)) {
        Ok(wait) => {
            waits.add(id, wait);
            None
        }
        Err(refusal) => Some(refusal.answer()),
    }
}

fn manage(done: Result<(), ManageError>) -> Result<Answer<'static>, Refused> {
    done.map(|()| Answer::Done {}).map_err(why_not)
}

pub(super) fn why_not(error: ManageError) -> Refused {
    match error {
        ManageError::NoSuchVm(vm) => refused(Refusal::NoVm, number(vm), 0),
        ManageError::NotNow(state) => refused(Refusal::State, told(state) as u64, 0),
        ManageError::NoMemory(_) | ManageError::NoEntry(_) | ManageError::HasKernel(_) => {
            refused(Refusal::State, 0, 0)
        }
        ManageError::IsDomain(_) | ManageError::Share(_) => refused(Refusal::Unsupported, 0, 0),
    }
}

fn create<B: Backend, H: Host>(
    node: &Node<'_, B>,
    host: &mut H,
    name: &str,
    description: Description,
) -> Result<Answer<'static>, Refused> {
    node.create(host, description).map(|vm| Answer::Vm { vm: number(vm) }).map_err(|error| match error {
        CreateVmError::NameTaken(_) => refused(Refusal::NameTaken, node.named(name).map_or(0, number), 0),
        CreateVmError::NoMemory { wanted, free } => refused(Refusal::NoMemory, wanted, free),
        CreateVmError::NoPlace => refused(Refusal::TooMany, 0, 0),
        CreateVmError::Cpus { asked, most } => refused(Refusal::Range, asked as u64, most as u64),
        CreateVmError::Memory { asked, most, .. }
        | CreateVmError::Disk { asked, most }
        | CreateVmError::Rom { asked, most } => refused(Refusal::Range, asked, most),
        CreateVmError::Refused(error) if error.is_shortage() => {
            refused(Refusal::NoMemory, ROOM_FOR_ONE, node.free_memory())
        }
        other => {
            log::warn!("vm {name}: not made: {other}");
            refused(Refusal::Unsupported, 0, 0)
        }
    })
}

/// Where a VM's memory is, as its kernel will be told.
fn memory_map<B: Backend>(node: &Node<'_, B>, vm: VmId) -> Result<Answer<'static>, Refused> {
    let mut ranges = [0; 24];
    let (rsdp, fits) = node
        .with_map(vm, |map, rsdp| {
            let (places, _) = ranges.as_chunks_mut::<3>();
            for (place, entry) in places.iter_mut().zip(&map.e820) {
                *place = [entry.base.0, entry.length, entry.kind.0.into()];
            }
            (rsdp.0, map.e820.len() <= places.len())
        })
        .map_err(why_not)?;
    if fits { Ok(Answer::MemoryMap { rsdp, ranges }) } else { Err(refused(Refusal::Unsupported, 0, 0)) }
}

fn write<B: Backend>(
    node: &Node<'_, B>,
    vm: VmId,
    gpa: u64,
    bytes: &[u8],
) -> Result<Answer<'static>, Refused> {
    if bytes.len() > abi::MAX_INLINE {
        return Err(refused(Refusal::Range, bytes.len() as u64, abi::MAX_INLINE as u64));
    }
    match node.with_memory(vm, |space| space.write(Gpa(gpa), bytes)) {
        Ok(Ok(())) => Ok(Answer::Done {}),
        Ok(Err(missing)) => Err(refused(Refusal::Address, missing.gpa.0, 0)),
        Err(error) => Err(why_not(error)),
    }
}

/// The VM behind a number, in the order of their places.
fn next<B: Backend>(node: &Node<'_, B>, after: u64) -> Result<Answer<'static>, Refused> {
    // Places go up; 0 stands for before the first one, whatever its generation.
    let place = |number: u64| number & 0xffff;
    let mut found = None;
    node.each_vm(|id, _| {
        let behind = after == 0 || id.index() as u64 > place(after);
        found = found.or(behind.then_some(id));
    });
    let vm = found.ok_or(refused(Refusal::NoVm, after, 0))?;
    node.status(vm).ok_or(refused(Refusal::NoVm, after, 0)).and_then(|status| {
        let name = abi::Name::new(&status.name).ok_or(refused(Refusal::NoVm, after, 0))?;
        Ok(Answer::Status {
            vm: number(vm),
            name,
            state: told(status.state),
            cpus: status.cpus as u16,
            memory: status.memory,
            resident: status.resident,
            ticks: [status.ran, status.waited],
            exits: status.exits,
            network: status.network,
        })
    })
}

fn told(state: VmState) -> abi::VmState {
    match state {
        VmState::Stopped(_) => abi::VmState::Stopped,
        VmState::Changing => abi::VmState::Changing,
        VmState::Held => abi::VmState::Held,
        VmState::Running => abi::VmState::Running,
        VmState::Paused => abi::VmState::Paused,
    }
}

/// The entry that a request says. What a CPU would not accept is found by the hypervisor's own checks when the VM starts.
fn entry(request: &Request<'_>) -> Option<EntryState> {
    let Request::SetEntry { registers, control, gdt, gdt_limit, .. } = *request else { return None };
    let [rip, rax, rbx, rsi, rsp] = registers;
    let [cr0, cr3, cr4, efer] = control;
    let segment = |selector, attributes| SegmentState { selector, base: 0, limit: u32::MAX, attributes };
    let code = if efer & LONG_MODE_ACTIVE != 0 { LONG_CODE } else { CODE };
    Some(EntryState {
        rip,
        rax,
        rbx,
        rsi,
        rsp,
        rflags: RFLAGS,
        cr0,
        cr3,
        cr4,
        efer,
        gdt_base: gdt,
        gdt_limit,
        code: segment(CODE_SELECTOR, code),
        data: segment(DATA_SELECTOR, DATA),
    })
}
