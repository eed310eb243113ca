//! Limits, types and canonical addresses.

use super::fake::*;
use crate::{Exception, Mode, Segment, Stop};

const GP: Result<(), Stop> = Err(Stop::Exception(Exception::GP0));
const SS: Result<(), Stop> = Err(Stop::Exception(Exception::SS0));

/// Runs `code` with EBX (EBP too) = `offset` in a data and stack segment of the given limit and attributes.
fn run(mode: Mode, code: &[u8], offset: u64, limit: u32, attributes: u32) -> Result<(), Stop> {
    let mut machine = Machine::new(mode);
    machine.segments = [Segment { base: 0x1000, limit, attributes }; 6];
    machine.registers[RBX] = offset;
    machine.registers[RBP] = offset;
    machine.run(code).map(|_| ())
}

const LOAD: &[u8] = &[0x8b, 0x03]; // mov eax, [ebx]
const STORE: &[u8] = &[0x89, 0x03]; // mov [ebx], eax
const STACK_LOAD: &[u8] = &[0x8b, 0x45, 0]; // mov eax, [ebp]

#[test]
fn limits() {
    let mode = Mode::Protected32;
    let data = 0xc093;
    assert_eq!(run(mode, LOAD, 0xffc, 0xfff, data), Ok(()));
    assert_eq!(run(mode, LOAD, 0xffd, 0xfff, data), GP);
    assert_eq!(run(mode, STACK_LOAD, 0xffd, 0xfff, data), SS);
    assert_eq!(run(mode, LOAD, 0xffff_fffc, u32::MAX, data), Ok(()));
    assert_eq!(run(mode, LOAD, 0xffff_fffd, u32::MAX, data), GP, "an access does not wrap at 4 GiB");
    let expand_down = 0xc097;
    assert_eq!(run(mode, LOAD, 0xfff, 0xfff, expand_down), GP);
    assert_eq!(run(mode, LOAD, 0x1000, 0xfff, expand_down), Ok(()));
    assert_eq!(run(mode, LOAD, 0xffff_fffd, 0xfff, expand_down), GP);
    let expand_down_16 = 0x0097;
    assert_eq!(run(mode, LOAD, 0xfffc, 0xfff, expand_down_16), Ok(()));
    assert_eq!(run(mode, LOAD, 0xfffd, 0xfff, expand_down_16), GP);
}

#[test]
fn types() {
    let mode = Mode::Compatibility32;
    let (read_only, code, readable_code, unusable) = (0xc091, 0xc099, 0xc09b, 0x1_c093);
    let rmw = [0x01, 0x03]; // add [ebx], eax
    for (attributes, load, store) in
        [(read_only, Ok(()), GP), (code, GP, GP), (readable_code, Ok(()), GP), (unusable, GP, GP)]
    {
        assert_eq!(run(mode, LOAD, 0, 0xfff, attributes), load, "{attributes:#x}");
        assert_eq!(run(mode, STORE, 0, 0xfff, attributes), store, "{attributes:#x}");
        assert_eq!(run(mode, &rmw, 0, 0xfff, attributes), store, "{attributes:#x}");
    }
    assert_eq!(run(mode, STACK_LOAD, 0, 0xfff, unusable), SS);
}

#[test]
fn real_mode_checks_limits_only_and_pushes_no_error_code() {
    let code = 0x9b;
    let store = [0x67, 0x89, 0x03]; // mov [ebx], ax
    assert_eq!(run(Mode::Real, &store, 0x10, 0xffff, code), Ok(()), "a code segment can be written");
    let gp = Exception { error_code: None, ..Exception::GP0 };
    assert_eq!(run(Mode::Real, &store, 0xffff, 0xffff, code), Err(Stop::Exception(gp)));
    assert_eq!(run(Mode::Virtual8086, &store, 0xffff, 0xffff, code), GP);
}

#[test]
fn canonical_addresses() {
    let mode = Mode::Long64;
    let run = |code: &[u8], offset| run(mode, code, offset, 0, 0x1_0000);
    for good in [0, 0x7fff_ffff_fffc, 0xffff_8000_0000_0000, u64::MAX - 3] {
        assert_eq!(run(LOAD, good), Ok(()), "{good:#x}: neither limit nor type count");
    }
    for bad in [0x7fff_ffff_fffd, 0x8000_0000_0000, 0xffff_7fff_ffff_fffc, 1 << 63, u64::MAX - 2] {
        assert_eq!(run(LOAD, bad), GP, "{bad:#x}");
        assert_eq!(run(STORE, bad), GP, "{bad:#x}");
        assert_eq!(run(STACK_LOAD, bad), SS, "{bad:#x}");
    }
}
