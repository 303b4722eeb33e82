//! `client resize` and `client size` against every style of server, and `client write --grow`.

use nbd_gateway_config::NewSize;

use super::super::connect::Connector;
use super::super::parts::opted_in;
use super::super::{ClientError, Output, resize, size, write};
use super::scripted::{Script, Scripted, Wrong};
use nbd_gateway_proto::handshake::client::Wishes;
use nbd_gateway_proto::resize::Context;
use nbd_gateway_proto::{ExportFlags, Features, Framing};

const GIB: u64 = 1 << 30;

/// What a command said: on stdout, or why it failed; and besides.
async fn resized(server: &Scripted, change: &str, durable: bool, json: bool) -> (Result<String, String>, String) {
    let (mut out, mut aside) = (Vec::new(), Vec::new());
    let wanted = change.parse::<NewSize>().unwrap();
    let outcome = resize::run(server, wanted, durable, json, &mut Output::new(&mut out, &mut aside)).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (outcome.map(|()| text(out)).map_err(|fault| fault.to_string()), text(aside))
}

/// The same, without what is said besides.
async fn resized_to(server: &Scripted, change: &str) -> Result<String, String> {
    resized(server, change, false, false).await.0
}

fn explicit() -> Script {
    Script::with(Features::EXPLICIT.with(Features::QUERY))
}

fn automatic() -> Script {
    Script::with(Features::AUTOMATIC)
}

#[tokio::test]
async fn an_explicit_server_is_asked_and_then_asked_again_in_band() {
    for framing in [Framing::Structured, Framing::Extended] {
        let server = Scripted::new(Script { framing, ..explicit() }, GIB);
        let (out, aside) = resized(&server, "2GiB", false, false).await;
        assert_eq!(out.unwrap(), "2 GiB (2147483648 bytes)\n");
        let says =
            "resized by NBD_CMD_RESIZE; the size now: asked on the open connection (NBD_CMD_RESIZE with QUERY)\n";
        assert_eq!(aside, says);
        assert_eq!(server.asked().await, "open, RESIZE 2147483648, QUERY, DISC", "{framing:?}");
        assert_eq!(server.size(), 2 * GIB);
    }
}

#[tokio::test]
async fn where_no_reply_carries_a_size_a_second_handshake_tells_it() {
    // QUERY is offered, but a simple reply could not answer it.
    let server = Scripted::new(Script { framing: Framing::Simple, ..explicit() }, GIB);
    let (out, aside) = resized(&server, "2GiB", false, false).await;
    assert_eq!(out.unwrap(), "2 GiB (2147483648 bytes)\n");
    assert_eq!(aside, "resized by NBD_CMD_RESIZE; the size now: told by the handshake\n");
    // One connection after the other: some servers take no two.
    assert_eq!(server.asked().await, "open, RESIZE 2147483648, DISC, open, DISC");
    let server = Scripted::new(Script::with(Features::EXPLICIT), GIB);
    assert_eq!(resized_to(&server, "1000").await.unwrap(), "1000 bytes\n");
    assert_eq!(server.asked().await, "open, RESIZE 1000, DISC, open, DISC");
}

#[tokio::test]
async fn growth_can_be_relative_and_another_size_than_asked_for_is_told() {
    let server = Scripted::new(Script { granularity: 1 << 20, ..explicit() }, GIB);
    let out = resized_to(&server, "+1000").await.unwrap();
    assert_eq!(out, "1.00 GiB (1074790400 bytes); asked for 1.00 GiB (1073742824 bytes)\n");
    let json = resized(&server, "+1", false, true).await;
    let expected = "{\"asked\":1074790401,\"checked\":\"query\",\"how\":\"explicit\",\"size\":1075838976}\n";
    assert_eq!(json, (Ok(expected.to_owned()), String::new()));
    let server = Scripted::new(Script { clamps: true, ..explicit() }, GIB);
    let out = resized_to(&server, "10GiB").await.unwrap();
    assert_eq!(out, "8 GiB (8589934592 bytes); asked for 10 GiB (10737418240 bytes)\n");
    let fault = resized_to(&server, "+9223372036854775807").await.unwrap_err();
    assert_eq!(
        fault,
        "8 GiB (8589934592 bytes) and 7.99 EiB (9223372036854775807 bytes) more are over 2^63-1 bytes, the most that an export can have"
    );
}

