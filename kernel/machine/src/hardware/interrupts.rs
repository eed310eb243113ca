//! Interrupts of devices that the management domain drives: which vector is whose, and which have come.
//!
//! A vector's handler notes that it has come, masks the pin where that is level-triggered, and ends it at once, so nothing waits for the domain. The
//! CPU loop looks at the notes.
//!
//! Locks: the list of what is open is not taken by handlers.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use spin::Mutex;
use vcpu::{Message, PinMode, SourceId};

use crate::apic::{self, local};

/// The first vector of devices.
const FIRST: u8 = 0x40;
/// How many there are: up to those of the kernel's own.
const COUNT: usize = 0xa0;
/// Where messages of interrupts go (Intel SDM vol. 3, "Message Address Register Format"), and the place of the APIC id.
const MESSAGE_ADDRESS: u64 = 0xfee0_0000;
const DESTINATION_SHIFT: u32 = 12;
/// Ids that a message can name without interrupt remapping.
const LARGEST_DESTINATION: u32 = 0xfe;

/// What a vector is for: nothing, a message, or a pin, with its number.
const FREE: u32 = 0;
const MESSAGE: u32 = 1;
const EDGE: u32 = 2;
const LEVEL: u32 = 3;
const KIND: u32 = 3;
const GSI_SHIFT: u32 = 8;

static USES: [AtomicU32; COUNT] = [const { AtomicU32::new(FREE) }; COUNT];
static CAME: [AtomicU64; COUNT.div_ceil(64)] = [const { AtomicU64::new(0) }; COUNT.div_ceil(64)];
static ANY: AtomicBool = AtomicBool::new(false);
/// The APIC id of the CPU that takes them.
static TAKER: AtomicU32 = AtomicU32::new(0);
/// Held while what is open changes.
static CHANGES: Mutex<()> = Mutex::new(());

pub(super) fn start(apic_id: u32) {
    TAKER.store(apic_id, SeqCst);
}

/// Takes an interrupt of this vector, and ends it. False where no device has the vector.
pub(crate) fn came(vector: u8) -> bool {
    let Some(index) = vector.checked_sub(FIRST).map(usize::from) else { return false };
    let Some(place) = USES.get(index).map(|place| place.load(SeqCst)).filter(|place| *place != FREE) else {
        return false;
    };
    if place & KIND == LEVEL {
        apic::mask_pin(place >> GSI_SHIFT, true);
    }
    if let Some(word) = CAME.get(index / 64) {
        word.fetch_or(1 << (index % 64), SeqCst);
        ANY.store(true, SeqCst);
    }
    local::end_of_interrupt();
    true
}

/// Takes a vector for this.
fn open(place: u32) -> Option<u16> {
    let index = USES.iter().position(|free| free.load(SeqCst) == FREE)?;
    USES.get(index)?.store(place, SeqCst);
    CAME.get(index / 64)?.fetch_and(!(1 << (index % 64)), SeqCst);
    Some(index as u16)
}

fn close(index: u16) {
    let index = usize::from(index);
    if let Some(place) = USES.get(index) {
        place.store(FREE, SeqCst);
    }
    if let Some(word) = CAME.get(index / 64) {
        word.fetch_and(!(1 << (index % 64)), SeqCst);
    }
}

const fn vector(index: u16) -> u8 {
    FIRST + index as u8
}

pub(super) fn open_message() -> Option<(SourceId, Message)> {
    let taker = TAKER.load(SeqCst);
    if taker > LARGEST_DESTINATION {
        return None;
    }
    let _changes = CHANGES.lock();
    let index = open(MESSAGE)?;
    let address = MESSAGE_ADDRESS | u64::from(taker) << DESTINATION_SHIFT;
    Some((SourceId(index), Message { address, data: vector(index).into() }))
}

pub(super) fn close_message(source: SourceId) {
    let _changes = CHANGES.lock();
    let is_message = |place: &AtomicU32| place.load(SeqCst) & KIND == MESSAGE;
    if USES.get(usize::from(source.0)).is_some_and(is_message) {
        close(source.0);
    }
}

/// The vector of a pin, where it has one.
fn of_pin(gsi: u32) -> Option<u16> {
    let is_its = |place: &AtomicU32| {
        let place = place.load(SeqCst);
        matches!(place & KIND, EDGE | LEVEL) && place >> GSI_SHIFT == gsi
    };
    USES.iter().position(is_its).map(|index| index as u16)
}

pub(super) fn open_pin(gsi: u32, mode: PinMode) -> Option<SourceId> {
    let _changes = CHANGES.lock();
    let place = gsi << GSI_SHIFT | if mode.level { LEVEL } else { EDGE };
    let index = match of_pin(gsi) {
        Some(index) => {
            apic::mask_pin(gsi, true);
            USES.get(usize::from(index))?.store(place, SeqCst);
            index
        }
        None => open(place)?,
    };
    if !apic::wire_pin(gsi, mode, vector(index), TAKER.load(SeqCst)) {
        close(index);
        return None;
    }
    Some(SourceId(index))
}

pub(super) fn close_pin(gsi: u32) {
    let _changes = CHANGES.lock();
    if let Some(index) = of_pin(gsi) {
        apic::mask_pin(gsi, true);
        close(index);
    }
}

pub(super) fn any() -> bool {
    ANY.load(SeqCst)
}

pub(super) fn take(each: &mut dyn FnMut(SourceId)) {
    if !ANY.swap(false, SeqCst) {
        return;
    }
    for (word, came) in CAME.iter().enumerate() {
        let mut bits = came.swap(0, SeqCst);
        while bits != 0 {
            each(SourceId((word * 64) as u16 + bits.trailing_zeros() as u16));
            bits &= bits - 1;
        }
    }
}
