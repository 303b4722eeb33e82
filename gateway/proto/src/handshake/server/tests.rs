//! Transcripts in proto.md's notation, every cut, and rubbish.

use bytes::BufMut;
use proptest::prelude::*;

use super::*;
use crate::REP_MAGIC;

fn option(opt: Opt, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u64(OPT_MAGIC);
    out.put_u32(opt.0);
    out.put_u32(u32::try_from(data.len()).unwrap());
    out.extend_from_slice(data);
    out
}

fn string(s: &str) -> Vec<u8> {
    [&u32::try_from(s.len()).unwrap().to_be_bytes()[..], s.as_bytes()].concat()
}

fn info_data(name: &str, infos: &[u16]) -> Vec<u8> {
    let mut out = string(name);
    out.put_u16(u16::try_from(infos.len()).unwrap());
    infos.iter().for_each(|i| out.put_u16(*i));
    out
}

fn meta_data(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut out = string(name);
    out.put_u32(u32::try_from(queries.len()).unwrap());
    queries.iter().for_each(|q| out.extend_from_slice(&string(q)));
    out
}

/// The server's words as lines, after the greeting.
fn lines(mut out: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    while out.len() >= 20 && out.starts_with(&REP_MAGIC.to_be_bytes()) {
        out.advance(8);
        let (opt, rep, length) = (Opt(out.get_u32()), Rep(out.get_u32()), out.get_u32());
        let (data, rest) = out.split_at(usize::try_from(length).unwrap());
        let text = if rep.is_error() {
            String::from_utf8_lossy(data).into_owned()
        } else {
            format!("{data:02x?}").replace(", ", "")
        };
        lines.push(format!("{opt} {rep} {text}").replace("NBD_", ""));
        out = rest;
    }
    if !out.is_empty() {
        lines.push(format!("{} bytes", out.len()));
    }
    lines
}

const EXPORT: &str = "disk";

/// Plays a server with one export `disk` of 4096 bytes that has two contexts.
fn play(input: &[u8], piece: usize) -> (Result<(), ServerHandshakeError>, Vec<String>, Server) {
    let contexts = [(0, "base:allocation"), (1, "qemu:dirty-bitmap:b0")];
    let (mut server, mut buffer) = (Server::new(8192, Tls::Off), BytesMut::new());
    server.output().clear();
    for bytes in input.chunks(piece.max(1)) {
        buffer.extend_from_slice(bytes);
        loop {
            match server.handle_input(&mut buffer) {
                Err(bad) => return (Err(bad), lines(&server.out.clone()), server),
                Ok(Progress::More) => break,
                Ok(Progress::Aborted) => return (Ok(()), lines(&server.out.clone()), server),
                Ok(Progress::Ask(Ask::List)) => {
                    server.list(EXPORT, Some("a disk"));
                    server.end_list();
                }
                Ok(Progress::Ask(Ask::StartTls)) => panic!("TLS is off"),
                Ok(Progress::Ask(Ask::ExportName { name })) if name == EXPORT => {
                    server.answer_export_name(4096, ExportFlags::HAS_FLAGS)
                }
                Ok(Progress::Ask(Ask::ExportName { .. })) => return (Ok(()), vec!["end".to_owned()], server),
                Ok(Progress::Ask(Ask::Info { name, .. } | Ask::Contexts { name, .. })) if name != EXPORT => {
                    server.refuse(Rep::ERR_UNKNOWN, "no such export");
                }
                Ok(Progress::Ask(Ask::Info { infos, .. })) => server.answer_info(
                    &infos,
                    &Offer {
                        size: 4096,
                        flags: ExportFlags::HAS_FLAGS,
                        name: EXPORT,
                        description: Some("a disk"),
                        block_sizes: Some(BlockSizes { minimum: 1, preferred: 4096, maximum: 65536 }),
                        resize: None,
                    },
                ),
                Ok(Progress::Ask(Ask::Contexts { set, queries, .. })) => {
                    server.answer_contexts(EXPORT, &match_contexts(&contexts, &queries, set));
                }
            }
        }
    }
    (Ok(()), lines(&server.out.clone()), server)
}

fn said(input: &[u8]) -> Vec<String> {
    let (result, whole, _) = play(input, input.len());
    result.unwrap();
    for piece in 1..input.len() {
        assert_eq!(play(input, piece).1, whole, "in pieces of {piece}");
    }
    whole
}

const FIXED: [u8; 4] = [0, 0, 0, 3];
const OLD: [u8; 4] = [0, 0, 0, 1];

