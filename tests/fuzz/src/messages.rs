//! What the management domain and the kernel say to each other: any bytes, in any pieces.

use abi::{Answer, Event, HEADER_BYTES, MAX_MESSAGE, Request, Stream};

/// What is read means what it would be written as, and a stream that is broken stays so.
pub(crate) fn run(input: &[u8]) {
    let Some((pieces, bytes)) = input.split_first() else { return };
    let piece = usize::from(*pieces) + 1;
    let mut stream = Stream::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let next = rest.get(..piece).unwrap_or(rest);
        let Ok((taken, whole)) = stream.take(next) else {
            assert!(stream.take(next).is_err(), "nothing is read behind what is no message");
            return;
        };
        assert!(taken > 0 || whole.is_some(), "each call gets on");
        if let Some((header, body)) = whole {
            read(header.kind, header.id, body);
        }
        rest = rest.get(taken..).unwrap_or_default();
    }
}

fn read(kind: u16, id: u64, body: &[u8]) {
    let mut buffer = vec![0; MAX_MESSAGE];
    let lengths = [
        Request::read(kind, body).ok().map(|read| read.write(id, &mut buffer)),
        Answer::read(kind, body).ok().map(|read| read.write(id, &mut buffer)),
        Event::read(kind, body).ok().map(|read| read.write(id, &mut buffer)),
    ];
    assert!(lengths.iter().flatten().count() <= 1, "a kind is of one direction");
    for length in lengths.into_iter().flatten() {
        let length = length.expect("it came in a message");
        assert_eq!(&buffer[HEADER_BYTES..length], body);
    }
}
