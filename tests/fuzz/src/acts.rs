//! What a guest can do to a virtio device.

use arbitrary::{Arbitrary, Result, Unstructured};
use devices::Width;

use crate::guest::{Buffer, QUEUES};

/// One thing.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// It writes to the BAR.
    Write { offset: u64, width: Width, value: u64 },
    /// It reads from the BAR.
    Read { offset: u64, width: Width },
    /// It writes to its memory.
    Poke { at: u64, value: u64 },
    /// It makes a request of a queue, as drivers do.
    Offer { queue: usize, buffers: Vec<Buffer> },
    /// It rings a doorbell.
    Ring { queue: usize },
    /// The device works.
    Step,
    /// A driver takes the device into use, without these features.
    Start { without: u64 },
    /// It resets the device.
    Reset,
    /// It writes to the configuration space.
    Configure { register: u8, width: Width, value: u32 },
}

pub(crate) fn width(input: &mut Unstructured<'_>) -> Result<Width> {
    Ok(*input.choose(&[Width::Byte, Width::Word, Width::Dword, Width::Qword])?)
}

/// Pages of the BAR, and one that is none.
const PAGES: u64 = 7;

fn offset(input: &mut Unstructured<'_>) -> Result<u64> {
    let page = input.int_in_range(0..=PAGES - 1)?;
    let at = if input.ratio(7_u8, 8_u8)? {
        input.int_in_range(0..=0x3f)?
    } else {
        input.int_in_range(0..=0xfff)?
    };
    Ok(page << 12 | at)
}

/// Small ones, those that begin parts of queues, and any.
fn value(input: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match input.int_in_range(0_u8..=3)? {
        0 => input.int_in_range(0..=31)?,
        1 => input.int_in_range(0_u64..=15)? << 12,
        2 => input.arbitrary::<u16>()?.into(),
        _ => input.arbitrary()?,
    })
}

fn buffer(input: &mut Unstructured<'_>) -> Result<Buffer> {
    let gpa = if input.ratio(15_u8, 16_u8)? {
        0x2_0000 + u64::from(input.arbitrary::<u16>()?)
    } else {
        value(input)?
    };
    let length =
        if input.ratio(15_u8, 16_u8)? { input.int_in_range(0..=0x1fff)? } else { input.arbitrary()? };
    Ok(Buffer { gpa, length, writable: input.arbitrary()? })
}

impl<'a> Arbitrary<'a> for Act {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        let queue = |input: &mut Unstructured<'a>| input.int_in_range(0..=QUEUES - 1);
        Ok(match input.int_in_range(0_u8..=12)? {
            0 | 1 => Self::Write { offset: offset(input)?, width: width(input)?, value: value(input)? },
            2 => Self::Read { offset: offset(input)?, width: width(input)? },
            3 | 4 => Self::Poke { at: input.int_in_range(0..=0x2_ffff)?, value: value(input)? },
            5 | 6 => {
                let count = input.int_in_range(1_usize..=5)?;
                let buffers = (0..count).map(|_| buffer(input)).collect::<Result<_>>()?;
                Self::Offer { queue: queue(input)?, buffers }
            }
            7 => Self::Ring { queue: queue(input)? },
            8 => Self::Step,
            9 | 10 => Self::Start { without: if input.arbitrary()? { 0 } else { input.arbitrary()? } },
            11 => Self::Reset,
            _ => Self::Configure {
                register: input.arbitrary()?,
                width: *input.choose(&[Width::Byte, Width::Word, Width::Dword])?,
                value: input.arbitrary()?,
            },
        })
    }
}

/// The acts that an input is, a bounded number of them.
pub(crate) fn acts(bytes: &[u8]) -> Vec<Act> {
    const MOST: usize = 200;
    let mut input = Unstructured::new(bytes);
    let mut acts = Vec::new();
    while acts.len() < MOST
        && !input.is_empty()
        && let Ok(act) = input.arbitrary()
    {
        acts.push(act);
    }
    acts
}
