//! Intercepted instructions.

use super::fake::*;
use crate::{Access, Gpr, Intercept, Intercepted, Mode, Operand, Width, decode_intercept, length};

const MODES: [Mode; 7] = [
    Mode::Real,
    Mode::Virtual8086,
    Mode::Protected16,
    Mode::Protected32,
    Mode::Compatibility16,
    Mode::Compatibility32,
    Mode::Long64,
];

#[test]
fn instructions_without_operands_in_every_mode() {
    let rows: &[(&[u8], Intercept)] = &[
        (&[0xf4], Intercept::Hlt),
        (&[0x0f, 0xa2], Intercept::Cpuid),
        (&[0x0f, 0x32], Intercept::Rdmsr),
        (&[0x0f, 0x30], Intercept::Wrmsr),
        (&[0x0f, 0x31], Intercept::Rdtsc),
        (&[0x0f, 0x33], Intercept::Rdpmc),
        (&[0x0f, 0x06], Intercept::Clts),
        (&[0x0f, 0x08], Intercept::Invd),
        (&[0x0f, 0x09], Intercept::Wbinvd),
        (&[0x0f, 0xaa], Intercept::Rsm),
        (&[0xf3, 0x90], Intercept::Pause),
        (&[0x0f, 0x01, 0xc1], Intercept::Vmcall),
        (&[0x0f, 0x01, 0xd9], Intercept::Vmmcall),
        (&[0x0f, 0x01, 0xd1], Intercept::Xsetbv),
        (&[0x0f, 0x01, 0xf9], Intercept::Rdtscp),
        (&[0x0f, 0x01, 0xc8], Intercept::Monitor),
        (&[0x0f, 0x01, 0xc9], Intercept::Mwait),
        (&[0x0f, 0x01, 0xd8], Intercept::Svm),
        (&[0x0f, 0x01, 0xda], Intercept::Svm),
        (&[0x0f, 0x01, 0xdb], Intercept::Svm),
        (&[0x0f, 0x01, 0xdc], Intercept::Svm),
        (&[0x0f, 0x01, 0xdd], Intercept::Svm),
        (&[0x0f, 0x01, 0xde], Intercept::Svm),
        (&[0x0f, 0x01, 0xc2], Intercept::Vmx),
    ];
    for (code, intercept) in rows {
        for mode in MODES {
            let expected = Intercepted { intercept: *intercept, length: code.len() as u8 };
            assert_eq!(decode_intercept(code, mode), Some(expected), "{code:02x?} {mode:?}");
            assert_eq!(length(code, mode), Some(expected.length));
            // With a prefix that means nothing, which takes the way through the decoder.
            let mut prefixed = std::vec![0x2e];
            prefixed.extend_from_slice(code);
            let expected = Intercepted { length: expected.length + 1, ..expected };
            assert_eq!(decode_intercept(&prefixed, mode), Some(expected), "{prefixed:02x?} {mode:?}");
            assert_eq!(decode_intercept(&code[..code.len() - 1], mode), None, "incomplete: {code:02x?}");
        }
    }
    for other in [&[0x90][..], &[0x8b, 0x03], &[0x0f, 0x0b], &[0x0f, 0x01, 0xf8], &[]] {
        assert_eq!(decode_intercept(other, Mode::Long64), None, "{other:02x?}");
    }
}

#[test]
fn control_and_debug_registers() {
    let gpr = |number, width| Gpr::new(number, width);
    let (dword, qword) = (Width::Dword, Width::Qword);
    let rows: &[(&[u8], Mode, Intercept)] = &[
        (&[0x0f, 0x20, 0xc0], Mode::Long64, Intercept::ReadCr { cr: 0, gpr: gpr(0, qword) }),
        (&[0x0f, 0x20, 0xc0], Mode::Real, Intercept::ReadCr { cr: 0, gpr: gpr(0, dword) }),
        (&[0x0f, 0x22, 0xd9], Mode::Protected32, Intercept::WriteCr { cr: 3, gpr: gpr(1, dword) }),
        (&[0x0f, 0x22, 0x19], Mode::Protected32, Intercept::WriteCr { cr: 3, gpr: gpr(1, dword) }), // mod ignored
        (&[0x41, 0x0f, 0x22, 0xe4], Mode::Long64, Intercept::WriteCr { cr: 4, gpr: gpr(12, qword) }),
        (&[0x44, 0x0f, 0x20, 0xc2], Mode::Long64, Intercept::ReadCr { cr: 8, gpr: gpr(2, qword) }),
        (&[0x0f, 0x21, 0xf8], Mode::Long64, Intercept::ReadDr { dr: 7, gpr: gpr(0, qword) }),
        (&[0x0f, 0x23, 0xc3], Mode::Protected16, Intercept::WriteDr { dr: 0, gpr: gpr(3, dword) }),
    ];
    for (code, mode, intercept) in rows {
        let expected = Intercepted { intercept: *intercept, length: code.len() as u8 };
        assert_eq!(decode_intercept(code, *mode), Some(expected), "{code:02x?}");
    }
}

#[test]
fn operands() {
    let mut machine = Machine::new(Mode::Long64);
    machine.registers[RBX] = DEVICE;
    let decoded = |code: &[u8]| decode_intercept(code, Mode::Long64).map(|intercepted| intercepted.intercept);
    let ax = Gpr::new(0, Width::Word);
    assert_eq!(
        decoded(&[0x0f, 0x01, 0xf0]).unwrap(),
        Intercept::Lmsw(Operand::Register(Gpr { width: Width::Dword, ..ax }))
    );
    assert_eq!(decoded(&[0x66, 0x0f, 0x01, 0xe0]).unwrap(), Intercept::Smsw(Operand::Register(ax)));
    let Some(Intercept::Smsw(Operand::Memory(operand))) = decoded(&[0x0f, 0x01, 0x63, 0x10]) else {
        panic!()
    };
    assert_eq!(operand.linear(&machine, 2, Access::Write).unwrap().0, DEVICE + 0x10);
    let Some(Intercept::Invlpg(operand)) = decoded(&[0x0f, 0x01, 0x3d, 0x10, 0, 0, 0]) else { panic!() };
    assert_eq!(operand.offset(&machine), machine.rip + 7 + 0x10, "relative to the next instruction");
    let Some(Intercept::Invpcid { kind, descriptor }) = decoded(&[0x66, 0x0f, 0x38, 0x82, 0x03]) else {
        panic!()
    };
    assert_eq!((kind.number, descriptor.offset(&machine)), (0, DEVICE));
}

#[test]
fn lengths() {
    assert_eq!(length(&[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0x90], Mode::Long64), Some(10));
    assert_eq!(length(&[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0x90], Mode::Protected32), Some(1), "dec eax");
    assert_eq!(length(&[0x48, 0xb8, 1], Mode::Long64), None);
    assert_eq!(length(&[0xc5, 0xf8, 0x77], Mode::Long64), None, "VEX");
}
