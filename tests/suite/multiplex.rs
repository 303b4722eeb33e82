//! Promise: many sessions share few connections to a backend, and none of them can tell.

use crate::gateway::{Gateway, export};
use crate::scripted::backend::{Backend, Fault, Script};
use crate::scripted::numbers::{cmd, cmd_flag, flag, info, opt};
use crate::scripted::{Ask, Framing, RawClient, go_request};
use crate::trouble::{Trouble, ensure, eventually};

fn many(gateway: &Gateway, count: usize) -> Result<Vec<RawClient>, Trouble> {
    let framing = |index: usize| Framing::ALL[index % Framing::ALL.len()];
    (0..count).map(|i| RawClient::open(gateway.socket(), "", framing(i)).map(|(client, _)| client)).collect()
}

#[test]
fn a_hundred_sessions_share_one_connection_and_each_gets_its_own_replies() -> Result<(), Trouble> {
    let backend = Backend::start(Script { framing: Framing::Extended, ..Script::default() })?;
    let gateway = Gateway::start(&export("", &backend.uri(), ""))?;
    let mut clients = many(&gateway, 100)?;
    // All use the same cookie, and all at once, over a backend that answers the last one first.
    let cookie = 0xfeed_f00d_dead_beef;
    backend.hold();
    for (index, client) in clients.iter_mut().enumerate() {
        client.send(Ask::read(cookie, index as u64 * 512, 512), &[])?;
    }
    backend.await_that("all requests", |story| story.count(cmd::READ) == 100)?;
    backend.release_backwards();
    let content = Backend::content();
    for (index, client) in clients.iter_mut().enumerate() {
        let reply = client.reply()?.success()?;
        assert_eq!(reply.cookie, cookie);
        ensure(reply.data == content.bytes()[index * 512..(index + 1) * 512], || {
            format!("session {index} got another's bytes")
        })?;
    }
    assert_eq!(backend.story(|story| story.connections), 1);
    gateway.end()
}

#[test]
fn a_session_that_stops_reading_delays_nobody_else() -> Result<(), Trouble> {
    let backend = Backend::start(Script { framing: Framing::Extended, ..Script::default() })?;
    let gateway = Gateway::start(&export("", &backend.uri(), ""))?;
    let (mut greedy, _) = RawClient::open(gateway.socket(), "", Framing::Extended)?;
    // 64 MiB that it never takes: far more than sockets hold.
    for cookie in 0..16 {
        greedy.send(Ask::read(cookie, 0, 4 << 20), &[])?;
    }
    backend.await_that("the greedy one's first request", |story| story.count(cmd::READ) > 0)?;
    let (mut modest, _) = RawClient::open(gateway.socket(), "", Framing::Extended)?;
    for round in 0..100 {
        let data = modest.read(round * 4096, 4096)?;
        let at = round as usize * 4096;
        ensure(data == Backend::content().bytes()[at..at + 4096], || format!("round {round}: other bytes"))?;
    }
    modest.leave()?;
    // It was only slow: everything is there when it reads at last.
    for _ in 0..16 {
        ensure(greedy.reply()?.success()?.data == Backend::content().bytes()[..4 << 20], || "other bytes".into())?;
    }
    gateway.end()
}

#[test]
fn a_backend_that_does_not_answer_holds_up_no_other_export() -> Result<(), Trouble> {
    let slow = Backend::start(Script::default())?;
    let quick = Backend::start(Script::default())?;
    let gateway = Gateway::start(&(export("slow", &slow.uri(), "") + &export("quick", &quick.uri(), "")))?;
    let (mut waiting, _) = RawClient::open(gateway.socket(), "slow", Framing::Simple)?;
    slow.hold();
    waiting.send(Ask::read(1, 0, 512), &[])?;
    slow.await_that("the READ", |story| story.count(cmd::READ) == 1)?;
    let (mut other, _) = RawClient::open(gateway.socket(), "quick", Framing::Simple)?;
    other.read(0, 512)?;
    slow.release();
    waiting.reply()?.success()?;
    gateway.end()
}

