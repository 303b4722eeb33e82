//! Promise: what a client asks beyond its limits waits or is refused in step, and costs nobody else anything.

use std::path::PathBuf;

use crate::client::run_python;
use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::Server;
use crate::place::Place;
use crate::process::Call;
use crate::scripted::backend::{Backend, Script};
use crate::scripted::numbers::{cmd, cmd_flag, errno};
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure};

const KIB: u64 = 1 << 10;

fn write(cookie: u64, offset: u64, length: u64, framing: Framing) -> Ask {
    let flags = if framing == Framing::Extended { cmd_flag::PAYLOAD_LEN } else { 0 };
    Ask { flags, command: cmd::WRITE, cookie, offset, length }
}

#[test]
fn a_payload_for_which_there_can_be_no_room_is_refused_and_skipped_in_step() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let tables = "[limits]\nlargest-payload = \"128KiB\"\nsession-bytes = \"128KiB\"\n\n".to_owned()
        + &export("vm", &backend.uri(), "")
        + &export("small", &backend.uri(), "[export.limits]\nlargest-payload = \"64KiB\"\nsession-bytes = \"64KiB\"\n");
    let gateway = Gateway::start(&tables)?;
    for (name, largest) in [("vm", 128 * KIB), ("small", 64 * KIB)] {
        for framing in Framing::ALL {
            let (mut client, opened) = RawClient::open(gateway.socket(), name, framing)?;
            assert_eq!(opened.blocks.map(|blocks| u64::from(blocks[2])), Some(largest), "{name} {framing:?}");
            let before = backend.story(|story| story.seen.len());
            let over = client.ask(Ask::read(1, 0, largest + 1), &[])?;
            assert_eq!(over.error, errno::EINVAL, "{name} {framing:?}");
            // One byte too many, and very many: the payload must not be taken for requests.
            for length in [largest + 1, 7 << 20] {
                let payload = [0x25, 0x60, 0x95, 0x13].repeat(length as usize / 4 + 1);
                let over = client.ask(write(2, 0, length, framing), &payload[..length as usize])?;
                assert_eq!(over.error, errno::EINVAL, "{name} {framing:?} {length}");
            }
            assert_eq!(backend.story(|story| story.seen.len()), before, "the backend was asked");
            client.write(0, &vec![7; largest as usize])?.success()?;
            assert_eq!(client.read(0, largest)?, vec![7; largest as usize]);
            client.leave()?;
        }
    }
    gateway.end()
}

/// A small largest payload, and room for so much at a time.
fn small_payloads(room: &str) -> String {
    format!("[limits]\nlargest-payload = \"64KiB\"\nsession-bytes = \"{room}\"\ntenant-bytes = \"{room}\"\n\n")
}

/// A file without a hole, and where it is.
fn full_disk() -> Result<(Place, PathBuf), Trouble> {
    let place = Place::fresh()?;
    let source = place.path("source");
    Image::full(4).write_to(&source)?;
    Ok((place, source))
}

#[test]
fn clients_that_ask_for_block_sizes_keep_to_a_small_largest_payload() -> Result<(), Trouble> {
    let served = Server::QemuNbdShared.start(&Image::sparse(4))?;
    let gateway = Gateway::start(&(small_payloads("64KiB") + &export("vm", &served.uri(), "")))?;
    let uri = format!("nbd+unix:///vm?socket={}", gateway.socket().display());
    let (place, source) = full_disk()?;
    let copy = place.path("copy");
    let convert = |from: &str, to: &str| {
        Call::new("qemu-img")
            .args(["convert", "-n", "-f", "raw", "-O", "raw", "-W", "-m", "16", from, to])
            .run()?
            .success()
    };
    convert(&source.display().to_string(), &uri)?;
    Image::sparse(1).write_to(&copy)?;
    convert(&uri, &copy.display().to_string())?;
    Image::full(4).expect_same(&Image::read_from(&copy)?, "the copy")?;
    // libnbd splits nothing by itself: its user is told the maximum, and what is over it is an error, in step.
    run_python("over_the_maximum.py", &[uri])?.success()?;
    gateway.end()
}

