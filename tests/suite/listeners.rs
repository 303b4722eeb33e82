//! Promise: clients find the gateway where the configuration says, and nothing that is in the way of a socket is lost or
//! taken from its owner.

use std::fs;
use std::net::{Ipv6Addr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use crate::gateway::{Gateway, binary, configuration, export};
use crate::place::Place;
use crate::process::Call;
use crate::scripted::{Framing, RawClient};
use crate::trouble::{Trouble, ensure, eventually};

const DISK: &str = "size = \"1MiB\"";

fn tables(listeners: &[&str], limits: &str) -> String {
    let listeners: String = listeners.iter().map(|address| format!("[[listener]]\naddress = {address:?}\n")).collect();
    format!("{listeners}[admin]\naddress = \"off\"\n{limits}\n{}", export("a", "memory:", DISK))
}

fn size_of(uri: &str) -> Result<String, Trouble> {
    Call::new("nbdinfo").args(["--size", uri]).run()?.success().map(|output| output.stdout.trim().to_owned())
}

#[test]
fn ipv6_addresses_are_listened_on_and_told_as_uris_that_work() -> Result<(), Trouble> {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6 loopback address");
        return Ok(());
    }
    for address in ["[::1]:0", "[::]:0"] {
        let gateway = Gateway::start_in(Place::fresh()?, &tables(&[address], ""))?;
        let uri = gateway.told("listening on ").to_owned();
        ensure(uri.starts_with("nbd://[::"), || uri.clone())?;
        assert_eq!(size_of(&format!("{uri}/a"))?, "1048576");
        Call::new("qemu-img").args(["info", "-f", "raw", &format!("{uri}/a")]).run()?.success()?;
        gateway.end()?;
    }
    Ok(())
}

/// The first link-local address of this machine, and the name of its interface: address, number, bits, scope, flags, name.
fn link_local() -> Option<(Ipv6Addr, String)> {
    let addresses = fs::read_to_string("/proc/net/if_inet6").ok()?;
    let found = addresses.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    found.filter(|words| words.get(3) == Some(&"20")).find_map(|words| {
        Some((Ipv6Addr::from_bits(u128::from_str_radix(words[0], 16).ok()?), (*words.get(5)?).to_owned()))
    })
}

#[test]
fn a_link_local_address_is_listened_on_and_connected_to_by_the_name_of_its_interface() -> Result<(), Trouble> {
    let Some((address, interface)) = link_local() else {
        eprintln!("skipped: this machine has no link-local address");
        return Ok(());
    };
    let server = Gateway::start_in(Place::fresh()?, &tables(&[&format!("[{address}%{interface}]:0")], ""))?;
    let told = server.told("listening on ").to_owned();
    let (host, port) = told.rsplit_once(':').unwrap();
    ensure(host.starts_with(&format!("nbd://[{address}%25")), || told.clone())?;
    // By its name, and as the gateway prints it, by its number.
    for uri in [format!("nbd://[{address}%25{interface}]:{port}/a"), format!("{told}/a")] {
        let gateway = Gateway::start(&export("b", &uri, ""))?;
        assert_eq!(size_of(&gateway.uri("b"))?, "1048576", "{uri}");
        gateway.end()?;
        let size = Call::new(&binary()?.display().to_string()).args(["client", "size", &uri]).run()?.success()?;
        ensure(size.stdout.contains("1048576") || size.stdout.contains("1 MiB"), || size.stdout.clone())?;
    }
    server.end()
}

/// What systemd does for a .socket unit: `activate.py NAME=ADDRESS… -- PROGRAM…`.
pub(crate) fn activated(sockets: &[String], place: Place, tables: &str) -> Result<Gateway, Trouble> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("suite/activate.py").display().to_string();
    let mut launcher = vec!["/usr/bin/python3".to_owned(), script];
    launcher.extend_from_slice(sockets);
    launcher.push("--".to_owned());
    Gateway::launched_by(&launcher, place, tables)
}

#[test]
fn sockets_from_systemd_are_served_by_their_names_and_left_to_it() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let socket = place.path("from-systemd");
    let sockets = [format!("local={}", socket.display()), "disks=127.0.0.1".to_owned(), "other=127.0.0.1".to_owned()];
    let gateway = activated(&sockets, place, &tables(&["systemd:disks", "systemd:local"], ""))?;
    let unix = format!("nbd+unix:///?socket={}", socket.display());
    assert_eq!(gateway.told("listening on nbd+unix"), unix.strip_prefix("nbd+unix").unwrap());
    assert_eq!(size_of(&format!("nbd://{}/a", gateway.tcp()))?, "1048576");
    assert_eq!(size_of(&format!("nbd+unix:///a?socket={}", socket.display()))?, "1048576");
    gateway.end_with(|| ensure(socket.exists(), || "systemd's socket file was removed".into()))
}

