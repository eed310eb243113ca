//! A frame that another processor changes while the switch looks at it: what was looked at is what arrives.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use selftest::cpu::write8;
use selftest::{Test, TestResult, Verdict, check, check_eq, need, smp, tests};

use crate::honest::datagram;
use crate::network::{BOUND, Network, TRUNK, VICTIM, ip4, mac};
use crate::nic::{Arrived, PLAIN};
use crate::packet::{Bytes, IPV4, Mac};

pub(crate) const TESTS: &[Test] = tests![frames_change_under_way];

/// Where the frame is.
static FRAME: AtomicU64 = AtomicU64::new(0);
static GO_ON: AtomicBool = AtomicBool::new(false);
const ROUNDS: u32 = 2000;
/// Frames of which some must have been honest for long enough, and some not.
const LEAST: u32 = 10;

/// Makes lies of it and takes them back: where a byte is, from the frame's first, what it is, and what it should not be.
fn lie() {
    let (own, theirs) = (mac(BOUND), mac(VICTIM));
    let lies = [
        (11, own[5], theirs[5]),
        (29, ip4(BOUND)[3], ip4(VICTIM)[3]),
        // ARP; a tag; another version.
        (13, 0, 6),
        (12, 8, 0x81),
        (14, 0x45, 0x65),
    ];
    while GO_ON.load(SeqCst) {
        let frame = FRAME.load(SeqCst);
        for (at, honest, lie) in lies {
            write8(frame + at, lie);
            write8(frame + at, honest);
        }
    }
}

/// It is from whom it should be, or it is of an honest moment.
fn is_honest(nic: usize, arrived: Arrived) -> TestResult {
    // Where what is behind a tag is.
    let at = if nic == TRUNK { 4 } else { 0 };
    let from: Mac = core::array::from_fn(|index| arrived.byte(6 + index as u64));
    check!(from == mac(BOUND), "device {nic} has got a frame from {from:x?}");
    check_eq!(arrived.word(at + 12), IPV4, "what device {nic} has got");
    check_eq!(arrived.word(at + 14), 0x4500, "the first word of what device {nic} has got");
    let address = [0, 1, 2, 3].map(|index| arrived.byte(at + 26 + index));
    check!(address == ip4(BOUND), "device {nic} has got a packet from {address:?}");
    Ok(())
}

fn frames_change_under_way() -> TestResult {
    need!(smp::count() > 1, "one processor");
    smp::start_all()?;
    let mut network = Network::new()?;
    network.nothing_more(VICTIM, "a frame before")?;
    let frame = datagram(mac(VICTIM), 200);
    FRAME.store(network.outgoing(BOUND), SeqCst);
    GO_ON.store(true, SeqCst);
    smp::begin(1, lie);
    let raced = race(&mut network, &frame);
    GO_ON.store(false, SeqCst);
    smp::finish(1)?;
    let mut came = raced?;
    let counts = network.count(BOUND, "a frame behind", is_honest)?;
    came += counts[VICTIM];
    check!((LEAST..ROUNDS - LEAST).contains(&came), "{came} of {ROUNDS} frames were honest");
    Ok(())
}

/// Sends it over and over. Returns how often it has come.
fn race(network: &mut Network, frame: &Bytes) -> Result<u32, Verdict> {
    let mut came = 0;
    for _ in 0..ROUNDS {
        network.send(&PLAIN, BOUND, frame, "a frame that changes")?;
        while let Some(arrived) = network.take(VICTIM) {
            is_honest(VICTIM, arrived)?;
            came += 1;
        }
    }
    Ok(came)
}
