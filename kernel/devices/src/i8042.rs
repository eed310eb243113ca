//! An i8042 keyboard controller with nothing attached: enough for firmware's self test and for the reset that old
//! software asks it for. The ACPI tables say that there is none, so that systems do not probe for a keyboard.
//!
//! Source: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller".

use crate::power::PowerEvent;

/// Commands to port 0x64.
mod command {
    pub(super) const READ_CONFIGURATION: u8 = 0x20;
    pub(super) const WRITE_CONFIGURATION: u8 = 0x60;
    pub(super) const DISABLE_AUXILIARY: u8 = 0xa7;
    pub(super) const ENABLE_AUXILIARY: u8 = 0xa8;
    pub(super) const TEST_AUXILIARY: u8 = 0xa9;
    pub(super) const SELF_TEST: u8 = 0xaa;
    pub(super) const TEST_KEYBOARD: u8 = 0xab;
    pub(super) const DISABLE_KEYBOARD: u8 = 0xad;
    pub(super) const ENABLE_KEYBOARD: u8 = 0xae;
    pub(super) const READ_INPUT_PORT: u8 = 0xc0;
    pub(super) const READ_OUTPUT_PORT: u8 = 0xd0;
    pub(super) const WRITE_OUTPUT_PORT: u8 = 0xd1;
    pub(super) const WRITE_KEYBOARD_BUFFER: u8 = 0xd2;
    pub(super) const WRITE_AUXILIARY: u8 = 0xd4;
    /// 0xf0 to 0xff pulse the output port's low bits that are clear in the command.
    pub(super) const PULSE: u8 = 0xf0;
}

const SELF_TEST_PASSED: u8 = 0x55;
const KEYBOARD_LINES_GOOD: u8 = 0x00;
/// Clock line stuck low: how a missing auxiliary port answers its test.
const AUXILIARY_MISSING: u8 = 0x01;
/// Input port: keyboard not locked.
const INPUT_PORT: u8 = 0x80;

/// Output port bit 0: when clear, the processor is held in reset.
const OUTPUT_NOT_RESET: u8 = 1 << 0;
const OUTPUT_A20: u8 = 1 << 1;

const STATUS_OUTPUT_FULL: u8 = 1 << 0;
const STATUS_SYSTEM: u8 = 1 << 2;
const STATUS_COMMAND: u8 = 1 << 3;
const STATUS_NOT_LOCKED: u8 = 1 << 4;

const CONFIGURATION_KEYBOARD_INTERRUPT: u8 = 1 << 0;
const CONFIGURATION_SYSTEM: u8 = 1 << 2;
const CONFIGURATION_KEYBOARD_DISABLED: u8 = 1 << 4;
const CONFIGURATION_AUXILIARY_DISABLED: u8 = 1 << 5;

/// The controller. Its line level (ISA line 1) is [`I8042::irq`].
#[derive(Clone, Debug)]
pub struct I8042 {
    configuration: u8,
    output_port: u8,
    /// The byte that waits in port 0x60, and whether it was read.
    output: u8,
    output_full: bool,
    last_was_command: bool,
    /// The command whose data byte comes next through port 0x60.
    awaiting: Option<u8>,
}

impl Default for I8042 {
    fn default() -> Self {
        Self::new()
    }
}

impl I8042 {
    /// As firmware leaves it: both ports disabled, interrupts off.
    pub const fn new() -> Self {
        Self {
            configuration: CONFIGURATION_KEYBOARD_DISABLED
                | CONFIGURATION_AUXILIARY_DISABLED
                | CONFIGURATION_SYSTEM,
            output_port: OUTPUT_NOT_RESET | OUTPUT_A20,
            output: 0,
            output_full: false,
            last_was_command: false,
            awaiting: None,
        }
    }

    /// The level of the interrupt line.
    #[inline]
    pub fn irq(&self) -> bool {
        self.output_full && self.configuration & CONFIGURATION_KEYBOARD_INTERRUPT != 0
    }

    /// Reads port 0x60.
    pub fn read_data(&mut self) -> u8 {
        self.output_full = false;
        self.output
    }

