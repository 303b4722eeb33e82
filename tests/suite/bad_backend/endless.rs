//! A backend whose answers never end, or end each connection: bounded work, and its requests fail or go on slowly.

use std::time::{Duration, Instant};

use super::{Scene, Verdict, verdict};
use crate::gateway::{Gateway, export};
use crate::scripted::backend::{Backend, Fault, Script};
use crate::scripted::numbers::cmd;
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure};

#[test]
fn a_reply_of_chunks_without_end_fails_its_request_and_ends_the_connection() -> Result<(), Trouble> {
    for command in [cmd::READ, cmd::BLOCK_STATUS, cmd::WRITE_ZEROES] {
        let script = Script { fault: Some(Fault::ChunksEndless), ..Script::default() };
        let backend = Backend::start(script)?;
        let scene = Scene::new(&[("bad".into(), &backend)])?;
        let ask = Ask { command, cookie: 1, offset: 0x1_0000, length: 8192, flags: 0 };
        let verdict = verdict(scene.socket(), "bad", Framing::Structured, ask)?;
        ensure(matches!(verdict, Verdict::Failed(_)), || format!("{command}: {verdict:?}"))?;
        // It is not sent again, to end the next connection too.
        assert_eq!(backend.story(|story| story.count(command)), 1, "{command}");
        scene.finish()?;
    }
    Ok(())
}

#[test]
fn a_backend_that_answers_once_and_closes_is_dialled_with_growing_pauses() -> Result<(), Trouble> {
    let backend = Backend::start(Script { fault: Some(Fault::AnswersOnce), ..Script::default() })?;
    let gateway = Gateway::start(&export("", &backend.uri(), ""))?.expecting_warnings();
    let (mut client, _) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
    let begun = Instant::now();
    for _ in 0..8 {
        client.read(0, 4096)?;
    }
    // 20 ms before the third connection, and twice as long before each that follows.
    let least = Duration::from_millis(20 + 40 + 80 + 160 + 320);
    ensure(begun.elapsed() > least, || format!("eight connections within {:?}", begun.elapsed()))?;
    client.leave()?;
    gateway.end()
}
