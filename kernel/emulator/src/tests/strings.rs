//! String and port instructions.

use std::vec;
use std::vec::Vec;

use vcpu::Gva;

use super::fake::*;
use crate::{Exception, Executed, Mode, REPEAT_BUDGET, Stop, Width};

const REP: u8 = 0xf3;
const REPNE: u8 = 0xf2;

fn long() -> Machine {
    let mut machine = Machine::new(Mode::Long64);
    machine.registers[RSI] = 0x5000;
    machine.registers[RDI] = 0x9000;
    machine
}

#[test]
fn single_elements_step_by_their_width() {
    for (code, bytes) in [(&[0xa4][..], 1), (&[0x66, 0xa5], 2), (&[0xa5], 4), (&[0x48, 0xa5], 8)] {
        for backwards in [false, true] {
            let mut machine = long();
            machine.registers[RCX] = 77;
            machine.poke(0x5000, &[1, 2, 3, 4, 5, 6, 7, 8]);
            machine.rflags = if backwards { 0x402 } else { 2 };
            machine.run_whole(code);
            let step = if backwards { -bytes } else { bytes };
            assert_eq!(machine.registers[RSI], 0x5000_u64.wrapping_add_signed(step));
            assert_eq!(machine.registers[RDI], 0x9000_u64.wrapping_add_signed(step));
            assert_eq!(machine.registers[RCX], 77);
            assert_eq!(machine.peek(0x9000, 8)[..bytes as usize], [1, 2, 3, 4, 5, 6, 7, 8][..bytes as usize]);
        }
    }
}

#[test]
fn repeated_moves_copy() {
    let mut machine = long();
    let data: Vec<u8> = (0..200).collect();
    machine.poke(0x5000, &data);
    machine.registers[RCX] = 50;
    machine.run_whole(&[REP, 0xa5]);
    assert_eq!(machine.peek(0x9000, 200), data);
    assert_eq!((machine.registers[RCX], machine.registers[RSI], machine.registers[RDI]), (0, 0x50c8, 0x90c8));
    machine.events.clear();
    machine.run_whole(&[REP, 0xa5]);
    assert!(machine.events.is_empty(), "a count of zero does nothing");
    machine.registers[RCX] = 3;
    machine.run_whole(&[REPNE, 0xa4]);
    assert_eq!(machine.registers[RCX], 0, "REPNE repeats a move too");
}

#[test]
fn the_budget_ends_a_call_and_the_next_goes_on() {
    let count = u64::from(REPEAT_BUDGET) * 2 + 10;
    let mut machine = long();
    machine.registers[RCX] = count;
    machine.registers[RAX] = 0xab;
    let code = [REP, 0xaa]; // rep stosb
    for call in 1..=2 {
        let executed = machine.run(&code).unwrap();
        assert_eq!(executed, Executed { next_rip: machine.rip, finished: false });
        assert_eq!(machine.registers[RCX], count - call * u64::from(REPEAT_BUDGET));
    }
    machine.run_whole(&code);
    assert_eq!((machine.registers[RCX], machine.registers[RDI]), (0, 0x9000 + count));
    assert!(machine.peek(0x9000, count as usize).iter().all(|&byte| byte == 0xab));
    machine.registers[RCX] = u64::from(REPEAT_BUDGET);
    machine.run_whole(&code);
}

#[test]
fn single_stepping_stops_after_each_element() {
    const TF: u64 = 1 << 8;
    let mut machine = long();
    machine.rflags |= TF;
    machine.registers[RCX] = 2;
    let code = [REP, 0xaa]; // rep stosb
    let executed = machine.run(&code).unwrap();
    assert_eq!(executed, Executed { next_rip: machine.rip, finished: false });
    assert_eq!(machine.registers[RCX], 1);
    assert!(machine.run(&code).unwrap().finished, "the last one ends the instruction");
}

#[test]
fn a_fault_keeps_the_iterations_before_it() {
    let mut machine = long();
    machine.registers[RCX] = 10;
    machine.end = 0x9010;
    machine.poke(0x5000, &[7; 40]);
    let fault = Exception::page_fault(2, Gva(0x9010));
    assert_eq!(machine.run(&[REP, 0xa5]), Err(Stop::Exception(fault)));
    assert_eq!((machine.registers[RCX], machine.registers[RSI], machine.registers[RDI]), (6, 0x5010, 0x9010));
    assert_eq!(machine.events.last(), Some(&Event::Read(0x5010, 4)), "same page: the read came first");
    machine.end = u64::MAX;
    machine.run_whole(&[REP, 0xa5]);
    assert_eq!(machine.peek(0x9000, 40), [7; 40]);
}

#[test]
fn nothing_is_taken_from_a_device_for_a_page_that_cannot_be_written() {
    for code in [&[0xa5][..], &[REP, 0xa5], &[0x6d], &[REP, 0x6c]] {
        let mut machine = long();
        machine.registers[RCX] = 4;
        machine.read_only_from = 0x9000;
        let fault = Exception::page_fault(2, Gva(0x9000));
        let before = machine.registers;
        assert_eq!(machine.run(code), Err(Stop::Exception(fault)), "{code:02x?}");
        assert_eq!((machine.events.len(), machine.registers), (0, before));
    }
}

