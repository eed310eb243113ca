//! Whatever the management domain asks, in any order: each request is answered, and a VM that none of them names goes on.

use std::vec::Vec;

use abi::{DeviceKind, Name, NetworkList, Request};
use proptest::prelude::*;
use vcpu::{Gpa, GuestMemory};

use super::channel::{Domain, Told, entry};
use super::yard::{ENDS, ENTRY, HALTS, LOOPS, Place, Yard};
use crate::VmState;

const NAMES: [&str; 4] = ["a", "b", "witness", "c"];
const WITNESS: &str = "witness";
/// Sectors of a disk that is larger than disks are.
const LARGE_DISK: u64 = 1 << 40;
/// What lies in the witness' memory.
const STAMP: [u8; 8] = *b"my bytes";
const ROLES: [u64; 3] = [ENDS, HALTS, LOOPS];

/// One request, by numbers: of what kind, for which VM, and with what.
type Script = (u8, usize, u64, u64);

fn scripts() -> impl Strategy<Value = Vec<Script>> {
    let number = || {
        prop_oneof![
            0_u64..8,
            Just(4096),
            Just(ENTRY),
            Just(16 << 20),
            Just((16 << 20) - 4),
            Just(u64::MAX),
            Just(1 << 63),
            any::<u64>(),
        ]
    };
    prop::collection::vec((0_u8..32, 0_usize..6, number(), number()), 1..60)
}

/// The request of a script. VMs are those that were made, and one that never was.
fn request((kind, which, first, second): Script, made: &[u64]) -> Request<'static> {
    let vm = made.get(which).copied().unwrap_or(first | 1 << 62);
    let name = Name::new(NAMES.get(which % NAMES.len()).unwrap_or(&"a")).expect("a name");
    let role = ROLES.get(first as usize % ROLES.len()).copied().unwrap_or(ENDS);
    match kind {
        0 | 1 => Request::CreateVm { name, cpus: (first % 4) as u16, memory: 16 << 20 },
        2 => Request::CreateVm { name, cpus: first as u16, memory: second },
        3 => Request::DestroyVm { vm },
        // The fake's disks take memory at once: a small one, or one that there cannot be.
        4 => {
            let first = if first < LARGE_DISK { first % 64 } else { first };
            Request::AddDevice { kind: DeviceKind::MemoryDisk, first, second }
        }
        5 => Request::AddDevice { kind: DeviceKind::Balloon, first, second },
        6 => Request::AddNetwork { network: name, mac: first & !0xff },
        7 => Request::ForgetDevices {},
        8 | 9 => entry(vm, role),
        10..=12 => Request::Start { vm },
        13 => Request::Stop { vm },
        14 => Request::Pause { vm },
        15 => Request::Resume { vm },
        16 => Request::Reset { vm },
        17 => Request::PressPowerButton { vm },
        18 => Request::SetShare { vm, weight: first as u16, cap: second as u32, reservation: first as u32 },
        19 => Request::WriteMemory { vm, gpa: first, bytes: b"theirs" },
        20 => Request::MemoryMap { vm },
        21 => Request::ConsoleInput { vm, bytes: b"keys" },
        22 => Request::FillDisk { vm, disk: first as u16, offset: second, from: first, length: second },
        23 => Request::Pin { vm, vcpu: first as u16, cpus: second },
        24 => Request::ChangePort { vm, device: first as u16, words: one_of(&PORTS, second) },
        25 => Request::Port { vm, device: first as u16 },
        26 => Request::AddEntry { network: name, list: list(first), words: one_of(&ENTRIES, second) },
        27 => Request::DeleteEntry { network: name, list: list(first), number: second as u16 },
        28 => Request::ChangeNetwork { network: name, words: b"default=deny" },
        29 => Request::ReadTrace { cpu: first as u16, from: second },
        30 => Request::Machine {},
        _ => Request::ExitCounters { vm },
    }
}

const PORTS: [&[u8]; 3] = [b"link=down", b"vlan=9 outbound=1M", b"vlan=0"];
const ENTRIES: [&[u8]; 4] = [b"deny from=a", b"allow to=witness", b"both=a to=b", b"to-vlan=9 vlan=7"];

fn one_of(words: &[&'static [u8]], number: u64) -> &'static [u8] {
    words[number as usize % words.len()]
}

fn list(number: u64) -> NetworkList {
    if number.is_multiple_of(2) { NetworkList::Rules } else { NetworkList::Mirrors }
}

fn run(domain: &mut Domain, place: &mut Place<'_, '_>, scripts: &[Script]) {
    let mut made = Vec::new();
    for script in scripts {
        let request = request(*script, &made);
        if let Told::Vm(vm) = domain.ask(place, &request) {
            made.push(vm);
        }
    }
    for vm in made {
        domain.ask(place, &Request::DestroyVm { vm });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_asked_is_answered_and_the_witness_goes_on(scripts in scripts()) {
        Yard::new(1, 3, &[]).run(3, |place| {
            let mut domain = Domain::greeted(place);
            let witness = domain.begin(place, WITNESS, LOOPS);
            let id = place.node.named(WITNESS).expect("it is there");
            place.node.with_memory(id, |space| space.write(Gpa(0x8000), &STAMP)).unwrap().unwrap();
            let before = (place.bank.free(), place.node.holdings());
            run(&mut domain, place, &scripts);
            assert_eq!((place.bank.free(), place.node.holdings()), before, "what was asked for is given back");
            assert_eq!(place.node.state(id), Some(VmState::Running));
            let mut found = [0; STAMP.len()];
            place.node.with_memory(id, |space| space.read(Gpa(0x8000), &mut found)).unwrap().unwrap();
            assert_eq!(found, STAMP);
            domain.ask(place, &Request::DestroyVm { vm: witness });
        });
    }
}
