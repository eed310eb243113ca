//! What bytes say of a switch: settings, rules, sessions, frames.

use arbitrary::{Result, Unstructured};
use vswitch::frame::{HEAD_BYTES, v4};
use vswitch::meter::Rate;
use vswitch::mirror::{Session, Target};
use vswitch::rules::{Match, Rule};
use vswitch::settings::{Guard, Prefix, Settings, Storm, VlanSet, Vlans};
use vswitch::{Checksum, Frame, Large, LargeKind, Mac, Offload, PortId, PortSet};

/// VLANs that there are often.
const VLANS: [u16; 4] = [1, 2, 20, 4094];
/// Headers that frames often have: of Ethernet, tags, IP, and transports. What follows them is any bytes.
const PARTS: [&[u8]; 12] = [
    &[0x81, 0, 0x20, 1],
    &[0x81, 0, 0, 0],
    &[0x81, 0, 0x60, 20],
    &[0x88, 0xa8, 0, 2],
    &[8, 0, 0x45, 0, 0, 0, 0, 7, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2],
    &[8, 0, 0x45, 0, 0, 0, 0, 7, 0x20, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1],
    &[8, 0, 0x46, 0, 0, 0, 0, 7, 0, 9, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1, 1, 1, 1, 1],
    &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2],
    &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 6, 64],
    &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 44, 64],
    &[17, 0, 0, 1, 0, 0, 0, 9],
    &[0, 80, 1, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0],
];

fn vlan(input: &mut Unstructured<'_>) -> Result<u16> {
    if input.ratio(7, 8)? { Ok(*input.choose(&VLANS)?) } else { input.int_in_range(1..=4094) }
}

fn mac(input: &mut Unstructured<'_>) -> Result<Mac> {
    Ok(match input.int_in_range(0_u8..=9)? {
        0 => [0xff; 6],
        1 => [1, 0, 0x5e, 0, 0, 1],
        2 => [1, 0x80, 0xc2, 0, 0, 0],
        3 => input.arbitrary()?,
        number => [2, 0, 0, 0, 0, number - 4],
    })
}

fn some<'a, T>(
    input: &mut Unstructured<'a>,
    with: impl FnOnce(&mut Unstructured<'a>) -> Result<T>,
) -> Result<Option<T>> {
    Ok(if input.ratio(1, 4)? { Some(with(input)?) } else { None })
}

fn prefix(input: &mut Unstructured<'_>) -> Result<Prefix> {
    let v6 = input.ratio(1, 3)?;
    let address = if v6 { input.arbitrary()? } else { v4([10, 0, 0, input.int_in_range(0..=3)?]) };
    Ok(Prefix { v6, address, bits: input.arbitrary()? })
}

fn rate(input: &mut Unstructured<'_>) -> Result<Rate> {
    Ok(Rate { per_second: input.arbitrary()?, burst: input.arbitrary()? })
}

pub(crate) fn settings(input: &mut Unstructured<'_>) -> Result<Settings> {
    let vlans = if input.arbitrary()? {
        Vlans::Access(vlan(input)?)
    } else {
        let mut tagged = if input.ratio(1, 4)? { VlanSet::all() } else { VlanSet::NONE };
        for _ in 0..input.int_in_range(0_u8..=3)? {
            tagged.add(vlan(input)?);
        }
        Vlans::Trunk { tagged, native: some(input, vlan)? }
    };
    let limit = |input: &mut Unstructured<'_>| some(input, |input| input.int_in_range(1..=u32::MAX));
    let mut guard = Guard { mac: some(input, mac)?, ..Guard::default() };
    if input.ratio(1, 4)? {
        guard.addresses.push(prefix(input)?);
    }
    Ok(Settings {
        up: input.ratio(7, 8)?,
        vlans,
        priority: some(input, |input| input.int_in_range(0..=7))?,
        mtu: some(input, Unstructured::arbitrary)?,
        send: some(input, rate)?,
        receive: some(input, rate)?,
        guaranteed: some(input, rate)?,
        storm: Storm { broadcast: limit(input)?, multicast: limit(input)?, unknown: limit(input)? },
        guard,
        isolated: input.ratio(1, 4)?,
    })
}

