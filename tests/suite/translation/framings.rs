//! Simple, structured and extended on either side, in all combinations.

use crate::gateway::{Gateway, export};
use crate::scripted::backend::{Backend, Script};
use crate::scripted::numbers::{cmd, cmd_flag, flag, opt};
use crate::scripted::{Ask, Framing, RawClient, option_bytes};
use crate::trouble::{Trouble, ensure};

#[test]
fn every_framing_of_a_client_meets_every_framing_of_a_backend() -> Result<(), Trouble> {
    for behind in Framing::ALL {
        for before in Framing::ALL {
            let backend = Backend::start(Script { framing: behind, chunked: true, ..Script::default() })?;
            let gateway = Gateway::start(&export("", &backend.uri(), ""))?;
            converse(&gateway, &backend, before).map_err(|trouble| {
                Trouble::new(format!("a {before:?} client and a {behind:?} backend:")).with(trouble).with(gateway.log())
            })?;
            gateway.end()?;
        }
    }
    Ok(())
}

/// Every command, and what the disk holds after it.
fn converse(gateway: &Gateway, backend: &Backend, framing: Framing) -> Result<(), Trouble> {
    let mut expected = Backend::content().bytes().to_vec();
    let (mut client, opened) = RawClient::open(gateway.socket(), "", framing)?;
    assert_eq!(opened.size, expected.len() as u64);
    assert_eq!(opened.flags & flag::DF != 0, framing != Framing::Simple, "DF needs structured replies, and only those");

    // The range has data and holes, which this backend sends last one first.
    ensure(client.read(0, 2 << 20)? == expected[..2 << 20], || "a READ gave other bytes".into())?;
    if framing != Framing::Simple {
        let whole = client.ask(Ask { flags: cmd_flag::DF, ..Ask::read(2, 0, 1 << 20) }, &[])?.success()?;
        assert_eq!(whole.pieces, 1, "DF forbids to fragment");
        ensure(whole.data == expected[..1 << 20], || "a READ with DF gave other bytes".into())?;
    }
    client.write(0x1_0200, &[0x5a; 70_000])?.success()?;
    expected[0x1_0200..0x1_0200 + 70_000].fill(0x5a);
    for (cookie, command, offset, length) in
        [(u64::MAX, cmd::WRITE_ZEROES, 0x10_0000, 0x2_0000), (0, cmd::TRIM, 0x12_0000, 0x2_0000), (7, cmd::FLUSH, 0, 0)]
    {
        client.ask(Ask { flags: 0, command, cookie, offset, length }, &[])?.success()?;
        expected[offset as usize..(offset + length) as usize].fill(0);
    }
    client.ask(Ask { command: cmd::CACHE, cookie: 8, length: 4096, ..Ask::default() }, &[])?.success()?;
    ensure(client.read(0, 2 << 20)? == expected[..2 << 20], || "what was written is not what is read".into())?;
    client.leave()?;
    ensure(backend.story(|story| story.disk == expected), || "the backend's disk holds other bytes".into())
}

/// qemu 10.0 leaves the flag out; the protocol says to set it, but a WRITE has a payload either way.
#[test]
fn an_extended_write_without_payload_len_still_has_its_payload() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let gateway = Gateway::start(&export("", &backend.uri(), ""))?;
    let (mut client, _) = RawClient::open(gateway.socket(), "", Framing::Extended)?;
    let write = Ask { command: cmd::WRITE, cookie: 1, offset: 4096, length: 512, flags: 0 };
    client.ask(write, &[0xf1; 512])?.success()?;
    assert_eq!(client.read(4096, 512)?, [0xf1; 512]);
    gateway.end()
}

#[test]
fn fua_reaches_the_backend() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let gateway = Gateway::start(&export("", &backend.uri(), ""))?;
    let (mut client, _) = RawClient::open(gateway.socket(), "", Framing::Simple)?;
    let write = Ask { flags: cmd_flag::FUA, command: cmd::WRITE, cookie: 1, offset: 0, length: 512 };
    client.ask(write, &[1; 512])?.success()?;
    let kept =
        backend.story(|story| story.seen.iter().any(|s| s.command == cmd::WRITE && s.flags & cmd_flag::FUA != 0));
    ensure(kept, || format!("{:?}", backend.story(|story| story.seen.clone())))?;
    gateway.end()
}

#[test]
fn export_name_opens_a_session_with_and_without_the_124_zeroes() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let gateway = Gateway::start(&export("old", &backend.uri(), ""))?;
    for (client_flags, zeroes) in [(3, 0), (1, 124)] {
        let mut client = RawClient::connect_with(gateway.socket(), client_flags)?;
        client.link().send(&option_bytes(opt::EXPORT_NAME, 3, b"old"))?;
        let told = client.link().take(10 + zeroes)?;
        assert_eq!(told[..8], (Backend::content().bytes().len() as u64).to_be_bytes());
        assert!(told[10..].iter().all(|byte| *byte == 0));
        ensure(client.read(0, 4096)? == Backend::content().bytes()[..4096], || "a READ gave other bytes".into())?;
        client.leave()?;
    }
    gateway.end()
}

#[test]
fn a_read_only_backend_is_read_only_in_front() -> Result<(), Trouble> {
    let backend = Backend::start(Script { flags: flag::HAS_FLAGS | flag::READ_ONLY, ..Script::default() })?;
    let gateway = Gateway::start(&export("", &backend.uri(), ""))?;
    let (mut client, opened) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
    assert_ne!(opened.flags & flag::READ_ONLY, 0);
    assert_eq!(client.write(0, &[1; 512])?.error, crate::scripted::numbers::errno::EPERM);
    // The refused payload has been consumed: the session is in step.
    client.read(0, 512)?;
    assert_eq!(backend.story(|story| story.count(cmd::WRITE)), 0);
    gateway.end()
}
