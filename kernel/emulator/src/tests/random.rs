//! Any bytes end in a result.

use proptest::prelude::*;
use std::vec::Vec;

use super::fake::*;
use crate::fuzz::fuzz_one;
use crate::{Context, Mode, execute};

/// Opcodes near those that the emulator executes, so that random bytes come to something more often.
fn likely_code() -> impl Strategy<Value = Vec<u8>> {
    let prefixes = prop::collection::vec(
        prop::sample::select(std::vec![0x66_u8, 0x67, 0xf2, 0xf3, 0xf0, 0x48, 0x41, 0x64, 0x2e]),
        0..4,
    );
    (prefixes, any::<bool>(), prop::collection::vec(any::<u8>(), 15)).prop_map(|(mut code, two, rest)| {
        if two {
            code.push(0x0f);
        }
        code.extend(rest);
        code
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn the_fuzz_entry_returns(data in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz_one(&data);
    }

    #[test]
    fn likely_instructions_return(code in likely_code(), rest in prop::collection::vec(any::<u8>(), 200)) {
        let mut data = code;
        data.truncate(15);
        data.extend(rest);
        fuzz_one(&data);
    }

    /// With memory that always faults no instruction changes anything, unless it does not touch memory.
    #[test]
    fn a_faulting_instruction_changes_nothing(code in likely_code(), registers in any::<[u64; 16]>()) {
        let mut machine = Machine::new(Mode::Long64);
        machine.registers = registers.map(|value| value & 0xffff_ffff);
        machine.registers[1] = 5;
        machine.end = 0;
        let before = (machine.registers, machine.rflags);
        let result = execute(&code, &mut machine);
        if result.is_err() {
            prop_assert_eq!((machine.registers, machine.rflags()), before);
        }
    }
}
