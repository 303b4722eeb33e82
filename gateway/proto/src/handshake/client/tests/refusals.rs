//! Handshakes that fail: each error by the backend that causes it.

use super::super::Closed;
use super::*;
use crate::handshake::info::Malformed;

const GREETING: &str = "S: 4e42444d41474943 49484156454f5054 0003\nC: 00000003";
const GO: &str = "C: 49484156454f5054 00000007 00000007 00000001 \"x\" 0000";
const ABORT: &str = "C: 49484156454f5054 00000002 00000000";

/// What comes of a backend that answers a plain GO with this.
fn go_answered(answer: &str) -> HandshakeError {
    outcome_of(&plain(), &format!("{GREETING}\n{GO}\n{answer}")).unwrap_err()
}

/// What comes of replies written by `fill` to whatever is asked after the greeting, with nothing compared.
fn replied(wishes: Wishes, fill: impl FnOnce(&mut BytesMut)) -> Result<Progress, HandshakeError> {
    let mut client = Client::new(wishes);
    let mut input = BytesMut::from(&lines(GREETING)[0].1[..]);
    fill(&mut input);
    client.handle_input(&mut input)
}

#[test]
fn a_refusal_names_the_option_the_export_and_the_reason() {
    let error = go_answered(&format!("S: 0003e889045565a9 00000007 80000006 00000007 \"no_such\"\n{ABORT}"));
    assert_eq!(error.to_string(), "the server says NBD_REP_ERR_UNKNOWN to NBD_OPT_GO for export \"x\": no_such");
    let error = go_answered(&format!("S: 0003e889045565a9 00000007 80000005 00000000\n{ABORT}"));
    assert_eq!(error.to_string(), "the server says NBD_REP_ERR_TLS_REQD to NBD_OPT_GO for export \"x\"");
    let wishes = Wishes { framing: Framing::Structured, ..plain() };
    // What is not needed may be refused: what is told of the export is what counts.
    let tls = "C: 49484156454f5054 00000008 00000000\nS: 0003e889045565a9 00000008 80000005 00000000";
    let refused = "S: 0003e889045565a9 00000007 80000005 00000000";
    let error = outcome_of(&wishes, &format!("{GREETING}\n{tls}\n{GO}\n{refused}\n{ABORT}")).unwrap_err();
    assert_eq!(error.to_string(), "the server says NBD_REP_ERR_TLS_REQD to NBD_OPT_GO for export \"x\"");
}

#[test]
fn an_unknown_error_is_an_error_and_shows_its_number() {
    let error = go_answered(&format!("S: 0003e889045565a9 00000007 80001234 00000000\n{ABORT}"));
    assert_eq!(error.to_string(), "the server says 0x80001234 to NBD_OPT_GO for export \"x\"");
}

#[test]
fn every_option_that_is_needed_can_be_refused() {
    let info = Wishes { goal: Goal::Info, ..plain() };
    let list = Wishes { goal: Goal::List, ..plain() };
    for (wishes, opt) in [(plain(), Opt::GO), (info, Opt::INFO), (list, Opt::LIST)] {
        let outcome = replied(wishes, |out| put_error(out, opt, Rep::ERR_SHUTDOWN, "going\naway"));
        let Err(HandshakeError::Refused { opt: refused, rep, message, .. }) = outcome else { panic!("{outcome:?}") };
        assert_eq!((refused, rep, &message[..]), (opt, Rep::ERR_SHUTDOWN, "going away"));
    }
}

