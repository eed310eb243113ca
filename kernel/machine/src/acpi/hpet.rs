//! Where the high precision event timer is.
//!
//! Source: IA-PC HPET Specification, "The ACPI 2.0 HPET Description Table (HPET)".

use vcpu::Hpa;

use super::fadt::{Register, register};

/// The registers' address, a generic address structure.
const BASE_ADDRESS: usize = 40;

/// The address of the timer's registers, from a checked table. `None` where they are not in memory.
pub(super) fn parse(table: &[u8]) -> Option<Hpa> {
    match register(table, BASE_ADDRESS)? {
        Register::Memory(at) => Some(at),
        Register::Port(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_registers_in_memory_count() {
        let mut table = [0; 56];
        assert_eq!(parse(&table), None);
        table[44..52].copy_from_slice(&0xfed0_0000_u64.to_le_bytes());
        assert_eq!(parse(&table), Some(Hpa(0xfed0_0000)));
        table[40] = 1;
        assert_eq!(parse(&table), None);
        assert_eq!(parse(&table[..50]), None);
    }
}