/// nbdcopy sends 256 KiB at a time, and more when told to, whatever maximum it was told.
#[test]
fn nbdcopy_works_where_the_largest_payload_is_smaller_than_its_requests() -> Result<(), Trouble> {
    let served = Server::QemuNbdShared.start(&Image::sparse(4))?;
    let gateway = Gateway::start(&(small_payloads("1MiB") + &export("vm", &served.uri(), "")))?;
    let uri = format!("nbd+unix:///vm?socket={}", gateway.socket().display());
    let (place, source) = full_disk()?;
    let copy = place.path("copy");
    for size in ["262144", "1048576"] {
        let nbdcopy = || Call::new("nbdcopy").arg(format!("--request-size={size}"));
        nbdcopy().arg("--allocated").arg(&source).arg(&uri).run()?.success()?;
        nbdcopy().arg(&uri).arg(&copy).run()?.success()?;
        Image::full(4).expect_same(&Image::read_from(&copy)?, "the copy")?;
    }
    gateway.end()
}

/// It waits for what others of its tenant hold; when the tenant may never hold so much any more, it is refused in step.
#[test]
fn a_long_request_waits_for_room_and_is_refused_once_there_can_be_none() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let limits = |tenant: &str| {
        format!("[limits]\nlargest-payload = \"64KiB\"\nsession-bytes = \"1MiB\"\ntenant-bytes = \"{tenant}\"\n\n")
            + &export("", &backend.uri(), "")
    };
    let gateway = Gateway::start(&limits("512KiB"))?;
    let (mut other, _) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
    let (mut client, _) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
    let ask = |length| write(1, 0, length * KIB, Framing::Structured);
    let over = client.ask(ask(577), &[1; 577 << 10])?;
    assert_eq!(over.error, errno::EINVAL, "more than the tenant may hold beyond the share");
    client.ask(ask(576), &[1; 576 << 10])?.success()?;
    let seen = backend.story(|story| story.seen.len());
    backend.hold();
    other.send(Ask::read(1, 0, 512 * KIB), &[])?;
    backend.await_that("the other's", |story| story.seen.len() == seen + 1)?;
    client.send(Ask::read(1, 0, 576 * KIB), &[])?;
    gateway.write_down(&limits("448KiB"))?;
    gateway.operator(&["reload"])?.run()?.success()?;
    assert_eq!(client.reply()?.error, errno::EINVAL, "can't ever be let through");
    backend.release();
    other.reply()?.success()?;
    client.ask(ask(512), &[1; 512 << 10])?.success()?;
    client.leave()?;
    other.leave()?;
    gateway.end()
}

#[test]
fn one_request_at_a_time_answers_all_that_were_sent_at_once() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let tables = "[limits]\nsession-requests = 1\n\n".to_owned() + &export("", &backend.uri(), "");
    let gateway = Gateway::start(&tables)?;
    for framing in Framing::ALL {
        let (mut client, _) = RawClient::open(gateway.socket(), "", framing)?;
        let seen = backend.story(|story| story.seen.len());
        backend.hold();
        for cookie in 0..200 {
            match cookie % 4 {
                0 => client.send(write(cookie, cookie * 512, 512, framing), &[cookie as u8; 512])?,
                1 => client.send(Ask::read(cookie, (cookie - 1) * 512, 512), &[])?,
                2 => client.send(Ask { command: cmd::FLUSH, cookie, ..Ask::default() }, &[])?,
                // Refused by the gateway itself: that takes its turn too.
                _ => client.send(Ask::read(cookie, 1 << 50, 512), &[])?,
            }
        }
        backend.await_that("the first", |story| story.seen.len() == seen + 1)?;
        backend.release();
        for cookie in 0..200 {
            // One at a time means in order.
            let reply = client.reply()?;
            assert_eq!((reply.cookie, reply.error), (cookie, if cookie % 4 == 3 { errno::EINVAL } else { 0 }));
            ensure(cookie % 4 != 1 || reply.data == [(cookie - 1) as u8; 512], || format!("{cookie}: other bytes"))?;
        }
        client.leave()?;
    }
    gateway.end()
}

