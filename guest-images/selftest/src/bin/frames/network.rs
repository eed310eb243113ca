//! The network that frames are sent on: this VM's devices, each of which is on a port of its own.
//!
//! Behind each frame goes another one to all. What comes before that has come of the frame; no wait is needed to see that nothing has.

use core::fmt::{self, Display};

use selftest::cpu::read8;
use selftest::virtio::{Device, kind};
use selftest::{Global, TestResult, Verdict, check, println, verdict};

use crate::nic::{Arrived, Header, Nic, PLAIN, feature};
use crate::packet::{
    BROADCAST, Bytes, CUSTOMER, IPV4, Ipv4, Ipv6, Mac, PROVIDER, ethernet, ipv4, protocol, tagged, udp,
};

/// The devices, by their numbers: as the scenario's words say.
///
/// Bound to its own MAC, IPv4 and IPv6 addresses; it is the one that lies most.
pub(crate) const BOUND: usize = 0;
/// The one that is lied to. It takes nothing undone.
pub(crate) const VICTIM: usize = 1;
/// In all VLANs, with tags. It takes everything undone.
pub(crate) const TRUNK: usize = 2;
/// It may send from any address, as bridges do.
pub(crate) const BRIDGE: usize = 3;
/// Bound to its own MAC address alone.
pub(crate) const OWN_MAC: usize = 4;
/// With an MTU of 1500.
pub(crate) const SMALL: usize = 5;
/// In another VLAN than all others.
pub(crate) const APART: usize = 6;
const NICS: usize = 7;

/// The VLAN of most, and that of [`APART`].
pub(crate) const USUAL_VLAN: u16 = 1;
pub(crate) const OTHER_VLAN: u16 = 20;
/// Where a frame that goes behind others has its number.
const DISCARD: u16 = 9;

/// Why the switch drops a frame, as the prompt's `ports` has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reason {
    Malformed,
    SpoofedMac,
    SpoofedAddress,
    Vlan,
    Reserved,
}

const REASONS: [&str; 5] = ["malformed", "spoofed-mac", "spoofed-address", "vlan", "reserved"];

/// Tags that say a priority, or nothing to this switch, with others behind them.
const HARMLESS_TAGS: &[&[(u16, u16)]] = &[
    &[(CUSTOMER, 0)],
    &[(CUSTOMER, 7 << 13)],
    &[(PROVIDER, 0)],
    &[(PROVIDER, OTHER_VLAN)],
    &[(CUSTOMER, 0), (CUSTOMER, OTHER_VLAN)],
    &[(CUSTOMER, 0), (PROVIDER, OTHER_VLAN)],
    &[(PROVIDER, OTHER_VLAN), (CUSTOMER, OTHER_VLAN)],
    &[(CUSTOMER, 0), (CUSTOMER, 0), (CUSTOMER, OTHER_VLAN)],
];
/// Tags of VLANs: a port in one VLAN takes none of them, not even that one's.
pub(crate) const FOREIGN_TAGS: &[&[(u16, u16)]] = &[
    &[(CUSTOMER, USUAL_VLAN)],
    &[(CUSTOMER, OTHER_VLAN)],
    &[(CUSTOMER, 0xfff)],
    &[(CUSTOMER, OTHER_VLAN), (CUSTOMER, USUAL_VLAN)],
];

/// What each device has lost.
static LOST: Global<[[u32; REASONS.len()]; NICS]> = Global::new([[0; REASONS.len()]; NICS]);
/// Frames that went behind others.
static SERIAL: Global<u32> = Global::new(0);

/// The hardware address of a device.
pub(crate) const fn mac(nic: usize) -> Mac {
    [2, 0, 0, 0, 0, nic as u8 + 1]
}

/// Its IPv4 address.
pub(crate) const fn ip4(nic: usize) -> Ipv4 {
    [10, 9, 0, nic as u8 + 1]
}

/// Its IPv6 address.
pub(crate) const fn ip6(nic: usize) -> Ipv6 {
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, nic as u8 + 1]
}

