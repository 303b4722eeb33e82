//! Requests that nobody knows, that reach past everything, or that are no requests.

use super::Scene;
use crate::scripted::numbers::{cmd, cmd_flag, errno, opt};
use crate::scripted::{Ask, Framing, RawClient, go_request, option_bytes};
use crate::trouble::{Trouble, ensure};

#[test]
fn unknown_commands_and_flags_are_einval_in_step() -> Result<(), Trouble> {
    let scene = Scene::new()?;
    for framing in Framing::ALL {
        let (mut client, _) = RawClient::open(scene.socket(), "disk", framing)?;
        for command in [9, 1000, u16::MAX] {
            let reply = client.ask(Ask { command, cookie: 1, length: 512, ..Ask::default() }, &[])?;
            assert_eq!(reply.error, errno::EINVAL, "{framing:?} command {command}");
        }
        for flags in [1 << 6, 1 << 14, 1 << 15] {
            let reply = client.ask(Ask { flags, ..Ask::read(2, 0, 512) }, &[])?;
            assert_eq!(reply.error, errno::EINVAL, "{framing:?} flags {flags:#x}");
        }
        client.read(0, 512)?;
        client.leave()?;
    }
    scene.finish()
}

#[test]
fn ranges_that_overflow_or_reach_past_the_end_are_refused_in_step() -> Result<(), Trouble> {
    let scene = Scene::new()?;
    for framing in Framing::ALL {
        let (mut client, opened) = RawClient::open(scene.socket(), "disk", framing)?;
        let longest = if framing == Framing::Extended { u64::MAX } else { u64::from(u32::MAX) };
        let ranges =
            [(u64::MAX, 512), (u64::MAX - 511, 512), (opened.size, 512), (opened.size - 256, 512), (0, longest)];
        for (offset, length) in ranges {
            for command in [cmd::READ, cmd::TRIM, cmd::CACHE, cmd::WRITE_ZEROES] {
                let reply = client.ask(Ask { command, cookie: 3, offset, length, flags: 0 }, &[])?;
                let fits = match command {
                    cmd::WRITE_ZEROES => matches!(reply.error, errno::ENOSPC | errno::EINVAL),
                    // A READ over the largest payload may also be told that it is too large.
                    cmd::READ => matches!(reply.error, errno::EINVAL | errno::EOVERFLOW),
                    _ => reply.error == errno::EINVAL,
                };
                ensure(fits, || format!("{framing:?} command {command} at {offset}+{length}: error {}", reply.error))?;
            }
        }
        let reply = client.write(u64::MAX - 511, &[9; 512])?;
        ensure(matches!(reply.error, errno::ENOSPC | errno::EINVAL), || format!("error {}", reply.error))?;
        client.read(0, 512)?;
        client.leave()?;
    }
    scene.finish()
}

#[test]
fn a_write_that_claims_four_gigabytes_costs_no_memory() -> Result<(), Trouble> {
    let scene = Scene::new()?;
    for framing in Framing::ALL {
        let (mut client, _) = RawClient::open(scene.socket(), "disk", framing)?;
        let flags = if framing == Framing::Extended { cmd_flag::PAYLOAD_LEN } else { 0 };
        let ask = Ask { flags, command: cmd::WRITE, cookie: 4, offset: 0, length: u64::from(u32::MAX) };
        client.send(ask, &[7; 1000])?;
        client.link().finish_sending()?;
        // An error may come first; the rest of the payload never will.
        client.link().await_close()?;
    }
    ensure(scene.backend.story(|story| story.count(cmd::WRITE)) == 0, || "the WRITE reached the backend".into())?;
    scene.finish()
}

#[test]
fn a_read_with_a_payload_of_nine_exabytes_ends_and_hurts_nobody_else() -> Result<(), Trouble> {
    let scene = Scene::new()?;
    // In extended headers PAYLOAD_LEN says that the length is one of a payload.
    let (mut client, _) = RawClient::open(scene.socket(), "disk", Framing::Extended)?;
    let ask = Ask { flags: cmd_flag::PAYLOAD_LEN, ..Ask::read(6, 0, u64::MAX / 2) };
    client.send(ask, &[])?;
    client.link().finish_sending()?;
    client.link().await_close()?;
    scene.finish()
}

#[test]
fn options_after_go_end_the_connection() -> Result<(), Trouble> {
    let scene = Scene::new()?;
    let (mut client, _) = RawClient::open(scene.socket(), "disk", Framing::Structured)?;
    let go = go_request("disk", &[]);
    client.link().send(&option_bytes(opt::GO, go.len() as u32, &go))?;
    client.link().await_close()?;
    scene.finish()
}

#[test]
fn a_request_in_the_wrong_framing_ends_the_connection() -> Result<(), Trouble> {
    let scene = Scene::new()?;
    for (agreed, sent) in [(Framing::Structured, Framing::Extended), (Framing::Extended, Framing::Structured)] {
        let (mut client, _) = RawClient::open(scene.socket(), "disk", agreed)?;
        client.link().send(&Ask::read(7, 0, 512).encode(sent))?;
        client.link().finish_sending()?;
        client.link().await_close()?;
    }
    scene.finish()
}

#[test]
fn a_cookie_may_be_used_twice_at_once() -> Result<(), Trouble> {
    let scene = Scene::new()?;
    let (mut client, _) = RawClient::open(scene.socket(), "disk", Framing::Simple)?;
    // The client is confused, the gateway is not: two requests, two replies.
    let read = Ask::read(8, 0, 512).encode(Framing::Simple);
    client.link().send(&[read.clone(), read].concat())?;
    let replies = client.link().take(2 * (16 + 512))?;
    assert_eq!(replies[..528], replies[528..]);
    scene.finish()
}