#[test]
fn many_large_requests_in_a_small_budget_are_all_answered() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let tables = "[limits]\nlargest-payload = \"64KiB\"\nsession-bytes = \"100KiB\"\ntenant-bytes = \"64KiB\"\n\n"
        .to_owned()
        + &export("", &backend.uri(), "");
    let mut gateway = Gateway::start(&tables)?;
    for framing in Framing::ALL {
        let (mut client, _) = RawClient::open(gateway.socket(), "", framing)?;
        // Headers alone, so that nothing but the replies can fill the sockets; then payloads, whose replies are short.
        for command in [cmd::READ, cmd::WRITE] {
            for cookie in 0..200 {
                let offset = cookie % 64 * 64 * KIB;
                if command == cmd::READ {
                    client.send(Ask::read(cookie, offset, 64 * KIB), &[])?;
                } else {
                    client.send(write(cookie, offset, 64 * KIB, framing), &[cookie as u8; 64 << 10])?;
                }
            }
            let mut answered = Vec::new();
            for _ in 0..200 {
                answered.push(client.reply()?.success()?.cookie);
            }
            answered.sort_unstable();
            assert_eq!(answered, (0..200).collect::<Vec<_>>(), "{framing:?}");
        }
        client.leave()?;
    }
    let peak = gateway.peak_memory()?;
    ensure(peak < 96 << 10, || format!("the gateway's memory went up to {peak} KiB"))?;
    gateway.end()
}

#[test]
fn clients_that_stop_reading_use_up_their_tenants_budget_and_nobody_stands_still() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let tables = "[[tenant]]\nname = \"blue\"\n[tenant.limits]\ntenant-bytes = \"1MiB\"\nsession-bytes = \"1MiB\"\n\
         largest-payload = \"256KiB\"\n\n[[tenant]]\nname = \"red\"\n\n"
        .to_owned()
        + &export("one", &backend.uri(), "tenant = \"blue\"")
        + &export("two", &backend.uri(), "tenant = \"blue\"")
        + &export("other", &backend.uri(), "tenant = \"red\"");
    let mut gateway = Gateway::start(&tables)?;
    let mut greedy = Vec::new();
    for _ in 0..8 {
        let (mut client, _) = RawClient::open(gateway.socket(), "one", Framing::Structured)?;
        for cookie in 0..64 {
            client.send(Ask::read(cookie, 0, 256 * KIB), &[])?;
        }
        greedy.push(client);
    }
    // Eight shares and the budget are out, and what is in the sockets. The rest waits for readers.
    for name in ["one", "two", "other"] {
        let (mut modest, _) = RawClient::open(gateway.socket(), name, Framing::Extended)?;
        for round in 0..50_u64 {
            let data = modest.read(round * 512, 256 * KIB)?;
            let at = round as usize * 512;
            ensure(data == Backend::content().bytes()[at..at + (256 << 10)], || format!("{name}: other bytes"))?;
            modest.write(7 << 20, &[round as u8; 65_536])?.success()?;
        }
        modest.leave()?;
    }
    // Half of them leave without a word, and give back what they held; the others have only been slow.
    greedy.truncate(4);
    for client in &mut greedy {
        for _ in 0..64 {
            client.reply()?.success()?;
        }
    }
    let peak = gateway.peak_memory()?;
    ensure(peak < 128 << 10, || format!("the gateway's memory went up to {peak} KiB"))?;
    gateway.end()
}
