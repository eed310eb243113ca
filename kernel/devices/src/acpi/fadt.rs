//! The fixed ACPI description table.
//!
//! Source: ACPI specification 6.5, "Fixed ACPI Description Table (FADT)".

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::chipset::isa_line;
use crate::pm::PowerManagement;
use crate::power::ResetControl;
use crate::rtc::CENTURY_INDEX;
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

/// IA-PC boot architecture flags. The 8042 flag (bit 1) is clear: there is no keyboard to probe for.
const BOOT_LEGACY_DEVICES: u16 = 1 << 0;
const BOOT_NO_VGA: u16 = 1 << 2;

/// Latencies that mean that the C2 and C3 states do not exist.
const NO_C2: u16 = 0x0fff;
const NO_C3: u16 = 0x0fff;

const EVENT_LENGTH: u8 = 4;
const CONTROL_LENGTH: u8 = 2;
const TIMER_LENGTH: u8 = 4;

const EVENT_PORT: u16 = PowerManagement::PORT;
const CONTROL_PORT: u16 = PowerManagement::PORT + PowerManagement::CONTROL;
const TIMER_PORT: u16 = PowerManagement::PORT + PowerManagement::TIMER;

fn port(port: u16, bytes: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bytes * 8, 0, access, port.into())
}

/// The table, given where FACS and DSDT are.
pub(super) fn build(facs: u32, dsdt: u32) -> FADT {
    // No power-button flag: the button is fixed hardware. The sleep button does not exist, nor wake-up by the RTC.
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup)
        .firmware_ctrl_32(facs);
    fadt.dsdt = dsdt.into();
    fadt.x_dsdt = u64::from(dsdt).into();
    fadt.sci_int = u16::from(isa_line::SCI).into();
    fadt.pm1a_evt_blk = u32::from(EVENT_PORT).into();
    fadt.pm1a_cnt_blk = u32::from(CONTROL_PORT).into();
    fadt.pm_tmr_blk = u32::from(TIMER_PORT).into();
    fadt.pm1_evt_len = EVENT_LENGTH;
    fadt.pm1_cnt_len = CONTROL_LENGTH;
    fadt.pm_tmr_len = TIMER_LENGTH;
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = CENTURY_INDEX;
    fadt.iapc_boot_arch = (BOOT_LEGACY_DEVICES | BOOT_NO_VGA).into();
    fadt.reset_reg = port(ResetControl::PORT, 1, AccessSize::ByteAccess);
    fadt.reset_value = ResetControl::FULL_RESET;
    fadt.x_pm1a_evt_blk = port(EVENT_PORT, EVENT_LENGTH, AccessSize::WordAccess);
    fadt.x_pm1a_cnt_blk = port(CONTROL_PORT, CONTROL_LENGTH, AccessSize::WordAccess);
    fadt.x_pm_tmr_blk = port(TIMER_PORT, TIMER_LENGTH, AccessSize::DwordAccess);
    fadt.finalize()
}