/// libnbd and qemu go on too, whatever a server calls it.
#[test]
fn a_server_that_refuses_what_is_not_needed_by_any_error_is_used_without() {
    let opened = |out: &mut BytesMut| {
        InfoItem::Export { size: 1, flags: ExportFlags(1) }.encode(Opt::GO, out);
        put_reply(out, Opt::GO, Rep::ACK, &[]);
    };
    let these = Contexts::These(vec!["a:b".to_owned()]);
    for rep in [1, 2, 3, 4, 5, 6, 7, 8, 9, 0x1234].map(|number| Rep(1 << 31 | number)) {
        let wishes = Wishes { framing: Framing::Extended, contexts: Contexts::All, ..plain() };
        let outcome = replied(wishes.clone(), |out| {
            put_error(out, Opt::EXTENDED_HEADERS, rep, "no");
            put_error(out, Opt::STRUCTURED_REPLY, rep, "no");
            opened(out);
        });
        assert!(
            matches!(outcome, Ok(Progress::Done(Negotiated { framing: Framing::Simple, .. }))),
            "{rep}: {outcome:?}"
        );
        for (contexts, opt) in [(Contexts::All, Opt::LIST_META_CONTEXT), (these.clone(), Opt::SET_META_CONTEXT)] {
            let outcome = replied(Wishes { contexts, ..wishes.clone() }, |out| {
                put_reply(out, Opt::EXTENDED_HEADERS, Rep::ACK, &[]);
                put_error(out, opt, rep, "no");
                opened(out);
            });
            assert!(matches!(outcome, Ok(Progress::Done(Negotiated { contexts, .. })) if contexts.is_empty()), "{rep}");
        }
    }
}

#[test]
fn only_what_may_be_due_to_a_question_that_was_not_needed_is_worth_one_without() {
    let closed = |opt| HandshakeError::Closed { when: Closed::InReply(opt) };
    let refused = |rep| HandshakeError::Refused { opt: Opt::GO, rep, export: None, message: String::new() };
    for opt in [Opt::EXTENDED_HEADERS, Opt::STRUCTURED_REPLY, Opt::LIST_META_CONTEXT, Opt::SET_META_CONTEXT, Opt::GO] {
        assert!(closed(opt).is_about_extras(), "{opt}");
    }
    for rep in [Rep::ERR_INVALID, Rep::ERR_TOO_BIG, Rep(0x8000_1234)] {
        assert!(refused(rep).is_about_extras(), "{rep}");
    }
    assert!(HandshakeError::ExtendedWithoutGo.is_about_extras());
    for error in [
        closed(Opt::STARTTLS),
        closed(Opt::LIST),
        HandshakeError::Closed { when: Closed::InGreeting },
        HandshakeError::NotNbd { found: 1 },
        HandshakeError::SizeTooLarge { size: u64::MAX },
        HandshakeError::NoTls { rep: Rep::ERR_UNSUP, message: String::new() },
    ] {
        assert!(!error.is_about_extras(), "{error}");
    }
    for rep in [Rep::ERR_UNKNOWN, Rep::ERR_POLICY, Rep::ERR_TLS_REQD, Rep::ERR_SHUTDOWN, Rep::ERR_BLOCK_SIZE_REQD] {
        assert!(!refused(rep).is_about_extras(), "{rep}");
    }
}

#[test]
fn a_negotiation_that_goes_on_is_asked_about_any_export() {
    let info = |name: &str| format!("C: 49484156454f5054 00000006 00000007 00000001 {name:?} 0000");
    let mut client = Client::new(Wishes { goal: Goal::Watch, framing: Framing::Extended, ..plain() });
    let mut input = BytesMut::from(&lines(GREETING)[0].1[..]);
    assert!(matches!(client.handle_input(&mut input), Ok(Progress::Need(_))));
    for (name, size) in [("x", 5), ("y", 7), ("y", 9)] {
        if size > 5 {
            client.ask_info(name);
        }
        let said = client.take_output().unwrap();
        assert!(hex(&said).ends_with(&hex(&lines(&info(name))[0].1)), "{}", hex(&said));
        InfoItem::Export { size, flags: ExportFlags(1) }.encode(Opt::INFO, &mut input);
        put_reply(&mut input, Opt::INFO, Rep::ACK, &[]);
        let Ok(Progress::Done(told)) = client.handle_input(&mut input) else { panic!("not done") };
        assert_eq!((told.size, client.take_output()), (size, None), "no NBD_OPT_ABORT");
    }
    client.abort();
    assert_eq!(hex(&client.take_output().unwrap()), hex(&lines(ABORT)[0].1));
}

