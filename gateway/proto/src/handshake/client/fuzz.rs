//! The body of the fuzz target for the connecting side: also run as a unit test on random bytes.

use bytes::{BufMut, BytesMut};

use super::{Client, Contexts, Goal, HandshakeError, Progress, State, Wishes};
use crate::handshake::BlockSizes;
use crate::handshake::info::{InfoItem, Listed, MAX_REPLY, MetaContext, REPLY_HEAD, ReplyHead, put_error, put_reply};
use crate::{ExportFlags, Framing, Info, NBD_MAGIC, OPT_MAGIC, Opt, Rep};

/// All that can be seen of a handshake from outside.
#[derive(Debug, PartialEq, Eq)]
struct Played {
    outcome: Result<Progress, HandshakeError>,
    said: BytesMut,
    rest: BytesMut,
}

/// Feeds `data` to a handshake, at once and in pieces, and holds it to its bounds. The first byte chooses the wishes, the
/// second how the rest is read: as it is, in pieces; or as a script of replies (type, length, body) to whatever is asked at
/// that moment. TLS is there as soon as it is agreed on, unless something is left in the clear.
pub(crate) fn fuzz_client(data: &[u8]) {
    let [choice, how, data @ ..] = data else { return };
    let wishes = Wishes {
        export: "x".to_owned(),
        framing: [Framing::Simple, Framing::Structured, Framing::Extended]
            .get(usize::from(choice & 3))
            .copied()
            .unwrap_or(Framing::Extended),
        contexts: match choice >> 2 & 3 {
            0 => Contexts::None,
            1 => Contexts::These(vec!["base:allocation".to_owned(), "qemu:allocation-depth".to_owned()]),
            _ => Contexts::All,
        },
        infos: vec![Info::NAME, Info::BLOCK_SIZE, Info::RESIZE],
        goal: match choice >> 4 & 3 {
            0 => Goal::List,
            1 => Goal::Info,
            _ => Goal::Go,
        },
        tls: choice & 0x40 != 0,
    };
    if how & 0x80 == 0 {
        let whole = play(&wishes, data, usize::MAX);
        let cut = play(&wishes, data, usize::from(*how).saturating_add(1));
        assert_eq!(whole, cut, "the outcome depends on how the input is cut");
    } else {
        follow(wishes, u16::from(how & 3), data);
    }
}

fn play(wishes: &Wishes, data: &[u8], piece: usize) -> Played {
    let (mut client, mut input, mut said) = (Client::new(wishes.clone()), BytesMut::new(), BytesMut::new());
    let mut pieces = data.chunks(piece);
    let mut outcome = Ok(Progress::Need(0));
    while matches!(outcome, Ok(Progress::Need(_))) {
        let Some(piece) = pieces.next() else { break };
        input.extend_from_slice(piece);
        outcome = go_on(&mut client, &mut input, &mut said);
    }
    let _ = client.handle_eof();
    pieces.for_each(|piece| input.extend_from_slice(piece));
    Played { outcome, said, rest: input }
}

/// Plays a script of replies: type, length, body, ….
fn follow(wishes: Wishes, flags: u16, mut rest: &[u8]) {
    let (mut client, mut input, mut said) = (Client::new(wishes), BytesMut::new(), BytesMut::new());
    put_greeting(&mut input, flags);
    while let Ok(Progress::Need(_) | Progress::StartTls) = go_on(&mut client, &mut input, &mut said) {
        if let State::Secured { .. } = client.state {
            assert!(client.secured(&input).is_ok(), "a script has one reply at a time");
            continue;
        }
        let [kind, length, after @ ..] = rest else { break };
        let (body, after) = after.split_at_checked(usize::from(*length)).unwrap_or((after, &[]));
        rest = after;
        match client.state.asked() {
            Some(opt) => put_reply(&mut input, opt, reply_type(*kind), body),
            None => input.extend_from_slice(body),
        }
    }
    let _ = client.handle_eof();
}

fn put_greeting(out: &mut BytesMut, flags: u16) {
    out.put_u64(NBD_MAGIC);
    out.put_u64(OPT_MAGIC);
    out.put_u16(flags);
}

/// Every type that has a meaning within few values, so that a fuzzer finds them.
fn reply_type(kind: u8) -> Rep {
    Rep(u32::from(kind & 0x7f) | if kind & 0x80 == 0 { 0 } else { 0x8000_0000 })
}

/// One step. What it waits for and what it sends stay within their bounds.
fn go_on(client: &mut Client, input: &mut BytesMut, said: &mut BytesMut) -> Result<Progress, HandshakeError> {
    let before = input.len();
    let outcome = client.handle_input(input);
    assert!(input.len() <= before, "a handshake only takes from its input");
    let out = client.take_output().unwrap_or_default();
    assert!(out.len() <= 0x10_0000, "{} bytes to send", out.len());
    said.extend_from_slice(&out);
    match &outcome {
        Ok(Progress::Need(more)) => {
            let whole = input.len().saturating_add(*more);
            let bound = usize::try_from(MAX_REPLY).unwrap_or(usize::MAX).saturating_add(REPLY_HEAD);
            assert!(*more > 0 && whole <= bound, "waits for {more} bytes after {}", input.len());
        }
        Ok(Progress::StartTls) => {
            let rest = input.len();
            assert_eq!(client.handle_input(input), Ok(Progress::StartTls), "it goes on in the clear");
            assert_eq!(input.len(), rest, "it takes what is in the clear");
        }
        Ok(Progress::Done(_) | Progress::Listed(_)) | Err(_) => {
            assert!(client.handle_input(input).is_err(), "it goes on after its end");
        }
    }
    outcome
}

