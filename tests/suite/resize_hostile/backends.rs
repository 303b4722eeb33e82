//! Backends that answer a resize by something else than what they do.

use super::*;
use crate::scripted::backend::Script;
use crate::scripted::numbers::{errno, flag};
use crate::trouble::{ensure, eventually};

/// A gateway that may warn, a client, and the export's first size.
fn scene(fault: Fault) -> Result<(Backend, Gateway, RawClient, u64), Trouble> {
    let backend = backend(Some(fault))?;
    // What is never answered is waited for all that time; the rest has it on a busy machine.
    let timeout = if fault == Fault::ResizeLate { "2s" } else { "30s" };
    let gateway = Gateway::start(&patient(&backend.uri(), timeout))?.expecting_warnings();
    let (client, opened) = opted_in(&gateway, Framing::Structured)?;
    Ok((backend, gateway, client, opened.size))
}

#[test]
fn a_larger_size_than_was_asked_for_is_the_one_that_is_told() -> Result<(), Trouble> {
    let (_backend, gateway, mut client, first) = scene(Fault::ResizeOther(12 * MIB))?;
    let reply = client.ask(resize(1, first + MIB), &[])?.success()?;
    assert_eq!(reply.sizes, [12 * MIB]);
    client.read(11 * MIB, 4096)?;
    gateway.end()
}

#[test]
fn a_smaller_growth_than_was_asked_for_is_shown_and_refused() -> Result<(), Trouble> {
    let given = Backend::content().bytes().len() as u64 + 4096;
    let (_backend, gateway, mut client, first) = scene(Fault::ResizeOther(given))?;
    let reply = client.ask(resize(1, first + MIB), &[])?;
    ensure(matches!(reply.error, errno::ENOSPC | errno::EIO), || format!("{reply:?}"))?;
    assert_eq!(size(&mut client)?, given);
    gateway.end()
}

#[test]
fn a_grow_that_takes_bytes_away_is_quarantined_and_the_size_does_not_go_back() -> Result<(), Trouble> {
    let (_backend, gateway, mut client, first) = scene(Fault::ResizeOther(4096))?;
    let gateway = gateway.expecting_errors();
    let reply = client.ask(resize(1, first + MIB), &[])?;
    ensure(reply.error != 0, || format!("{reply:?}"))?;
    assert_eq!(size(&mut client)?, first);
    client.read(0, 4096)?;
    let again = client.ask(resize(2, first + MIB), &[])?;
    ensure(again.error != 0, || format!("a quarantined export grew: {again:?}"))?;
    gateway.end()
}

#[test]
fn success_without_a_change_is_an_error() -> Result<(), Trouble> {
    let (_backend, gateway, mut client, first) = scene(Fault::ResizeUnchanged)?;
    let reply = client.ask(resize(1, first + MIB), &[])?;
    ensure(reply.error == errno::EIO, || format!("{reply:?}"))?;
    assert_eq!(size(&mut client)?, first);
    gateway.end()
}

#[test]
fn a_claim_that_breaks_is_counted_and_costs_the_backend_nothing_else() -> Result<(), Trouble> {
    // Bit 9, no NBD_INFO_RESIZE, and EINVAL to command 8: as servers in the wild may have it.
    let flags = Script::default().flags | flag::SEND_RESIZE;
    let backend = Backend::start(Script { flags, ..Script::default() })?;
    let gateway = Gateway::start(&table(&backend.uri()))?.expecting_warnings();
    let (mut client, opened) = opted_in(&gateway, Framing::Structured)?;
    let lost = || gateway.metric("nbd_gateway_backend_resize_claims_lost_total", &[]);
    ensure(lost()? == 0.0, || "lost before it was tried".into())?;
    for cookie in 1..3 {
        let reply = client.ask(resize(cookie, opened.size + MIB), &[])?;
        ensure(reply.error != 0, || format!("{reply:?}"))?;
        client.read(0, 4096)?;
    }
    ensure(lost()? == 1.0, || "a claim is lost once".into())?;
    gateway.end()
}

#[test]
fn success_with_a_size_of_2_to_the_63_is_an_error() -> Result<(), Trouble> {
    let (_backend, gateway, mut client, first) = scene(Fault::ResizeHuge)?;
    let reply = client.ask(resize(1, first + MIB), &[])?;
    ensure(reply.error == errno::EIO, || format!("{reply:?}"))?;
    eventually("an answer to QUERY", || size(&mut client).is_ok_and(|now| now == first))?;
    gateway.end()
}

#[test]
fn a_resize_that_was_done_and_answered_by_a_torn_chunk_is_read_back() -> Result<(), Trouble> {
    let (_backend, gateway, mut client, first) = scene(Fault::ResizeTorn)?;
    // Answered or refused, but with what the backend has then.
    let reply = client.ask(resize(1, first + MIB), &[])?;
    eventually("the size read back", || size(&mut client).is_ok_and(|now| now == first + MIB))?;
    ensure(reply.error != 0 || reply.sizes == [first + MIB], || format!("{reply:?}"))?;
    client.read(first, 4096)?;
    gateway.end()
}

