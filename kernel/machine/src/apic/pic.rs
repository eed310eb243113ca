//! The two 8259 interrupt controllers, which are only kept quiet.

// UNSAFETY: writes I/O ports.
#![allow(unsafe_code)]

use x86_64::instructions::port::Port;

const MASTER_COMMAND: u16 = 0x20;
const MASTER_DATA: u16 = 0x21;
const SLAVE_COMMAND: u16 = 0xa0;
const SLAVE_DATA: u16 = 0xa1;
/// ICW1: initialise, a fourth word follows.
const INITIALISE: u8 = 0x11;
/// ICW3: the slave is on the master's third line.
const SLAVE_ON_LINE_2: u8 = 1 << 2;
const SLAVE_IDENTITY: u8 = 2;
/// ICW4: 8086 mode.
const MODE_8086: u8 = 1;
const ALL_MASKED: u8 = 0xff;

/// Moves the controllers' vectors off the exceptions', in case one delivers a spurious interrupt, and masks
/// everything.
pub(super) fn silence(first_vector: u8) {
    let writes = [
        (MASTER_COMMAND, INITIALISE),
        (SLAVE_COMMAND, INITIALISE),
        (MASTER_DATA, first_vector),
        (SLAVE_DATA, first_vector + 8),
        (MASTER_DATA, SLAVE_ON_LINE_2),
        (SLAVE_DATA, SLAVE_IDENTITY),
        (MASTER_DATA, MODE_8086),
        (SLAVE_DATA, MODE_8086),
        (MASTER_DATA, ALL_MASKED),
        (SLAVE_DATA, ALL_MASKED),
    ];
    for (port, value) in writes {
        // SAFETY: the controllers' ports belong to the kernel; masking them can only silence interrupts.
        unsafe { Port::new(port).write(value) };
    }
}