#[test]
fn export_name_is_answered_with_and_without_the_124_zeroes() {
    let ask = option(Opt::EXPORT_NAME, b"disk");
    assert_eq!(said(&[&FIXED[..], &ask].concat()), ["10 bytes"]);
    assert_eq!(said(&[&OLD[..], &ask].concat()), ["134 bytes"]);
    assert_eq!(said(&[&FIXED[..], &option(Opt::EXPORT_NAME, b"none")].concat()), ["end"]);
}

#[test]
fn go_tells_what_was_asked_for_and_enters_transmission() {
    let go = option(Opt::GO, &info_data(EXPORT, &[3, 1, 2, 3, 0x7777]));
    let (_, told, server) = play(&[&FIXED[..], &go, b"rest"].concat(), 7);
    assert_eq!(
        told,
        [
            "OPT_GO REP_INFO [000000000000000010000001]",
            "OPT_GO REP_INFO [00016469736b]",
            "OPT_GO REP_INFO [000261206469736b]",
            "OPT_GO REP_INFO [0003000000010000100000010000]",
            "OPT_GO REP_ACK []",
        ]
    );
    assert!(server.is_finished());
    said(&[&FIXED[..], &go].concat());
}

/// Plays a client that says `before` in the clear, then STARTTLS, then `inside`; the server's words before and inside.
fn play_tls(tls: Tls, before: &[u8], inside: &[u8]) -> (Vec<String>, Vec<String>, Server) {
    let (mut server, mut buffer) = (Server::new(8192, tls), BytesMut::new());
    server.output().clear();
    buffer.extend_from_slice(&[&FIXED[..], before, &option(Opt::STARTTLS, b"")].concat());
    assert_eq!(server.handle_input(&mut buffer), Ok(Progress::Ask(Ask::StartTls)));
    assert_eq!(server.handle_input(&mut buffer), Ok(Progress::More), "nothing is read before TLS is there");
    server.answer_start_tls(&buffer).unwrap();
    let clear = lines(&core::mem::take(server.output()));
    buffer.extend_from_slice(inside);
    while let Progress::Ask(ask) = server.handle_input(&mut buffer).unwrap() {
        server.refuse(Rep::ERR_UNKNOWN, &format!("{ask:?}"));
    }
    (clear, lines(&server.out.clone()), server)
}

#[test]
fn until_there_is_tls_a_listener_that_requires_it_answers_abort_and_starttls_and_nothing_else() {
    let options: Vec<u8> = [
        (Opt::LIST, vec![]),
        (Opt::GO, info_data(EXPORT, &[])),
        (Opt::STRUCTURED_REPLY, vec![]),
        (Opt::SET_META_CONTEXT, vec![1]),
        (Opt(99), vec![7; 3]),
        (Opt::INFO, vec![0; 8193]),
    ]
    .iter()
    .flat_map(|(opt, data)| option(*opt, data))
    .collect();
    let (clear, inside, _) = play_tls(Tls::Require, &options, &option(Opt::LIST, b""));
    let refused = "REP_ERR_TLS_REQD this server requires TLS: send OPT_STARTTLS first";
    let expected: Vec<String> =
        ["OPT_LIST", "OPT_GO", "OPT_STRUCTURED_REPLY", "OPT_SET_META_CONTEXT", "0x63", "OPT_INFO"]
            .iter()
            .map(|opt| format!("{opt} {refused}"))
            .chain(["OPT_STARTTLS REP_ACK []".to_owned()])
            .collect();
    assert_eq!(clear, expected);
    assert_eq!(inside, ["OPT_LIST REP_ERR_UNKNOWN List"]);
    let mut server = Server::new(8192, Tls::Require);
    let mut input = BytesMut::from(&[&FIXED[..], &option(Opt::EXPORT_NAME, b"disk")].concat()[..]);
    assert_eq!(server.handle_input(&mut input), Err(ServerHandshakeError::NoTls), "it has no error reply");
    let mut server = Server::new(8192, Tls::Require);
    let mut input = BytesMut::from(&[&FIXED[..], &option(Opt::ABORT, b"")].concat()[..]);
    assert_eq!(server.handle_input(&mut input), Ok(Progress::Aborted));
}

