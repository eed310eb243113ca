use proptest::prelude::*;
use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress};

use super::*;

const HARDWARE: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn client() -> Client {
    Client::new(HARDWARE, "basalt", 7, seconds(100))
}

/// A server's reply with two routers, for a day.
fn reply(kind: DhcpMessageType, exchange: u32, change: impl FnOnce(&mut DhcpRepr<'_>)) -> Vec<u8> {
    let routers = [10, 0, 2, 2, 10, 0, 2, 3];
    let options = [DhcpOption { kind: 3, data: &routers }];
    let request = Request::Discover.write(HARDWARE, exchange, 0, "");
    let packet = DhcpPacket::new_checked(&request[..]).unwrap();
    let mut message = DhcpRepr::parse(&packet).unwrap();
    message.message_type = kind;
    message.your_ip = ADDRESS;
    message.server_identifier = Some(SERVER);
    message.subnet_mask = Some(Ipv4Addr::new(255, 255, 255, 0));
    message.lease_duration = Some(86_400);
    message.dns_servers = Some([Ipv4Addr::new(10, 0, 2, 3)].into_iter().collect());
    message.additional_options = &options;
    change(&mut message);
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut DhcpPacket::new_unchecked(&mut bytes)).unwrap();
    bytes
}

fn lease() -> Lease {
    let names = vec![Ipv4Addr::new(10, 0, 2, 3)];
    Lease { address: ADDRESS, prefix: 24, router: Some(SERVER), names, server: SERVER, seconds: Some(86_400) }
}

/// The one message that is to be sent: kind, to whom, the address that the client has, the one that it asks for.
fn sent(actions: &[Action]) -> (DhcpMessageType, Ipv4Addr, Ipv4Addr, Option<Ipv4Addr>) {
    let [Action::Send { bytes, to }] = actions else { panic!("{actions:?}") };
    assert!(bytes.len() >= 300);
    let packet = DhcpPacket::new_checked(&bytes[..]).unwrap();
    let message = DhcpRepr::parse(&packet).unwrap();
    assert_eq!(message.client_hardware_address, EthernetAddress(HARDWARE));
    assert_eq!(message.broadcast, message.client_ip.is_unspecified());
    (message.message_type, *to, message.client_ip, message.requested_ip)
}

/// A client that got its address at second 101.
fn bound() -> Client {
    let mut client = client();
    client.due(seconds(100));
    client.receive(&reply(DhcpMessageType::Offer, client.exchange, |_| ()), seconds(101));
    let actions = client.receive(&reply(DhcpMessageType::Ack, client.exchange, |_| ()), seconds(102));
    assert_eq!(actions, [Action::Configure(lease())]);
    client
}

#[test]
fn an_address_is_found_asked_for_and_taken() {
    let mut client = client();
    let none = Ipv4Addr::UNSPECIFIED;
    assert_eq!(sent(&client.due(seconds(100))), (DhcpMessageType::Discover, Ipv4Addr::BROADCAST, none, None));
    let actions = client.receive(&reply(DhcpMessageType::Offer, client.exchange, |_| ()), seconds(101));
    assert_eq!(sent(&actions), (DhcpMessageType::Request, Ipv4Addr::BROADCAST, none, Some(ADDRESS)));
    let actions = client.receive(&reply(DhcpMessageType::Ack, client.exchange, |_| ()), seconds(102));
    assert_eq!(actions, [Action::Configure(lease())]);
    // From the request on, half of a day.
    assert_eq!(client.deadline(), seconds(101 + 43_200));
    assert!(client.due(seconds(200)).is_empty());
}

#[test]
fn messages_are_repeated_ever_more_seldom() {
    let mut client = client();
    let mut now = seconds(100);
    let mut waits = Vec::new();
    for number in 1..9 {
        let actions = client.due(now);
        assert_eq!(actions.contains(&Action::Unanswered), number == 3);
        waits.push((client.deadline() - now).as_secs_f64());
        now = client.deadline();
    }
    for (wait, meant) in waits.iter().zip([4.0, 8.0, 16.0, 32.0, 64.0, 64.0, 64.0, 64.0]) {
        assert!((wait - meant).abs() <= 1.0, "{waits:?}");
    }
}

#[test]
fn an_offer_that_its_server_forgets_is_given_up() {
    let mut client = client();
    client.due(seconds(100));
    client.receive(&reply(DhcpMessageType::Offer, client.exchange, |_| ()), seconds(101));
    let old = client.exchange;
    for _ in 0..3 {
        assert_eq!(sent(&client.due(client.deadline())).0, DhcpMessageType::Request);
    }
    assert_eq!(sent(&client.due(client.deadline())).0, DhcpMessageType::Discover);
    assert_ne!(client.exchange, old);
}

