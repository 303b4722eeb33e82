//! Listeners that come, go and change.

use super::success;
use crate::gateway::{Gateway, export};
use crate::place::Place;
use crate::process::Call;
use crate::scripted::{Framing, RawClient};
use crate::trouble::{Trouble, ensure, eventually};

fn tables(listeners: &[(String, &str)], more: &str) -> String {
    let one = |(address, keys): &(String, &str)| format!("[[listener]]\naddress = {address:?}\n{keys}\n");
    let listeners: String = listeners.iter().map(one).collect();
    let disk = export("d", "memory:", "size = \"1MiB\"");
    format!("{listeners}[admin]\naddress = \"127.0.0.1:0\"\ntoken-file = \"TOKEN\"\n{more}\n{disk}")
}

fn start(place: Place, listeners: &[(String, &str)]) -> Result<Gateway, Trouble> {
    let token = place.path("token");
    std::fs::write(&token, "t")?;
    Gateway::start_in(place, &tables(listeners, "").replace("TOKEN", &token.display().to_string()))
}

fn write_down(gateway: &Gateway, listeners: &[(String, &str)], more: &str) -> Result<(), Trouble> {
    let token = gateway.path("token").display().to_string();
    gateway.write_down_whole(&tables(listeners, more).replace("TOKEN", &token))
}

fn reload(gateway: &Gateway, listeners: &[(String, &str)]) -> Result<String, Trouble> {
    write_down(gateway, listeners, "")?;
    Ok(gateway.operator(&["reload"])?.run()?.success()?.stdout)
}

#[test]
fn a_listener_that_is_added_takes_clients_and_a_removed_one_keeps_those_that_it_has() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let (one, two) = (place.path("g"), place.path("h"));
    let [a, b] = [&one, &two].map(|path| (format!("unix:{}", path.display()), ""));
    let gateway = start(place, std::slice::from_ref(&a))?;
    let (mut first, _) = RawClient::open(&one, "d", Framing::Simple)?;
    ensure(!two.exists(), || "there already".into())?;
    assert_eq!(reload(&gateway, &[a.clone(), b.clone()])?, format!("listener {} added\n", b.0));
    let (mut second, _) = RawClient::open(&two, "d", Framing::Simple)?;
    assert_eq!(reload(&gateway, std::slice::from_ref(&b))?, format!("listener {} removed\n", a.0));
    eventually("the socket is gone", || !one.exists())?;
    ensure(RawClient::connect(&one).is_err(), || "it takes clients".into())?;
    first.write(0, &[3; 512])?.success()?;
    assert_eq!(second.read(0, 512)?, [3; 512]);
    assert_eq!(gateway.metric("nbd_gateway_sessions", &[&format!("listener={:?}", a.0)])?, 1.0);
    // And back again, at the same path.
    reload(&gateway, &[a.clone(), b])?;
    RawClient::open(&one, "d", Framing::Simple)?.0.leave()?;
    first.leave()?;
    second.leave()?;
    gateway.end_with(|| ensure(!one.exists() && !two.exists(), || "a socket was left behind".into()))
}

#[test]
fn a_port_of_the_kernels_choice_stays_as_it_was_and_another_is_told_in_the_log() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let any = ("127.0.0.1:0".to_owned(), "");
    let gateway = start(place, std::slice::from_ref(&any))?;
    let info = |uri: &str| Call::new("nbdinfo").args(["--size", &format!("{uri}/d")]).run()?.success().map(drop);
    let first = gateway.told("listening on ").to_owned();
    info(&first)?;
    assert_eq!(reload(&gateway, &[any.clone(), any.clone()])?, "listener 127.0.0.1:0 added\n");
    let log = gateway.whole_log();
    let second = log.split("uri=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("its URI is in the log");
    assert_ne!(second, first);
    info(second)?;
    info(&first)?;
    assert_eq!(reload(&gateway, &[any])?, "listener 127.0.0.1:0 removed\n");
    info(&first)?;
    gateway.end()
}

#[test]
fn other_limits_hold_for_connections_that_come_from_then_on() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let at = [(format!("unix:{}", place.path("g").display()), "")];
    let gateway = start(place, &at)?.expecting_warnings();
    let (first, _) = RawClient::open(gateway.socket(), "d", Framing::Simple)?;
    let (second, _) = RawClient::open(gateway.socket(), "d", Framing::Simple)?;
    write_down(&gateway, &at, "[limits]\nsessions-per-listener = 2\n")?;
    let told = gateway.operator(&["reload"])?.run()?.success()?.stdout;
    assert_eq!(told, "[limits]: sessions-per-listener 1024 -> 2\n");
    // Those that came before count.
    ensure(RawClient::open(gateway.socket(), "d", Framing::Simple).is_err(), || "a third".into())?;
    first.leave()?;
    eventually("there is room again", || {
        RawClient::open(gateway.socket(), "d", Framing::Simple).is_ok_and(|(client, _)| client.leave().is_ok())
    })?;
    second.leave()?;
    gateway.end()
}

#[test]
fn certificates_that_cannot_be_read_and_addresses_that_are_taken_leave_everything_as_it_was() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let (one, taken) = (place.path("g"), place.path("taken"));
    std::fs::write(&taken, "a file")?;
    let [a, b] = [&one, &taken].map(|path| (format!("unix:{}", path.display()), ""));
    let gateway = start(place, std::slice::from_ref(&a))?.expecting_errors();
    let (mut client, _) = RawClient::open(&one, "d", Framing::Simple)?;
    let secure = (a.0.clone(), "tls = \"require\"\ntls-certificates = \"/nonexistent\"");
    write_down(&gateway, &[secure, b], "")?;
    let refused = gateway.operator(&["reload"])?.run()?;
    let said = refused.stderr.clone();
    for words in ["everything stays as it was", "/nonexistent", "exists and is not a socket"] {
        ensure(said.contains(words), || format!("no `{words}` in {said}"))?;
    }
    ensure(!success(&gateway)?, || "the metrics say that it went well".into())?;
    client.write(0, &[3; 512])?.success()?;
    RawClient::open(&one, "d", Framing::Simple)?.0.leave()?;
    client.leave()?;
    gateway.end()
}

#[test]
fn tls_that_is_required_from_now_on_holds_for_who_comes_now() -> Result<(), Trouble> {
    let ca = nbd_gateway_tests::pki::Ca::new("a CA of this suite");
    let pki = Place::fresh()?;
    ca.listener(&pki.path("server"), &["localhost"]);
    ca.client(&pki.path("client"), "blue");
    let place = Place::fresh()?;
    let one = place.path("g");
    let keys = format!("tls = \"require\"\ntls-certificates = {:?}", pki.path("server"));
    let address = format!("unix:{}", one.display());
    let gateway = start(place, &[(address.clone(), "")])?;
    let (mut plain, _) = RawClient::open(&one, "d", Framing::Simple)?;
    let told = reload(&gateway, &[(address.clone(), &keys)])?;
    ensure(told.contains("tls off -> require"), || told.clone())?;
    ensure(RawClient::open(&one, "d", Framing::Simple).is_err(), || "without TLS".into())?;
    let uri = format!(
        "nbds+unix:///d?socket={}&tls-certificates={}&tls-hostname=localhost",
        one.display(),
        pki.path("client").display()
    );
    Call::new("nbdinfo").args(["--size", &uri]).run()?.success()?;
    plain.write(0, &[1; 512])?.success()?;
    plain.leave()?;
    gateway.end()
}