/// The one that its hardware address gives.
pub(crate) const fn link_local(nic: usize) -> Ipv6 {
    let [a, b, c, d, e, f] = mac(nic);
    [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]
}

/// Tells what each device has lost, as the prompt's `ports` does.
pub(crate) fn tell_losses() {
    for (nic, lost) in LOST.get().iter().enumerate() {
        for (reason, count) in REASONS.iter().zip(lost).filter(|(_, count)| **count != 0) {
            println!("frames: device {nic} has lost {reason} {count}");
        }
    }
}

/// The switch drops a frame on the account of a device.
pub(crate) fn loses(nic: usize, reason: Reason) {
    LOST.with(|lost| lost[nic][reason as usize] += 1);
}

/// All devices in use.
pub(crate) struct Network {
    nics: [Nic; NICS],
}

impl Network {
    pub(crate) fn new() -> Result<Self, Verdict> {
        let mut devices = [Device::default(); NICS];
        let mut found = 0;
        for device in Device::all().filter(|device| device.kind == kind::NET) {
            // None may write to memory that is about to be somebody else's.
            device.reset();
            if let Some(place) = devices.get_mut(found) {
                *place = device;
            }
            found += 1;
        }
        if found != NICS {
            return Err(verdict::fail(format_args!("{found} network devices instead of {NICS}")));
        }
        let begin = |nic: usize| {
            let device = &devices[nic];
            if Nic::address_of(device) != mac(nic) {
                return Err(verdict::fail(format_args!("device {nic} has another address than it should")));
            }
            let begun = Nic::begin(device, features_of(nic));
            begun.ok_or_else(|| verdict::fail(format_args!("device {nic} cannot be used")))
        };
        let nics = [begin(0)?, begin(1)?, begin(2)?, begin(3)?, begin(4)?, begin(5)?, begin(6)?];
        Ok(Self { nics })
    }

    /// Sends a frame that must be dropped for that reason.
    pub(crate) fn drops(
        &mut self,
        from: usize,
        frame: &Bytes,
        reason: Reason,
        what: impl Display + Copy,
    ) -> TestResult {
        self.drops_with(&PLAIN, from, frame, reason, what)
    }

    /// The same with that header.
    pub(crate) fn drops_with(
        &mut self,
        header: &Header,
        from: usize,
        frame: &Bytes,
        reason: Reason,
        what: impl Display + Copy,
    ) -> TestResult {
        loses(from, reason);
        self.reaches_with(header, from, frame, &[], what)
    }

    /// Sends a frame that must be dropped for that reason, as it is and behind all kinds of tags.
    pub(crate) fn drops_all(
        &mut self,
        from: usize,
        frame: &Bytes,
        reason: Reason,
        what: impl Display + Copy,
    ) -> TestResult {
        self.drops(from, frame, reason, what)?;
        for tags in HARMLESS_TAGS {
            let hidden = tagged(frame, tags);
            self.drops(from, &hidden, reason, format_args!("{what} behind tags {tags:x?}"))?;
        }
        // Whether a group can have sent it is asked first.
        let reason = if frame.at(6) & 1 != 0 { reason } else { Reason::Vlan };
        for tags in FOREIGN_TAGS {
            let hidden = tagged(frame, tags);
            self.drops(from, &hidden, reason, format_args!("{what} behind tags {tags:x?}"))?;
        }
        Ok(())
    }

    /// Sends a frame that must arrive at these devices, byte for byte, and nowhere else.
    pub(crate) fn reaches(
        &mut self,
        from: usize,
        frame: &Bytes,
        to: &[usize],
        what: impl Display + Copy,
    ) -> TestResult {
        self.reaches_with(&PLAIN, from, frame, to, what)
    }

    /// The same with that header.
    pub(crate) fn reaches_with(
        &mut self,
        header: &Header,
        from: usize,
        frame: &Bytes,
        to: &[usize],
        what: impl Display + Copy,
    ) -> TestResult {
        self.send(header, from, frame, what)?;
        for nic in to {
            let arrived = self.next(*nic, what)?;
            check!(arrived.is(&seen_by(*nic, frame)), "{what}: device {nic} has got another frame");
        }
        self.nothing_more(from, what)
    }