/// A client gives up on a backend that hangs, connects again and writes the same place anew: three times.
#[test]
fn what_a_client_left_with_the_backend_is_answered_before_anything_else_is_sent_there() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let gateway = Gateway::start(&export("vm", &backend.uri(), ""))?;
    backend.hold();
    let mut left = Vec::new();
    for turn in 1..=3_u8 {
        let mut client = RawClient::connect(gateway.socket())?;
        client.upgrade(Framing::Structured)?;
        client.learn(opt::GO, "vm", &[info::RESIZE])?;
        client.send(Ask { command: cmd::RESIZE, cookie: 9, flags: cmd_flag::NOTIFY, ..Ask::default() }, &[])?;
        client.next_size(9)?;
        client.send(Ask { command: cmd::WRITE, cookie: 1, offset: 0, length: 1024, flags: 0 }, &[turn; 1024])?;
        // What does not overlap goes its way, and shows that all before it was looked at.
        let apart = Ask { command: cmd::WRITE, cookie: 2, offset: 4096 * u64::from(turn), length: 512, flags: 0 };
        client.send(apart, &[turn; 512])?;
        backend.await_that("one of them, or both", |story| story.count(cmd::WRITE) == usize::from(turn) + 1)?;
        client.link().finish_sending()?;
        // The gateway has seen its end: no more notices come.
        assert_eq!(client.reply()?.cookie, 9);
        left.push(client);
    }
    backend.release();
    let (mut last, _) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    last.write(512, &[4; 512])?.success()?;
    assert_eq!(last.read(0, 1024)?, [[3; 512], [4; 512]].concat());
    gateway.end()
}

#[test]
fn more_than_one_lane_is_used_only_where_the_backend_keeps_flush_over_all() -> Result<(), Trouble> {
    for (flags, most) in [(Script::default().flags, 1), (Script::default().flags | flag::MULTI_CONN, 4)] {
        let backend = Backend::start(Script { flags, ..Script::default() })?;
        // It says so when it cannot use what was configured.
        let gateway = Gateway::start(&export("", &backend.uri(), "lanes = 4"))?.expecting_warnings();
        let mut clients = many(&gateway, 16)?;
        backend.hold();
        for client in &mut clients {
            client.send(Ask::read(1, 0, 512), &[])?;
        }
        backend.await_that("all requests", |story| story.count(cmd::READ) == 16)?;
        assert_eq!(backend.story(|story| story.connections), most);
        backend.release();
        for client in &mut clients {
            client.reply()?.success()?;
        }
        gateway.end()?;
    }
    Ok(())
}

#[test]
fn a_write_answered_to_one_session_is_flushed_by_another_over_several_lanes() -> Result<(), Trouble> {
    let backend = Backend::start(Script { flags: Script::default().flags | flag::MULTI_CONN, ..Script::default() })?;
    let gateway = Gateway::start(&export("", &backend.uri(), "lanes = 4"))?;
    let mut clients = many(&gateway, 8)?;
    for (index, client) in clients.iter_mut().enumerate() {
        client.write(index as u64 * 512, &[index as u8; 512])?.success()?;
    }
    clients[0].ask(Ask { command: cmd::FLUSH, cookie: 1, ..Ask::default() }, &[])?.success()?;
    // Every write stands before a flush in the backend's own order of events.
    let order = backend.story(|story| story.seen.iter().map(|seen| seen.command).collect::<Vec<_>>());
    let last_write = order.iter().rposition(|command| *command == cmd::WRITE);
    let last_flush = order.iter().rposition(|command| *command == cmd::FLUSH);
    ensure(last_write.is_some() && last_write < last_flush, || format!("{order:?}"))?;
    gateway.end()
}

#[test]
fn a_backend_is_dialled_once_by_the_first_go_and_let_go_when_idle() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let gateway = Gateway::start(&export("", &backend.uri(), "idle-timeout = \"200ms\""))?;
    let mut client = RawClient::connect(gateway.socket())?;
    client.negotiate(opt::LIST, &[])?;
    assert_eq!(backend.story(|story| story.connections), 0, "listing dials nobody");
    client.go("")?;
    let mut others = many(&gateway, 10)?;
    assert_eq!(backend.story(|story| story.connections), 1);
    client.leave()?;
    // Sessions are left, not the backend.
    others[0].read(0, 512)?;
    assert_eq!(backend.story(|story| (story.connections, story.live)), (1, 1));
    for other in others {
        other.leave()?;
    }
    backend.await_that("DISC when nobody is left", |story| story.count(cmd::DISC) == 1 && story.live == 0)?;
    let (mut later, _) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
    later.read(0, 512)?;
    assert_eq!(backend.story(|story| story.connections), 2);
    gateway.end()
}

