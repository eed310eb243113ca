//! Power management registers.
//!
//! Source: ACPI Specification, "Fixed ACPI Description Table (FADT)" and "Generic Address Structure".

use vcpu::Hpa;

use super::table::{byte, half_quad, quad, word};

const REVISION: usize = 8;
const DSDT: usize = 40;
const SMI_COMMAND: usize = 48;
const ACPI_ENABLE: usize = 52;
const PM1A_CONTROL: usize = 64;
const PM1B_CONTROL: usize = 68;
const PM_TIMER: usize = 76;
const CENTURY: usize = 108;
const BOOT_ARCHITECTURE: usize = 109;
const FLAGS: usize = 112;
const RESET_REGISTER: usize = 116;
const RESET_VALUE: usize = 128;
const X_DSDT: usize = 140;
const X_PM1A_CONTROL: usize = 172;
const X_PM1B_CONTROL: usize = 184;
const X_PM_TIMER: usize = 208;

/// The first revision that has flags of the boot architecture.
const REVISION_WITH_BOOT_ARCHITECTURE: u8 = 3;
const BOOT_VGA_ABSENT: u16 = 1 << 2;

const FLAG_TIMER_32_BITS: u32 = 1 << 8;
const FLAG_RESET_SUPPORTED: u32 = 1 << 10;

const SPACE_MEMORY: u8 = 0;
const SPACE_PORT: u8 = 1;

/// Where a register is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Register {
    /// An I/O port.
    Port(u16),
    /// Memory.
    Memory(Hpa),
}

/// The power-management timer, which counts at 3.579545 MHz.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PmTimer {
    /// Its I/O port.
    pub(crate) port: u16,
    /// Bits that count: 24 or 32.
    pub(crate) bits: u32,
}

/// What the table says, as far as the kernel uses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Fadt {
    /// Address of the DSDT.
    pub(crate) dsdt: Option<Hpa>,
    /// The power-management timer, where it is at an I/O port.
    pub(crate) pm_timer: Option<PmTimer>,
    /// PM1a control register.
    pub(crate) pm1a_control: Option<u16>,
    /// PM1b control register.
    pub(crate) pm1b_control: Option<u16>,
    /// Port and value that switch to ACPI mode.
    pub(crate) enable: Option<(u16, u8)>,
    /// Register and value that reset the machine.
    pub(crate) reset: Option<(Register, u8)>,
    /// CMOS register of the century.
    pub(crate) century: Option<u8>,
    /// Firmware says that nothing answers at VGA's addresses.
    pub(crate) vga_absent: bool,
}

impl Fadt {
    /// Reads a checked table, of any revision.
    pub(super) fn parse(table: &[u8]) -> Self {
        let flags = half_quad(table, FLAGS).unwrap_or(0);
        let revision = byte(table, REVISION).unwrap_or(0);
        let boot_architecture = word(table, BOOT_ARCHITECTURE)
            .filter(|_| revision >= REVISION_WITH_BOOT_ARCHITECTURE)
            .unwrap_or(0);
        let bits = if flags & FLAG_TIMER_32_BITS != 0 { 32 } else { 24 };
        let port = |extended, plain| match register(table, extended) {
            Some(Register::Port(port)) => Some(port),
            _ => half_quad(table, plain).and_then(nonzero_port),
        };
        let dsdt = quad(table, X_DSDT).filter(|address| *address != 0);
        let dsdt = dsdt.or_else(|| half_quad(table, DSDT).map(u64::from)).filter(|address| *address != 0);
        let command = half_quad(table, SMI_COMMAND).and_then(nonzero_port);
        let enable = byte(table, ACPI_ENABLE).filter(|value| *value != 0);
        let reset = register(table, RESET_REGISTER).filter(|_| flags & FLAG_RESET_SUPPORTED != 0);
        Self {
            dsdt: dsdt.map(Hpa),
            pm_timer: port(X_PM_TIMER, PM_TIMER).map(|port| PmTimer { port, bits }),
            pm1a_control: port(X_PM1A_CONTROL, PM1A_CONTROL),
            pm1b_control: port(X_PM1B_CONTROL, PM1B_CONTROL),
            enable: command.zip(enable),
            reset: reset.zip(byte(table, RESET_VALUE)),
            century: byte(table, CENTURY).filter(|register| *register != 0),
            vga_absent: boot_architecture & BOOT_VGA_ABSENT != 0,
        }
    }
}