#[test]
fn a_name_that_systemd_did_not_pass_is_told_with_those_that_it_did() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let config = configuration(&place, &tables(&["systemd:disk"], ""))?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("suite/activate.py");
    let program = [binary()?.as_path(), "serve".as_ref(), "--config".as_ref(), &config].map(Path::to_owned);
    let output = Call::new("/usr/bin/python3").arg(script).args(["disks=127.0.0.1", "--"]).args(program).run()?;
    let told = output.stderr.trim_end();
    ensure(output.status.code() == Some(1) && told.contains("\"disk\"") && told.contains("disks"), || {
        output.trouble("should have told the names").to_string()
    })?;
    // Without systemd at all, and the whole failure in one line.
    let bare = Call::new(&binary()?.display().to_string()).args(["serve", "--config"]).arg(&config).run()?;
    ensure(bare.status.code() == Some(1) && bare.stderr.contains("none") && bare.stderr.lines().count() == 1, || {
        bare.trouble("should have told that there are none").to_string()
    })
}

#[test]
fn a_socket_that_nobody_listens_on_any_more_is_replaced_and_removed_at_the_end() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let socket = place.path("g");
    // A process that was killed leaves its socket behind.
    drop(UnixListener::bind(&socket)?);
    assert!(socket.exists());
    let listener = format!("unix:{}", socket.display());
    let gateway = Gateway::start_in(place, &tables(&[&listener], ""))?;
    RawClient::open(&socket, "a", Framing::Structured)?.0.leave()?;
    gateway.end_with(|| ensure(!socket.exists(), || "the gateway left its socket behind".into()))
}

#[test]
fn a_gateway_that_was_killed_starts_again_in_the_same_place() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let (socket, admin) = (place.path("g"), place.path("admin"));
    let tables = format!(
        "[[listener]]\naddress = \"unix:{}\"\n[admin]\naddress = \"unix:{}\"\n{}",
        socket.display(),
        admin.display(),
        export("a", "file:disk.img", DISK)
    );
    let mut gateway = Gateway::start_in(place, &tables)?;
    let (mut client, _) = RawClient::open(&socket, "a", Framing::Structured)?;
    client.write(512, &[0x4b; 512])?.success()?;
    gateway.kill_and_restart()?;
    client.link().await_close()?;
    let (mut client, opened) = RawClient::open(&socket, "a", Framing::Structured)?;
    assert_eq!(opened.size, 1 << 20);
    // What was answered is in the page cache, which a process does not take along.
    assert_eq!(client.read(512, 512)?, [0x4b; 512]);
    client.leave()?;
    gateway.end_with(|| ensure(!socket.exists() && !admin.exists(), || "a socket was left behind".into()))
}

#[test]
fn of_two_gateways_on_one_socket_the_second_is_refused_and_the_first_serves_on() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let listener = format!("unix:{}", place.path("g").display());
    let tables = tables(&[&listener], "");
    let first = Gateway::start_in(place, &tables)?;
    let other = Place::fresh()?;
    let config = configuration(&other, &tables)?;
    let second = Call::new(&binary()?.display().to_string()).args(["serve", "--config"]).arg(&config).run()?;
    ensure(second.status.code() == Some(1) && second.stderr.contains("another process"), || {
        second.trouble("should have been refused").to_string()
    })?;
    RawClient::open(first.socket(), "a", Framing::Simple)?.0.leave()?;
    first.end()
}

#[test]
fn each_listener_has_a_limit_of_its_own() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let (one, two) = (place.path("one"), place.path("two"));
    let listeners = [&one, &two].map(|path| format!("unix:{}", path.display()));
    let listeners = listeners.each_ref().map(String::as_str);
    let gateway = Gateway::start_in(place, &tables(&listeners, "[limits]\nsessions-per-listener = 1"))?;
    let gateway = gateway.expecting_warnings();
    let (mut first, _) = RawClient::open(&one, "a", Framing::Simple)?;
    let (second, _) = RawClient::open(&two, "a", Framing::Simple)?;
    for path in [&one, &two] {
        ensure(RawClient::open(path, "a", Framing::Simple).is_err(), || "one session too many".into())?;
    }
    ensure(gateway.log().contains("sessions-per-listener"), || "the log does not say why".into())?;
    first.read(0, 512)?;
    drop((first, second));
    gateway.end()
}

