//! Whom a guard lets in, as the model has it.

use super::reader::{Ip, Part, Seen, Transport, What};
use super::rules::within;
use crate::counters::Drop;
use crate::frame::{Address, v4};
use crate::guard::link_local;
use crate::port::Mac;
use crate::settings::Guard;

/// Whether a guard lets a frame in.
pub(super) fn guard(guard: &Guard, seen: &Seen, bytes: &[u8]) -> Result<(), Drop> {
    if guard.mac.is_some_and(|mac| mac != seen.from) {
        return Err(Drop::SpoofedMac);
    }
    let fine = match &seen.what {
        What::Arp { mac, .. } if guard.addresses.is_empty() => {
            let lies = guard.mac.is_some_and(|own| own != *mac);
            return if lies { Err(Drop::SpoofedMac) } else { Ok(()) };
        }
        _ if guard.addresses.is_empty() => true,
        What::Arp { mac, ip, target } => {
            *mac == seen.from && owns(guard, false, &v4(if *ip == [0; 4] { *target } else { *ip }))
        }
        What::Broken => return Err(Drop::Malformed),
        What::Other => false,
        What::Ip(ip) if !ip.v6 => {
            let asks = ip.number == 17 && ip.transport == Transport::Ports { from: 68, to: 67 };
            owns(guard, false, &ip.source) || ip.source == v4([0; 4]) && asks
        }
        What::Ip(ip) => ipv6(guard, seen.from, ip, bytes),
    };
    if fine { Ok(()) } else { Err(Drop::SpoofedAddress) }
}

fn owns(guard: &Guard, v6: bool, address: &Address) -> bool {
    guard.addresses.iter().any(|prefix| within(prefix, v6, address))
}

fn ipv6(guard: &Guard, mac: Mac, ip: &Ip, bytes: &[u8]) -> bool {
    let owns = |address: &Address| owns(guard, true, address) || *address == link_local(mac);
    let nameless = ip.source == [0; 16];
    if !nameless && !owns(&ip.source) {
        return false;
    }
    let message = bytes[..bytes.len().min(crate::HEAD_BYTES)].get(ip.at..).unwrap_or_default();
    let whole = ip.part == Part::Whole;
    let options = |at| options_are_so(message.get(at..).unwrap_or_default(), mac);
    match ip.transport {
        Transport::Hidden => false,
        Transport::Icmp { kind, .. } if ip.number == 58 => {
            let target = message.get(8..24).map(|it| it.try_into().expect("16 bytes"));
            let own = target.is_some_and(|target| owns(&target));
            match kind {
                133 => whole && options(8),
                135 => whole && (own || !nameless) && options(24),
                136 => whole && own && !nameless && options(24),
                134 | 137 => false,
                131 | 132 | 143 => true,
                _ => !nameless,
            }
        }
        _ => !nameless,
    }
}

/// Whether options say no hardware address but this.
fn options_are_so(mut options: &[u8], mac: Mac) -> bool {
    while let [kind, units, ..] = options {
        let bytes = usize::from(*units) * 8;
        let lies = matches!(kind, 1 | 2) && options.get(2..8) != Some(&mac[..]);
        if bytes == 0 || bytes > options.len() || lies {
            return false;
        }
        options = &options[bytes..];
    }
    true
}
