use proptest::prelude::*;

use super::*;
use std::vec::Vec;

fn written(write: impl Fn(&mut [u8]) -> Option<usize>) -> Vec<u8> {
    let mut buffer = vec![0xee; MAX_MESSAGE + 64];
    let length = write(&mut buffer).expect("it fits");
    assert!(buffer[length..].iter().all(|byte| *byte == 0xee), "nothing is written behind the end");
    buffer.truncate(length);
    buffer
}

/// What is asserted here is what the other side, perhaps of another day, relies on.
#[test]
fn layouts_are_as_the_reference_says() {
    let hello = written(|to| Request::Hello { major: 1, minor: 2 }.write(7, to));
    assert_eq!(hello, [20, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0]);
    let name = Name::new("web-1").unwrap();
    let create = written(|to| Request::CreateVm { name, cpus: 2, memory: 1 << 30 }.write(1, to));
    assert_eq!(create.len(), HEADER_BYTES + 32 + 2 + 8);
    let entry = Request::SetEntry { vm: 1, registers: [0; 5], control: [0; 4], gdt: 0, gdt_limit: 31 };
    assert_eq!(written(|to| entry.write(1, to)).len(), HEADER_BYTES + 8 + 40 + 32 + 8 + 2);
    let refused = Answer::Refused { refusal: Refusal::NoMemory, first: 1, second: 2 };
    assert_eq!(
        written(|to| refused.write(1, to))[16..],
        [5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]
    );
    let lost = Event::ConsoleLost { vm: 3, count: 4 };
    assert_eq!(written(|to| lost.write(0, to))[..8], [32, 0, 0, 0, 0x51, 0x41, 0, 0]);
}

#[test]
fn names_are_what_names_of_vms_are() {
    for good in ["a", "web-1", "0123456789012345678901234567890"] {
        assert_eq!(Name::new(good).unwrap().as_str(), good);
    }
    for bad in ["", "A", "a b", "ä", "01234567890123456789012345678901", "a\0b"] {
        assert_eq!(Name::new(bad), None, "{bad:?}");
    }
}

#[test]
fn culprits_are_named() {
    let power = written(|to| Request::Power { action: PowerAction::Off }.write(1, to));
    assert_eq!(Request::read(0x160, &power[16..]), Ok(Request::Power { action: PowerAction::Off }));
    assert_eq!(Request::read(0x160, &[3, 0]), Err(Error::Value { kind: 0x160, field: "action", raw: 3 }));
    assert_eq!(Request::read(0x160, &[1]), Err(Error::Length { kind: 0x160, bytes: 1 }));
    assert_eq!(Request::read(0x160, &[1, 0, 0]), Err(Error::Length { kind: 0x160, bytes: 3 }));
    assert_eq!(Request::read(0x16f, &[]), Err(Error::Kind(0x16f)));
    assert_eq!(
        Request::read(0x150, &[0, 0, 0, 0, 0, 0, 0, 0, 2]),
        Err(Error::Value { kind: 0x150, field: "on", raw: 2 })
    );
    // The bytes' length says more than there are.
    assert_eq!(Event::read(0x4152, &[5, 0, 0, 0, 1]), Err(Error::Length { kind: 0x4152, bytes: 5 }));
}

#[test]
fn too_long_a_message_is_not_written() {
    let bytes = vec![1; MAX_MESSAGE];
    let mut buffer = vec![0; 2 * MAX_MESSAGE];
    assert_eq!(Request::WriteMemory { vm: 1, gpa: 0, bytes: &bytes }.write(1, &mut buffer), None);
    let most = Request::WriteMemory { vm: 1, gpa: 0, bytes: &bytes[..MAX_INLINE] };
    assert!(most.write(1, &mut buffer).is_some());
    assert_eq!(most.write(1, &mut buffer[..100]), None);
    assert_eq!(most.write(1, &mut buffer[..10]), None);
}

