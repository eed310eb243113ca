//! Networks from the kernel's line and the prompt to frames between two guests.

use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::format;
use std::rc::Rc;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use devices::lapic::{APIC_TIMER_HZ, X2APIC_MSR_FIRST};
use vcpu::fake::Guest;
use vcpu::{Exit, Gpa, GuestMemory, rflags};

use super::bench::{Bench, Run, Step, TSC_HZ, kernel, power_off};
use super::disks::{BAR, BUFFER, DESCRIPTORS, DEVICE, DRIVER, NOTIFY, board, describe, store, stores, told};
use crate::msr::number;
use crate::networks::RuleText;
use crate::{End, Node, Options};

pub(super) const WEB: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const DB: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Before a frame, in a driver's memory.
pub(super) const HEADER: usize = 12;

/// A UDP packet for a port.
pub(super) fn frame(to: [u8; 6], from: [u8; 6], port: u16) -> Vec<u8> {
    let mut bytes = [&to[..], &from, &[8, 0]].concat();
    bytes.extend([0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    bytes.extend([0x30, 0x39].into_iter().chain(port.to_be_bytes()).chain([0, 26, 0, 0]));
    bytes.extend([0xa5; 18]);
    bytes
}

/// As a driver takes a network device into use that has one of its queues only.
pub(super) fn driver(queue: u64) -> Vec<Step> {
    stores(&[
        (BAR + 0x14, 1, 3),
        (BAR + 0x08, 4, 1),
        (BAR + 0x0c, 4, 1),
        (BAR + 0x14, 1, 0xb),
        (BAR + 0x16, 2, queue),
        (BAR + 0x18, 2, 8),
        (BAR + 0x20, 4, DESCRIPTORS),
        (BAR + 0x28, 4, DRIVER),
        (BAR + 0x30, 4, DEVICE),
        (BAR + 0x1c, 2, 1),
        (BAR + 0x14, 1, 0xf),
    ])
}

/// Offers the buffers from 0 to `count`, each in a chain of its own, and tells.
pub(super) fn offer(guest: &mut Guest<'_>, count: u16, queue: u64) -> Exit {
    for index in 0..count {
        guest.memory.write(Gpa(DRIVER + 4 + 2 * u64::from(index)), &index.to_le_bytes()).unwrap();
    }
    guest.memory.write(Gpa(DRIVER + 2), &count.to_le_bytes()).unwrap();
    store(guest, NOTIFY + 4 * queue, 2, queue)
}

pub(super) fn buffer(index: u64) -> u64 {
    BUFFER + 0x400 * index
}

/// What a guest does; `None` where it waits, and tries again.
type Act = Box<dyn FnMut(&mut Guest<'_>) -> Option<Exit>>;

fn act(mut run: impl FnMut(&mut Guest<'_>) -> Exit + 'static) -> Act {
    Box::new(move |guest| Some(run(guest)))
}

/// It looks every 10 us.
fn until(mut is: impl FnMut(&mut Guest<'_>) -> bool + 'static) -> Act {
    Box::new(move |guest| {
        guest.clock.pass(TSC_HZ / 100_000);
        is(guest).then_some(Exit::Pause)
    })
}

/// A VM with this line, whose guest does that, and then switches itself off.
fn add_guest(bench: &mut Bench, line: &str, mut acts: Vec<Act>) {
    bench.add_module(line, &kernel());
    let mut done = 0;
    bench.backend.add_program(move |guest| {
        let exit = match acts.get_mut(done) {
            Some(act) => act(guest),
            None => Some(power_off(guest)),
        };
        done += usize::from(exit.is_some());
        if matches!(exit, None | Some(Exit::Pause | Exit::Io(_) | Exit::WriteMsr | Exit::Halt)) {
            told(guest);
        }
        exit.unwrap_or(Exit::Pause)
    });
}

pub(super) fn used(guest: &mut Guest<'_>) -> u16 {
    let mut count = [0; 2];
    guest.memory.read(Gpa(DEVICE + 2), &mut count).unwrap();
    u16::from_le_bytes(count)
}

/// Sends a frame to each of these ports when the other one is ready, and says when all are on their way.
fn sender(ports: &'static [u16], ready: &Rc<Cell<bool>>, sent: &Rc<Cell<bool>>) -> Vec<Act> {
    let (ready, sent) = (Rc::clone(ready), Rc::clone(sent));
    let mut acts: Vec<Act> = board().into_iter().chain(driver(1)).map(act).collect();
    acts.push(until(move |_| ready.get()));
    acts.push(act(move |guest| {
        for (index, port) in (0..).zip(ports) {
            let bytes = [&[0; HEADER][..], &frame(DB, WEB, *port)].concat();
            guest.memory.write(Gpa(buffer(index)), &bytes).unwrap();
            describe(guest, index, buffer(index), bytes.len() as u32, 0);
        }
        offer(guest, ports.len() as u16, 1)
    }));
    acts.push(until(move |guest| usize::from(used(guest)) == ports.len()));
    acts.push(act(move |_| {
        sent.set(true);
        Exit::Pause
    }));
    acts
}

/// Says when it is ready, and tells in the end to which ports the frames were that it has got.
fn receiver(ready: &Rc<Cell<bool>>, sent: &Rc<Cell<bool>>, got: &Rc<RefCell<Vec<u16>>>) -> Vec<Act> {
    const WRITE: u16 = 2;
    let (ready, sent, got) = (Rc::clone(ready), Rc::clone(sent), Rc::clone(got));
    let mut acts: Vec<Act> = board().into_iter().chain(driver(0)).map(act).collect();
    acts.push(act(|guest| {
        (0..8).for_each(|index| describe(guest, index, buffer(index), 0x400, WRITE));
        offer(guest, 8, 0)
    }));
    acts.push(act(move |_| {
        ready.set(true);
        Exit::Pause
    }));
    acts.push(until(move |_| sent.get()));
    acts.push(act(move |guest| {
        for index in 0..used(guest) {
            let mut bytes = [0; HEADER + 38];
            guest.memory.read(Gpa(buffer(index.into())), &mut bytes).unwrap();
            assert_eq!(bytes[HEADER..HEADER + 12], [DB, WEB].concat());
            got.borrow_mut().push(u16::from_be_bytes([bytes[HEADER + 36], bytes[HEADER + 37]]));
        }
        Exit::Pause
    }));
    acts
}

/// VM web sends frames to UDP ports of VM db: those that arrive. Behind the name of the network, their lines have these words.
fn exchange(words: [&str; 2], ports: &'static [u16], networks: &[&str]) -> (Run, Vec<u16>) {
    exchange_while_typing(words, ports, networks, &[])
}

fn exchange_while_typing(
    words: [&str; 2],
    ports: &'static [u16],
    networks: &[&str],
    keys: &[u8],
) -> (Run, Vec<u16>) {
    let (mut bench, ready, sent) = (Bench::new(), Rc::default(), Rc::default());
    let got = Rc::default();
    let line = |vm: &str, mac: u8, words: &str| {
        format!("vm={vm} memory=16M net=lan mac=02:00:00:00:00:0{mac} {words} kernel")
    };
    add_guest(&mut bench, &line("web", 1, words[0]), sender(ports, &ready, &sent));
    add_guest(&mut bench, &line("db", 2, words[1]), receiver(&ready, &sent, &got));
    bench.host.input.extend(keys);
    let options = Options { end: End::PowerOff, networks: networks.to_vec(), ..Options::default() };
    let run = bench.run_with(&options);
    for vm in ["web", "db"] {
        assert!(run.logged(&format!("vm {vm}: stopped: powered off")), "{:#?}", run.log);
    }
    let got = got.take();
    (run, got)
}

#[test]
fn frames_go_from_vm_to_vm_as_the_rules_say() {
    let ports = &[22, 80, 443, 5000];
    let (run, got) = exchange(["", ""], ports, &[]);
    assert_eq!(got, ports);
    assert!(run.logged("network lan: 2 ports, default allow, 0 rules, 0 mirrors"), "{:#?}", run.log);
    let rules = [
        "rule=lan:deny,to=db,protocol=udp,port=22",
        "rule=lan:allow,from=web.0,port=1-443",
        "network=lan,default=deny",
    ];
    let (run, got) = exchange(["", ""], ports, &rules);
    assert_eq!(got, [80, 443]);
    assert!(run.logged("network lan: 2 ports, default deny, 2 rules, 0 mirrors"), "{:#?}", run.log);
    let (_, got) = exchange(["", ""], ports, &["rule=lan:deny,from=db"]);
    assert_eq!(got, ports, "it is about the other way");
}

#[test]
fn words_of_a_line_reach_the_port() {
    for (words, arrives) in [
        (["vlan=7", "vlan=7"], true),
        (["vlan=7", ""], false),
        (["ip=10.0.0.1", ""], true),
        (["ip=10.0.0.9", ""], false),
        (["isolated=yes", "isolated=yes"], false),
        (["", "link=down"], false),
        (["trunk=all native=1", ""], true),
        (["", "mtu=1000"], true),
    ] {
        let (_, got) = exchange(words, &[80], &[]);
        assert_eq!(!got.is_empty(), arrives, "{words:?}");
    }
}

#[test]
fn a_device_sends_from_its_own_address_only_unless_it_may() {
    // The second word wins: its frames are from another address.
    let other = "mac=02:00:00:00:00:07";
    assert_eq!(exchange([other, ""], &[80], &[]).1, []);
    assert_eq!(exchange(["mac=02:00:00:00:00:07 spoof=yes", ""], &[80], &[]).1, [80]);
}

/// Four frames of 60 bytes at 1000 bits a second take two seconds, and no time where the limit is lifted meanwhile.
#[test]
fn what_waits_for_a_rate_goes_on_when_that_is_lifted() {
    let (ports, words) = (&[1, 2, 3, 4], ["outbound=1k:1", ""]);
    // A look at the keys takes 64 of them.
    let later = [b"\x01:".to_vec(), b"x\x7f".repeat(32 * 20)].concat();
    let millis = |run: &Run| run.host.clock.time_of(run.host.clock.tsc()).0 / 1_000_000;
    let (run, got) = exchange_while_typing(words, ports, &[], &later);
    assert_eq!(got, ports);
    assert!((1_400..2_500).contains(&millis(&run)), "{}", millis(&run));
    let keys = [&later[..], b"port web outbound=off\r"].concat();
    let (run, got) = exchange_while_typing(words, ports, &[], &keys);
    assert_eq!(got, ports);
    assert!((200..500).contains(&millis(&run)), "{}", millis(&run));
}

/// Has the guest sleep for a second, by the timer of its local APIC.
fn sleep_a_second() -> Vec<Act> {
    const VECTOR: u64 = 0x41;
    let write = |register, value| act(move |guest| guest.write_msr(register, value));
    vec![
        write(number::APIC_BASE, 0xfee0_0d00),
        write(X2APIC_MSR_FIRST + 0xf, 0x1ff),
        write(X2APIC_MSR_FIRST + 0x3e, 0xb),
        write(X2APIC_MSR_FIRST + 0x32, VECTOR),
        write(X2APIC_MSR_FIRST + 0x38, APIC_TIMER_HZ),
        act(|guest| {
            guest.cpu.rflags |= rflags::IF;
            guest.halt()
        }),
    ]
}

/// A VM that is woken because something has come does not sleep on when in the meantime the time has come at which it may receive more.
#[test]
fn nobody_sleeps_over_the_time_at_which_frames_go_on() {
    const WRITE: u16 = 2;
    for later in (0..12_000_u64).step_by(100) {
        let (mut bench, ready) = (Bench::new(), Rc::new(Cell::new(false)));
        bench.host.clock.ticks_a_look.set(200);
        let is_ready = Rc::clone(&ready);
        let mut sends: Vec<Act> = board().into_iter().chain(driver(1)).map(act).collect();
        sends.push(until(move |_| is_ready.get()));
        for (count, after) in [(3, 0), (4, later)] {
            sends.push(act(move |guest| {
                guest.clock.pass(after * (TSC_HZ / 1_000_000_000));
                for index in 0..4 {
                    let bytes = [&[0; HEADER][..], &frame(DB, WEB, 80)].concat();
                    guest.memory.write(Gpa(buffer(index)), &bytes).unwrap();
                    describe(guest, index, buffer(index), bytes.len() as u32, 0);
                }
                offer(guest, count, 1)
            }));
        }
        let mut receives: Vec<Act> = board().into_iter().chain(driver(0)).map(act).collect();
        receives.push(act(move |guest| {
            (0..8).for_each(|index| describe(guest, index, buffer(index), 0x400, WRITE));
            // No interrupts: they would wake it.
            guest.memory.write(Gpa(DRIVER), &1_u16.to_le_bytes()).unwrap();
            ready.set(true);
            offer(guest, 8, 0)
        }));
        receives.extend(sleep_a_second());
        let got = Rc::new(Cell::new(0));
        let counts = Rc::clone(&got);
        receives.push(act(move |guest| {
            counts.set(used(guest));
            Exit::Pause
        }));
        add_guest(&mut bench, "vm=web memory=16M net=lan mac=02:00:00:00:00:01 kernel", sends);
        // A frame of 60 bytes takes 10 us.
        let line = "vm=db memory=16M net=lan mac=02:00:00:00:00:02 inbound=48M:1 kernel";
        add_guest(&mut bench, line, receives);
        let run = bench.run_with(&Options { end: End::PowerOff, ..Options::default() });
        assert!(run.logged("vm db: stopped: powered off"), "{:#?}", run.log);
        assert_eq!(got.get(), 4, "where the last one comes {later} ns later");
    }
}

/// What is said of a network with web.0, web.1 and db.0, when the kernel's line has these words: its rules, its default, and the log.
fn set_up(words: &[&str]) -> (Vec<String>, bool, Run) {
    let mut bench = Bench::new();
    bench.add_module("vm=web memory=16M net=lan net=lan kernel", &kernel());
    bench.backend.add_program(power_off);
    bench.add_module("vm=db memory=16M net=lan kernel", &kernel());
    bench.backend.add_program(power_off);
    let options = Options { end: End::PowerOff, networks: words.to_vec(), ..Options::default() };
    let (mut list, mut allow) = (Vec::new(), false);
    let look = |node: &Node<'_, _>| {
        let lan = node.networks.find("lan").expect("it is there");
        allow = lan.switch.rules.list(|rule, _, _| list.push(RuleText(rule, lan).to_string()));
    };
    let run = bench.run_between(&options, look, |_| ());
    (list, allow, run)
}

#[test]
fn a_wrong_rule_closes_its_network_and_is_told() {
    for (wrong, told) in [
        ("rule=lan:allow,port=x", "rule=lan: 'port=x' is not possible; write a port"),
        ("rule=lan:allow,from=mail", "rule=lan: 'mail' has no network device there; write a VM"),
        ("rule=lan:port=22", "rule=lan: it begins with 'port=22'; begin with allow or deny"),
        ("rule=lan:deny,protocol=icmp,port=22", "rule=lan: only tcp, udp and sctp have ports"),
        ("rule=lan", "rule=lan: it says nothing; write such as rule=NAME:deny"),
        (
            "network=lan,default=dney",
            "network=lan: 'default=dney' is not possible; write default=allow or default=deny",
        ),
        ("network=lan,defualt=deny", "network=lan: 'defualt=deny' is unknown"),
    ] {
        let (rules, allow, run) = set_up(&["rule=lan:deny,from=web", wrong, "network=lan,age=20"]);
        assert_eq!((rules.as_slice(), allow), (&["deny from=web".to_string()][..], false), "{wrong}");
        assert!(run.logged(told), "{wrong}: {:#?}", run.log);
        assert!(run.logged("network lan: nothing passes that no rule allows"), "{wrong}: {:#?}", run.log);
    }
}

#[test]
fn nothing_is_allowed_behind_what_was_to_be_denied_and_cannot_be_read() {
    let words = [
        "rule=lan:allow,port=22",
        "rule=lan:deny,from=wbe",
        "rule=lan:allow,from=web",
        "rule=lan:deny,vlan=3",
        "network=lan,default=allow",
    ];
    let (rules, allow, run) = set_up(&words);
    assert_eq!((rules, allow), (vec!["allow port=22".to_string(), "deny vlan=3".to_string()], false));
    assert!(run.logged("rule=lan: it is left out: a rule before it cannot be read"), "{:#?}", run.log);
    // Behind one that was to allow something, all holds: less is allowed than was to be.
    let (rules, ..) = set_up(&["rule=lan:allow,from=wbe", "rule=lan:allow,from=db"]);
    assert_eq!(rules, ["allow from=db.0"]);
}

#[test]
fn words_that_close_nothing_leave_the_network_as_it_is() {
    for (wrong, told) in [
        ("network=lan,age=old", "network=lan: 'age=old' is not possible; write age=SECONDS"),
        ("network=other,default=deny", "network=other: no VM is on network 'other'; write the name"),
        ("rule=LAN:deny", "rule=LAN: it names no network of 1 to 31"),
        ("mirror=lan:both=web,to=web.0", "mirror=lan: 'to=web.0' is watched by itself"),
        ("mirror=lan", "mirror=lan: it says nothing; write such as mirror=NAME:both=VM"),
    ] {
        let (rules, allow, run) = set_up(&[wrong]);
        assert!(rules.is_empty() && allow, "{wrong}");
        assert!(run.logged(told), "{wrong}: {:#?}", run.log);
    }
}

/// The example of `docs/guests.md`: what is written there is taken as it is.
#[test]
fn the_documented_example_is_understood() {
    let guide = include_str!("../../../../docs/guests.md");
    let line =
        guide.lines().find_map(|line| line.strip_prefix("multiboot2 /basalt.elf ")).expect("it is there");
    let options = Options { end: End::PowerOff, ..Options::parse(line.split(' ')) };
    let mut bench = Bench::new();
    let example = guide.split_once(line).expect("it is there").1;
    let modules: Vec<&str> =
        example.lines().skip(1).map_while(|line| line.strip_prefix("module2 /vmlinux ")).collect();
    for line in &modules {
        bench.add_module(line.trim(), &kernel());
        bench.backend.add_program(power_off);
    }
    let run = bench.run_with(&options);
    assert_eq!(modules.len(), 4);
    assert!(run.logged("network lan: 5 ports, default deny, 2 rules, 0 mirrors"), "{:#?}", run.log);
    assert!(!run.logged("(in ") && !run.logged("module \""), "{:#?}", run.log);
}

#[test]
fn rules_beyond_the_last_close_the_network() {
    let words = vec!["rule=lan:allow,vlan=1"; vswitch::rules::MOST_RULES + 1];
    let (rules, allow, run) = set_up(&words);
    assert_eq!((rules.len(), allow), (vswitch::rules::MOST_RULES, false));
    assert!(run.logged("256 rules already; delete one"), "{:#?}", run.log.last());
}