#[tokio::test]
async fn a_refusal_names_the_size_and_gives_the_servers_words() {
    for (framing, words) in [(Framing::Simple, ""), (Framing::Structured, ": over the quota")] {
        let server = Scripted::new(Script { framing, ..explicit() }, GIB);
        let fault = resized_to(&server, "10GiB").await.unwrap_err();
        assert_eq!(fault, format!("the server says ENOSPC to a resize to 10 GiB (10737418240 bytes){words}"));
        assert_eq!(server.asked().await, "open, RESIZE 10737418240, DISC");
    }
}

#[tokio::test]
async fn the_flag_alone_is_a_hint_that_may_be_right_or_wrong() {
    let plain = Script::plain();
    let hint = Script { flags: plain.flags.with(ExportFlags::SEND_RESIZE), ..plain };
    let server = Scripted::new(hint.clone(), GIB);
    assert_eq!(resized_to(&server, "2GiB").await.unwrap(), "2 GiB (2147483648 bytes)\n");
    assert_eq!(server.asked().await, "open, RESIZE 2147483648, DISC, open, DISC");
    let wrong = Script { wrong: Wrong::KnowsNoResize, ..hint };
    let server = Scripted::new(wrong.clone(), GIB);
    assert_eq!(
        resized_to(&server, "2GiB").await.unwrap_err(),
        "this export can't be resized over NBD: the server sets NBD_FLAG_SEND_RESIZE, but says EINVAL to NBD_CMD_RESIZE: \
         unknown command"
    );
    let server = Scripted::new(Script { contexts: vec![Context::Automatic], ..wrong }, GIB);
    assert_eq!(resized_to(&server, "2GiB").await.unwrap(), "2 GiB (2147483648 bytes)\n");
    assert_eq!(server.asked().await, "open, RESIZE 2147483648, WRITE_ZEROES 2147483136+512, DISC, open, DISC");
}

#[tokio::test]
async fn a_server_that_offers_nothing_is_told_so_and_asked_nothing() {
    for script in [Script::plain(), Script::with(Features::QUERY.with(Features::NOTIFY))] {
        let server = Scripted::new(script, GIB);
        assert_eq!(
            resized_to(&server, "2GiB").await.unwrap_err(),
            "the server offers no way to resize this export over NBD, neither NBD_CMD_RESIZE nor growth by writes"
        );
        assert_eq!(server.asked().await, "open, DISC");
    }
}

#[tokio::test]
async fn an_automatic_server_is_grown_by_zeroes_at_the_new_end() {
    let by_context = Script { contexts: vec![Context::Automatic, Context::Watch], ..Script::plain() };
    let by_data = Script { flags: ExportFlags::HAS_FLAGS, ..automatic() };
    for (script, written) in [
        (automatic(), "WRITE_ZEROES 2147483136+512"),
        (by_context, "WRITE_ZEROES 2147483136+512"),
        (Script { framing: Framing::Simple, ..automatic() }, "WRITE_ZEROES 2147483136+512"),
        (Script { framing: Framing::Extended, ..by_data.clone() }, "WRITE 2147483136+512"),
        (by_data, "WRITE 2147483136+512"),
    ] {
        let server = Scripted::new(script, GIB);
        let (out, aside) = resized(&server, "2GiB", false, false).await;
        assert_eq!(out.unwrap(), "2 GiB (2147483648 bytes)\n");
        assert_eq!(aside, "grown by zeroes written at the new end; the size now: told by the handshake\n");
        assert_eq!(server.asked().await, format!("open, {written}, DISC, open, DISC"));
    }
    let server = Scripted::new(Script { granularity: 1 << 20, ..automatic() }, GIB);
    let out = resized_to(&server, "+1").await.unwrap();
    assert_eq!(out, "1.00 GiB (1074790400 bytes); asked for 1.00 GiB (1073741825 bytes)\n");
    assert_eq!(server.asked().await, "open, WRITE_ZEROES 1074789888+512, DISC, open, DISC");
}