#[test]
fn what_is_no_nbd_server_is_told_by_its_first_bytes() {
    let ssh = outcome_of(&plain(), "S: \"SSH-2.0-OpenSSH_9.2p1\"").unwrap_err();
    assert_eq!(ssh, HandshakeError::NotNbd { found: 0x5353_482d_322e_302d });
    // Eight bytes are enough: such a server may be waiting for us.
    assert_eq!(
        outcome_of(&plain(), "S: \"HTTP/1.1\"").unwrap_err().to_string(),
        "this is not an NBD server: it begins with 0x485454502f312e31 instead of `NBDMAGIC`"
    );
    let old = outcome_of(&plain(), "S: 4e42444d41474943 0000420281861253").unwrap_err();
    assert_eq!(old, HandshakeError::Oldstyle);
    let odd = outcome_of(&plain(), "S: 4e42444d41474943 0000420281861254").unwrap_err();
    assert_eq!(odd, HandshakeError::UnknownStyle { found: 0x0000_4202_8186_1254 });
}

#[test]
fn without_fixed_newstyle_there_is_neither_info_nor_list() {
    for (goal, opt) in [(Goal::Info, Opt::INFO), (Goal::List, Opt::LIST)] {
        let wishes = Wishes { goal, ..plain() };
        let error = outcome_of(&wishes, "S: 4e42444d41474943 49484156454f5054 0002").unwrap_err();
        assert_eq!(error, HandshakeError::NotFixed { opt });
    }
}

#[test]
fn a_reply_that_is_none_is_refused_with_what_it_is() {
    assert_eq!(
        go_answered("S: 0003e889045565aa 00000007 00000001 00000000"),
        HandshakeError::ReplyMagic { opt: Opt::GO, found: 0x0003_e889_0455_65aa }
    );
    assert_eq!(
        go_answered("S: 0003e889045565a9 00000006 00000001 00000000"),
        HandshakeError::ReplyToOther { asked: Opt::GO, answered: Opt::INFO }
    );
    assert_eq!(
        go_answered("S: 0003e889045565a9 00000007 00000002 00000004 00000000"),
        HandshakeError::UnexpectedReply { opt: Opt::GO, rep: Rep::SERVER }
    );
}

#[test]
fn a_reply_over_its_bound_is_refused_before_its_body_is_there() {
    for (length, text) in [(0x1_0001_u32, "00010001"), (u32::MAX, "ffffffff")] {
        let error = go_answered(&format!("S: 0003e889045565a9 00000007 80000006 {text}"));
        let expected = HandshakeError::ReplyTooLong { opt: Opt::GO, rep: Rep::ERR_UNKNOWN, length, most: 0x1_0000 };
        assert_eq!(error, expected);
    }
    let (mut client, mut input) = (Client::new(plain()), BytesMut::from(&lines(GREETING)[0].1[..]));
    put_reply(&mut input, Opt::GO, Rep::INFO, &vec![0x77; 0x1_0000]);
    input.truncate(input.len() - 1);
    assert_eq!(client.handle_input(&mut input), Ok(Progress::Need(1)));
}

#[test]
fn lengths_that_disagree_are_refused() {
    let malformed = |rep, cause| HandshakeError::MalformedReply { opt: Opt::GO, rep, cause };
    assert_eq!(
        go_answered("S: 0003e889045565a9 00000007 00000001 00000001 00"),
        malformed(Rep::ACK, Malformed::Length { length: 1, must: 0 })
    );
    assert_eq!(
        go_answered("S: 0003e889045565a9 00000007 00000003 0000000d 0000 0000000000100000 0001 00"),
        malformed(Rep::INFO, Malformed::Length { length: 13, must: 12 })
    );
    assert_eq!(
        go_answered("S: 0003e889045565a9 00000007 00000003 00000000"),
        malformed(Rep::INFO, Malformed::Short { length: 0 })
    );
    let wishes = Wishes { goal: Goal::List, ..plain() };
    let list = "C: 49484156454f5054 00000003 00000000\nS: 0003e889045565a9 00000003 00000002 00000004 ffffffff";
    assert_eq!(
        outcome_of(&wishes, &format!("{GREETING}\n{list}")).unwrap_err().to_string(),
        "the server's NBD_REP_SERVER to NBD_OPT_LIST is malformed: its name of 4294967295 bytes does not fit into its body of 4"
    );
}