fn nonzero_port(address: u32) -> Option<u16> {
    u16::try_from(address).ok().filter(|port| *port != 0)
}

/// A generic address structure: space, width, offset, access size, address.
pub(super) fn register(table: &[u8], offset: usize) -> Option<Register> {
    let [space, ..] = word(table, offset)?.to_le_bytes();
    let address = quad(table, offset + 4).filter(|address| *address != 0)?;
    match space {
        SPACE_PORT => u16::try_from(address).ok().map(Register::Port),
        SPACE_MEMORY => Some(Register::Memory(Hpa(address))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::table::tests::table;
    use super::*;

    fn fadt() -> [u8; 244] {
        let mut bytes = [0; 244];
        bytes[..36].copy_from_slice(&table(*b"FACP", &[]));
        bytes[DSDT..DSDT + 4].copy_from_slice(&0x7fe0_0040_u32.to_le_bytes());
        bytes[SMI_COMMAND] = 0xb2;
        bytes[ACPI_ENABLE] = 0xf1;
        bytes[PM1A_CONTROL..PM1A_CONTROL + 2].copy_from_slice(&0x604_u16.to_le_bytes());
        bytes[PM_TIMER..PM_TIMER + 2].copy_from_slice(&0x608_u16.to_le_bytes());
        bytes[CENTURY] = 0x32;
        bytes
    }

    #[test]
    fn a_table_of_the_first_revision_is_enough() {
        let parsed = Fadt::parse(&fadt()[..116]);
        assert_eq!(parsed.dsdt, Some(Hpa(0x7fe0_0040)));
        assert_eq!(parsed.pm_timer, Some(PmTimer { port: 0x608, bits: 24 }));
        assert_eq!(parsed.pm1a_control, Some(0x604));
        assert_eq!(parsed.pm1b_control, None);
        assert_eq!(parsed.enable, Some((0xb2, 0xf1)));
        assert_eq!(parsed.reset, None);
        assert_eq!(parsed.century, Some(0x32));
    }

    #[test]
    fn what_is_absent_counts_from_the_revision_that_can_say_so() {
        let mut bytes = fadt();
        bytes[BOOT_ARCHITECTURE] = BOOT_VGA_ABSENT as u8;
        assert!(!Fadt::parse(&bytes).vga_absent);
        bytes[REVISION] = REVISION_WITH_BOOT_ARCHITECTURE;
        assert!(Fadt::parse(&bytes).vga_absent);
    }

    #[test]
    fn extended_fields_and_flags_win() {
        let mut bytes = fadt();
        bytes[FLAGS..FLAGS + 4].copy_from_slice(&(FLAG_TIMER_32_BITS | FLAG_RESET_SUPPORTED).to_le_bytes());
        bytes[RESET_REGISTER] = SPACE_PORT;
        bytes[RESET_REGISTER + 4..RESET_REGISTER + 6].copy_from_slice(&0xcf9_u16.to_le_bytes());
        bytes[RESET_VALUE] = 0x0f;
        bytes[X_DSDT..X_DSDT + 8].copy_from_slice(&0x1_2345_6000_u64.to_le_bytes());
        bytes[X_PM_TIMER] = SPACE_PORT;
        bytes[X_PM_TIMER + 4..X_PM_TIMER + 6].copy_from_slice(&0xb008_u16.to_le_bytes());
        let parsed = Fadt::parse(&bytes);
        assert_eq!(parsed.pm_timer, Some(PmTimer { port: 0xb008, bits: 32 }));
        assert_eq!(parsed.dsdt, Some(Hpa(0x1_2345_6000)));
        assert_eq!(parsed.reset, Some((Register::Port(0xcf9), 0x0f)));
    }

    proptest! {
        #[test]
        fn arbitrary_tables_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Fadt::parse(&bytes);
        }
    }
}
