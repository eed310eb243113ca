//! Thousands of addresses behind one port, which must take nothing from others.

use selftest::{Test, TestResult, check, tests};

use crate::network::{BOUND, BRIDGE, Network, OWN_MAC, SMALL, TRUNK, VICTIM, ip4, mac};
use crate::nic::PLAIN;
use crate::packet::{Bytes, EXPERIMENT, IPV4, Mac, ethernet, ipv4, protocol, udp};

pub(crate) const TESTS: &[Test] = tests![addresses_without_number];

const FLOOD: u32 = 2048;
/// Frames of the flood between two of the conversation.
const BETWEEN: u32 = 64;
/// Addresses of the flood's end that are looked for, so many at a time.
const LOOKED_FOR: u32 = 512;
const AT_ONCE: u32 = 16;
/// Addresses that a port may have.
const MOST: u32 = 256;

fn address(number: u32) -> Mac {
    let [a, b, c, d] = number.to_be_bytes();
    [0x0a, 0, a, b, c, d]
}

fn from_victim(to: Mac) -> Bytes {
    let packet = ipv4(ip4(VICTIM), ip4(BOUND), protocol::UDP, &udp(7, 8, &Bytes::of(b"an answer")));
    ethernet(to, mac(VICTIM), IPV4, &packet)
}

fn from_bound() -> Bytes {
    let packet = ipv4(ip4(BOUND), ip4(VICTIM), protocol::UDP, &udp(8, 7, &Bytes::of(b"a question")));
    ethernet(mac(VICTIM), mac(BOUND), IPV4, &packet)
}

fn addresses_without_number() -> TestResult {
    let mut network = Network::new()?;
    network.nothing_more(BOUND, "before")?;
    network.nothing_more(VICTIM, "before")?;
    for number in 0..FLOOD {
        let frame = ethernet(mac(VICTIM), address(number), EXPERIMENT, &Bytes::of(&number.to_be_bytes()));
        let what = format_args!("frame {number} of a flood");
        network.send(&PLAIN, BRIDGE, &frame, what)?;
        check!(network.next(VICTIM, what)?.is(&frame), "{what} has changed");
        if number % BETWEEN == 0 {
            let what = format_args!("a conversation beside {number} addresses");
            network.reaches(BOUND, &from_bound(), &[VICTIM], what)?;
            network.reaches(VICTIM, &from_victim(mac(BOUND)), &[BOUND], what)?;
        }
    }
    network.nothing_more(BRIDGE, "behind a flood")?;
    let known = known_of_flood(&mut network)?;
    check!((1..=MOST).contains(&known), "{known} addresses of the flood are known");
    network.reaches(BOUND, &from_bound(), &[VICTIM], "a conversation behind a flood")?;
    network.reaches(VICTIM, &from_victim(mac(BOUND)), &[BOUND], "a conversation behind a flood")
}

/// How many of the last addresses are known: frames for the others come to everybody.
fn known_of_flood(network: &mut Network) -> Result<u32, selftest::Verdict> {
    let mut known = 0;
    for first in (FLOOD - LOOKED_FOR..FLOOD).step_by(AT_ONCE as usize) {
        for number in first..first + AT_ONCE {
            network.send(&PLAIN, VICTIM, &from_victim(address(number)), "a frame for the flood")?;
        }
        let counts = network.count(VICTIM, "a frame for the flood", |_, _| Ok(()))?;
        check!(counts[BRIDGE] == AT_ONCE, "{} frames instead of {AT_ONCE} come to the flood", counts[BRIDGE]);
        for nic in [BOUND, TRUNK, OWN_MAC] {
            check!(counts[nic] == counts[SMALL], "device {nic} gets {} frames of a flood", counts[nic]);
        }
        known += AT_ONCE - counts[SMALL];
    }
    Ok(known)
}