#[test]
fn a_resize_that_is_never_answered_fails_in_time_and_nothing_else_waits_for_it() -> Result<(), Trouble> {
    let (_backend, gateway, mut client, first) = scene(Fault::ResizeLate)?;
    client.send(resize(1, first + MIB), &[])?;
    let (mut other, _) = opted_in(&gateway, Framing::Structured)?;
    other.read(0, 4096)?;
    let reply = client.reply()?;
    ensure(reply.error == errno::EIO, || format!("{reply:?}"))?;
    other.read(0, 4096)?;
    assert_eq!(size(&mut other)?, first);
    gateway.end()
}

#[test]
fn a_grow_that_comes_after_its_timeout_is_held_back_until_then_and_found_by_a_probe() -> Result<(), Trouble> {
    let (backend, gateway, mut client, first) = scene(Fault::ResizeLate)?;
    let reply = client.ask(resize(1, first + MIB), &[])?;
    ensure(reply.error == errno::EIO, || format!("{reply:?}"))?;
    let meanwhile = client.ask(resize(2, first + 2 * MIB), &[])?;
    ensure(meanwhile.error != 0, || format!("another resize while one is in doubt: {meanwhile:?}"))?;
    backend.land();
    eventually("the grow found", || size(&mut client).is_ok_and(|now| now == first + MIB))?;
    let reply = client.ask(resize(3, first + 2 * MIB), &[])?.success()?;
    assert_eq!(reply.sizes, [first + 2 * MIB]);
    gateway.end()
}

#[test]
fn a_shrink_that_comes_after_its_timeout_cuts_off_nothing_that_was_written_meanwhile() -> Result<(), Trouble> {
    let (backend, gateway, mut client, first) = scene(Fault::ResizeLate)?;
    let reply = client.ask(resize(1, first - MIB), &[])?;
    ensure(reply.error == errno::EIO, || format!("{reply:?}"))?;
    let write = client.write(first - 4096, &[7; 4096])?;
    ensure(write.error == errno::ENOSPC, || format!("a WRITE where a shrink may still land: {write:?}"))?;
    client.write(first - MIB - 4096, &[7; 4096])?.success()?;
    backend.land();
    eventually("the shrink found", || size(&mut client).is_ok_and(|now| now == first - MIB))?;
    assert_eq!(client.read(first - MIB - 4096, 4096)?, [7; 4096]);
    gateway.end()
}

#[test]
fn a_backend_that_shrinks_silently_is_quarantined_and_the_size_does_not_go_back() -> Result<(), Trouble> {
    let backend = backend(None)?;
    let gateway = Gateway::start(&table(&backend.uri()))?.expecting_errors();
    let (mut client, opened) = opted_in(&gateway, Framing::Structured)?;
    backend.meddle(|disk| disk.truncate(4096));
    eventually("the quarantine", || client.ask(resize(1, opened.size + MIB), &[]).is_ok_and(|reply| reply.error != 0))?;
    assert_eq!(size(&mut client)?, opened.size);
    client.read(0, 4096)?;
    // The bytes given back, it is as before.
    backend.meddle(|disk| disk.resize(opened.size as usize, 0));
    eventually("the end of the quarantine", || {
        client.ask(resize(1, opened.size + MIB), &[]).is_ok_and(|reply| reply.error == 0)
    })?;
    gateway.end()
}

#[test]
fn a_backend_that_flips_between_two_sizes_never_takes_what_was_shown_back() -> Result<(), Trouble> {
    let backend = backend(None)?;
    let gateway = Gateway::start(&table(&backend.uri()))?.expecting_errors();
    let (mut client, opened) = opted_in(&gateway, Framing::Structured)?;
    let mut shown = opened.size;
    for round in 0..100_u64 {
        let flipped = opened.size + (round & 1) * MIB;
        backend.meddle(|disk| disk.resize(flipped as usize, 0));
        let now = size(&mut client)?;
        ensure(now >= shown && now <= opened.size + MIB, || format!("{now} after {shown} in round {round}"))?;
        shown = now;
        client.read(0, 512)?;
    }
    gateway.end()
}

#[test]
fn a_backend_that_says_it_resizes_and_refuses_the_command_is_asked_once() -> Result<(), Trouble> {
    let flags = Script::default().flags | flag::SEND_RESIZE;
    let refuses = Some((cmd::RESIZE, errno::EINVAL));
    let backend = Backend::start(Script { flags, refuses, ..Script::default() })?;
    let gateway = Gateway::start(&table(&backend.uri()))?.expecting_warnings();
    let (mut client, opened) = opted_in(&gateway, Framing::Structured)?;
    for cookie in 1..4 {
        let reply = client.ask(resize(cookie, opened.size + MIB), &[])?;
        ensure(reply.error != 0, || format!("{reply:?}"))?;
    }
    assert_eq!(backend.story(|story| story.count(cmd::RESIZE)), 1);
    client.read(0, 4096)?;
    gateway.end()
}

