use proptest::prelude::*;

use super::*;

/// An item that owns its bytes; data of one message is joined.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Message(Vec<u8>),
    Text,
    Ping(Vec<u8>),
    Pong,
    Close,
}

/// Decodes bytes that arrive in pieces.
fn decode(pieces: &[&[u8]]) -> Result<Vec<Seen>, Violation> {
    let mut decoder = Decoder::default();
    let (mut seen, mut message) = (Vec::new(), Vec::new());
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut input = piece.as_mut_slice();
        loop {
            let (taken, item) = decoder.decode(input)?;
            let done = item.is_none();
            match item {
                None => assert_eq!(taken, input.len(), "all is taken when nothing is complete"),
                Some(Item::Data { bytes, end }) => {
                    message.extend_from_slice(bytes);
                    if end {
                        seen.push(Seen::Message(std::mem::take(&mut message)));
                    }
                }
                Some(Item::Text) => {
                    seen.push(Seen::Text);
                    return Ok(seen);
                }
                Some(Item::Ping(bytes)) => seen.push(Seen::Ping(bytes.to_vec())),
                Some(Item::Pong) => seen.push(Seen::Pong),
                Some(Item::Close) => seen.push(Seen::Close),
            }
            input = &mut input[taken..];
            if done {
                break;
            }
        }
    }
    Ok(seen)
}

/// A client's frame.
fn frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let (ours, length) = header(Opcode::Binary, payload.len());
    let mut bytes = ours[..length].to_vec();
    bytes[0] = first;
    bytes[1] |= MASKED;
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

#[test]
fn frames_have_the_bytes_of_the_rfc() {
    // RFC 6455 §5.7: "Hello" masked, as a binary frame; a masked pong with the same body.
    let hello = [0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(decode(&[&hello]), Ok(vec![Seen::Message(b"Hello".to_vec())]));
    let ping = [0x89, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(decode(&[&ping]), Ok(vec![Seen::Ping(b"Hello".to_vec())]));
    let table: &[(Opcode, usize, &[u8])] = &[
        (Opcode::Binary, 0, &[0x82, 0]),
        (Opcode::Binary, 125, &[0x82, 125]),
        (Opcode::Binary, 256, &[0x82, 0x7e, 1, 0]),
        (Opcode::Binary, 65536, &[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]),
        (Opcode::Close, 2, &[0x88, 2]),
        (Opcode::Ping, 0, &[0x89, 0]),
        (Opcode::Pong, 5, &[0x8a, 5]),
    ];
    for (opcode, length, expected) in table {
        let (bytes, count) = header(*opcode, *length);
        assert_eq!(&bytes[..count], *expected);
    }
}

#[test]
fn control_frames_may_come_within_a_message() {
    let bytes = [
        frame(0x02, b"ab", MASK),
        frame(0x89, b"?", MASK),
        frame(0x00, b"", MASK),
        frame(0x8a, b"", MASK),
        frame(0x80, b"cd", MASK),
        frame(0x82, b"", MASK),
        frame(0x88, b"\x03\xe8bye", MASK),
        b"anything".to_vec(),
    ]
    .concat();
    let expected = vec![
        Seen::Ping(b"?".to_vec()),
        Seen::Pong,
        Seen::Message(b"abcd".to_vec()),
        Seen::Message(vec![]),
        Seen::Close,
    ];
    assert_eq!(decode(&[&bytes]), Ok(expected));
}

#[test]
fn what_is_no_websocket_is_refused() {
    let unmasked = [0x82, 1, b'x'].to_vec();
    let two_in_one = [frame(0x02, b"a", MASK), frame(0x82, b"b", MASK)].concat();
    let long = [&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0][..], &MASK].concat();
    let table = [
        (unmasked, "masked"),
        (frame(0xc2, b"x", MASK), "reserved"),
        (frame(0x83, b"x", MASK), "opcode"),
        (frame(0x8b, b"x", MASK), "opcode"),
        (frame(0x80, b"x", MASK), "continue"),
        (two_in_one, "inside"),
        (frame(0x09, b"x", MASK), "control"),
        (frame(0x89, &[0; 126], MASK), "control"),
        (frame(0x88, b"\x03", MASK), "one byte"),
        (frame(0x88, b"\x03\xed", MASK), "none"),
        (frame(0x88, b"\x03\xe8\xff", MASK), "text"),
        (long, "63"),
    ];
    for (bytes, reason) in table {
        let Violation(text) = decode(&[&bytes]).expect_err(reason);
        assert!(text.contains(reason), "{text}");
    }
    assert_eq!(decode(&[&frame(0x81, b"hi", MASK)]), Ok(vec![Seen::Text]));
}

proptest! {
    #[test]
    fn messages_survive_any_cut_of_the_stream(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..5),
        mask: [u8; 4],
        cuts in prop::collection::vec(1_usize..40, 1..20),
    ) {
        let bytes: Vec<u8> =
            messages.iter().flat_map(|message| frame(0x82, message, mask)).collect();
        let (mut pieces, mut rest) = (Vec::new(), bytes.as_slice());
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, tail) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece);
            rest = tail;
        }
        let expected: Vec<Seen> = messages.into_iter().map(Seen::Message).collect();
        prop_assert_eq!(decode(&pieces), Ok(expected));
    }

    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        // Refused or not, it ends, and never takes more than there is.
        drop(decode(&[&bytes]));
    }
}
