//! `client watch` against every style of server, in virtual time.

use std::time::Duration;

use super::super::{Output, watch};
use super::scripted::{Script, Scripted, Wrong};
use nbd_gateway_proto::resize::Context;
use nbd_gateway_proto::{Features, Framing};

const GIB: u64 = 1 << 30;

/// What a watch said, while the size became another every second; how it ended, and what was said besides.
async fn watched(
    server: &Scripted,
    count: u32,
    json: bool,
    sizes: &'static [u64],
) -> (String, Result<(), String>, String) {
    watched_each(Duration::from_secs(1), server, count, json, sizes).await
}

/// The same, with the size becoming another each `pause`.
async fn watched_each(
    pause: Duration,
    server: &Scripted,
    count: u32,
    json: bool,
    sizes: &'static [u64],
) -> (String, Result<(), String>, String) {
    let hand = server.clone();
    tokio::spawn(async move {
        for size in sizes {
            tokio::time::sleep(pause).await;
            hand.set(*size);
        }
    });
    let (mut out, mut aside) = (Vec::new(), Vec::new());
    let mut output = Output::new(&mut out, &mut aside);
    let outcome = watch::run(server, Duration::from_millis(400), count, json, &mut output).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(out), outcome.map_err(|fault| fault.to_string()), text(aside))
}

fn long_poll() -> Script {
    let contexts = vec![Context::Automatic, Context::SizeHigh, Context::SizeLow, Context::Watch];
    Script { contexts, ..Script::plain() }
}

const SIZES: &[u64] = &[2 * GIB, 5 * GIB, 1000];
const LINES: &str = "1 GiB (1073741824 bytes)\n2 GiB (2147483648 bytes)\n5 GiB (5368709120 bytes)\n1000 bytes\n";

#[tokio::test(start_paused = true)]
async fn every_style_of_server_is_watched_in_its_best_way() {
    let (notify, query) = (Features::NOTIFY, Features::QUERY);
    let told = "the size: told by the server (NBD_CMD_RESIZE with NOTIFY)\n";
    let asked = "the size: asked on the open connection (NBD_CMD_RESIZE with QUERY), every 400ms\n";
    let held = "the size: asked on the open connection, answered when it changes (x-resize:watch)\n";
    let shaken = "the size: told by the handshake, every 400ms\n";
    let notified = "open, NOTIFY 400ms 4, DISC".to_owned();
    let queried = format!("open, {}DISC", "QUERY, ".repeat(9));
    let waited = "open, BLOCK_STATUS, BLOCK_STATUS, BLOCK_STATUS, DISC".to_owned();
    let polled = ["open, DISC"; 9].join(", ");
    let only_watch = vec![Context::Watch];
    for (script, how, first, asked) in [
        (Script::with(notify.with(query)), "notify", told, &notified),
        (Script { framing: Framing::Extended, ..Script::with(notify) }, "notify", told, &notified),
        (Script::with(query), "query", asked, &queried),
        (Script { contexts: long_poll().contexts, ..Script::with(query) }, "query", asked, &queried),
        (long_poll(), "watch", held, &waited),
        (Script::plain(), "handshake", shaken, &polled),
        (Script { contexts: only_watch, ..Script::plain() }, "handshake", shaken, &polled),
        (Script { framing: Framing::Simple, ..Script::with(notify.with(query)) }, "handshake", shaken, &polled),
    ] {
        let server = Scripted::new(script.clone(), GIB);
        let (out, outcome, aside) = watched(&server, 4, false, SIZES).await;
        assert_eq!((out.as_str(), outcome, aside.as_str()), (LINES, Ok(()), first));
        assert_eq!(&server.asked().await, asked, "{how}");
        let server = Scripted::new(script, GIB);
        let (out, outcome, _) = watched(&server, 2, true, SIZES).await;
        let line = |size| format!("{{\"how\":\"{how}\",\"size\":{size}}}\n");
        assert_eq!((out, outcome), (line(GIB) + &line(2 * GIB), Ok(())));
    }
}

