//! The body of the fuzz target for the connecting side: also run as a unit test on random bytes.

use bytes::{BufMut, BytesMut};

use super::{Client, Contexts, Goal, Progress, Wishes};
use crate::proto::handshake::info::{MAX_REPLY, REPLY_HEAD, put_reply};
use crate::proto::{Framing, Info, NBD_MAGIC, OPT_MAGIC, Rep};

/// Feeds `data` to a handshake and holds it to its bounds. The first byte chooses the wishes, the second how the rest is
/// read: as it is, in pieces; or as a script of replies (type, length, body) to whatever is asked at that moment.
pub fn fuzz_client(data: &[u8]) {
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
    };
    let mut client = Client::new(wishes);
    let mut input = BytesMut::new();
    if how & 0x80 == 0 {
        let piece = usize::from(*how).saturating_add(1);
        for piece in data.chunks(piece) {
            input.extend_from_slice(piece);
            if !go_on(&mut client, &mut input) {
                return;
            }
        }
    } else {
        input.put_u64(NBD_MAGIC);
        input.put_u64(OPT_MAGIC);
        input.put_u16(u16::from(how & 3));
        let mut rest = data;
        while go_on(&mut client, &mut input) {
            let [kind, length, after @ ..] = rest else { break };
            let (body, after) = after.split_at_checked(usize::from(*length)).unwrap_or((after, &[]));
            rest = after;
            match client.state.asked() {
                Some(opt) => put_reply(&mut input, opt, reply_type(*kind), body),
                None => input.extend_from_slice(body),
            }
        }
    }
    let _ = client.handle_eof();
}

/// Every type that has a meaning within few values, so that a fuzzer finds them.
fn reply_type(kind: u8) -> Rep {
    Rep(u32::from(kind & 0x7f) | if kind & 0x80 == 0 { 0 } else { 0x8000_0000 })
}

/// One step; false when the handshake is over. What it waits for and what it sends stay within their bounds.
fn go_on(client: &mut Client, input: &mut BytesMut) -> bool {
    let before = input.len();
    let outcome = client.handle_input(input);
    assert!(input.len() <= before, "a handshake only takes from its input");
    let sent = client.take_output().map(|out| out.len()).unwrap_or_default();
    assert!(sent <= 0x10_0000, "{sent} bytes to send");
    match outcome {
        Ok(Progress::Need(more)) => {
            let whole = input.len().saturating_add(more);
            let bound = usize::try_from(MAX_REPLY).unwrap_or(usize::MAX).saturating_add(REPLY_HEAD);
            assert!(more > 0 && whole <= bound, "waits for {more} bytes after {}", input.len());
            true
        }
        Ok(Progress::Done(_) | Progress::Listed(_)) | Err(_) => {
            assert!(client.handle_input(input).is_err(), "it goes on after its end");
            false
        }
    }
}