#[test]
fn a_flood_of_notices_is_counted_and_cut_off_for_a_while_and_nobody_waits_for_it() -> Result<(), Trouble> {
    let features = EXPLICIT | QUERY | NOTIFY | SHRINK | ZEROED;
    let fault = Some(Fault::NoticeFlood);
    let backend = Backend::start(Script { fault, resizing: Resizing::Native { features }, ..Script::default() })?;
    let patience = "backend-notice-rate = \"50/s\"\nbackend-notice-rest = \"1s\"\n";
    let tables = table(&backend.uri()).trim_end().to_owned() + "\n" + patience;
    let mut gateway = Gateway::start(&tables)?.expecting_warnings();
    let (mut client, opened) = opted_in(&gateway, Framing::Structured)?;
    let is_end = |seen: &crate::scripted::backend::Seen| seen.flags & cmd_flag::NOTIFY != 0 && seen.length == 1;
    eventually("the subscription dropped", || {
        // Others are served all the while.
        client.read(0, 512).is_ok() && backend.story(|story| story.seen.iter().any(is_end))
    })?;
    let [came, dropped] = ["backend_notices_total", "backend_notices_dropped_total"]
        .map(|name| gateway.metric(&format!("nbd_gateway_{name}"), &["\"e\""]));
    let (came, dropped) = (came?, dropped?);
    ensure(came > 50.0, || format!("{came} notices of the flood were counted"))?;
    ensure(dropped > 0.0 && dropped < came, || format!("{dropped} of {came} were merged at the door"))?;
    // After a rest it is listened to again, and floods again.
    let subscribes = |seen: &&crate::scripted::backend::Seen| seen.flags & cmd_flag::NOTIFY != 0 && seen.length != 1;
    eventually("the next subscription", || backend.story(|story| story.seen.iter().filter(subscribes).count() >= 2))?;
    let spent = gateway.processor_time()?;
    ensure(spent < 500, || format!("the flood cost {spent} hundredths of a second"))?;
    assert_eq!(client.ask(resize(1, opened.size + MIB), &[])?.success()?.sizes, [opened.size + MIB]);
    gateway.end()
}

#[test]
fn what_a_grow_exposes_is_zeroed_before_anyone_sees_it_through_two_gateways() -> Result<(), Trouble> {
    let flags = Script::default().flags | flag::SEND_RESIZE;
    let resizing = Resizing::Explicit { exposes: 0xa5 };
    let backend = Backend::start(Script { flags, resizing, ..Script::default() })?;
    let first = Gateway::start(&table(&backend.uri()))?;
    let second = Gateway::start(&table(&first.uri("e")))?;
    let (mut client, opened) = opted_in(&second, Framing::Structured)?;
    client.ask(resize(1, opened.size + MIB), &[])?.success()?;
    assert_eq!(client.read(opened.size, MIB)?, vec![0; MIB as usize]);
    // Away and back again: nothing of what was there.
    client.write(opened.size, &[1; 4096])?.success()?;
    client.ask(resize(2, opened.size), &[])?.success()?;
    client.ask(resize(3, opened.size + MIB), &[])?.success()?;
    assert_eq!(client.read(opened.size, MIB)?, vec![0; MIB as usize]);
    drop(client);
    second.end()?;
    first.end()
}

#[test]
fn a_backend_that_grows_by_writes_only_keeps_what_another_wrote_meanwhile() -> Result<(), Trouble> {
    let backend = Backend::start(Script { resizing: Resizing::ByWrites, ..Script::default() })?;
    let automatic = table(&backend.uri()).replace("shrink = true", "driver = \"automatic\"");
    let gateway = Gateway::start(&automatic)?.expecting_warnings();
    let (mut client, opened) = opted_in(&gateway, Framing::Structured)?;
    backend.meddle(|disk| disk.resize((opened.size + 2 * MIB) as usize, 0x77));
    let reply = client.ask(resize(1, opened.size + MIB), &[])?.success()?;
    assert_eq!(reply.sizes, [opened.size + 2 * MIB]);
    assert_eq!(client.read(opened.size + MIB - 4096, 4096)?, [0x77; 4096]);
    gateway.end()
}

/// It was asked for notices twice a second, for ever, and nothing that it could have told was ever seen.
#[test]
fn a_backend_that_refuses_to_tell_of_sizes_is_looked_at_instead() -> Result<(), Trouble> {
    let features = EXPLICIT | QUERY | NOTIFY | SHRINK | ZEROED;
    let fault = Some(Fault::NoticeRefused);
    let backend = Backend::start(Script { fault, resizing: Resizing::Native { features }, ..Script::default() })?;
    let gateway = Gateway::start(&table(&backend.uri()))?;
    let (mut client, opened) = opted_in(&gateway, Framing::Structured)?;
    let grown = opened.size + 2 * MIB;
    backend.meddle(|disk| disk.resize(grown as usize, 0));
    eventually("the growth is seen", || size(&mut client).is_ok_and(|size| size == grown))?;
    gateway.end()
}