#[tokio::test]
async fn nothing_is_written_where_nothing_is_to_grow() {
    let server = Scripted::new(automatic(), GIB);
    let (out, aside) = resized(&server, "1GiB", false, true).await;
    let expected = "{\"asked\":1073741824,\"checked\":\"handshake\",\"how\":\"none\",\"size\":1073741824}\n";
    assert_eq!((out.unwrap(), aside), (expected.to_owned(), String::new()));
    let fault = resized_to(&server, "512MiB").await.unwrap_err();
    let says = "the export has 1 GiB (1073741824 bytes), and the server only lets it grow (by writes past its end)";
    assert_eq!(fault, says);
    // The handshake tells half; what is written by it would be in the middle.
    let features = Features::AUTOMATIC.with(Features::QUERY);
    let server = Scripted::new(Script { wrong: Wrong::StaleHandshake, ..Script::with(features) }, GIB);
    assert_eq!(resized_to(&server, "1GiB").await.unwrap(), "1 GiB (1073741824 bytes)\n");
    assert_eq!(server.asked().await, "open, QUERY, QUERY, DISC");
    let read_only = automatic().flags.with(ExportFlags::READ_ONLY);
    let server = Scripted::new(Script { flags: read_only, ..automatic() }, GIB);
    assert_eq!(resized_to(&server, "2GiB").await.unwrap_err(), "the export is read-only");
    assert_eq!(server.asked().await, "open, DISC");
}

#[tokio::test]
async fn durable_is_kept_by_fua_or_by_a_flush_or_refused() {
    let base = ExportFlags::HAS_FLAGS.with(ExportFlags::SEND_RESIZE).with(ExportFlags::SEND_WRITE_ZEROES);
    let (fua, flush) = (base.with(ExportFlags::SEND_FUA), base.with(ExportFlags::SEND_FLUSH));
    for (script, flags, asked) in [
        (explicit(), fua, Ok("open, RESIZE 2147483648 FUA, QUERY, DISC")),
        (explicit(), flush, Err("NBD_FLAG_SEND_FUA")),
        (automatic(), fua, Ok("open, WRITE_ZEROES 2147483136+512 FUA, DISC, open, DISC")),
        (automatic(), flush, Ok("open, WRITE_ZEROES 2147483136+512, FLUSH, DISC, open, DISC")),
        (automatic(), base, Err("NBD_FLAG_SEND_FUA or NBD_FLAG_SEND_FLUSH")),
    ] {
        let server = Scripted::new(Script { flags, ..script }, GIB);
        let outcome = resized(&server, "2GiB", true, false).await.0;
        match asked {
            Ok(asked) => assert_eq!((server.asked().await, outcome.is_ok()), (asked.to_owned(), true)),
            Err(lacks) => {
                let says = format!(
                    "the server can't be asked to make it durable: it does not offer {lacks}; do without --durable"
                );
                assert_eq!((server.asked().await, outcome), ("open, DISC".to_owned(), Err(says)));
            }
        }
    }
}

#[tokio::test]
async fn success_is_not_believed() {
    for features in [Features::EXPLICIT, Features::EXPLICIT.with(Features::QUERY)] {
        let script = Script { wrong: Wrong::KeepsItsSize, ..Script::with(features) };
        let server = Scripted::new(script, GIB);
        assert_eq!(
            resized_to(&server, "2GiB").await.unwrap_err(),
            "the server answered with success, but the export has 1 GiB (1073741824 bytes); asked for 2 GiB (2147483648 bytes)"
        );
        assert_eq!(
            resized_to(&server, "1MiB").await.unwrap_err(),
            "the server answered with success, but the export has 1 GiB (1073741824 bytes); asked for 1 MiB (1048576 bytes)"
        );
    }
}

