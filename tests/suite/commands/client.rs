//! `client`, against every kind of server and against the gateway itself.

use std::fs;

use serde_json::Value;

use super::{fails, fails_in_a_line, gateway};
use crate::gateway::{Gateway, export};
use crate::image::{Image, SIZE};
use crate::peer::Server;
use crate::place::Place;
use crate::process::Call;
use crate::trouble::{Trouble, ensure};

fn said(words: &[&str]) -> Result<String, Trouble> {
    gateway(words)?.run()?.success().map(|output| output.stdout)
}

/// Everything that the client can do, to an export that holds `image`; what it then holds.
fn use_client(uri: &str, framing: &[&str], mut image: Image) -> Result<Image, Trouble> {
    let place = Place::fresh()?;
    assert_eq!(said(&["client", "size", uri])?, format!("{SIZE}\n"));
    let size: Value = serde_json::from_str(&said(&["client", "size", "--json", uri])?)?;
    assert_eq!(size["size"], SIZE);
    let info: Value = serde_json::from_str(&said(&["client", "info", "--json", uri])?)?;
    assert_eq!(info["size"], SIZE);
    ensure(info["framing"].as_str().is_some_and(|word| framing.contains(&word)), || info.to_string())?;
    let table = said(&["client", "info", uri])?;
    ensure(table.contains(&format!("{SIZE} bytes (8MiB)")) && table.contains("SEND_FLUSH"), || table.clone())?;

    let (whole, part, new) = (place.path("whole"), place.path("part"), place.path("new"));
    let file = |path: &std::path::Path| path.display().to_string();
    said(&["client", "read", uri, "--output", &file(&whole)])?;
    image.expect_same(&Image::read_from(&whole)?, "what `client read` read")?;
    said(&["client", "read", uri, "--offset", "1MiB", "--length", "70000", "--output", &file(&part)])?;
    ensure(fs::read(&part)? == image.bytes()[1 << 20..(1 << 20) + 70_000], || "a part is not what it was".into())?;

    image.scribble(77, 3 << 20, 100_352);
    fs::write(&new, &image.bytes()[3 << 20..(3 << 20) + 100_352])?;
    let written = said(&["client", "write", uri, "--offset", "3MiB", "--input", &file(&new)])?;
    assert_eq!(written, "98 KiB written at offset 3145728, flushed\n");
    // The same from standard input, and back to standard output.
    image.put(5 << 20, 512, b'x');
    fs::write(&new, [b'x'; 512])?;
    gateway(["client", "write", uri, "--offset", "5MiB"])?.reading(&new).run()?.success()?;
    assert_eq!(said(&["client", "read", uri, "--offset", "5MiB", "--length", "512"])?, "x".repeat(512));

    // Nothing is begun that cannot be finished.
    let output = gateway(["client", "write", uri, "--offset", &(SIZE - 256).to_string(), "--input", &file(&new)])?;
    fails_in_a_line(&output.run()?, 1, &["512 bytes", &format!("({SIZE} bytes)")])?;
    let output = gateway(["client", "read", uri, "--offset", &(SIZE + 1).to_string()])?.run()?;
    fails_in_a_line(&output, 1, &[&(SIZE + 1).to_string()])?;
    Ok(image)
}

#[test]
fn the_client_reads_and_writes_every_stock_server() -> Result<(), Trouble> {
    for (server, framing) in [
        (Server::NbdkitFile, &["structured"][..]),
        (Server::NbdkitSimple, &["simple"]),
        // Later versions know extended headers.
        (Server::QemuNbdShared, &["structured", "extended"]),
        (Server::Reference, &["simple"]),
    ] {
        let mut served = server.start(&Image::sparse(7))?;
        let after = use_client(&served.uri(), framing, Image::sparse(7))
            .map_err(|trouble| trouble.with(format!("with {}", server.label())))?;
        after.expect_same(&served.content()?, server.label())?;
    }
    Ok(())
}