#[test]
fn a_lease_is_renewed_then_asked_for_everywhere_then_over() {
    let mut client = bound();
    let (end, rebind) = (seconds(101 + 86_400), seconds(101 + 75_600));
    let (mut renewals, mut rebinds) = (0, 0);
    while client.deadline() < end {
        let now = client.deadline();
        let (kind, to, own, asked) = sent(&client.due(now));
        assert_eq!((kind, own, asked), (DhcpMessageType::Request, ADDRESS, None));
        assert_eq!(to, if now < rebind { SERVER } else { Ipv4Addr::BROADCAST });
        *if now < rebind { &mut renewals } else { &mut rebinds } += 1;
    }
    assert!((5..15).contains(&renewals) && (5..15).contains(&rebinds), "{renewals} {rebinds}");
    let actions = client.due(end);
    assert_eq!(actions[0], Action::Deconfigure);
    assert_eq!(sent(&actions[1..]).0, DhcpMessageType::Discover);
}

#[test]
fn a_renewal_goes_on_from_its_request_and_a_refusal_ends() {
    let mut client = bound();
    let now = client.deadline();
    client.due(now);
    let granted = reply(DhcpMessageType::Ack, client.exchange, |message| message.lease_duration = Some(100));
    assert!(matches!(client.receive(&granted, now + seconds(1))[..], [Action::Configure(_)]));
    assert_eq!(client.deadline(), now + seconds(50));
    client.due(client.deadline());
    let refused = reply(DhcpMessageType::Nak, client.exchange, |_| ());
    let now = client.deadline();
    assert_eq!(client.receive(&refused, now), [Action::Deconfigure]);
    assert!(client.due(now).is_empty());
    assert_eq!(sent(&client.due(client.deadline())).0, DhcpMessageType::Discover);
}

#[test]
fn nonsense_is_not_taken() {
    let refused = |change: fn(&mut DhcpRepr<'_>)| {
        let mut client = client();
        client.due(seconds(100));
        client.receive(&reply(DhcpMessageType::Offer, client.exchange, change), seconds(101)).is_empty()
    };
    assert!(!refused(|_| ()));
    assert!(refused(|message| message.transaction_id ^= 1));
    assert!(refused(|message| message.client_hardware_address = EthernetAddress([1; 6])));
    assert!(refused(|message| message.your_ip = Ipv4Addr::BROADCAST));
    assert!(refused(|message| message.your_ip = Ipv4Addr::UNSPECIFIED));
    assert!(refused(|message| message.subnet_mask = Some(Ipv4Addr::new(255, 0, 255, 0))));
    assert!(refused(|message| message.server_identifier = None));
    assert!(refused(|message| message.lease_duration = Some(0)));
    assert!(refused(|message| message.lease_duration = None));
}

#[test]
fn terms_make_sense_whatever_a_server_says() {
    let terms = Terms::new(seconds(10), 800, Some(900), Some(5000));
    assert_eq!(terms, Terms { renew: seconds(410), rebind: seconds(710), end: seconds(810) });
    let terms = Terms::new(seconds(0), 800, Some(100), Some(200));
    assert_eq!(terms, Terms { renew: seconds(100), rebind: seconds(200), end: seconds(800) });
    assert_eq!(Terms::new(seconds(0), 1, None, Some(0)).renew, Duration::ZERO);
    assert_eq!(Terms::new(seconds(0), u32::MAX, Some(1), None).renew, Duration::MAX);
}

proptest! {
    /// Whatever comes: no panic, no flood, and no address that a machine cannot have.
    #[test]
    fn any_bytes_from_the_wire(
        frames in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..400), 0_u64..100_000, any::<u16>(), any::<u8>()), 1..40),
    ) {
        let mut client = client();
        let mut now = seconds(100);
        for (noise, wait, place, kind) in frames {
            now += Duration::from_millis(wait);
            let mut actions = client.due(now);
            // Half of them are good replies with one byte changed.
            let kind = [DhcpMessageType::Offer, DhcpMessageType::Ack, DhcpMessageType::Nak][usize::from(kind % 3)];
            let mut bytes = reply(kind, client.exchange, |_| ());
            if let Some(byte) = noise.first() {
                let place = usize::from(place) % bytes.len();
                bytes[place] = *byte;
            }
            actions.extend(client.receive(&noise, now));
            actions.extend(client.receive(&bytes, now));
            prop_assert!(actions.len() <= 6);
            for action in actions {
                if let Action::Configure(lease) = action {
                    prop_assert!(lease::is_usable(lease.address) && (1..=32).contains(&lease.prefix));
                }
            }
        }
    }
}