#[tokio::test]
async fn a_server_that_breaks_the_protocol_or_goes_away_is_told_by_how() {
    for (wrong, says) in [
        (Wrong::TellsTooMuch, "the server broke the protocol: it says that the size is 8 EiB, more than 2^63-1 bytes"),
        (Wrong::HangsUp, "the server closed the connection with 1 requests unanswered"),
        (
            Wrong::TellsNothing,
            "the server answered the resize with success, but the size now can't be asked: \
             the server broke the protocol: its answer to QUERY does not tell the size",
        ),
    ] {
        let server = Scripted::new(Script { wrong, ..explicit() }, GIB);
        assert_eq!(resized_to(&server, "2GiB").await.unwrap_err(), says);
    }
    let server = Scripted::new(Script { wrong: Wrong::TakesOneConnection, ..automatic() }, GIB);
    let fault = resized_to(&server, "2GiB").await.unwrap_err();
    let says = "the server answered the resize with success, but the size now can't be asked: can't connect to x: ";
    assert!(fault.starts_with(says), "{fault}");
}

#[tokio::test]
async fn the_size_is_asked_in_band_where_it_can_be() {
    let handshake = ("told by the handshake\n", "handshake", "open, DISC");
    let query = ("asked on the open connection (NBD_CMD_RESIZE with QUERY)\n", "query", "open, QUERY, DISC");
    for (script, (says, how, asked)) in [
        (Script::plain(), handshake),
        (Script::with(Features::NOTIFY), handshake),
        (Script { framing: Framing::Simple, ..explicit() }, handshake),
        (explicit(), query),
        (Script { framing: Framing::Extended, ..explicit() }, query),
    ] {
        let server = Scripted::new(script, GIB + 1);
        for (json, out, says) in [
            (false, "1073741825\n".to_owned(), says),
            (true, format!("{{\"how\":\"{how}\",\"size\":1073741825}}\n"), ""),
        ] {
            let (mut said, mut aside) = (Vec::new(), Vec::new());
            size::run(&server, json, &mut Output::new(&mut said, &mut aside)).await.unwrap();
            assert_eq!((said, aside), (out.into_bytes(), says.as_bytes().to_vec()));
            assert_eq!(server.asked().await, asked);
        }
    }
}

#[tokio::test]
async fn a_write_grows_the_export_if_it_was_asked_to_and_the_server_offers_it() {
    let source = vec![7; 3_000_000];
    let copied = async |server: &Scripted, grow: bool| -> Result<u64, ClientError> {
        let wishes = if grow { opted_in("x", &[Context::Automatic]) } else { Wishes::go("x") };
        let mut connection = server.open(wishes).await?;
        let outcome = write::copy(&mut connection, 4096, Some(3_000_000), grow, &mut &source[..], "source").await;
        connection.leave().await;
        outcome
    };
    for script in [automatic(), Script { contexts: vec![Context::Automatic], ..Script::plain() }] {
        let server = Scripted::new(script, 8192);
        assert_eq!(copied(&server, true).await.unwrap(), 3_000_000);
        assert_eq!(server.size(), 3_004_096);
        assert_eq!(server.asked().await, "open, WRITE 4096+1048576, WRITE 1052672+1048576, WRITE 2101248+902848, DISC");
    }
    let past = "the range of 2.86 MiB (3000000 bytes) at offset 4096 ends past the end of the export, which has 8 KiB (8192 bytes)";
    let server = Scripted::new(automatic(), 8192);
    assert_eq!(copied(&server, false).await.unwrap_err().to_string(), past);
    let server = Scripted::new(explicit(), 8192);
    let says = format!("{past}: the server offers no growth by writes");
    assert_eq!(copied(&server, true).await.unwrap_err().to_string(), says);
    assert_eq!(server.asked().await, "open, DISC");
}
