//! The connecting side against transcripts in proto.md's notation, and against backends that misbehave.

use bytes::BytesMut;
use proptest::prelude::*;

use super::{Client, Contexts, Goal, HandshakeError, MAX_LISTED, Negotiated, Progress, Wishes, fuzz_client};
use crate::handshake::BlockSizes;
use crate::handshake::info::{InfoItem, Listed, MetaContext, put_error, put_reply};
use crate::resize::ResizeInfo;
use crate::{ExportFlags, Features, Framing, Info, Opt, Rep};

mod refusals;
mod transcripts;

/// What a transcript's line says, and by whom: `C:` or `S:`, then hex digits with spaces at field edges, "strings" of the
/// protocol without their lengths, `00*124` for a run of bytes, and `;` before a remark.
fn lines(transcript: &str) -> Vec<(char, Vec<u8>)> {
    let mut lines: Vec<(char, Vec<u8>)> = Vec::new();
    for line in transcript.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (who, says) = line.split_once(": ").unwrap();
        let who = who.chars().next().unwrap();
        if lines.last().is_none_or(|(last, _)| *last != who) {
            lines.push((who, Vec::new()));
        }
        let bytes = &mut lines.last_mut().unwrap().1;
        for word in says.split(';').next().unwrap().split_whitespace() {
            if let Some(text) = word.strip_prefix('"') {
                bytes.extend_from_slice(text.strip_suffix('"').unwrap().as_bytes());
            } else if let Some((byte, times)) = word.split_once('*') {
                let byte = u8::from_str_radix(byte, 16).unwrap();
                bytes.extend(std::iter::repeat_n(byte, times.parse().unwrap()));
            } else {
                bytes.extend((0..word.len()).step_by(2).map(|i| u8::from_str_radix(&word[i..i + 2], 16).unwrap()));
            }
        }
    }
    lines
}

/// Plays a transcript: all that the backend says must be taken, all that the client says must come when it is its turn.
/// Each of the backend's turns is fed in pieces that end where `ends` says. Bytes of the transmission phase follow the
/// last turn, and must stay.
fn play(
    wishes: &Wishes,
    transcript: &[(char, Vec<u8>)],
    ends: impl Fn(usize) -> bool,
) -> Result<Progress, HandshakeError> {
    const AFTER: &[u8] = &[0x67, 0x44, 0x66, 0x98, 0, 0, 0];
    let last = transcript.iter().rposition(|(who, _)| *who == 'S').unwrap();
    let (mut client, mut input, mut outcome) = (Client::new(wishes.clone()), BytesMut::new(), Ok(Progress::Need(1)));
    let mut position = 0;
    for (turn, (who, bytes)) in transcript.iter().enumerate() {
        if *who == 'C' {
            let out = client.take_output().unwrap_or_default();
            assert_eq!(hex(&out), hex(bytes), "what the client says in turn {turn}");
            continue;
        }
        assert_eq!(client.take_output(), None, "the client speaks out of turn before turn {turn}");
        for byte in bytes {
            input.extend_from_slice(&[*byte]);
            position += 1;
            if ends(position) && !(turn == last && position == total(transcript)) {
                outcome = client.handle_input(&mut input);
                assert!(matches!(outcome, Ok(Progress::Need(more)) if more > 0) || outcome.is_err(), "{outcome:?}");
                outcome.as_ref().map_err(Clone::clone)?;
            }
        }
        if turn == last {
            input.extend_from_slice(AFTER);
        }
        outcome = client.handle_input(&mut input);
        if turn < last {
            assert!(input.is_empty(), "the client leaves a part of turn {turn}");
        }
    }
    assert_eq!(client.take_output(), None, "the client has more to say");
    if outcome.is_ok() {
        assert_eq!(&input[..], AFTER, "the client takes what follows the handshake, or leaves a part of it");
        assert_eq!(client.handle_input(&mut input), Err(HandshakeError::Over));
    }
    outcome
}

fn total(transcript: &[(char, Vec<u8>)]) -> usize {
    transcript.iter().filter(|(who, _)| *who == 'S').map(|(_, bytes)| bytes.len()).sum()
}

/// Plays a transcript whole, cut once at every byte, and byte by byte: always with the same outcome.
fn outcome_of(wishes: &Wishes, transcript: &str) -> Result<Progress, HandshakeError> {
    let transcript = lines(transcript);
    let whole = play(wishes, &transcript, |_| false);
    for cut in 1..total(&transcript) {
        assert_eq!(play(wishes, &transcript, |at| at == cut), whole, "cut after {cut} bytes");
    }
    assert_eq!(play(wishes, &transcript, |_| true), whole, "byte by byte");
    whole
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// No contexts, no information, simple replies: the shortest way to the export "x".
fn plain() -> Wishes {
    Wishes {
        export: "x".to_owned(),
        framing: Framing::Simple,
        contexts: Contexts::None,
        infos: Vec::new(),
        goal: Goal::Go,
        tls: false,
    }
}

proptest! {
    #[test]
    fn random_bytes_neither_end_the_process_nor_break_a_bound(data in proptest::collection::vec(any::<u8>(), 0..600)) {
        fuzz_client(&data);
    }

    #[test]
    fn random_replies_neither_end_the_process_nor_break_a_bound(
        choice in any::<u8>(),
        how in 0x80u8..=0xff,
        replies in proptest::collection::vec((
            prop_oneof![1u8..5, Just(0x81), any::<u8>()],
            prop_oneof![
                Just(vec![]),
                Just(b"\0\0\0\x07base:allocation".to_vec()),
                Just(vec![0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]),
                Just(vec![0, 3, 0, 0, 0, 1, 0, 0, 0x10, 0, 2, 0, 0, 0]),
                proptest::collection::vec(any::<u8>(), 0..40),
            ],
        ), 0..30),
    ) {
        let mut data = vec![choice, how];
        for (rep, body) in replies {
            data.extend([rep, u8::try_from(body.len()).unwrap()]);
            data.extend(body);
        }
        fuzz_client(&data);
    }
}