#[test]
fn an_export_that_cannot_be_is_refused() {
    assert_eq!(
        go_answered("S: 0003e889045565a9 00000007 00000003 0000000c 0000 8000000000000000 0001"),
        HandshakeError::SizeTooLarge { size: 1 << 63 }
    );
    let error = go_answered("S: 0003e889045565a9 00000007 00000003 0000000c 0000 0000000000000001 0002");
    assert_eq!(error, HandshakeError::NoFlags { flags: ExportFlags(2) });
    assert_eq!(error.to_string(), "the server's transmission flags 0x2 READ_ONLY lack NBD_FLAG_HAS_FLAGS");
    assert_eq!(
        go_answered("S: 0003e889045565a9 00000007 00000001 00000000"),
        HandshakeError::NoExport { opt: Opt::GO }
    );
}

#[test]
fn a_context_that_was_not_asked_for_or_comes_twice_is_refused() {
    let asked = vec!["a:b".to_owned(), "a:c".to_owned()];
    let select = |replies: &[(u32, &str)]| {
        let wishes = Wishes { framing: Framing::Structured, contexts: Contexts::These(asked.clone()), ..plain() };
        replied(wishes, |out| {
            put_reply(out, Opt::STRUCTURED_REPLY, Rep::ACK, &[]);
            for (id, name) in replies {
                MetaContext { id: *id, name: (*name).to_owned() }.encode(Opt::SET_META_CONTEXT, out);
            }
        })
    };
    let twice = |id, name: &str| Err(HandshakeError::ContextTwice { name: name.to_owned(), id });
    assert_eq!(select(&[(1, "a:b"), (2, "a:d")]), Err(HandshakeError::ContextNotAsked { name: "a:d".to_owned() }));
    assert_eq!(select(&[(1, "a:b"), (1, "a:c")]), twice(1, "a:c"));
    assert_eq!(select(&[(1, "a:b"), (2, "a:b")]), twice(2, "a:b"));
    assert_eq!(select(&[(1, "a:b"), (2, "a:c")]), Ok(Progress::Need(20)));
}

#[test]
fn contexts_beyond_the_most_are_left_out_and_counted() {
    let wishes = Wishes { framing: Framing::Structured, contexts: Contexts::All, ..plain() };
    let outcome = replied(wishes, |out| {
        put_reply(out, Opt::STRUCTURED_REPLY, Rep::ACK, &[]);
        for n in 0..70 {
            MetaContext { id: 0, name: format!("qemu:dirty-bitmap:b{n}") }.encode(Opt::LIST_META_CONTEXT, out);
        }
        put_reply(out, Opt::LIST_META_CONTEXT, Rep::ACK, &[]);
        MetaContext { id: 7, name: "qemu:dirty-bitmap:b63".to_owned() }.encode(Opt::SET_META_CONTEXT, out);
        put_reply(out, Opt::SET_META_CONTEXT, Rep::ACK, &[]);
        InfoItem::Export { size: 1, flags: ExportFlags(1) }.encode(Opt::GO, out);
        put_reply(out, Opt::GO, Rep::ACK, &[]);
    });
    let Ok(Progress::Done(done)) = outcome else { panic!("{outcome:?}") };
    assert_eq!((done.contexts_left_out, done.contexts.len()), (6, 1));
}

