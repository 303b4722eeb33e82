//! The pictures of the page in the README, made of a gateway at work: `target/page-light.png` and `target/page-dark.png`.
//! Whoever changes the page looks at them and copies them to `gateway/src/admin/page/`, there without `page-` and made smaller
//! by `pngquant --quality 85-98 --strip`. With Debian's `fonts-inter` they look as they do there.
//!
//! All that is shown has happened to this gateway. Only the hours are made up: it lives for seconds, so between its two runs
//! the times in its ledger are stretched.

use std::fs::{self, File};
use std::path::Path;

use rusqlite::Connection;

use super::Browser;
use super::scene::{MIB, ask, automatic, explicit, order, slow, stock};
use crate::gateway::{Gateway, export};
use crate::peer::nbdkit_on;
use crate::place::Place;
use crate::trouble::{Trouble, ensure};

const GIB: u64 = 1 << 30;

/// An export and what becomes of it.
struct Life {
    name: &'static str,
    tenant: &'static str,
    size: u64,
    /// When, and to what; of all lives, what has the lower number comes first.
    steps: &'static [(u32, &'static str)],
}

const fn life(name: &'static str, tenant: &'static str, size: u64, steps: &'static [(u32, &'static str)]) -> Life {
    Life { name, tenant, size, steps }
}

const LIVES: &[Life] = &[
    life(
        "db/primary",
        "atlas",
        640 * GIB,
        &[(1, "768GiB"), (7, "1TiB"), (12, "1.25TiB"), (17, "1.5TiB"), (24, "2TiB")],
    ),
    life("db/replica", "atlas", 640 * GIB, &[(8, "1TiB"), (13, "1.25TiB"), (25, "2TiB")]),
    life(
        "logs",
        "atlas",
        96 * GIB,
        &[(2, "128GiB"), (5, "192GiB"), (9, "256GiB"), (14, "384GiB"), (19, "512GiB"), (26, "640GiB")],
    ),
    life("vm/build-1", "borealis", 64 * GIB, &[(3, "96GiB"), (10, "160GiB"), (20, "256GiB")]),
    life("vm/build-2", "borealis", 64 * GIB, &[(4, "256GiB"), (11, "128GiB"), (21, "192GiB")]),
    life("scratch", "cygnus", 32 * MIB, &[(6, "48MiB"), (15, "24MiB"), (18, "96MiB"), (22, "72MiB")]),
];

/// How long ago the first of it was, in milliseconds, and the last.
const PAST: (u64, u64) = (31 * 3_600_000, 2 * 3_600_000);

const TENANTS: &str = "\
[[tenant]]\nname = \"atlas\"\nquota = \"8TiB\"\nsoft-quota = \"6TiB\"\n\n\
[[tenant]]\nname = \"borealis\"\nquota = \"1TiB\"\nsoft-quota = \"768GiB\"\n\n\
[[tenant]]\nname = \"cygnus\"\nquota = \"384MiB\"\n\n\
[[tenant]]\nname = \"delta\"\nquota = \"256GiB\"\nsoft-quota = \"192GiB\"\n\n";

/// A sparse file, so that a TiB costs nothing.
fn sparse(path: &Path, size: u64) -> Result<(), Trouble> {
    Ok(File::create(path)?.set_len(size)?)
}

/// Lets the past be longer ago.
fn stretch(ledger: &Path) -> Result<(), Trouble> {
    let failed = |error: rusqlite::Error| Trouble::new(format!("the ledger: {error}"));
    let ledger = Connection::open(ledger).map_err(failed)?;
    let (first, last) = PAST;
    let update = format!(
        "UPDATE event SET at = seen.last - {last} - (seen.last - at) * ({first} - {last}) / (seen.last - seen.first)
         FROM (SELECT min(at) AS first, max(at) AS last FROM event) AS seen"
    );
    ledger.execute_batch(&update).map_err(failed)
}