#[test]
fn what_was_agreed_on_before_tls_is_forgotten() {
    let set = option(Opt::SET_META_CONTEXT, &meta_data(EXPORT, &["base:allocation"]));
    let (clear, _, server) = play_tls(Tls::Allow, &option(Opt::EXTENDED_HEADERS, b""), b"");
    assert_eq!(clear, ["OPT_EXTENDED_HEADERS REP_ACK []", "OPT_STARTTLS REP_ACK []"]);
    assert_eq!(server.framing(), Framing::Simple);
    let (_, inside, _) = play_tls(Tls::Allow, &option(Opt::STRUCTURED_REPLY, b""), &set);
    let first = "structured replies or extended headers must be agreed on first";
    assert_eq!(inside, [format!("OPT_SET_META_CONTEXT REP_ERR_INVALID {first}")]);
}

#[test]
fn tls_starts_once() {
    let (_, inside, _) = play_tls(Tls::Require, b"", &option(Opt::STARTTLS, b""));
    assert_eq!(inside, ["OPT_STARTTLS REP_ERR_INVALID TLS is there already"]);
}

#[test]
fn what_came_in_the_clear_behind_starttls_ends_the_connection() {
    let mut server = Server::new(8192, Tls::Allow);
    let behind = option(Opt::GO, &info_data(EXPORT, &[]));
    let mut input = BytesMut::from(&[&FIXED[..], &option(Opt::STARTTLS, b""), &behind].concat()[..]);
    assert_eq!(server.handle_input(&mut input), Ok(Progress::Ask(Ask::StartTls)));
    assert_eq!(server.answer_start_tls(&input), Err(ServerHandshakeError::Injected(behind.len())));
}

#[test]
fn an_option_that_is_refused_leaves_the_stream_in_step() {
    let big = [&OPT_MAGIC.to_be_bytes()[..], &[0, 0, 0, 6, 0, 0, 0x30, 0], &[7; 0x3000]].concat();
    let script = [
        &FIXED[..],
        &option(Opt(99), b"what"),
        &option(Opt::LIST, b"x"),
        &option(Opt::SET_META_CONTEXT, &meta_data(EXPORT, &["base:allocation"])),
        &option(Opt::INFO, &info_data("none", &[])),
        &option(Opt::INFO, &info_data(EXPORT, &[])[..5]),
        &option(Opt::STARTTLS, b""),
        &big,
        &option(Opt::EXTENDED_HEADERS, b""),
        &option(Opt::STRUCTURED_REPLY, b""),
        &option(Opt::LIST, b""),
        &option(Opt::ABORT, b""),
    ]
    .concat();
    assert_eq!(
        play(&script, script.len()).1,
        [
            "0x63 REP_ERR_UNSUP option 0x63 is not known here",
            "OPT_LIST REP_ERR_INVALID this option takes no data",
            "OPT_SET_META_CONTEXT REP_ERR_INVALID structured replies or extended headers must be agreed on first",
            "OPT_INFO REP_ERR_UNKNOWN no such export",
            "OPT_INFO REP_ERR_INVALID the data's inner lengths disagree with its own, or a string is too long or not UTF-8",
            "OPT_STARTTLS REP_ERR_POLICY TLS is off on this listener",
            "OPT_INFO REP_ERR_TOO_BIG option data is limited to 8192 bytes",
            "OPT_EXTENDED_HEADERS REP_ACK []",
            "OPT_STRUCTURED_REPLY REP_ERR_INVALID extended headers are already agreed on and include it",
            "OPT_LIST REP_SERVER [000000046469736b61206469736b]",
            "OPT_LIST REP_ACK []",
            "OPT_ABORT REP_ACK []",
        ]
    );
    for piece in [1, 2, 3, 5, 16, 1000] {
        assert_eq!(play(&script, piece).1, play(&script, script.len()).1);
    }
}

#[test]
fn contexts_are_listed_by_namespace_and_selected_by_name() {
    let script = [
        &FIXED[..],
        &option(Opt::LIST_META_CONTEXT, &meta_data(EXPORT, &[])),
        &option(Opt::STRUCTURED_REPLY, b""),
        &option(Opt::LIST_META_CONTEXT, &meta_data(EXPORT, &["qemu:"])),
        &option(Opt::SET_META_CONTEXT, &meta_data(EXPORT, &["qemu:", "qemu:dirty-bitmap:b0", "x:y"])),
    ]
    .concat();
    let (_, told, server) = play(&script, script.len());
    let names: Vec<String> = told.iter().map(|l| l.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        names,
        [
            "OPT_LIST_META_CONTEXT REP_META_CONTEXT",
            "OPT_LIST_META_CONTEXT REP_META_CONTEXT",
            "OPT_LIST_META_CONTEXT REP_ACK",
            "OPT_STRUCTURED_REPLY REP_ACK",
            "OPT_LIST_META_CONTEXT REP_META_CONTEXT",
            "OPT_LIST_META_CONTEXT REP_ACK",
            "OPT_SET_META_CONTEXT REP_META_CONTEXT",
            "OPT_SET_META_CONTEXT REP_ACK",
        ]
    );
    assert_eq!(server.selected(EXPORT), [1]);
    assert_eq!(server.selected("other"), [0usize; 0], "a selection holds for its export alone");
    let again = [&script[..], &option(Opt::SET_META_CONTEXT, &meta_data("none", &["base:allocation"]))].concat();
    assert_eq!(play(&again, again.len()).2.selected(EXPORT), [0usize; 0], "a failed selection forgets the one before");
}

