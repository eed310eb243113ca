//! A mirror in words: whom it watches, and where the copies go.

use arrayvec::ArrayVec;
use vswitch::mirror::{Session, Target};
use vswitch::{PortId, PortSet};

use super::{Find, NetworkFault, ports};
use crate::config::values;

/// The words, for messages.
const KNOWN: &str = "both=VM, sent=VM, received=VM, vlan=N, to=VM.N, to-vlan=N or snap=BYTES";
/// Bytes of a frame that a copy has at least: the Ethernet header.
const LEAST_SNAP: u16 = vswitch::frame::ETHERNET_BYTES as u16;

/// Reads a mirror.
pub(crate) fn mirror<'a>(
    words: impl Iterator<Item = &'a str>,
    find: Find<'_>,
) -> Result<Session, NetworkFault<'a>> {
    let (mut sent, mut received, mut vlans) = (PortSet::NONE, PortSet::NONE, ArrayVec::new());
    let (mut target, mut snap) = (None, None);
    for word in words {
        let (key, value) = word.split_once('=').ok_or(NetworkFault::Unknown(word, KNOWN))?;
        let vlan = || values::vlan(value).ok_or(NetworkFault::Value(word, "a VLAN from 1 to 4094"));
        let is_new = match key {
            "sent" => add(&mut sent, ports(value, find)?),
            "received" => add(&mut received, ports(value, find)?),
            "both" => {
                let both = ports(value, find)?;
                add(&mut sent, both) | add(&mut received, both)
            }
            "vlan" => {
                let vlan = vlan()?;
                let is_new = !vlans.contains(&vlan);
                vlans.try_push(vlan).map_err(|_| NetworkFault::ManyVlans)?;
                is_new
            }
            "to" => target.replace((word, Target::Port(one(value, find)?))).is_none(),
            "to-vlan" => target.replace((word, Target::Vlan(vlan()?))).is_none(),
            "snap" => {
                let bytes = values::word(value, LEAST_SNAP..=u16::MAX);
                let form = "snap=BYTES from 14 to 65535, or leave it out for whole frames";
                snap.replace(bytes.ok_or(NetworkFault::Value(word, form))?).is_none()
            }
            _ => return Err(NetworkFault::Unknown(word, KNOWN)),
        };
        if !is_new {
            return Err(NetworkFault::Twice(word));
        }
    }
    if sent.or(received).is_empty() && vlans.is_empty() {
        return Err(NetworkFault::NoSource);
    }
    let (word, target) = target.ok_or(NetworkFault::NoTarget)?;
    let is_watched = match target {
        Target::Port(port) => sent.or(received).has(port),
        Target::Vlan(vlan) => vlans.contains(&vlan),
    };
    if is_watched {
        return Err(NetworkFault::Itself(word));
    }
    Ok(Session { sent, received, vlans, target, snap })
}

/// More ports for a set. False where all of them are in it already.
fn add(set: &mut PortSet, more: PortSet) -> bool {
    let before = core::mem::replace(set, set.or(more));
    *set != before
}

/// The one port that a word names.
fn one<'a>(text: &'a str, find: Find<'_>) -> Result<PortId, NetworkFault<'a>> {
    let mut ports = ports(text, find)?;
    match (ports.take_first(), ports.is_empty()) {
        (Some(port), true) => Ok(port),
        _ => Err(NetworkFault::ManyTargets(text)),
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::super::{Place, words};
    use super::*;

    /// A network with web.0 and web.1 at ports 0 and 1, and probe.0 at port 2.
    fn find(place: Place<'_>) -> PortSet {
        let bits = match (place.vm, place.number) {
            ("web", None) => 3,
            ("web", Some(0)) => 1,
            ("web", Some(1)) => 2,
            ("probe", None | Some(0)) => 4,
            _ => 0,
        };
        PortSet::from_bits(bits)
    }

    fn read(text: &str) -> Result<Session, NetworkFault<'_>> {
        mirror(words(text), &find)
    }

    #[test]
    fn mirrors_are_read() {
        let probe = PortId::new(2).expect("a port");
        let session = |sent, received, vlans: &[u16], target, snap| Session {
            sent: PortSet::from_bits(sent),
            received: PortSet::from_bits(received),
            vlans: vlans.iter().copied().collect(),
            target,
            snap,
        };
        for (text, wanted) in [
            ("both=web,to=probe", session(3, 3, &[], Target::Port(probe), None)),
            (
                "sent=web.0,received=web.1,to=probe.0,snap=128",
                session(1, 2, &[], Target::Port(probe), Some(128)),
            ),
            ("vlan=7,vlan=8,to-vlan=900", session(0, 0, &[7, 8], Target::Vlan(900), None)),
            ("to-vlan=9,sent=web.0,both=web.1", session(3, 2, &[], Target::Vlan(9), None)),
        ] {
            assert_eq!(read(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn each_wrong_word_is_named_with_the_way_out() {
        for (text, part) in [
            ("to=probe", "it watches nobody; write both=VM"),
            ("both=web", "it says not who watches; write to=VM.N"),
            ("both=web,to=probe,to-vlan=9", "'to-vlan=9' says it a second time"),
            ("both=web,sent=web.0,to=probe", "'sent=web.0' says it a second time"),
            ("vlan=7,vlan=7,to=probe", "'vlan=7' says it a second time"),
            ("vlan=1,vlan=2,vlan=3,vlan=4,vlan=5,vlan=6,vlan=7,vlan=8,vlan=9,to=probe", "more than 8 VLANs"),
            (
                "sent=probe,to=web",
                "'web' has several network devices there; write which one, such as to=web.0",
            ),
            ("both=web,to=web.0", "'to=web.0' is watched by itself"),
            ("vlan=7,to-vlan=7", "'to-vlan=7' is watched by itself"),
            ("both=db,to=probe", "'db' has no network device there"),
            ("vlan=0,to=probe", "'vlan=0' is not possible; write a VLAN"),
            ("both=web,to-vlan=x", "'to-vlan=x' is not possible; write a VLAN"),
            ("both=web,to=probe,snap=13", "'snap=13' is not possible; write snap=BYTES"),
            ("both=web,to=probe,snap=64,snap=64", "'snap=64' says it a second time"),
            ("web", "'web' is unknown; write both=VM"),
            ("port=web", "'port=web' is unknown; write both=VM"),
        ] {
            let fault = read(text).expect_err(text).to_string();
            assert!(fault.contains(part), "{text}: {fault}");
        }
    }
}