#[test]
fn the_pictures_of_the_readme_can_be_taken() -> Result<(), Trouble> {
    let (place, disks) = (Place::fresh()?, Place::fresh()?);
    let (slow, lazy) = (slow()?, slow()?);
    let (archive, images) = (disks.path("archive"), disks.path("images"));
    sparse(&archive, 200 * GIB)?;
    sparse(&images, 120 * GIB)?;
    let (kept, mut doomed) = (nbdkit_on(&archive)?, nbdkit_on(&images)?);
    let mut tables = format!(
        "[[listener]]\naddress = \"unix:{}\"\n\n[admin]\naddress = \"127.0.0.1:0\"\ntoken-file = {:?}\n\n{TENANTS}",
        place.path("g").display(),
        place.path("token"),
    );
    fs::write(place.path("token"), "a-token-of-this-suite")?;
    for Life { name, tenant, size, .. } in LIVES {
        let file = disks.path(&name.replace('/', "-"));
        sparse(&file, *size)?;
        let more = format!("tenant = {tenant:?}\nmax-size = \"4TiB\"\n[export.resize]\nshrink = true\n");
        tables += &export(name, &format!("file:{}", file.display()), &more);
    }
    let poll = "poll = \"50ms\"";
    tables += &export("archive", &kept.uri(), &format!("tenant = \"delta\"\n[export.resize]\n{poll}\n"));
    tables += &export(
        "images",
        &doomed.uri(),
        &format!("tenant = \"borealis\"\non-backend-loss = \"error\"\n[export.resize]\n{poll}\n"),
    );
    tables += &export("vm/new", &slow.uri(), "tenant = \"cygnus\"\nmax-size = \"256MiB\"\n");
    let unsure = "tenant = \"cygnus\"\nmax-size = \"256MiB\"\n[export.resize]\ntimeout = \"300ms\"\n";
    tables += &export("vm/lost", &lazy.uri(), unsure);
    let ledger = place.path("state/ledger.sqlite");
    let mut gateway = Gateway::start_in(place, &tables)?.expecting_errors();

    // The past.
    let open: Vec<_> = LIVES.iter().map(|life| explicit(&gateway, life.name)).collect::<Result<_, _>>()?;
    let steps = LIVES.iter().flat_map(|life| life.steps.iter().map(|(when, size)| (*when, life.name, *size)));
    let mut steps: Vec<_> = steps.collect();
    steps.sort_unstable();
    for (_, name, size) in steps {
        order(&gateway, name, size)?;
    }
    drop(open);
    gateway.kill()?;
    stretch(&ledger)?;
    gateway.start_again()?;

    // The present.
    let mut clients = Vec::new();
    for life in LIVES {
        clients.push(explicit(&gateway, life.name)?);
    }
    for name in ["db/primary", "logs", "vm/build-1", "archive", "images"] {
        clients.push(stock(&gateway, name)?);
    }
    clients.push(automatic(&gateway, "logs")?);
    let browser = Browser::start(1440, 1260)?;
    let url = gateway.told("admin on ").to_owned();
    browser.visit(&url)?;
    browser.until_says("#link", "live")?;

    File::options().write(true).open(&archive)?.set_len(276 * GIB)?;
    browser.until_says("[data-tenant=delta] .share", "107 %")?;
    slow.hold();
    lazy.hold();
    let (mut growing, mut unsure) = (explicit(&gateway, "vm/new")?, explicit(&gateway, "vm/lost")?);
    ask(&mut unsure, 64 * MIB)?;
    browser.until_says("#events", "unsettled")?;
    ask(&mut growing, 128 * MIB)?;
    browser.until("something is reserved", "!document.querySelector('[data-tenant=cygnus] .reserved').hidden")?;
    let refused = gateway.operator(&["resize", "vm/build-1", "900GiB"])?.run()?;
    ensure(!refused.status.success(), || "that is more than the quota".into())?;
    browser.until_says("#events", "refused")?;
    doomed.kill()?;
    browser.until_says("#alarms", "images is down")?;
    order(&gateway, "db/primary", "2.25TiB")?;
    browser.until_says("#events li", "2.2 TiB")?;

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    browser.screen(1440, 1260, 2)?;
    browser.prefers(&[("prefers-reduced-motion", "reduce")])?;
    for theme in ["light", "dark"] {
        browser.prefers(&[("prefers-color-scheme", theme), ("prefers-reduced-motion", "reduce")])?;
        browser.picture(&folder.join(format!("page-{theme}.png")))?;
    }
    // Not in the README, but to be looked at all the same.
    browser.click("[data-export='db/primary'] .more")?;
    browser.until_says("[data-export='db/primary'] .jobs", "2.25 TiB")?;
    browser.picture(&folder.join("page-detail.png"))?;
    for (width, height) in [(360, 1500), (900, 1100), (1600, 1260)] {
        for theme in ["light", "dark"] {
            browser.prefers(&[("prefers-color-scheme", theme), ("prefers-reduced-motion", "reduce")])?;
            browser.screen(width, height, 1)?;
            browser.picture(&folder.join(format!("page-{width}-{theme}.png")))?;
        }
    }
    browser.end(&url, &[])?;
    slow.release();
    lazy.release();
    drop(clients);
    gateway.end()
}