#[test]
fn sessions_that_open_at_the_same_time_wait_for_one_dial_with_a_deadline() -> Result<(), Trouble> {
    let backend = Backend::start(Script { fault: Some(Fault::GreetingNever), struck: 1, ..Script::default() })?;
    let tables = export("", &backend.uri(), "dial-timeout = \"1s\"");
    let gateway = Gateway::start(&tables)?.expecting_warnings();
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = RawClient::connect(gateway.socket())?;
        client.option(opt::GO, &go_request("", &[]))?;
        clients.push(client);
    }
    // All get an answer though the backend's first connection never greets anybody.
    for client in &mut clients {
        client.answer()?;
    }
    let dials = backend.story(|story| story.connections);
    ensure(dials <= 2, || format!("{dials} connections for one export"))?;
    gateway.end()
}

#[test]
fn one_template_opens_many_exports_each_with_its_own_backend() -> Result<(), Trouble> {
    let backends = [Backend::start(Script::default())?, Backend::start(Script::default())?];
    // The directory of a scripted backend is what tells it from another.
    let names = backends.iter().map(|b| b.place_name()).collect::<Result<Vec<_>, _>>()?;
    let uri = format!("nbd+unix:///?socket={}/{{}}/b", std::env::temp_dir().display());
    let gateway = Gateway::start(&export("disks/*", &uri, ""))?;
    for (index, name) in names.iter().enumerate() {
        let (mut client, _) = RawClient::open(gateway.socket(), &format!("disks/{name}"), Framing::Structured)?;
        client.write(0, &[index as u8 + 1; 512])?.success()?;
    }
    for (index, backend) in backends.iter().enumerate() {
        assert_eq!(backend.story(|story| story.disk[..512].to_vec()), [index as u8 + 1; 512]);
    }
    gateway.end()
}

#[test]
fn sessions_over_the_limit_of_a_listener_are_refused() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let tables = format!("[limits]\nsessions-per-listener = 2\n\n{}", export("", &backend.uri(), ""));
    let gateway = Gateway::start(&tables)?.expecting_warnings();
    let mut clients = many(&gateway, 2)?;
    assert!(RawClient::open(gateway.socket(), "", Framing::Simple).is_err(), "a third session");
    clients[0].read(0, 512)?;
    clients.pop().unwrap().leave()?;
    eventually("a place for one more session", || RawClient::open(gateway.socket(), "", Framing::Simple).is_ok())?;
    gateway.end()
}

#[test]
fn requests_of_a_session_over_its_limit_wait_and_are_all_answered() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let tables = format!("[limits]\nsession-requests = 4\n\n{}", export("", &backend.uri(), ""));
    let gateway = Gateway::start(&tables)?;
    let (mut client, _) = RawClient::open(gateway.socket(), "", Framing::Simple)?;
    backend.hold();
    for cookie in 0..64 {
        client.send(Ask::read(cookie, cookie * 512, 512), &[])?;
    }
    backend.await_that("four requests", |story| story.count(cmd::READ) == 4)?;
    // A second session is not held up by the first one's limit.
    let (mut other, _) = RawClient::open(gateway.socket(), "", Framing::Simple)?;
    other.send(Ask::read(1, 0, 512), &[])?;
    backend.await_that("the other's request", |story| story.count(cmd::READ) == 5)?;
    backend.release();
    let mut answered: Vec<_> = (0..64).map(|_| client.reply().map(|reply| reply.cookie)).collect::<Result<_, _>>()?;
    answered.sort_unstable();
    assert_eq!(answered, (0..64).collect::<Vec<_>>());
    assert_eq!(other.reply()?.error, 0);
    gateway.end()
}