#[tokio::test(start_paused = true)]
async fn one_line_is_the_size_now() {
    for script in [Script::with(Features::NOTIFY), Script::with(Features::QUERY), long_poll(), Script::plain()] {
        let server = Scripted::new(script, GIB);
        assert_eq!(watched(&server, 1, false, &[]).await.0, "1 GiB (1073741824 bytes)\n");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_told_a_size_ends_the_watch_with_the_reason() {
    for (script, lines, why) in [
        (
            Script { wrong: Wrong::HangsUp, ..Script::with(Features::NOTIFY) },
            0,
            "the server closed the connection with 1 requests unanswered",
        ),
        (
            Script { wrong: Wrong::HangsUp, ..Script::with(Features::QUERY) },
            0,
            "the server closed the connection with 1 requests unanswered",
        ),
        (
            Script { wrong: Wrong::TellsNothing, ..Script::with(Features::QUERY) },
            0,
            "the server broke the protocol: its answer to QUERY does not tell the size",
        ),
        (
            Script { wrong: Wrong::TellsTooMuch, ..Script::with(Features::NOTIFY) },
            0,
            "the server broke the protocol: it says that the size is 8 EiB, more than 2^63-1 bytes",
        ),
    ] {
        let server = Scripted::new(script, GIB);
        let (out, outcome, _) = watched(&server, 0, false, SIZES).await;
        assert_eq!(
            outcome.unwrap_err(),
            format!("stopped watching after {lines} line{}: {why}", if lines == 1 { "" } else { "s" })
        );
        assert_eq!(out.lines().count(), lines);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_restarts_is_waited_for_and_no_size_is_told_twice() {
    let pause = Duration::from_secs(5);
    let drains = Script { wrong: Wrong::Drains, ..Script::with(Features::NOTIFY) };
    let (out, outcome, aside) = watched_each(pause, &Scripted::new(drains.clone(), GIB), 4, false, SIZES).await;
    assert_eq!((out.as_str(), outcome), (LINES, Ok(())));
    let why = "the server says ESHUTDOWN to the wish to be told of sizes (NOTIFY): maintenance";
    let lost = format!("the server is lost: {why}; waiting until it is back\nthe server is back\n");
    assert_eq!(aside.matches(&lost).count(), 3, "{aside}");
    assert_eq!(aside.matches("the size: ").count(), 1, "{aside}");
    // It is back with the size that is known.
    let (out, _, _) = watched_each(pause, &Scripted::new(drains, GIB), 2, false, &[GIB, GIB, 2 * GIB]).await;
    assert_eq!(out.lines().count(), 2, "{out}");
    let ends = Script { wrong: Wrong::EndsNotify, ..Script::with(Features::NOTIFY) };
    let (out, outcome, _) = watched_each(pause, &Scripted::new(ends, GIB), 2, false, &[2 * GIB]).await;
    assert_eq!((out.as_str(), outcome), ("1 GiB (1073741824 bytes)\n2 GiB (2147483648 bytes)\n", Ok(())));
}

#[tokio::test(start_paused = true)]
async fn that_a_server_is_away_is_said_once() {
    let server = Scripted::new(Script { wrong: Wrong::TakesOneConnection, ..Script::plain() }, GIB);
    let (mut out, mut aside) = (Vec::new(), Vec::new());
    let mut output = Output::new(&mut out, &mut aside);
    let watching = watch::run(&server, Duration::from_secs(1), 0, false, &mut output);
    tokio::time::timeout(Duration::from_secs(60), watching).await.unwrap_err();
    assert_eq!(String::from_utf8(out).unwrap(), "1 GiB (1073741824 bytes)\n");
    let lost = "the server is lost: can't connect to x: connection refused; waiting until it is back\n";
    assert_eq!(String::from_utf8(aside).unwrap(), format!("the size: told by the handshake, every 1s\n{lost}"));
}

/// A pipe whose reader went away after the first line.
struct Pipe(u32);
impl std::io::Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += 1;
        if self.0 > 1 { Err(std::io::ErrorKind::BrokenPipe.into()) } else { Ok(bytes.len()) }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_goes_away_is_no_fault_of_the_server() {
    let server = Scripted::new(Script::with(Features::NOTIFY), GIB);
    let hand = server.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        hand.set(2 * GIB);
    });
    let (mut pipe, mut aside) = (Pipe(0), Vec::new());
    let mut output = Output::new(&mut pipe, &mut aside);
    let fault = watch::run(&server, Duration::ZERO, 0, false, &mut output).await.unwrap_err();
    assert_eq!(fault.to_string(), "stdout: broken pipe");
    assert_eq!(server.asked().await, "open, NOTIFY 0ns 0, DISC");
}
