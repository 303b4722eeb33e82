//! A newcomer, who types the README's first lines: one resize arrives everywhere that it says, this page included. The
//! embedded default has fixed ports, so all of it has a network of its own where the kernel lets us.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;

use super::Browser;
use crate::gateway::binary;
use crate::place::Place;
use crate::process::{Call, DEADLINE, Running};
use crate::readme::{isolation, section};
use crate::trouble::{Trouble, ensure, eventually};

/// Types the line in $2 in the directory $1. The newcomer builds; here it is built already.
const TYPE: &str = r#"
set -eu
cd "$1"
cargo() {
    [ "$1" = run ]
    while [ "$1" != -- ]; do shift; done
    shift
    exec "$GATEWAY" "$@"
}
eval "$2"
"#;

/// The words of a command that types `line`.
fn typed(within: &[String], place: &Place, line: &str) -> Result<Vec<String>, Trouble> {
    let mut words = within.to_vec();
    words.extend(["env".to_owned(), format!("GATEWAY={}", binary()?.display())]);
    words.extend(["bash", "-c", TYPE, "newcomer"].map(str::to_owned));
    words.extend([place.root().display().to_string(), line.to_owned()]);
    Ok(words)
}

/// A line in a terminal of its own, which shows `name`.
fn terminal(within: &[String], place: &Place, name: &str, line: &str) -> Result<Running, Trouble> {
    let screen = Stdio::from(File::create(place.path(name))?);
    let words = typed(within, place, line)?;
    Running::start_with(Path::new("/usr/bin/env"), words, place.path(&format!("{name}.log")), Stdio::null(), screen)
}

#[test]
fn a_newcomer_sees_one_resize_arrive_everywhere_as_the_readme_says() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let shown = |name: &str| fs::read_to_string(place.path(name)).unwrap_or_default();
    let (serve, commands) = section("try")?;
    let isolation = isolation()?;
    let mut gateway = terminal(&isolation, &place, "serve", &serve)?;
    gateway.await_ready("being ready", || shown("serve").lines().any(|line| line == "ready"))?;
    let within: Vec<String> = if isolation.is_empty() {
        Vec::new()
    } else {
        let pid = gateway.child().id().to_string();
        ["nsenter", "--preserve-credentials", "--user", "--net", "--target", &pid].map(str::to_owned).into()
    };
    // Those that go on have terminals of their own; the page is opened before anything happens.
    let stays = |line: &&str| line.contains("client watch") || line.contains("--follow");
    let (stay, rest): (Vec<&str>, Vec<&str>) = commands.lines().partition(stays);
    let [watch, follow] = stay[..] else { return Err(Trouble::new(format!("these go on: {stay:?}"))) };
    let mut watch = terminal(&within, &place, "watch", watch)?;
    let mut follow = terminal(&within, &place, "follow", follow)?;
    watch.await_ready("showing the size", || shown("watch").starts_with("1 GiB "))?;
    let url = shown("serve").lines().find_map(|line| line.strip_prefix("admin on ").map(str::to_owned));
    let url = url.ok_or_else(|| Trouble::new("it told no address"))?;
    let browser = Browser::start_within(within.clone(), 1400, 900)?;
    browser.visit(&url)?;
    browser.until_says("#link", "live")?;
    browser.until_says("[data-export=demo] strong", "1 GiB")?;

    let mut said = String::new();
    for line in rest {
        said += &Call::new("env").args(typed(&within, &place, line)?).run()?.success()?.stdout;
    }
    browser.until_says("[data-export=demo] strong", "2 GiB")?;
    browser.until_says("#events li", "1 GiB → 2 GiB")?;
    eventually("`client watch` shows it", || shown("watch").lines().any(|line| line.starts_with("2 GiB ")))?;
    eventually("`events --follow` shows it", || shown("follow").contains("1GiB -> 2GiB"))?;
    let listed = said.lines().any(|line| line.starts_with("demo ") && line.contains(" 2GiB "));
    ensure(listed, || format!("`exports` shows no 2GiB: {said}"))?;
    let metric = format!("nbd_gateway_export_size_bytes{{export=\"demo\",tenant=\"demo\"}} {}", 2_u64 << 30);
    ensure(said.contains(&metric), || format!("no {metric} in: {said}"))?;
    ensure(said.contains("virtual size: 2 GiB"), || format!("qemu-img sees no 2 GiB: {said}"))?;

    // The page that a browser begins with complains that there is no other network.
    browser.end(&url, &["chrome://new-tab-page"])?;
    follow.kill()?;
    // Ctrl-C.
    gateway.signal(Signal::INT);
    ensure(gateway.await_end(DEADLINE)?.success(), || "it did not end well".into())?;
    let log = gateway.log();
    ensure(!log.contains(" WARN ") && !log.contains(" ERROR "), || log.clone())
}