    /// Reads port 0x64.
    pub fn read_status(&self) -> u8 {
        let mut status = STATUS_NOT_LOCKED;
        if self.output_full {
            status |= STATUS_OUTPUT_FULL;
        }
        if self.configuration & CONFIGURATION_SYSTEM != 0 {
            status |= STATUS_SYSTEM;
        }
        if self.last_was_command {
            status |= STATUS_COMMAND;
        }
        status
    }

    /// Writes port 0x60: data of the last command, or a byte to a keyboard that is not there.
    pub fn write_data(&mut self, value: u8) -> Option<PowerEvent> {
        self.last_was_command = false;
        match self.awaiting.take() {
            Some(command::WRITE_CONFIGURATION) => self.configuration = value,
            Some(command::WRITE_OUTPUT_PORT) => {
                self.output_port = value | OUTPUT_NOT_RESET;
                if value & OUTPUT_NOT_RESET == 0 {
                    return Some(PowerEvent::Reset);
                }
            }
            Some(command::WRITE_KEYBOARD_BUFFER) => self.answer(value),
            _ => {}
        }
        None
    }

    /// Writes port 0x64: a command. Those unknown do nothing.
    pub fn write_command(&mut self, value: u8) -> Option<PowerEvent> {
        self.last_was_command = true;
        self.awaiting = None;
        match value {
            command::READ_CONFIGURATION => self.answer(self.configuration),
            command::WRITE_CONFIGURATION
            | command::WRITE_OUTPUT_PORT
            | command::WRITE_KEYBOARD_BUFFER..=command::WRITE_AUXILIARY => self.awaiting = Some(value),
            command::DISABLE_AUXILIARY => self.configuration |= CONFIGURATION_AUXILIARY_DISABLED,
            command::ENABLE_AUXILIARY => self.configuration &= !CONFIGURATION_AUXILIARY_DISABLED,
            command::TEST_AUXILIARY => self.answer(AUXILIARY_MISSING),
            command::SELF_TEST => self.answer(SELF_TEST_PASSED),
            command::TEST_KEYBOARD => self.answer(KEYBOARD_LINES_GOOD),
            command::DISABLE_KEYBOARD => self.configuration |= CONFIGURATION_KEYBOARD_DISABLED,
            command::ENABLE_KEYBOARD => self.configuration &= !CONFIGURATION_KEYBOARD_DISABLED,
            command::READ_INPUT_PORT => self.answer(INPUT_PORT),
            command::READ_OUTPUT_PORT => self.answer(self.output_port),
            command::PULSE.. if value & OUTPUT_NOT_RESET == 0 => return Some(PowerEvent::Reset),
            _ => {}
        }
        None
    }

    fn answer(&mut self, value: u8) {
        self.output = value;
        self.output_full = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn self_test_and_configuration() {
        let mut controller = I8042::new();
        assert_eq!(controller.read_status() & STATUS_OUTPUT_FULL, 0);
        controller.write_command(command::SELF_TEST);
        assert_eq!(controller.read_status() & STATUS_OUTPUT_FULL, STATUS_OUTPUT_FULL);
        assert_eq!(controller.read_data(), SELF_TEST_PASSED);
        assert_eq!(controller.read_status() & STATUS_OUTPUT_FULL, 0);
        controller.write_command(command::WRITE_CONFIGURATION);
        controller.write_data(CONFIGURATION_KEYBOARD_INTERRUPT);
        assert!(!controller.irq());
        controller.write_command(command::READ_CONFIGURATION);
        assert!(controller.irq());
        assert_eq!(controller.read_data(), CONFIGURATION_KEYBOARD_INTERRUPT);
        assert!(!controller.irq());
    }

    #[test]
    fn resets_by_pulse_and_by_output_port() {
        let mut controller = I8042::new();
        assert_eq!(controller.write_command(0xff), None);
        assert_eq!(controller.write_command(0xfe), Some(PowerEvent::Reset));
        controller.write_command(command::WRITE_OUTPUT_PORT);
        assert_eq!(controller.write_data(0xdf), None);
        controller.write_command(command::WRITE_OUTPUT_PORT);
        assert_eq!(controller.write_data(0xfe), Some(PowerEvent::Reset));
    }

    #[test]
    fn a_missing_keyboard_does_not_answer() {
        let mut controller = I8042::new();
        controller.write_data(0xff);
        assert_eq!(controller.read_status() & STATUS_OUTPUT_FULL, 0);
    }
}