fn ports(input: &mut Unstructured<'_>) -> Result<PortSet> {
    Ok(if input.arbitrary()? { PortSet::ALL } else { PortSet::from_bits(input.arbitrary()?) })
}

pub(crate) fn rules(input: &mut Unstructured<'_>) -> Result<Vec<Rule>> {
    let rule = |input: &mut Unstructured<'_>| {
        let fits = Match {
            from: ports(input)?,
            to: ports(input)?,
            ether_type: some(input, |input| Ok(*input.choose(&[0x800, 0x806, 0x86dd])?))?,
            vlan: some(input, vlan)?,
            source_mac: some(input, mac)?,
            destination_mac: some(input, mac)?,
            source: some(input, prefix)?,
            destination: some(input, prefix)?,
            protocol: some(input, |input| Ok(*input.choose(&[1, 6, 17, 58])?))?,
            source_ports: 0..=input.arbitrary()?,
            destination_ports: input.int_in_range(0..=80)?..=u16::MAX,
            icmp: some(input, Unstructured::arbitrary)?,
        };
        Ok(Rule { allow: input.arbitrary()?, fits })
    };
    (0..input.int_in_range(0_u8..=5)?).map(|_| rule(input)).collect()
}

pub(crate) fn sessions(input: &mut Unstructured<'_>) -> Result<Vec<Session>> {
    let session = |input: &mut Unstructured<'_>| {
        let port = PortId::new(input.int_in_range(0..=6)?).unwrap_or(PortId::FIRST);
        let target = if input.arbitrary()? { Target::Port(port) } else { Target::Vlan(vlan(input)?) };
        Ok(Session {
            sent: ports(input)?,
            received: ports(input)?,
            vlans: some(input, vlan)?.into_iter().collect(),
            target,
            snap: some(input, Unstructured::arbitrary)?,
        })
    };
    (0..input.int_in_range(0_u8..=3)?).map(|_| session(input)).collect()
}

fn offload(input: &mut Unstructured<'_>, parts_end: u16) -> Result<Offload> {
    if input.ratio(1, 2)? {
        return Ok(Offload::default());
    }
    // Where a header began, or anywhere.
    let start = if input.ratio(3, 4)? { parts_end } else { input.arbitrary()? };
    let offset = if input.ratio(3, 4)? { *input.choose(&[16, 6])? } else { input.arbitrary()? };
    let checksum = Some(Checksum { start, offset });
    let kind = *input.choose(&[LargeKind::Tcp4, LargeKind::Tcp6, LargeKind::Udp])?;
    let large = if input.arbitrary()? {
        Some(Large {
            kind,
            ecn: input.arbitrary()?,
            size: input.int_in_range(1..=u16::MAX)?,
            header_bytes: input.arbitrary()?,
        })
    } else {
        None
    };
    Ok(Offload { checksum, large })
}

/// A frame: addresses, some of the usual headers, any bytes behind them, and any length.
pub(crate) fn frame(input: &mut Unstructured<'_>) -> Result<Option<Frame>> {
    let mut bytes = [mac(input)?, mac(input)?].concat();
    let mut last = 0;
    for _ in 0..input.int_in_range(0_u8..=5)? {
        last = bytes.len();
        bytes.extend_from_slice(input.choose(&PARTS)?);
    }
    let more = input.int_in_range(0_u8..=40)?;
    bytes.extend_from_slice(input.bytes(usize::from(more).min(input.len()))?);
    let length = match input.int_in_range(0_u8..=2)? {
        0 => bytes.len() as u32,
        1 => input.arbitrary::<u16>()?.into(),
        _ => input.int_in_range(0..=70_000)?,
    };
    let mut head = [0; HEAD_BYTES];
    head.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
    Ok(Frame::new(&head, length, offload(input, last as u16)?))
}