/// Once only a selection that reached the export's contexts forgot the one before.
#[test]
fn a_malformed_or_too_long_selection_forgets_the_one_before_too() {
    let select = option(Opt::SET_META_CONTEXT, &meta_data(EXPORT, &["base:allocation"]));
    let script = [&FIXED[..], &option(Opt::STRUCTURED_REPLY, b""), &select].concat();
    assert_eq!(play(&script, script.len()).2.selected(EXPORT), [0]);
    for again in [&b"\0\0\0"[..], &[7; 0x3000]] {
        let script = [&script[..], &option(Opt::SET_META_CONTEXT, again)].concat();
        let (_, told, server) = play(&script, script.len());
        assert!(told.last().unwrap().contains("REP_ERR_"), "{told:?}");
        assert_eq!(server.selected(EXPORT), [0usize; 0]);
    }
}

#[test]
fn what_cannot_be_followed_ends_the_connection_with_a_reason() {
    let huge = [&FIXED[..], &OPT_MAGIC.to_be_bytes(), &[0, 0, 0, 7], &u32::MAX.to_be_bytes()].concat();
    for (input, says) in [
        (vec![0, 0, 0, 9], "client flags 0x9 hold bits that no specification names"),
        ([&FIXED[..], b"GET / HT"].concat(), "option magic is 0x474554202f204854, not IHAVEOPT"),
        (huge, "NBD_OPT_GO with 4294967295 bytes of data, more than 16777216 even to throw away"),
        (
            [&FIXED[..], &option(Opt::EXPORT_NAME, &[0xff])].concat(),
            "NBD_OPT_EXPORT_NAME with a name of 1 bytes, or not UTF-8",
        ),
        (
            [&[0, 0, 0, 0][..], &option(Opt::LIST, b"")].concat(),
            "NBD_OPT_LIST from a client that did not agree on fixed newstyle",
        ),
    ] {
        assert_eq!(play(&input, 3).0.unwrap_err().to_string(), says);
    }
}

#[test]
fn names_of_4096_bytes_are_taken_and_longer_ones_refused() {
    let ask = |length: usize| [&FIXED[..], &option(Opt::INFO, &info_data(&"x".repeat(length), &[]))].concat();
    assert_eq!(play(&ask(4096), 999).1, ["OPT_INFO REP_ERR_UNKNOWN no such export"]);
    assert!(play(&ask(4097), 999).1[0].starts_with("OPT_INFO REP_ERR_INVALID"));
}

/// A client that only ever asked kept its connection, and a thread busy, for as long as it liked.
#[test]
fn a_handshake_has_so_many_options_and_more_for_each_export_that_was_listed() {
    let most = usize::try_from(MAX_OPTIONS).unwrap();
    let unknown = option(Opt(99), b"");
    let asks = |count: usize| [&FIXED[..], &unknown.repeat(count)].concat();
    assert_eq!(play(&asks(most), 9999).0, Ok(()));
    assert_eq!(play(&asks(most + 1), 9999).0, Err(ServerHandshakeError::Options(MAX_OPTIONS)));
    let listing = |count: usize| [&FIXED[..], &option(Opt::LIST, b""), &unknown.repeat(count)].concat();
    assert_eq!(play(&listing(most + 3), 9999).0, Ok(()));
    assert_eq!(play(&listing(most + 4), 9999).0, Err(ServerHandshakeError::Options(MAX_OPTIONS + 4)));
}

proptest! {
    #[test]
    fn rubbish_never_panics(
        opts in proptest::collection::vec((0u32..14, proptest::collection::vec(any::<u8>(), 0..40)), 0..6),
        tail in proptest::collection::vec(any::<u8>(), 0..40), piece in 1usize..50,
    ) {
        let mut input = FIXED.to_vec();
        opts.iter().for_each(|(o, d)| input.extend_from_slice(&option(Opt(*o), d)));
        input.extend_from_slice(&tail);
        let _ = play(&input, piece);
    }
}
