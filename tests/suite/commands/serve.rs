//! `serve`, where it cannot: one line, and an end.

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use super::{fails_in_a_line, gateway};
use crate::gateway::{configuration, export};
use crate::place::Place;
use crate::process::Output;
use crate::trouble::{Trouble, ensure};

const DISK: &str = "size = \"1MiB\"";

/// Starts it with a listener, which must fail.
fn refused(place: &Place, listener: &str, more: &str) -> Result<Output, Trouble> {
    let tables = format!("[[listener]]\naddress = {listener:?}\n{more}\n{}", export("a", "memory:", DISK));
    let config = configuration(place, &tables)?;
    gateway(["serve".as_ref(), "--config".as_ref(), config.as_os_str()])?.run()
}

#[test]
fn an_address_in_use_is_one_clear_line_and_exit_1() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let off = "[admin]\naddress = \"off\"\n";
    fails_in_a_line(&refused(&place, &address, off)?, 1, &["can't listen on", &address, "in use"])?;
    let admin = format!("[admin]\naddress = {address:?}\n");
    let output = refused(&place, "127.0.0.1:0", &admin)?;
    fails_in_a_line(&output, 1, &["can't listen on", &address, "in use", "admin"])
}

#[test]
fn a_path_that_is_no_socket_or_has_another_owner_is_left_as_it_is() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let off = "[admin]\naddress = \"off\"\n";
    let file = place.path("precious");
    fs::write(&file, "not to be lost")?;
    let listener = format!("unix:{}", file.display());
    fails_in_a_line(&refused(&place, &listener, off)?, 1, &[&listener, "not a socket"])?;
    // The same for the admin interface.
    let admin = format!("[admin]\naddress = {listener:?}\n");
    fails_in_a_line(&refused(&place, "127.0.0.1:0", &admin)?, 1, &[&listener, "not a socket"])?;
    assert_eq!(fs::read_to_string(&file)?, "not to be lost");

    let socket = place.path("taken");
    let _owner = UnixListener::bind(&socket)?;
    let listener = format!("unix:{}", socket.display());
    fails_in_a_line(&refused(&place, &listener, off)?, 1, &[&listener, "another process"])?;
    ensure(socket.exists(), || "another process's socket was removed".into())?;

    let listener = format!("unix:{}", place.path("no/such/directory/s").display());
    fails_in_a_line(&refused(&place, &listener, off)?, 1, &[&listener, "No such file"])
}

#[test]
fn an_embedded_disk_that_is_not_there_is_told_at_the_start() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let listener = format!("unix:{}", place.path("g").display());
    let tables = format!(
        "[[listener]]\naddress = {listener:?}\n[admin]\naddress = \"off\"\n{}",
        export("a", "file:missing.img", "")
    );
    let config = configuration(&place, &tables)?;
    let output = gateway(["serve".as_ref(), "--config".as_ref(), config.as_os_str()])?.run()?;
    // The log has a line of its own; the last one is the program's.
    let last = output.stderr.lines().last().unwrap_or_default();
    ensure(output.status.code() == Some(1) && last.contains("missing.img") && last.contains("\"a\""), || {
        output.trouble("should have told which disk is missing").to_string()
    })?;
    ensure(!place.path("g").exists(), || "a socket was left behind".into())
}
