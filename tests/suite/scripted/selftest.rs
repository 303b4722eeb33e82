//! The scripted peers against each other and against stock ones: if they were wrong, so would be every verdict of theirs.

use super::backend::{Backend, Script};
use super::numbers::{cmd, errno};
use super::{Ask, Framing, RawClient};
use crate::image::Image;
use crate::peer::Server;
use crate::trouble::{Trouble, ensure};

#[test]
fn the_scripted_client_and_the_scripted_backend_understand_each_other() -> Result<(), Trouble> {
    for framing in Framing::ALL {
        let backend = Backend::start(Script { framing, chunked: true, ..Script::default() })?;
        converse(&backend.socket, "", framing, Backend::content().bytes())?;
        backend.await_that("a DISC", |story| story.count(cmd::DISC) == 1)?;
    }
    Ok(())
}

#[test]
fn the_scripted_client_and_stock_servers_understand_each_other() -> Result<(), Trouble> {
    let image = Image::sparse(6);
    for (server, framing) in [
        (Server::Reference, Framing::Simple),
        (Server::NbdkitFile, Framing::Simple),
        (Server::NbdkitFile, Framing::Structured),
        (Server::QemuNbd, Framing::Structured),
    ] {
        let served = server.start(&image)?;
        converse(&served.socket, served.export, framing, image.bytes())?;
    }
    Ok(())
}

fn converse(socket: &std::path::Path, export: &str, framing: Framing, content: &[u8]) -> Result<(), Trouble> {
    let mut client = RawClient::connect(socket)?;
    client.upgrade(framing)?;
    let contexts =
        if framing == Framing::Simple { Vec::new() } else { client.contexts(export, &["base:allocation"])? };
    let opened = client.go(export)?;
    assert_eq!(opened.size, content.len() as u64);
    ensure(client.read(0, 1 << 20)? == content[..1 << 20], || format!("{framing:?}: a READ gave other bytes"))?;
    client.write(512, &[7; 1024])?.success()?;
    assert_eq!(client.read(512, 1024)?, [7; 1024]);
    if let [(id, _)] = contexts[..] {
        let ask = Ask { command: cmd::BLOCK_STATUS, cookie: 9, offset: 0, length: 1 << 20, flags: 0 };
        let extents = client.ask(ask, &[])?.success()?.extents;
        ensure(matches!(&extents[..], [(given, some)] if *given == id && !some.is_empty()), || format!("{extents:?}"))?;
    }
    let past = client.ask(Ask::read(10, opened.size, 512), &[])?;
    assert_eq!(past.error, errno::EINVAL);
    client.leave()
}
