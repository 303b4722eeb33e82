//! One test per misbehaviour. Each backend misbehaves on its first connection and is good on the next.

use super::{Scene, Verdict, recovers, verdict};
use crate::scripted::backend::{Backend, Fault, Script};
use crate::scripted::numbers::cmd;
use crate::scripted::{Ask, Framing};
use crate::trouble::{Trouble, ensure};

/// During the handshake: the client is refused, or served by a second connection.
fn in_the_handshake(fault: Fault) -> Result<(), Trouble> {
    suffer(fault, Framing::Structured, cmd::READ, |_| true)
}

/// In a reply: the request fails.
fn in_a_reply(fault: Fault, framing: Framing, command: u16) -> Result<(), Trouble> {
    suffer(fault, framing, command, |verdict| matches!(verdict, Verdict::Failed(_) | Verdict::Closed))
}

fn suffer(fault: Fault, framing: Framing, command: u16, fits: fn(Verdict) -> bool) -> Result<(), Trouble> {
    let backend = Backend::start(Script { fault: Some(fault), framing, struck: 1, ..Script::default() })?;
    let scene = Scene::new(&[("bad".into(), &backend)])?;
    let ask = Ask { command, cookie: 1, offset: 0x1_0000, length: 8192, flags: 0 };
    let outcome = verdict(scene.socket(), "bad", Framing::Structured, ask)
        .and_then(|verdict| ensure(fits(verdict), || format!("{fault:?} of a {framing:?} backend: {verdict:?}")))
        .and_then(|()| {
            // The gateway may keep a connection whose framing was right all along; the next one is good.
            backend.cut();
            recovers(scene.socket(), "bad")
        });
    outcome.map_err(|trouble| trouble.with(scene.gateway.log()))?;
    scene.finish()
}

macro_rules! in_the_handshake {
    ($($name:ident: $fault:expr;)*) => { mod handshake {
        use super::*;
        $(#[test]
        fn $name() -> Result<(), Trouble> {
            in_the_handshake($fault)
        })*
    } };
}

macro_rules! in_a_reply {
    ($module:ident, $framing:expr, $command:expr, $($name:ident: $fault:expr;)*) => { mod $module {
        use super::*;
        $(#[test]
        fn $name() -> Result<(), Trouble> {
            in_a_reply($fault, $framing, $command)
        })*
    } };
}

in_the_handshake! {
    nobody_else_suffers_from_a_wrong_greeting: Fault::GreetingWrong;
    nobody_else_suffers_from_a_greeting_that_never_comes: Fault::GreetingNever;
    nobody_else_suffers_from_options_that_are_never_answered: Fault::OptionsUnanswered;
    nobody_else_suffers_from_an_option_reply_without_its_magic: Fault::OptionReplyWrong;
    nobody_else_suffers_from_a_reply_to_another_option: Fault::OptionReplyForAnother;
    nobody_else_suffers_from_an_option_reply_of_four_gigabytes: Fault::OptionReplyEndless;
    nobody_else_suffers_from_a_go_that_tells_no_size: Fault::GoWithoutSize;
    nobody_else_suffers_from_a_size_in_too_few_bytes: Fault::GoWithShortInfo;
    nobody_else_suffers_from_a_size_of_all_ones: Fault::GoWithHugeSize;
    nobody_else_suffers_from_a_minimum_block_that_is_no_power_of_two: Fault::BlockSizeOdd;
    nobody_else_suffers_from_a_go_that_is_refused: Fault::GoRefused;
}

in_a_reply! { simple, Framing::Simple, cmd::READ,
    a_read_fails_when_the_connection_ends_instead: Fault::ReplyNever;
    a_read_fails_on_a_reply_without_its_magic: Fault::ReplyWrong;
    a_read_fails_on_a_cookie_that_was_never_sent: Fault::CookieUnknown;
    a_read_fails_on_a_structured_reply_where_none_was_agreed: Fault::ReplyStructured;
}

in_a_reply! { structured, Framing::Structured, cmd::READ,
    a_read_fails_when_the_connection_ends_instead: Fault::ReplyNever;
    a_read_fails_on_a_reply_without_its_magic: Fault::ReplyWrong;
    a_read_fails_on_a_cookie_that_was_never_sent: Fault::CookieUnknown;
    a_read_fails_on_more_data_than_it_asked_for: Fault::ReplyLonger;
    a_read_fails_on_a_chunk_of_four_gigabytes: Fault::ChunkEndless;
    a_read_fails_on_data_before_its_range: Fault::ChunkBefore;
    a_read_fails_on_data_after_its_range: Fault::ChunkAfter;
    a_read_fails_on_overlapping_chunks: Fault::ChunksOverlap;
    a_read_fails_when_half_of_its_data_is_missing: Fault::ChunkMissing;
    a_read_fails_on_a_chunk_too_short_for_its_offset: Fault::ChunkShort;
    a_read_fails_on_a_hole_of_no_bytes: Fault::HoleEmpty;
    a_read_fails_on_a_chunk_of_an_unknown_kind: Fault::ChunkUnknown;
    a_read_fails_on_a_simple_reply_where_structured_ones_were_agreed: Fault::ReplySimple;
    a_read_fails_on_an_error_with_60000_bytes_of_words: Fault::ErrorLong;
    a_read_fails_on_an_error_longer_than_its_chunk: Fault::ErrorTorn;
    a_read_fails_on_an_error_with_the_number_0: Fault::ErrorZero;
}

in_a_reply! { extended, Framing::Extended, cmd::READ,
    a_read_fails_when_the_connection_ends_instead: Fault::ReplyNever;
    a_read_fails_on_a_reply_without_its_magic: Fault::ReplyWrong;
    a_read_fails_on_a_cookie_that_was_never_sent: Fault::CookieUnknown;
    a_read_fails_on_more_data_than_it_asked_for: Fault::ReplyLonger;
    a_read_fails_on_a_chunk_of_four_gigabytes: Fault::ChunkEndless;
    a_read_fails_on_data_after_its_range: Fault::ChunkAfter;
    a_read_fails_on_overlapping_chunks: Fault::ChunksOverlap;
}

in_a_reply! { status, Framing::Structured, cmd::BLOCK_STATUS,
    a_status_fails_on_extents_of_a_context_that_was_never_agreed: Fault::StatusForeign;
    a_status_fails_on_an_extent_of_no_bytes: Fault::StatusEmpty;
    a_status_fails_on_half_an_extent: Fault::StatusTorn;
    a_status_fails_on_the_same_context_twice: Fault::StatusTwice;
    a_status_fails_when_there_are_no_extents: Fault::StatusMissing;
    a_status_fails_on_data: Fault::ChunkUnknown;
}

/// The first reply is a good one, the second answers nothing that is under way; whoever asked has its answer.
#[test]
fn a_reply_that_comes_twice_never_reaches_another_request() -> Result<(), Trouble> {
    for framing in Framing::ALL {
        suffer(Fault::ReplyTwice, framing, cmd::READ, |_| true)?;
        suffer(Fault::ReplyLonger, Framing::Simple, cmd::READ, |_| true)?;
    }
    Ok(())
}