#[test]
fn a_flood_of_replies_has_an_end() {
    let flood = |wishes: Wishes, opt: Opt, fill: &dyn Fn(&mut BytesMut)| {
        let mut client = Client::new(wishes);
        let mut input = BytesMut::from(&lines(GREETING)[0].1[..]);
        if opt == Opt::LIST_META_CONTEXT {
            put_reply(&mut input, Opt::STRUCTURED_REPLY, Rep::ACK, &[]);
        }
        for replies in 0..1_000_000 {
            if let Err(error) = client.handle_input(&mut input) {
                return (replies, error);
            }
            fill(&mut input);
        }
        panic!("no end");
    };
    let list = Wishes { goal: Goal::List, ..plain() };
    let contexts = Wishes { framing: Framing::Structured, contexts: Contexts::All, ..plain() };
    let too_many = |opt, most| HandshakeError::TooMany { opt, most };
    let short = Listed { name: "n".to_owned(), description: String::new() };
    let (replies, error) = flood(list.clone(), Opt::LIST, &|out| short.encode(out));
    assert_eq!((replies, error), (MAX_LISTED + 1, too_many(Opt::LIST, MAX_LISTED)));
    let long = Listed { name: "n".repeat(4096), description: "d".repeat(4096) };
    let (replies, error) = flood(list, Opt::LIST, &|out| long.encode(out));
    assert_eq!(error, too_many(Opt::LIST, MAX_LISTED));
    assert!(replies * 8192 <= 17 << 20);
    let unknown = InfoItem::Unknown(Info(0x99));
    assert_eq!(flood(plain(), Opt::GO, &|out| unknown.encode(Opt::GO, out)).1, too_many(Opt::GO, 1024));
    let context = MetaContext { id: 0, name: "a:b".to_owned() };
    let (_, error) = flood(contexts, Opt::LIST_META_CONTEXT, &|out| context.encode(Opt::LIST_META_CONTEXT, out));
    assert_eq!(error, too_many(Opt::LIST_META_CONTEXT, 1024));
}

#[test]
fn extended_headers_without_go_are_refused() {
    let outcome = replied(Wishes { framing: Framing::Extended, ..plain() }, |out| {
        put_reply(out, Opt::EXTENDED_HEADERS, Rep::ACK, &[]);
        put_error(out, Opt::GO, Rep::ERR_UNSUP, "");
    });
    assert_eq!(outcome, Err(HandshakeError::ExtendedWithoutGo));
}

#[test]
fn wishes_that_the_protocol_has_no_room_for_are_refused_before_anything_is_sent() {
    let long = "n".repeat(4097);
    let these = |names: Vec<String>| Wishes { contexts: Contexts::These(names), ..plain() };
    for (wishes, length, most) in [
        (Wishes { export: long.clone(), ..plain() }, 4097, 4096),
        (these(vec![long]), 4097, 4096),
        (these(vec![String::new(); 65]), 65, 64),
    ] {
        let mut client = Client::new(wishes);
        let outcome = client.handle_input(&mut BytesMut::new());
        assert!(
            matches!(outcome, Err(HandshakeError::WishTooLong { length: l, most: m, .. }) if (l, m) == (length, most))
        );
        assert_eq!(client.take_output(), None);
    }
}

#[test]
fn a_closed_connection_is_told_by_where_it_closed() {
    let closed_after = |wishes: Wishes, transcript: &str| {
        let (mut client, mut input) = (Client::new(wishes), BytesMut::new());
        for (who, bytes) in lines(transcript) {
            if who == 'S' {
                input.extend_from_slice(&bytes);
                client.handle_input(&mut input).unwrap();
            }
        }
        let error = client.handle_eof();
        assert_eq!(client.handle_eof(), HandshakeError::Over);
        error
    };
    let closed = |when| HandshakeError::Closed { when };
    assert_eq!(closed_after(plain(), "S: 4e42"), closed(Closed::InGreeting));
    assert_eq!(closed_after(plain(), GREETING), closed(Closed::InReply(Opt::GO)));
    let error = closed_after(plain(), "S: 4e42444d41474943 49484156454f5054 0000");
    assert_eq!(error, closed(Closed::AfterExportName("x".to_owned())));
    assert!(error.to_string().starts_with("the server closed the connection when asked for export \"x\""));
}