#[test]
fn out_of_descriptors_it_waits_for_some_and_goes_on_accepting() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let listener = format!("unix:{}", place.path("g").display());
    let limited = ["/usr/bin/prlimit", "--nofile=48", "--"].map(str::to_owned);
    let gateway = Gateway::launched_by(&limited, place, &tables(&[&listener], ""))?;
    let gateway = gateway.expecting_error("can't accept a connection");
    let (mut first, _) = RawClient::open(gateway.socket(), "a", Framing::Structured)?;
    // The kernel takes these in; the gateway can't.
    let crowd = (0..60).map(|_| UnixStream::connect(gateway.socket())).collect::<Result<Vec<_>, _>>()?;
    eventually("it has none left", || gateway.log().contains("can't accept a connection"))?;
    first.read(0, 512)?;
    drop(crowd);
    eventually("it accepts again", || RawClient::open(gateway.socket(), "a", Framing::Structured).is_ok())?;
    first.read(0, 512)?;
    gateway.end()
}

#[test]
fn one_socket_for_clients_and_for_the_admin_interface_is_a_configuration_error() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let file = place.path("c.toml");
    let address = format!("unix:{}", place.path("g").display());
    let tables = format!(
        "[[listener]]\naddress = {address:?}\n[admin]\naddress = {address:?}\n{}",
        export("a", "memory:", DISK)
    );
    fs::write(&file, tables)?;
    let output = Call::new(&binary()?.display().to_string()).args(["check", "--config"]).arg(&file).run()?;
    ensure(output.status.code() == Some(2) && output.stderr.contains("the address of the admin interface too"), || {
        output.trouble("should have seen the clash").to_string()
    })
}

#[test]
fn a_successor_that_has_taken_over_the_path_keeps_its_socket() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let (socket, aside) = (place.path("g"), place.path("aside"));
    let listener = format!("unix:{}", socket.display());
    let first = Gateway::start_in(place, &tables(&[&listener], ""))?;
    fs::rename(&socket, &aside)?;
    let second = Gateway::start_in(Place::fresh()?, &tables(&[&listener], ""))?;
    first.end_with(|| {
        RawClient::open(&socket, "a", Framing::Simple)?.0.leave()?;
        // Its directory goes with the first one's.
        second.end_with(|| ensure(!socket.exists(), || "the successor left its socket behind".into()))
    })
}

#[test]
fn a_socket_that_has_no_name_is_called_unknown() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    // The name that is asked for where none is given.
    let unnamed = tables(&["systemd:unknown"], "").replace("name = \"a\"", "name = \"\"");
    let config = configuration(&place, &unnamed)?;
    let gateway = [binary()?.as_path(), "serve".as_ref(), "--config".as_ref(), &config].map(Path::to_owned);
    // libnbd's socket activation: sockets without names.
    let output = Call::new("nbdinfo").args(["--size", "--", "["]).args(&gateway).arg("]").run()?.success()?;
    ensure(output.stdout.contains("1048576"), || output.trouble("should have told the size").to_string())
}

#[test]
fn a_descriptor_that_is_no_listening_socket_is_refused_with_its_number() -> Result<(), Trouble> {
    for what in ["file", "datagram", "connected", "unlistened"] {
        let place = Place::fresh()?;
        let config = configuration(&place, &tables(&["systemd:odd"], ""))?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("suite/activate.py");
        let program = [binary()?.as_path(), "serve".as_ref(), "--config".as_ref(), &config].map(Path::to_owned);
        let call = Call::new("/usr/bin/python3").arg(script).args([&format!("odd={what}"), "--"]);
        let output = call.args(program).run()?;
        let told = output.stderr.trim_end();
        let fits = output.status.code() == Some(1) && told.contains("descriptor 3") && told.lines().count() == 1;
        ensure(fits, || output.trouble(what).to_string())?;
    }
    Ok(())
}

#[test]
fn every_ipv4_and_every_ipv6_address_can_have_the_same_port() -> Result<(), Trouble> {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6 loopback address");
        return Ok(());
    }
    // Free a moment ago: another program may have taken it since.
    let port = TcpListener::bind("0.0.0.0:0")?.local_addr()?.port();
    for listeners in
        [[format!("0.0.0.0:{port}"), format!("[::]:{port}")], [format!("[::]:{port}"), format!("127.0.0.1:{port}")]]
    {
        let listeners = listeners.each_ref().map(String::as_str);
        let gateway = Gateway::start_in(Place::fresh()?, &tables(&listeners, ""))?;
        for host in ["127.0.0.1", "[::1]"] {
            assert_eq!(size_of(&format!("nbd://{host}:{port}/a"))?, "1048576");
        }
        gateway.end()?;
    }
    // Alone, it takes both.
    let gateway = Gateway::start_in(Place::fresh()?, &tables(&[&format!("[::]:{port}")], ""))?;
    assert_eq!(size_of(&format!("nbd://127.0.0.1:{port}/a"))?, "1048576");
    gateway.end()
}
