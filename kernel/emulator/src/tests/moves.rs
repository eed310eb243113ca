//! Moves and addressing.

use super::fake::*;
use crate::{Exception, Fault, InstructionBytes, Mode, Stop};
use vcpu::Gva;

const VALUE: u64 = 0x8182_8384_8586_8788;
const OLD: u64 = 0x1111_2222_3333_4444;

/// Loads from [RBX] into RAX (or what the row names), RAX being `OLD` before.
#[test]
fn loads() {
    let rows: &[(&[u8], usize, u64)] = &[
        (&[0x8a, 0x03], RAX, 0x1111_2222_3333_4488),       // mov al, [rbx]
        (&[0x8a, 0x23], RAX, 0x1111_2222_3333_8844),       // mov ah, [rbx]
        (&[0x66, 0x8b, 0x03], RAX, 0x1111_2222_3333_8788), // mov ax, [rbx]
        (&[0x8b, 0x03], RAX, 0x8586_8788),                 // mov eax, [rbx]
        (&[0x48, 0x8b, 0x03], RAX, VALUE),                 // mov rax, [rbx]
        (&[0x44, 0x8b, 0x03], 8, 0x8586_8788),             // mov r8d, [rbx]
        (&[0x40, 0x8a, 0x33], RSI, 0x1111_2222_3333_4488), // mov sil, [rbx]
        (&[0x0f, 0xb6, 0x03], RAX, 0x88),                  // movzx eax, byte [rbx]
        (&[0x66, 0x0f, 0xb6, 0x03], RAX, 0x1111_2222_3333_0088), // movzx ax, byte [rbx]
        (&[0x48, 0x0f, 0xb7, 0x03], RAX, 0x8788),          // movzx rax, word [rbx]
        (&[0x0f, 0xbe, 0x03], RAX, 0xffff_ff88),           // movsx eax, byte [rbx]
        (&[0x48, 0x0f, 0xbe, 0x03], RAX, 0xffff_ffff_ffff_ff88), // movsx rax, byte [rbx]
        (&[0x48, 0x0f, 0xbf, 0x03], RAX, 0xffff_ffff_ffff_8788), // movsx rax, word [rbx]
        (&[0x48, 0x63, 0x03], RAX, 0xffff_ffff_8586_8788), // movsxd rax, dword [rbx]
        (&[0x0f, 0x38, 0xf0, 0x03], RAX, 0x8887_8685),     // movbe eax, [rbx]
        (&[0x66, 0x0f, 0x38, 0xf0, 0x03], RAX, 0x1111_2222_3333_8887), // movbe ax, [rbx]
        (&[0x0f, 0x44, 0x03], RAX, 0x3333_4444),           // cmove eax, [rbx], ZF clear
        (&[0x0f, 0x45, 0x03], RAX, 0x8586_8788),           // cmovne eax, [rbx]
        (&[0x48, 0x0f, 0x4d, 0x03], RAX, VALUE),           // cmovge rax, [rbx]
        (&[0x66, 0x0f, 0x4c, 0x03], RAX, OLD),             // cmovl ax, [rbx]
    ];
    for (code, register, expected) in rows {
        let mut machine = Machine::at_device(VALUE);
        machine.registers[*register] = OLD;
        machine.run_whole(code);
        assert_eq!(machine.registers[*register], *expected, "{code:02x?}");
        assert_eq!(machine.events.len(), 1, "one access: {code:02x?}");
    }
}