/// What real backends say to each kind of wish, each also as a script.
pub(crate) fn fuzz_seeds() -> Vec<Vec<u8>> {
    const LIST: u8 = 0x00;
    const INFO: u8 = 0x10;
    const GO: u8 = 0x20;
    const NAMED_CONTEXTS: u8 = 0x04;
    const ALL_CONTEXTS: u8 = 0x08;
    const TLS: u8 = 0x40;
    let told = |opt: Opt| {
        let sizes = BlockSizes { minimum: 1, preferred: 4096, maximum: 1 << 25 };
        let items = [
            InfoItem::Export { size: 1 << 30, flags: ExportFlags(0x1ded) },
            InfoItem::Name("x".to_owned()),
            InfoItem::Description("a disk".to_owned()),
            InfoItem::BlockSize(sizes),
            InfoItem::Resize([&Info::RESIZE.0.to_be_bytes()[..], &[0; 26]].concat().into()),
        ];
        let mut out = BytesMut::new();
        items.iter().for_each(|item| item.encode(opt, &mut out));
        put_reply(&mut out, opt, Rep::ACK, &[]);
        out
    };
    let contexts = |opt: Opt| {
        let mut out = BytesMut::new();
        for (id, name) in [(1, "base:allocation"), (2, "qemu:allocation-depth")] {
            MetaContext { id, name: name.to_owned() }.encode(opt, &mut out);
        }
        put_reply(&mut out, opt, Rep::ACK, &[]);
        out
    };
    let reply = |opt: Opt, rep: Rep| {
        let mut out = BytesMut::new();
        if rep.is_error() {
            put_error(&mut out, opt, rep, "not here")
        } else {
            put_reply(&mut out, opt, rep, &[])
        }
        out
    };
    let listed = {
        let mut out = BytesMut::new();
        Listed { name: "x".to_owned(), description: "a disk".to_owned() }.encode(&mut out);
        put_reply(&mut out, Opt::LIST, Rep::ACK, &[]);
        out
    };
    let mut entered = BytesMut::new();
    entered.put_u64(1 << 30);
    entered.put_u16(ExportFlags::HAS_FLAGS.0);
    let (extended, structured) = (Opt::EXTENDED_HEADERS, Opt::STRUCTURED_REPLY);
    let conversations: [(u8, Vec<BytesMut>); 10] = [
        (LIST, vec![listed]),
        (LIST, vec![reply(Opt::LIST, Rep::ERR_POLICY)]),
        (INFO, vec![told(Opt::INFO)]),
        (TLS | INFO, vec![reply(Opt::STARTTLS, Rep::ACK), told(Opt::INFO)]),
        (TLS | GO, vec![reply(Opt::STARTTLS, Rep::ERR_POLICY)]),
        (GO, vec![reply(Opt::GO, Rep::ERR_UNSUP), entered]),
        (GO | 2, vec![reply(extended, Rep::ERR_UNSUP), reply(structured, Rep::ERR_UNSUP), told(Opt::GO)]),
        (GO | 2, vec![reply(extended, Rep::ACK), reply(Opt::GO, Rep::ERR_UNKNOWN)]),
        (GO | NAMED_CONTEXTS | 1, vec![reply(structured, Rep::ACK), contexts(Opt::SET_META_CONTEXT), told(Opt::GO)]),
        (
            GO | ALL_CONTEXTS | 2,
            vec![
                reply(extended, Rep::ACK),
                contexts(Opt::LIST_META_CONTEXT),
                contexts(Opt::SET_META_CONTEXT),
                told(Opt::GO),
            ],
        ),
    ];
    let mut seeds = Vec::new();
    for (choice, replies) in conversations {
        let mut raw = BytesMut::from(&[choice, 40][..]);
        put_greeting(&mut raw, 3);
        let mut script = vec![choice, 0x83];
        for reply in replies {
            raw.extend_from_slice(&reply);
            script.extend(as_script(&reply));
        }
        seeds.extend([raw.to_vec(), script]);
    }
    seeds
}

/// Replies as a script has them; what is no reply stands there as it is.
fn as_script(mut replies: &[u8]) -> Vec<u8> {
    let mut script = Vec::new();
    while let Some(Ok(head)) = ReplyHead::decode(replies) {
        let whole = usize::try_from(head.length).unwrap_or(usize::MAX).saturating_add(REPLY_HEAD);
        let (reply, rest) = replies.split_at_checked(whole).unwrap_or((replies, &[]));
        let kind = u8::try_from(head.rep.0 & 0x7f).unwrap_or_default() | if head.rep.is_error() { 0x80 } else { 0 };
        let body = reply.get(REPLY_HEAD..).unwrap_or_default();
        script.extend([kind, u8::try_from(body.len()).unwrap_or(u8::MAX)]);
        script.extend_from_slice(body);
        replies = rest;
    }
    if !replies.is_empty() {
        script.extend([0, u8::try_from(replies.len()).unwrap_or(u8::MAX)]);
        script.extend_from_slice(replies);
    }
    script
}