    pub(crate) fn send(
        &mut self,
        header: &Header,
        from: usize,
        frame: &Bytes,
        what: impl Display + Copy,
    ) -> TestResult {
        check!(self.nics[from].send(header, frame), "{what}: a frame does not go from device {from}");
        Ok(())
    }

    /// Where a device has the frame that it sends.
    pub(crate) const fn outgoing(&self, nic: usize) -> u64 {
        self.nics[nic].outgoing()
    }

    /// The next frame of a device.
    pub(crate) fn next(&mut self, nic: usize, what: impl Display + Copy) -> Result<Arrived, Verdict> {
        self.nics[nic]
            .wait()
            .ok_or_else(|| verdict::fail(format_args!("{what}: nothing comes to device {nic}")))
    }

    /// The next frame of a device, where there is one already.
    pub(crate) fn take(&mut self, nic: usize) -> Option<Arrived> {
        self.nics[nic].take()
    }

    /// Nothing more has come of what a device has sent.
    pub(crate) fn nothing_more(&mut self, from: usize, what: impl Display + Copy) -> TestResult {
        self.count(from, what, |nic, arrived| {
            Err(verdict::fail(format_args!("{what}: device {nic} has got {}", Shown(arrived))))
        })?;
        Ok(())
    }

    /// Has `with` look at all that has come of what a device has sent, and with which device; and says how much each has got.
    pub(crate) fn count(
        &mut self,
        from: usize,
        what: impl Display + Copy,
        mut with: impl FnMut(usize, Arrived) -> TestResult,
    ) -> Result<[u32; NICS], Verdict> {
        let (last, mut counts) = (last_of(from), [0; NICS]);
        self.send(&PLAIN, from, &last, what)?;
        for nic in (0..NICS).filter(|nic| *nic != from) {
            if nic != TRUNK && (nic == APART || from == APART) {
                check!(self.nics[nic].take().is_none(), "{what}: something comes to device {nic}");
                continue;
            }
            let last = if from == APART { with_vlan(&last, OTHER_VLAN) } else { seen_by(nic, &last) };
            loop {
                let arrived = self.next(nic, what)?;
                if arrived.is(&last) {
                    break;
                }
                with(nic, arrived)?;
                counts[nic] += 1;
            }
        }
        Ok(counts)
    }
}

const fn features_of(nic: usize) -> u64 {
    use feature::{CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4, MRG_RXBUF};
    match nic {
        TRUNK => GUEST_CSUM | GUEST_TSO4 | MRG_RXBUF,
        BOUND => CSUM,
        OWN_MAC => CSUM | HOST_TSO4,
        _ => 0,
    }
}

/// A frame to all that a device may send, with a number of its own.
fn last_of(from: usize) -> Bytes {
    let serial = SERIAL.with(|serial| {
        *serial += 1;
        *serial
    });
    let datagram = udp(DISCARD, DISCARD, &Bytes::of(&serial.to_be_bytes()));
    let packet = ipv4(ip4(from), [255; 4], protocol::UDP, &datagram);
    ethernet(BROADCAST, mac(from), IPV4, &packet)
}

fn with_vlan(frame: &Bytes, vlan: u16) -> Bytes {
    tagged(frame, &[(CUSTOMER, vlan)])
}

/// How a frame without a tag looks at a device.
fn seen_by(nic: usize, frame: &Bytes) -> Bytes {
    if nic == TRUNK { with_vlan(frame, USUAL_VLAN) } else { *frame }
}

/// The first bytes of a frame that has come.
struct Shown(Arrived);

impl Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: u32 = 44;
        let Self(arrived) = self;
        write!(f, "{} bytes ", arrived.length)?;
        (0..arrived.length.min(MOST))
            .try_for_each(|at| write!(f, "{:02x}", read8(arrived.at + u64::from(at))))
    }
}