#[test]
fn stores() {
    let rows: &[(&[u8], &[u8])] = &[
        (&[0x88, 0x03], &[0x44]),                   // mov [rbx], al
        (&[0x88, 0x23], &[0x34]),                   // mov [rbx], ah
        (&[0x66, 0x89, 0x03], &[0x44, 0x34]),       // mov [rbx], ax
        (&[0x89, 0x03], &[0x44, 0x34, 0x33, 0x33]), // mov [rbx], eax
        (&[0x48, 0x89, 0x03], &[0x44, 0x34, 0x33, 0x33, 0x22, 0x22, 0x11, 0x11]), // mov [rbx], rax
        (&[0xc6, 0x03, 0x5a], &[0x5a]),             // mov byte [rbx], 0x5a
        (&[0x66, 0xc7, 0x03, 0x34, 0x12], &[0x34, 0x12]), // mov word [rbx], 0x1234
        (&[0xc7, 0x03, 4, 3, 2, 1], &[4, 3, 2, 1]), // mov dword [rbx], imm32
        (&[0x48, 0xc7, 0x03, 0xfe, 0xff, 0xff, 0xff], &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        (&[0x0f, 0xc3, 0x03], &[0x44, 0x34, 0x33, 0x33]), // movnti [rbx], eax
        (&[0x0f, 0x38, 0xf1, 0x03], &[0x33, 0x33, 0x34, 0x44]), // movbe [rbx], eax
        (&[0x0f, 0x94, 0x03], &[0]),                      // sete [rbx]
        (&[0x0f, 0x95, 0x03], &[1]),                      // setne [rbx]
        (&[0x0f, 0x9f, 0x03], &[1]),                      // setg [rbx]
    ];
    for (code, expected) in rows {
        let mut machine = Machine::at_device(u64::MAX);
        machine.registers[RAX] = 0x1111_2222_3333_3444;
        machine.run_whole(code);
        assert_eq!(machine.events, [Event::Write(DEVICE, expected.to_vec())], "{code:02x?}");
    }
}

#[test]
fn every_condition_by_its_meaning() {
    let (cf, pf, zf, sf, of) = (1_u64, 4_u64, 0x40_u64, 0x80_u64, 0x800_u64);
    for combination in 0..32_u64 {
        let bit = |n: u64, flag: u64| if combination >> n & 1 == 1 { flag } else { 0 };
        let rflags = 2 | bit(0, cf) | bit(1, pf) | bit(2, zf) | bit(3, sf) | bit(4, of);
        let has = |flag| rflags & flag != 0;
        let less = has(sf) != has(of);
        let expected = [
            has(of),
            !has(of),
            has(cf),
            !has(cf),
            has(zf),
            !has(zf),
            has(cf) || has(zf),
            !has(cf) && !has(zf),
            has(sf),
            !has(sf),
            has(pf),
            !has(pf),
            less,
            !less,
            has(zf) || less,
            !has(zf) && !less,
        ];
        for (number, holds) in expected.into_iter().enumerate() {
            let mut machine = Machine::at_device(0x77);
            machine.rflags = rflags;
            machine.run_whole(&[0x0f, 0x90 + number as u8, 0x03]);
            assert_eq!(machine.peek(DEVICE, 1), [u8::from(holds)], "setcc {number} at {rflags:#x}");
            for prefix in [&[0x66_u8][..], &[], &[0x48]] {
                let mut code = prefix.to_vec();
                code.extend([0x0f, 0x40 + number as u8, 0x03]);
                machine.registers[RAX] = 0x1234;
                machine.poke(DEVICE, &0x5678_u64.to_le_bytes());
                machine.run_whole(&code);
                assert_eq!(
                    machine.registers[RAX],
                    if holds { 0x5678 } else { 0x1234 },
                    "{code:02x?} {rflags:#x}"
                );
            }
        }
    }
}

/// Every way to form an address; the operand is a doubleword load to EAX and the row tells where it reads.
#[test]
fn addressing_in_64_bit_mode() {
    let rows: &[(&[u8], u64)] = &[
        (&[0x8b, 0x03], 0x10_0000),                                     // [rbx]
        (&[0x8b, 0x43, 0xf0], 0x0f_fff0),                               // [rbx-16]
        (&[0x8b, 0x83, 0, 1, 0, 0], 0x10_0100),                         // [rbx+0x100]
        (&[0x8b, 0x04, 0x0b], 0x10_0020),                               // [rbx+rcx]
        (&[0x8b, 0x04, 0xcb], 0x10_0100),                               // [rbx+rcx*8]
        (&[0x8b, 0x44, 0x8b, 4], 0x10_0084),                            // [rbx+rcx*4+4]
        (&[0x8b, 0x04, 0x8d, 0, 0, 0x10, 0], 0x10_0080),                // [rcx*4+0x100000]
        (&[0x8b, 0x04, 0x25, 0, 0, 0xe0, 0xfe], 0xffff_ffff_fee0_0000), // [disp32], sign-extended
        (&[0x67, 0x8b, 0x04, 0x25, 0, 0, 0xe0, 0xfe], 0xfee0_0000),     // the same, 32-bit address
        (&[0x8b, 0x05, 0, 1, 0, 0], 0x1000 + 6 + 0x100),                // [rip+0x100]
        (&[0x8b, 0x05, 0xf0, 0xff, 0xff, 0xff], 0x1000 + 6 - 16),       // [rip-16]
        (&[0x67, 0x8b, 0x05, 0, 1, 0, 0], 0x1000 + 7 + 0x100),          // [eip+0x100]
        (&[0x67, 0x8b, 0x46, 0x20], 0x10),                              // [esi+0x20], wraps at 4 GiB
        (&[0x64, 0x8b, 0x03], 0x50_0000 + 0x10_0000),                   // fs:[rbx]
        (&[0x65, 0x8b, 0x03], 0xffff_8000_0000_0000 + 0x10_0000),       // gs:[rbx]
        (&[0x2e, 0x8b, 0x03], 0x10_0000),                               // cs: has no base
        (&[0x42, 0x8b, 0x04, 0xa3], 0x10_0000 + 4 * 0x400),             // [rbx+r12*4]
        (&[0x41, 0x8b, 0x45, 0], 0x30_0000),                            // [r13+0]
        (&[0xa1, 8, 7, 6, 5, 4, 3, 0, 0], 0x0304_0506_0708),            // mov eax, moffs64
        (&[0x67, 0xa1, 4, 3, 2, 1], 0x0102_0304),                       // mov eax, moffs32
    ];
    for (code, address) in rows {
        let mut machine = Machine::new(Mode::Long64);
        machine.registers[RBX] = 0x10_0000;
        machine.registers[RCX] = 0x20;
        machine.registers[RSI] = 0xffff_fff0;
        machine.registers[12] = 0x400;
        machine.registers[13] = 0x30_0000;
        for segment in &mut machine.segments {
            segment.base = 0xdead_0000;
        }
        machine.segments[4].base = 0x50_0000;
        machine.segments[5].base = 0xffff_8000_0000_0000;
        machine.run_whole(code);
        assert_eq!(machine.events, [Event::Read(*address, 4)], "{code:02x?}");
    }
}

#[test]
fn addressing_in_16_and_32_bit_modes() {
    // Bytes, mode, linear address. Bases: DS 0x10000, SS 0x20000, ES 0x30000.
    let rows: &[(&[u8], Mode, u64)] = &[
        (&[0x8a, 0x07], Mode::Real, 0x1_0100),         // [bx]
        (&[0x8a, 0x00], Mode::Real, 0x1_0100 + 0x200), // [bx+si]
        (&[0x8a, 0x43, 0x10], Mode::Real, 0x2_0000 + 0x400 + 0x300 + 0x10), // [bp+di+16] in SS
        (&[0x8a, 0x46, 0xff], Mode::Real, 0x2_03ff),   // [bp-1] in SS
        (&[0x8a, 0x06, 0x34, 0x12], Mode::Real, 0x1_1234), // [0x1234]
        (&[0x26, 0x8a, 0x07], Mode::Real, 0x3_0100),   // es:[bx]
        (&[0x8a, 0x87, 0, 0xff], Mode::Real, 0x1_0000), // [bx+0xff00] wraps at 64 KiB
        (&[0xa0, 0x34, 0x12], Mode::Virtual8086, 0x1_1234), // mov al, moffs16
        (&[0x67, 0x8a, 0x03], Mode::Real, 0x1_0100),   // [ebx]
        (&[0x67, 0x8a, 0x04, 0x24], Mode::Protected16, 0x2_0500), // [esp] in SS
        (&[0x8a, 0x03], Mode::Protected32, 0x1_0100),  // [ebx]
        (&[0x8a, 0x45, 0], Mode::Compatibility32, 0x2_0400), // [ebp] in SS
        (&[0x67, 0x8a, 0x07], Mode::Protected32, 0x1_0100), // [bx]
        (&[0x8a, 0x05, 4, 3, 0, 0], Mode::Protected32, 0x1_0304), // [disp32], no RIP here
        (&[0x8a, 0x83, 0, 0, 0xff, 0xff], Mode::Protected32, 0x1_0100 - 0x1_0000), // wraps at 4 GiB
    ];
    for (code, mode, address) in rows {
        let mut machine = Machine::new(*mode);
        machine.registers[RBX] = 0x100;
        machine.registers[RSI] = 0x200;
        machine.registers[RDI] = 0x300;
        machine.registers[RBP] = 0x400;
        machine.registers[RSP] = 0x500;
        machine.segments[0].base = 0x3_0000;
        machine.segments[2].base = 0x2_0000;
        machine.segments[3].base = 0x1_0000;
        machine.run_whole(code);
        assert_eq!(machine.events, [Event::Read(*address, 1)], "{code:02x?}");
    }
}

#[test]
fn exchanges() {
    // xchg [rbx], eax
    let mut machine = Machine::at_device(0xaaaa_bbbb_cccc_dddd);
    machine.registers[RAX] = OLD;
    machine.run_whole(&[0x87, 0x03]);
    assert_eq!(machine.registers[RAX], 0xcccc_dddd);
    assert_eq!(machine.peek_u64(DEVICE), 0xaaaa_bbbb_3333_4444);
    // xchg al, ah
    machine.run_whole(&[0x86, 0xc4]);
    assert_eq!(machine.registers[RAX], 0xcccc_dddd);
    machine.registers[RAX] = 0x1234;
    machine.run_whole(&[0x86, 0xc4]);
    assert_eq!(machine.registers[RAX], 0x3412);
    // lock xadd [rbx], ax
    let mut machine = Machine::at_device(0xffff);
    machine.registers[RAX] = 0x7_0003;
    machine.run_whole(&[0xf0, 0x66, 0x0f, 0xc1, 0x03]);
    assert_eq!((machine.registers[RAX], machine.peek_u64(DEVICE)), (0x7_ffff, 2));
    assert_eq!(machine.rflags & 0x8d5, 0x11, "CF and AF");
    // xadd eax, eax doubles
    machine.registers[RAX] = 21;
    machine.run_whole(&[0x0f, 0xc1, 0xc0]);
    assert_eq!(machine.registers[RAX], 42);
}

#[test]
fn compare_and_exchange() {
    // lock cmpxchg [rbx], ecx
    let code = [0xf0, 0x0f, 0xb1, 0x0b];
    let mut machine = Machine::at_device(5);
    machine.registers[RAX] = 0xffff_ffff_0000_0005;
    machine.registers[RCX] = 9;
    machine.run_whole(&code);
    assert_eq!((machine.peek_u64(DEVICE), machine.rflags & 0x40), (9, 0x40));
    assert_eq!(machine.registers[RAX], 0xffff_ffff_0000_0005, "RAX stays on a match");
    machine.events.clear();
    machine.run_whole(&code);
    assert_eq!((machine.peek_u64(DEVICE), machine.rflags & 0x40, machine.registers[RAX]), (9, 0, 9));
    assert_eq!(machine.events.len(), 2, "memory is written on a mismatch too");
    // cmpxchg8b [rbx]
    let mut machine = Machine::at_device(0x1_0000_0002);
    machine.registers[..3].copy_from_slice(&[2, 0x44, 1]);
    let ebx = DEVICE & 0xffff_ffff;
    machine.rflags = 0x8d7;
    machine.run_whole(&[0x0f, 0xc7, 0x0b]);
    assert_eq!(machine.peek_u64(DEVICE), 0x44_0000_0000 | ebx);
    assert_eq!(machine.rflags, 0x8d7, "only ZF may change");
    machine.run_whole(&[0x0f, 0xc7, 0x0b]);
    assert_eq!((machine.registers[RAX], machine.registers[RDX], machine.rflags), (ebx, 0x44, 0x897));
}

#[test]
fn compare_and_exchange_of_16_bytes() {
    let code = [0xf0, 0x48, 0x0f, 0xc7, 0x0b];
    let mut machine = Machine::at_device(7);
    machine.poke(DEVICE + 8, &8_u64.to_le_bytes());
    machine.registers[..3].copy_from_slice(&[7, 0x1234, 8]);
    machine.run_whole(&code);
    assert_eq!((machine.peek_u64(DEVICE), machine.peek_u64(DEVICE + 8)), (DEVICE, 0x1234));
    machine.run_whole(&code);
    assert_eq!((machine.registers[RAX], machine.registers[RDX]), (DEVICE, 0x1234));
    machine.registers[RBX] += 8;
    assert_eq!(machine.run(&code), Err(Stop::Exception(Exception::GP0)), "misaligned");
}

#[test]
fn a_lost_race_runs_the_instruction_again() {
    let mut machine = Machine::at_device(1);
    machine.lost_races = 1;
    let before = (machine.registers, machine.rflags);
    let code = [0xf0, 0x48, 0x83, 0x2b, 1]; // lock sub qword [rbx], 1
    let executed = machine.run(&code).unwrap();
    assert!(!executed.finished && executed.next_rip == machine.rip);
    assert_eq!((machine.registers, machine.rflags, machine.peek_u64(DEVICE)), (before.0, before.1, 1));
    machine.run_whole(&code);
    assert_eq!((machine.peek_u64(DEVICE), machine.rflags & 0x40), (0, 0x40));
}

#[test]
fn a_fault_changes_nothing() {
    let codes: &[(&[u8], u32)] = &[
        (&[0x8b, 0x03], 0),       // mov eax, [rbx]
        (&[0x89, 0x03], 2),       // mov [rbx], eax
        (&[0x01, 0x03], 2),       // add [rbx], eax: the fault is a write's
        (&[0x87, 0x03], 2),       // xchg [rbx], eax
        (&[0x0f, 0xb1, 0x0b], 2), // cmpxchg [rbx], ecx
        (&[0x0f, 0xc1, 0x0b], 2), // xadd [rbx], ecx
        (&[0x0f, 0xab, 0x03], 2), // bts [rbx], eax
        (&[0x0f, 0xa3, 0x03], 0), // bt [rbx], eax
        (&[0x39, 0x03], 0),       // cmp [rbx], eax
    ];
    for (code, error_code) in codes {
        let mut machine = Machine::at_device(3);
        machine.registers[RAX] = 2;
        machine.rflags = 0x8d7;
        machine.end = DEVICE + 2;
        let before = machine.clone();
        let fault = Exception::page_fault(*error_code, Gva(DEVICE + 2));
        assert_eq!(machine.run(code), Err(Stop::Exception(fault)), "{code:02x?}");
        assert_eq!((machine.registers, machine.rflags), (before.registers, before.rflags));
        assert_eq!(machine.memory, before.memory);
    }
}

#[test]
fn what_is_not_done_says_so() {
    let stop = |mode, code: &[u8]| {
        let mut machine = Machine::new(mode);
        machine.registers[RBX] = DEVICE;
        machine.run(code).unwrap_err()
    };
    let unsupported = |code: &[u8]| Stop::Unsupported(InstructionBytes::new(code));
    for code in [
        &[0x0f, 0x6f, 0x03][..],   // movq mm0, [rbx]
        &[0xf3, 0x0f, 0x6f, 0x03], // movdqu xmm0, [rbx]
        &[0xf2, 0x0f, 0x10, 0x03], // movsd xmm0, [rbx]: no string instruction
        &[0xff, 0x33],             // push [rbx]
        &[0x8c, 0x1b],             // mov [rbx], ds
        &[0xd9, 0x03],             // fld
    ] {
        assert_eq!(stop(Mode::Long64, code), unsupported(code));
    }
    let vector = [0xc5, 0xfe, 0x6f, 0x03]; // vmovdqu ymm0, [rbx]
    assert_eq!(stop(Mode::Long64, &vector), unsupported(&vector));
    let ud = Stop::Exception(Exception::UD);
    assert_eq!(stop(Mode::Long64, &[0x0f, 0x0b]), unsupported(&[0x0f, 0x0b]), "ud2 is an instruction");
    assert_eq!(stop(Mode::Long64, &[0x06, 0x90, 0x90]), ud);
    assert_eq!(stop(Mode::Long64, &[0xf0, 0x8b, 0x03]), ud, "LOCK does not go with a load");
    assert_eq!(stop(Mode::Long64, &[0xf0, 0x01, 0xc0]), ud, "nor with a register destination");
    assert_eq!(stop(Mode::Long64, &[0xf0, 0x39, 0x03]), ud, "nor with CMP");
    assert_eq!(stop(Mode::Long64, &[0x8b]), Stop::Truncated);
    assert_eq!(stop(Mode::Long64, &[]), Stop::Truncated);
    assert_eq!(stop(Mode::Long64, &[0x66; 15]), Stop::Exception(Exception::GP0));
    assert_eq!(std::format!("{}", InstructionBytes::new(&[0x0f, 0xa2])), "0f a2");
}

#[test]
fn refusals_and_retries_come_through() {
    struct Refusing(Machine, Fault);
    let run = |fault| {
        let mut context = Refusing(Machine::at_device(0), fault);
        crate::execute(&[0x8b, 0x03, 0x90], &mut context)
    };
    impl crate::Context for Refusing {
        fn mode(&self) -> Mode {
            self.0.mode
        }
        fn rip(&self) -> u64 {
            self.0.rip
        }
        fn rflags(&self) -> u64 {
            self.0.rflags
        }
        fn set_rflags(&mut self, _: u64) {}
        fn gpr(&self, number: u8) -> u64 {
            self.0.gpr(number)
        }
        fn set_gpr(&mut self, _: u8, _: u64) {
            panic!("nothing changes");
        }
        fn segment(&self, name: crate::SegmentName) -> crate::Segment {
            self.0.segment(name)
        }
        fn read(&mut self, _: Gva, _: &mut [u8]) -> Result<(), Fault> {
            Err(self.1)
        }
        fn write(&mut self, _: Gva, _: &[u8]) -> Result<(), Fault> {
            Err(self.1)
        }
        fn port_read(&mut self, _: u16, _: crate::Width) -> Result<u32, Fault> {
            Err(self.1)
        }
        fn port_write(&mut self, _: u16, _: crate::Width, _: u32) -> Result<(), Fault> {
            Err(self.1)
        }
    }
    assert_eq!(run(Fault::Retry), Err(Stop::Retry));
    assert_eq!(run(Fault::Refused), Err(Stop::Refused(InstructionBytes::new(&[0x8b, 0x03]))));
}