#[test]
fn the_client_reads_and_writes_through_the_gateway_over_a_unix_socket_and_tcp() -> Result<(), Trouble> {
    let mut served = Server::QemuNbdShared.start(&Image::sparse(8))?;
    let gateway = Gateway::in_front_of(&served)?;
    let unix = format!("nbd+unix:///{}?socket={}", served.export, gateway.socket().display());
    let after = use_client(&unix, &["extended"], Image::sparse(8))?;
    let tcp = format!("nbd://{}/{}", gateway.tcp(), served.export);
    let after = use_client(&tcp, &["extended"], after)?;
    gateway.end()?;
    after.expect_same(&served.content()?, "the disk")
}

#[test]
fn what_is_asked_wrongly_is_told_with_exit_2() -> Result<(), Trouble> {
    for (uri, words) in [
        ("localhost:10809", "not an NBD URI"),
        ("http://localhost/x", "nbd://"),
        ("nbd://localhost/x?sokcet=/s", "sokcet"),
        ("nbd+unix:///x", "socket"),
        ("nbd://localhost:99999/x", "99999"),
    ] {
        for command in ["info", "size", "read", "write"] {
            fails(&gateway(["client", command, uri])?.run()?, 2, &[words, "URI"])?;
        }
    }
    fails(&gateway(["client", "read", "nbd://h/x", "--length", "1G"])?.run()?, 2, &["`1G`", "GiB"])?;
    fails(&gateway(["client", "frobnicate", "nbd://h/x"])?.run()?, 2, &["frobnicate"])
}

#[test]
fn a_server_that_is_not_there_or_has_no_such_export_is_told_in_a_line_with_exit_1() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let socket = place.path("nobody").display().to_string();
    let absent = format!("nbd+unix:///x?socket={socket}");
    // Bound and not listened on: the port is nobody else's, and refuses.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    for (uri, place) in [(absent, socket), (format!("nbd://127.0.0.1:{port}/x"), format!("127.0.0.1:{port}"))] {
        for command in ["info", "size", "read"] {
            fails_in_a_line(&gateway(["client", command, &uri])?.run()?, 1, &["can't connect", &place])?;
        }
    }
    let served = Server::QemuNbdShared.start(&Image::sparse(1))?;
    let gateway_before = Gateway::in_front_of(&served)?;
    for socket in [&served.socket, gateway_before.socket()] {
        let uri = format!("nbd+unix:///other?socket={}", socket.display());
        fails_in_a_line(&gateway(["client", "size", &uri])?.run()?, 1, &["other"])?;
    }
    let uri = format!("nbd+unix:///disk?socket={}", gateway_before.socket().display());
    let output = gateway(["client", "read", &uri, "--output", "/nowhere/file"])?.run()?;
    fails_in_a_line(&output, 1, &["/nowhere/file"])?;
    gateway_before.end()
}

#[test]
fn a_write_to_a_read_only_export_is_told_in_a_line() -> Result<(), Trouble> {
    let served = Server::NbdkitReadOnly.start(&Image::sparse(1))?;
    let gateway_before = Gateway::in_front_of(&served)?;
    let uri = format!("nbd+unix:///?socket={}", gateway_before.socket().display());
    fails_in_a_line(&gateway(["client", "write", &uri])?.run()?, 1, &["read-only"])?;
    gateway_before.end()
}

#[test]
fn a_reader_that_leaves_early_is_no_failure_to_shout_about() -> Result<(), Trouble> {
    let served = Server::NbdkitFile.start(&Image::full(1))?;
    let line =
        format!("{} client read '{}' | head -c 10 >/dev/null", crate::gateway::binary()?.display(), served.uri());
    let output = Call::new("bash").args(["-c", &line]).run()?.success()?;
    ensure(!output.stderr.contains("panicked"), || output.trouble("panicked").to_string())
}

/// It said that no maximum was known.
#[test]
fn a_gateway_in_front_of_another_tells_the_maximum_that_it_was_told() -> Result<(), Trouble> {
    let behind = Gateway::start(&export("disk", "memory:", "size = \"1MiB\"\nmax-size = \"8MiB\""))?;
    let uri = format!("nbd+unix:///disk?socket={}", behind.socket().display());
    let before = Gateway::start(&export("disk", &uri, ""))?;
    let uri = format!("nbd+unix:///disk?socket={}", before.socket().display());
    let said = gateway(["client", "info", "--json", &uri])?.run()?.success()?;
    ensure(said.stdout.contains("\"maximum\": 8388608"), || said.trouble("said").to_string())?;
    before.end()?;
    behind.end()
}
