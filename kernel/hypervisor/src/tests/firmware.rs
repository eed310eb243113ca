//! The devices that a VM's line switches on.

use std::string::String;
use std::vec;
use std::vec::Vec;

use vcpu::GuestMemory;

use super::bench::{Bench, Step, step};

const DEBUG_EXIT: u16 = 0x501;

/// A VM with this line whose guest does these steps and then exits with 7.
fn run(
    line: &str,
    file: Option<(&str, &[u8])>,
    mut steps: Vec<Step>,
    room: Option<usize>,
) -> super::bench::Run {
    let mut bench = Bench::new();
    if let Some(room) = room {
        (bench.host.output_burst, bench.host.output_room) = (room, 0);
    }
    bench.add_module(line, &super::bench::kernel());
    if let Some((line, bytes)) = file {
        bench.add_module(line, bytes);
    }
    steps.push(step(|guest| guest.port_write(DEBUG_EXIT, 4, 7)));
    bench.backend.add_program(move |guest| match steps.get_mut(guest.step) {
        Some(step) => step(guest),
        None => panic!("the VM was not stopped"),
    });
    bench.run()
}

#[test]
fn a_debug_exit_ends_the_vm_without_a_dump() {
    let run = run("vm=demo memory=16M debug-exit=0x501 kernel", None, vec![], None);
    assert!(run.logged("vm demo: stopped: debug exit with 0x7"), "{:#?}", run.log);
    assert!(!run.logged("RIP="));
}

#[test]
fn a_port_can_be_given_away_once() {
    let mut bench = Bench::new();
    bench.add_module("vm=demo debug-exit=0x3f8 kernel", &super::bench::kernel());
    bench.backend.add_program(|_| panic!("the VM was started"));
    let run = bench.run();
    assert!(run.logged("vm demo: not started: debug-exit=0x3f8: another device"), "{:#?}", run.log);
}

/// The console takes a few bytes a millisecond; the guest writes without looking.
#[test]
fn the_debug_console_loses_nothing() {
    let text: Vec<u8> = (0..20_000_u32).map(|index| b'a' + (index % 26) as u8).collect();
    let expected = String::from_utf8(text.clone()).unwrap();
    let write = |byte: u8| step(move |guest| guest.port_write(0xe9, 1, byte.into()));
    let steps = text.into_iter().map(write).collect();
    let run = run("vm=demo memory=16M e9 debug-exit=0x501 kernel", None, steps, Some(100));
    let shown: String = run.shown.chars().filter(char::is_ascii_lowercase).collect();
    assert!(shown.contains(&expected), "{} bytes shown", shown.len());
}

/// The guest describes a copy of 300 KiB, triggers it, and finds it done when it goes on.
#[test]
fn a_copy_is_done_before_the_guest_goes_on() {
    const DESCRIPTION: u64 = 0x28_0000;
    const TARGET: u64 = 0x30_0000;
    const LENGTH: u32 = 300 << 10;
    // etc/e820 is the first file.
    const SELECT_AND_READ: u32 = 0x21 << 16 | 8 | 2;
    let content = vec![0x5a; LENGTH as usize];
    let mut description = SELECT_AND_READ.to_be_bytes().to_vec();
    description.extend(LENGTH.to_be_bytes());
    description.extend(TARGET.to_be_bytes());
    let words: Vec<u64> =
        description.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
    let steps = vec![
        step(move |guest| {
            guest.memory.write(vcpu::Gpa(DESCRIPTION), &words[0].to_le_bytes()).unwrap();
            guest.memory.write(vcpu::Gpa(DESCRIPTION + 8), &words[1].to_le_bytes()).unwrap();
            guest.port_write(0x518, 4, (DESCRIPTION as u32).swap_bytes())
        }),
        step(|guest| {
            let mut first = [0; 4];
            guest.memory.read(vcpu::Gpa(DESCRIPTION), &mut first).unwrap();
            assert_eq!(first, [0; 4], "the control field");
            let mut copy = vec![0; LENGTH as usize];
            guest.memory.read(vcpu::Gpa(TARGET), &mut copy).unwrap();
            assert!(copy.iter().all(|byte| *byte == 0x5a));
            guest.port_read(0x511, 1)
        }),
    ];
    let line = "vm=demo memory=16M debug-exit=0x501 kernel -- quiet";
    let run = run(line, Some(("vm=demo fwcfg=opt/big", &content)), steps, None);
    assert!(run.logged("debug exit with 0x7"), "{:#?}", run.log);
}
