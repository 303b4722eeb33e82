//! Promise: what a tenant's exports have counts, also those that no client has ever opened.

use std::fs;

use rustix::process::Signal;

use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::nbdkit::nbdkit_as_it_is;
use crate::peer::{Served, Server};
use crate::scripted::backend::Backend;
use crate::scripted::numbers::{cmd, errno, info, opt};
use crate::scripted::{Ask, Framing, RawClient, Reply};
use crate::trouble::{Trouble, ensure, eventually};

const MIB: u64 = 1 << 20;
/// What each server has.
const DISK: u64 = 8 * MIB;

fn served() -> Result<Served, Trouble> {
    nbdkit_as_it_is(&[], &["memory", "8M"])
}

fn blue(quota: u64, more: &str, exports: &[(&str, &str)]) -> String {
    let tables = exports.iter().map(|(name, uri)| export(name, uri, "tenant = \"blue\""));
    format!("[[tenant]]\nname = \"blue\"\nquota = {quota}\n{more}\n\n{}", tables.collect::<String>())
}

fn enter(gateway: &Gateway, name: &str) -> Result<RawClient, Trouble> {
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(Framing::Structured)?;
    client.learn(opt::GO, name, &[info::RESIZE])?;
    Ok(client)
}

fn resize(client: &mut RawClient, size: u64) -> Result<Reply, Trouble> {
    client.ask(Ask { command: cmd::RESIZE, cookie: 7, offset: size, ..Ask::default() }, &[])
}

/// What the tenant uses, and how many of its exports nobody could measure.
fn counted(gateway: &Gateway) -> Result<(f64, f64), Trouble> {
    let of = |metric: &str| gateway.metric(metric, &["tenant=\"blue\""]);
    Ok((of("nbd_gateway_tenant_used_bytes")?, of("nbd_gateway_tenant_unmeasured_exports")?))
}

#[test]
fn exports_that_no_client_ever_opens_count_before_anything_grows() -> Result<(), Trouble> {
    let (one, two, other) = (served()?, served()?, Backend::growing()?);
    let tables = blue(30 * MIB, "", &[("one", &one.uri()), ("two", &two.uri()), ("other", &other.uri())]);
    let gateway = Gateway::start(&tables)?;
    // At once: no grow is judged before all three were looked at.
    let mut client = enter(&gateway, "other")?;
    let refused = resize(&mut client, 15 * MIB)?;
    ensure(refused.error == errno::ENOSPC && refused.message.contains("6 MiB left of 30 MiB"), || refused.message)?;
    resize(&mut client, 14 * MIB)?.success()?;
    assert_eq!(counted(&gateway)?, ((2 * DISK + 14 * MIB) as f64, 0.0));
    client.leave()?;
    gateway.end()
}

#[test]
fn a_server_that_is_away_holds_nobody_up_and_counts_when_it_is_back() -> Result<(), Trouble> {
    let (mut away, other) = (Server::NbdkitFile.start(&Image::sparse(1))?, Backend::growing()?);
    away.kill()?;
    let tables = blue(20 * MIB, "", &[("away", &away.uri()), ("other", &other.uri())]);
    let mut gateway = Gateway::start(&tables)?.expecting_warnings();
    let mut client = enter(&gateway, "other")?;
    resize(&mut client, 13 * MIB)?.success()?;
    assert_eq!(counted(&gateway)?, (13.0 * MIB as f64, 1.0));
    let said = gateway.operator(&["tenants"])?.run()?.success()?.stdout;
    ensure(said.contains("\nblue: unmeasured exports: 1; "), || said.clone())?;
    away.start_again()?;
    eventually("it counts", || counted(&gateway).is_ok_and(|counted| counted == (21.0 * MIB as f64, 0.0)))?;
    assert_eq!(resize(&mut client, 14 * MIB)?.error, errno::ENOSPC);
    client.leave()?;
    let log = gateway.whole_log();
    assert_eq!(log.matches("can't be measured").count(), 1, "{log}");
    assert_eq!(log.matches(" WARN ").count(), 1, "{log}");
    // It is in the ledger now.
    away.kill()?;
    gateway.kill_and_restart()?;
    assert_eq!(counted(&gateway)?, (21.0 * MIB as f64, 0.0));
    gateway.end()
}

#[test]
fn a_look_takes_no_place_of_a_clients_and_stays_no_longer_than_it_takes() -> Result<(), Trouble> {
    let (one, two) = (served()?, served()?);
    let gateway = Gateway::start(&blue(30 * MIB, "max-exports = 1", &[("one", &one.uri()), ("two", &two.uri())]))?;
    let client = enter(&gateway, "two")?;
    eventually("both count", || counted(&gateway).is_ok_and(|counted| counted == (2.0 * DISK as f64, 0.0)))?;
    let open = |name: &str| gateway.metric("nbd_gateway_export_open", &[&format!("export={name:?}")]);
    eventually("it is let go", || open("one").is_ok_and(|open| open == 0.0))?;
    assert_eq!(open("two")?, 1.0);
    ensure(enter(&gateway, "one").is_err(), || "more exports are open than may be".into())?;
    client.leave()?;
    gateway.end()
}

/// Nothing could grow into its room: its server is left alone until a client comes.
#[test]
fn an_export_that_has_its_tenant_to_itself_is_not_looked_at() -> Result<(), Trouble> {
    let other = Backend::growing()?;
    let gateway = Gateway::start(&blue(30 * MIB, "", &[("other", &other.uri())]))?;
    assert_eq!(counted(&gateway)?, (0.0, 0.0));
    gateway.end_with(|| {
        assert_eq!(other.story(|story| story.connections), 0);
        Ok(())
    })
}

/// The first look that took longer than `dial-timeout` was the last one while the export was open.
#[test]
fn a_server_that_hung_and_goes_on_is_looked_at_again_and_its_growth_is_seen() -> Result<(), Trouble> {
    for before in [true, false] {
        let served = Server::NbdkitFile.start(&Image::sparse(1))?;
        let file = served.file().ok_or_else(|| Trouble::new("it has a file"))?.to_owned();
        let grow = |to: u64| fs::File::options().write(true).open(&file)?.set_len(to);
        let more = "dial-timeout = \"1s\"\n[export.resize]\npoll = \"100ms\"\n";
        let gateway = Gateway::start(&export("n", &served.uri(), more))?.expecting_warnings();
        let (client, _) = RawClient::open(gateway.socket(), "n", Framing::Structured)?;
        let size = || gateway.metric("nbd_gateway_export_size_bytes", &["export=\"n\""]).unwrap_or(0.0);
        if before {
            grow(DISK + MIB)?;
            eventually("growth is seen", || size() == (DISK + MIB) as f64)?;
        }
        served.process.signal(Signal::STOP);
        let silent = || gateway.whole_log().contains("does not answer a second connection");
        eventually("a look is not answered", silent)?;
        served.process.signal(Signal::CONT);
        grow(DISK + 2 * MIB)?;
        // One that never answered beside its lanes is asked again after a pause of ten seconds.
        eventually("growth is seen again", || size() == (DISK + 2 * MIB) as f64)?;
        client.leave()?;
        gateway.end()?;
    }
    Ok(())
}