#[test]
fn scans_and_comparisons_stop_where_told() {
    // repne scasb: find the zero
    let mut machine = long();
    machine.poke(0x9000, b"basalt");
    machine.registers[RCX] = 100;
    machine.run_whole(&[REPNE, 0xae]);
    assert_eq!((machine.registers[RCX], machine.registers[RDI]), (93, 0x9007));
    assert_eq!(machine.rflags & 0x40, 0x40);
    // repe cmpsb: find the difference
    let mut machine = long();
    machine.poke(0x5000, b"abcX");
    machine.poke(0x9000, b"abcY");
    machine.registers[RCX] = 4;
    machine.run_whole(&[REP, 0xa6]);
    assert_eq!((machine.registers[RCX], machine.registers[RSI]), (0, 0x5004));
    assert_eq!(machine.rflags & 0x41, 1, "X is below Y: CF, not ZF");
    // a comparison of zero elements leaves the flags
    machine.rflags = 0x8d7;
    machine.run_whole(&[REP, 0xa6]);
    assert_eq!(machine.rflags, 0x8d7);
}

#[test]
fn loads_merge_into_the_accumulator() {
    let mut machine = long();
    machine.poke(0x5000, &[0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]);
    machine.registers[RAX] = u64::MAX;
    machine.run_whole(&[0xac]); // lodsb
    assert_eq!(machine.registers[RAX], 0xffff_ffff_ffff_ff11);
    machine.run_whole(&[0xad]); // lodsd
    assert_eq!(machine.registers[RAX], 0x5544_3322);
}

#[test]
fn narrow_addresses_wrap_and_keep_the_upper_halves() {
    // Real mode: SI is 16 bits wide, DS and ES have bases, an override moves the source.
    let mut machine = Machine::new(Mode::Real);
    machine.segments[0].base = 0x3_0000;
    machine.segments[1].base = 0x7_0000;
    machine.segments[3].base = 0x1_0000;
    machine.registers[RSI] = 0xaaaa_0000_ffff;
    machine.registers[RDI] = 0xbbbb_0000_0010;
    machine.registers[RCX] = 0xcccc_0000_0002;
    machine.run_whole(&[0x2e, REP, 0xa4]); // rep movsb es:[di], cs:[si]
    let reads: Vec<_> =
        machine.events.iter().filter(|event| matches!(event, Event::Read(..))).cloned().collect();
    assert_eq!(reads, [Event::Read(0x7_ffff, 1), Event::Read(0x7_0000, 1)]);
    assert_eq!(machine.registers[RSI], 0xaaaa_0000_0001);
    assert_eq!(machine.registers[RDI], 0xbbbb_0000_0012);
    assert_eq!(machine.registers[RCX], 0xcccc_0000_0000);
    // 32-bit addresses in 64-bit mode: upper halves are cleared.
    let mut machine = long();
    machine.registers[RDI] = 0xffff_0000_0000_9000;
    machine.registers[RCX] = 0xffff_0000_0000_0001;
    machine.run_whole(&[0x67, REP, 0xaa]);
    assert_eq!((machine.registers[RDI], machine.registers[RCX]), (0x9001, 0));
}

#[test]
fn ports() {
    let run = |code: &[u8]| {
        let mut machine = Machine::new(Mode::Long64);
        machine.registers[RAX] = 0x1111_2222_3333_4444;
        machine.registers[RDX] = 0xffff_03f8;
        machine.port_value = 0x8765_4320;
        machine.run_whole(code);
        (machine.registers[RAX], machine.events)
    };
    assert_eq!(run(&[0xec]), (0x1111_2222_3333_4421, vec![Event::In(0x3f8, Width::Byte)]));
    assert_eq!(run(&[0x66, 0xed]), (0x1111_2222_3333_4321, vec![Event::In(0x3f8, Width::Word)]));
    assert_eq!(run(&[0xe5, 0x40]), (0x8765_4321, vec![Event::In(0x40, Width::Dword)]));
    assert_eq!(run(&[0xee]).1, [Event::Out(0x3f8, Width::Byte, 0x44)]);
    assert_eq!(run(&[0xef]).1, [Event::Out(0x3f8, Width::Dword, 0x3333_4444)]);
    assert_eq!(run(&[0x66, 0xe7, 0x80]).1, [Event::Out(0x80, Width::Word, 0x4444)]);
}

#[test]
fn string_ports() {
    let mut machine = long();
    machine.registers[RDX] = 0x1f0;
    machine.registers[RCX] = 3;
    machine.run_whole(&[REP, 0x66, 0x6d]); // rep insw
    assert_eq!(machine.peek(0x9000, 8), [1, 0, 2, 0, 3, 0, 0, 0]);
    machine.poke(0x5000, &[0xaa, 0xbb]);
    machine.registers[RCX] = 2;
    machine.events.clear();
    machine.run_whole(&[REP, 0x6e]); // rep outsb
    let out: Vec<_> =
        machine.events.iter().filter(|event| matches!(event, Event::Out(..))).cloned().collect();
    assert_eq!(out, [Event::Out(0x1f0, Width::Byte, 0xaa), Event::Out(0x1f0, Width::Byte, 0xbb)]);
    assert_eq!(machine.registers[RSI], 0x5002);
}