#[test]
fn a_stream_that_is_broken_stays_so() {
    let mut stream = Stream::new();
    let mut header = written(|to| Request::Ping { cookie: 1 }.write(1, to));
    header[6] = 1;
    let error = Error::Value { kind: 2, field: "zero", raw: 1 };
    assert_eq!(stream.take(&header), Err(error));
    let good = written(|to| Request::Ping { cookie: 1 }.write(1, to));
    assert_eq!(stream.take(&good), Err(error));
    assert_eq!(Stream::new().take(&[0xff; 16]).unwrap_err(), Error::TooLong(u32::MAX));
    assert_eq!(Stream::new().take(&[0; 16]).unwrap_err(), Error::TooLong(0));
}

/// Whoever adds a message says in the reference what it is.
#[test]
fn the_reference_has_all_messages_and_numbers() {
    let reference = include_str!("../../../docs/abi.md");
    for (name, kind) in [Request::KINDS, Answer::KINDS, Event::KINDS].concat() {
        let row = std::format!("| `{name}` | {kind:04X}H |");
        assert!(reference.contains(&row), "docs/abi.md lacks {row}");
    }
    for refusal in Refusal::ALL {
        let row = std::format!("| {} | `{refusal:?}` |", *refusal as u16);
        assert!(reference.contains(&row), "docs/abi.md lacks {row}");
    }
    let mut kinds: Vec<_> = [Request::KINDS, Answer::KINDS, Event::KINDS].concat();
    kinds.sort_by_key(|(_, kind)| *kind);
    assert!(kinds.windows(2).all(|pair| pair[0].1 != pair[1].1), "each kind has a number of its own");
}

/// A message as a stream brings it: id, kind and body.
fn message() -> impl Strategy<Value = (u64, Vec<u8>)> {
    let ping = (any::<u64>(), any::<u64>())
        .prop_map(|(id, cookie)| (id, written(|to| Request::Ping { cookie }.write(id, to))));
    let bytes = prop::collection::vec(any::<u8>(), 0..200);
    let console = (any::<u64>(), any::<u64>(), bytes).prop_map(|(id, vm, bytes)| {
        (id, written(|to| Request::ConsoleInput { vm, bytes: &bytes }.write(id, to)))
    });
    prop_oneof![ping, console]
}

proptest! {
    #[test]
    fn messages_survive_any_division_of_the_stream(
        messages in prop::collection::vec(message(), 1..8),
        sizes in prop::collection::vec(1_usize..60, 1..50),
    ) {
        let bytes: Vec<u8> = messages.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        let (mut stream, mut found) = (Stream::new(), Vec::new());
        let (mut at, mut sizes) = (0, sizes.iter().cycle());
        while at < bytes.len() {
            let end = (at + sizes.next().unwrap()).min(bytes.len());
            let (taken, whole) = stream.take(&bytes[at..end]).unwrap();
            prop_assert!(taken > 0 || whole.is_some());
            at += taken;
            if let Some((header, body)) = whole {
                prop_assert!(Request::read(header.kind, body).is_ok());
                found.push(header.id);
            }
        }
        let ids: Vec<_> = messages.iter().map(|(id, _)| *id).collect();
        prop_assert_eq!(found, ids);
    }

    #[test]
    fn what_is_read_is_what_would_be_written(kind in prop_oneof![1_u16..3, 0x100_u16..0x170, any::<u16>()], body: Vec<u8>) {
        if let Ok(request) = Request::read(kind, &body) {
            let again = written(|to| request.write(9, to));
            prop_assert_eq!(&again[HEADER_BYTES..], &body[..]);
            prop_assert_eq!(request.kind(), kind);
        }
        if let Ok(answer) = Answer::read(kind | 0x8000, &body) {
            prop_assert_eq!(&written(|to| answer.write(9, to))[HEADER_BYTES..], &body[..]);
        }
        let _ = Event::read(kind | 0x4000, &body);
    }

    #[test]
    fn arbitrary_streams_end(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let (mut stream, mut at) = (Stream::new(), 0);
        while at < bytes.len() {
            let Ok((taken, whole)) = stream.take(&bytes[at..]) else { break };
            prop_assert!(taken > 0 || whole.is_some());
            at += taken;
        }
    }
}