#[test]
fn a_malformed_resize_information_is_an_error_that_names_the_value() {
    let wishes = Wishes { infos: vec![Info::RESIZE], ..plain() };
    let go = "C: 49484156454f5054 00000007 00000009 00000001 \"x\" 0001 5253";
    for (item, says) in [
        ("00000004 5253 0001", "it is 4 bytes long and must be 28"),
        (
            "0000001c 5253 0001 00*16 0000000000000003",
            "its granularity of 3 bytes is not a power of two from 1 to 2^62",
        ),
        (
            "0000001c 5253 0001 0000000000000002 0000000000000001 0000000000000001",
            "its minimum of 2 bytes is more than its maximum of 1",
        ),
        (
            "0000001c 5253 0001 00*8 8000000000000000 0000000000000001",
            "its maximum of 9223372036854775808 bytes is more than 2^63-1",
        ),
    ] {
        let answer = format!("S: 0003e889045565a9 00000007 00000003 {item}");
        let error = outcome_of(&wishes, &format!("{GREETING}\n{go}\n{answer}")).unwrap_err().to_string();
        let expected = "the server's NBD_REP_INFO to NBD_OPT_GO is malformed: in NBD_INFO_RESIZE, ".to_owned() + says;
        assert_eq!(error, expected);
    }
}

#[test]
fn a_backend_that_refuses_tls_gets_nothing_but_an_abort() {
    let wishes = Wishes { tls: true, framing: Framing::Extended, ..plain() };
    let ask = "C: 49484156454f5054 00000005 00000000";
    for (rep, name) in [("80000001", "NBD_REP_ERR_UNSUP"), ("80000002", "NBD_REP_ERR_POLICY")] {
        let answer = format!("S: 0003e889045565a9 00000005 {rep} 00000002 \"no\"");
        let error = outcome_of(&wishes, &format!("{GREETING}\n{ask}\n{answer}\n{ABORT}")).unwrap_err();
        let says = format!("the server says {name} to NBD_OPT_STARTTLS: no; nothing is sent to it in the clear");
        assert_eq!(error.to_string(), says);
    }
    let old = "S: 4e42444d41474943 49484156454f5054 0000";
    assert_eq!(
        outcome_of(&wishes, old).unwrap_err().to_string(),
        "the server does not speak fixed newstyle, so it can't answer NBD_OPT_STARTTLS"
    );
}

#[test]
fn what_comes_in_the_clear_behind_the_agreement_to_tls_ends_it() {
    let mut client = Client::new(Wishes { tls: true, ..plain() });
    let mut input = BytesMut::from(&lines(GREETING)[0].1[..]);
    put_reply(&mut input, Opt::STARTTLS, Rep::ACK, &[]);
    put_reply(&mut input, Opt::GO, Rep::ERR_UNKNOWN, &[]);
    assert_eq!(client.handle_input(&mut input), Ok(Progress::StartTls));
    assert_eq!(client.secured(&input), Err(HandshakeError::Injected { bytes: 20 }));
    assert_eq!(client.handle_input(&mut input), Err(HandshakeError::Over));
    let mut silent = Client::new(Wishes { tls: true, ..plain() });
    let mut input = BytesMut::from(&lines(GREETING)[0].1[..]);
    put_reply(&mut input, Opt::STARTTLS, Rep::ACK, &[]);
    assert_eq!(silent.handle_input(&mut input), Ok(Progress::StartTls));
    assert_eq!(silent.handle_eof(), HandshakeError::Closed { when: Closed::BeforeTls });
    assert_eq!(silent.secured(&BytesMut::new()), Err(HandshakeError::Over), "TLS on a connection that is over");
}
