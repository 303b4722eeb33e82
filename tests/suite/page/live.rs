//! What happens is on the page without anybody's asking for it again.

use super::Browser;
use super::scene::{MIB, TENANTS, automatic, disk, explicit, order, stock};
use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::nbdkit;
use crate::trouble::{Trouble, ensure};

#[test]
fn an_event_appears_and_a_quota_bar_moves_without_a_reload() -> Result<(), Trouble> {
    let gateway = Gateway::start(&(TENANTS.to_owned() + &disk("vm", "blue", "8MiB")))?.expecting_warnings();
    let url = gateway.told("admin on ").to_owned();
    let told = explicit(&gateway, "vm")?;
    let browser = Browser::start(1400, 900)?;
    browser.visit(&url)?;
    browser.until_says("#link", "live")?;
    browser.until_says("[data-export=vm] strong", "8 MiB")?;
    ensure(browser.text("#events-empty")?.contains("nbd-gateway resize"), || "no word of what to type".into())?;
    let bar = "document.querySelector('[data-tenant=blue] [role=meter]')";
    let filled = || browser.value(&format!("{bar}.querySelector('.used').getBoundingClientRect().width"));
    assert_eq!(browser.value(&format!("{bar}.ariaValueNow"))?, (8 * MIB).to_string());
    let before = filled()?.as_f64().unwrap_or_default();
    // A page that was loaded anew would have forgotten it.
    browser.script("window.here = document.querySelector('[data-export=vm]')")?;

    order(&gateway, "vm", "56MiB")?;
    browser.until_says("#events li", "8 MiB → 56 MiB")?;
    browser.until_says("#events li .detail", "operator")?;
    browser.until_says("[data-export=vm] strong", "56 MiB")?;
    browser.until("the meter has the new value", &format!("{bar}.ariaValueNow === '{}'", 56 * MIB))?;
    let wanted = before * 7.0;
    browser.until(
        "the bar is filled",
        &format!("Math.abs({bar}.querySelector('.used').getBoundingClientRect().width - {wanted}) < 2"),
    )?;
    assert_eq!(browser.value(&format!("{bar}.ariaValueMax"))?, (64 * MIB).to_string());
    browser.until_says("[data-tenant=blue] .share", "87 %")?;
    browser.until_says("#alarms", "blue is over its soft quota of 48 MiB")?;
    // The client is told of it, and the plot has a step.
    browser.until_says("#sessions", "56 MiB")?;
    browser.until(
        "the plot has the step",
        "(document.querySelector('[data-export=vm] .line').getAttribute('d').match(/V/g) ?? []).length === 1",
    )?;
    // The other end of the bar moves, too.
    gateway.operator(&["quota", "blue", "128MiB"])?.run()?.success()?;
    browser.until_says("#events li", "quota-changed")?;
    browser.until_says("#events li .name", "blue")?;
    browser.until_says("[data-tenant=blue]", "56 MiB of 128 MiB, as ordered")?;
    browser.until("the meter has the new maximum", &format!("{bar}.ariaValueMax === '{}'", 128 * MIB))?;
    assert_eq!(browser.value("window.here === document.querySelector('[data-export=vm]')")?, true);
    drop(told);
    browser.until_says("#sessions-empty", "No client is connected")?;
    browser.end(&url, &[])?;
    gateway.end()
}

#[test]
fn what_had_happened_before_is_on_the_page_in_its_order() -> Result<(), Trouble> {
    let gateway = Gateway::start(&(TENANTS.to_owned() + &disk("vm", "free", "8MiB")))?;
    let url = gateway.told("admin on ").to_owned();
    for size in ["16MiB", "32MiB", "24MiB"] {
        let more = gateway.operator(&["resize", "vm", size])?.run()?;
        // It may not shrink, and that is told, too.
        assert_eq!(more.status.success(), size != "24MiB");
    }
    let browser = Browser::start(1400, 900)?;
    browser.visit(&url)?;
    browser.until_says("#link", "live")?;
    let kinds = "[...document.querySelectorAll('#events .kind')].map((kind) => kind.textContent).join()";
    assert_eq!(browser.value(kinds)?, "refused,resized,resized");
    let plot = browser.value("document.querySelector('[data-export=vm] svg').ariaLabel")?;
    let plot = plot.as_str().unwrap_or_default();
    ensure(plot.contains("2 changes since") && plot.ends_with("from 8 MiB to 32 MiB"), || format!("it shows {plot}"))?;
    browser.end(&url, &[])?;
    gateway.end()
}

#[test]
fn sessions_are_shown_by_how_they_learn_of_sizes() -> Result<(), Trouble> {
    let gateway = Gateway::start(&(TENANTS.to_owned() + &disk("vm", "free", "8MiB")))?;
    let url = gateway.told("admin on ").to_owned();
    let clients = [explicit(&gateway, "vm")?, automatic(&gateway, "vm")?, stock(&gateway, "vm")?];
    let browser = Browser::start(1400, 900)?;
    browser.visit(&url)?;
    let styles = "[...document.querySelectorAll('#sessions .style')].map((style) => style.textContent).join()";
    browser.until("three sessions", &format!("{styles} === 'explicit,automatic,stock'"))?;
    order(&gateway, "vm", "12MiB")?;
    // Who knows nothing of resizing was told 8 MiB, and still believes it.
    browser.until_says("#sessions tr:last-child", "now 12 MiB")?;
    browser.until_says("[data-tile=Clients]", "3")?;
    drop(clients);
    browser.end(&url, &[])?;
    gateway.end()
}

#[test]
fn a_backend_that_is_killed_shows_as_down_and_comes_back() -> Result<(), Trouble> {
    let mut server = nbdkit(&[], &["file", "DISK"], &Image::sparse(3))?;
    let gateway = Gateway::start(&export("far", &server.uri(), ""))?.expecting_warnings();
    let url = gateway.told("admin on ").to_owned();
    let client = stock(&gateway, "far")?;
    let browser = Browser::start(1400, 900)?;
    browser.visit(&url)?;
    browser.until("its backend is up", "document.querySelector('[data-export=far]')?.dataset.health === 'up'")?;
    browser.until_says("[data-tile='Backends up']", "1 of 1")?;
    browser.click("[data-export=far] .more")?;
    browser.until_says("[data-export=far] .lanes", "up")?;
    let socket = server.socket.display().to_string();
    browser.until_says("[data-export=far] .lanes", &socket)?;
    server.kill()?;
    browser.until(
        "its backend is not up",
        "['degraded', 'down'].includes(document.querySelector('[data-export=far]').dataset.health)",
    )?;
    browser.until_says("#alarms", "far is d")?;
    browser.until_says("[data-tile='Backends up']", "0 of 1")?;
    browser.until_says("[data-export=far] .lanes", "down")?;
    server.start_again()?;
    browser.until("its backend is up", "document.querySelector('[data-export=far]').dataset.health === 'up'")?;
    browser.until_says("[data-export=far] .lanes", "connected again 1 time")?;
    browser.until("no alarm is left", "document.querySelector('#alarms').hidden")?;
    client.leave()?;
    browser.end(&url, &[])?;
    gateway.end()
}

#[test]
fn an_export_that_cannot_be_opened_is_shown_with_the_reason_until_it_can() -> Result<(), Trouble> {
    let mut server = nbdkit(&[], &["file", "DISK"], &Image::sparse(3))?;
    let gateway = Gateway::start(&export("far", &server.uri(), "dial-timeout = \"1s\""))?.expecting_warnings();
    let url = gateway.told("admin on ").to_owned();
    server.kill()?;
    ensure(stock(&gateway, "far").is_err(), || "a server that is gone was opened".into())?;
    let browser = Browser::start(1400, 900)?;
    browser.visit(&url)?;
    let socket = server.socket.display().to_string();
    browser.until_says("[data-unopened=far]", "could not be opened")?;
    browser.until_says("[data-unopened=far]", &socket)?;
    browser.until_says("[data-unopened=far]", "1 attempt")?;
    browser.until_says("#alarms", "far could not be opened")?;
    server.start_again()?;
    let client = stock(&gateway, "far")?;
    browser.until("it is off the list", "document.querySelector('#unopened').hidden")?;
    browser.until("no alarm is left", "document.querySelector('#alarms').hidden")?;
    client.leave()?;
    browser.end(&url, &[])?;
    gateway.end()
}

#[test]
fn sizes_shares_and_names_are_shown_so_that_each_says_what_it_is() -> Result<(), Trouble> {
    let long = "a-tenant-whose-name-has-all-the-words-that-somebody-thought-of";
    let tenants = format!(
        "[[tenant]]\nname = \"tiny\"\nquota = \"1KiB\"\n\n[[tenant]]\nname = \"huge\"\nquota = \"9223372036854775807\"\n\n\
         [[tenant]]\nname = {long:?}\n\n"
    );
    let disks = disk(" ", "tiny", "8MiB") + &disk("vm", "huge", "8MiB") + &disk("x", long, "8MiB");
    let gateway = Gateway::start(&(tenants + &disks))?.expecting_warnings();
    let url = gateway.told("admin on ").to_owned();
    let browser = Browser::start(1400, 900)?;
    browser.visit(&url)?;
    browser.until_says("[data-tenant=tiny] .share", "> 999 %")?;
    browser.until_says("[data-tenant=huge] .share", "< 1 %")?;
    // 2^63-1 is less than 8 EiB, as the command says too.
    browser.until_says("[data-tenant=huge]", "8 MiB of 7.9 EiB")?;
    browser.until_says("[data-export=' '] .name", "\" \"")?;
    let line = "parseFloat(getComputedStyle(document.querySelector('.clamp')).lineHeight)";
    let tall = format!("document.querySelector('[data-tenant^=a-tenant] .clamp').clientHeight <= 2.5 * {line}");
    assert_eq!(browser.value(&tall)?, true);
    let tenants = gateway.operator(&["tenants"])?.run()?.success()?.stdout;
    ensure(tenants.contains("7.9EiB"), || tenants.clone())?;
    let exports = gateway.operator(&["exports"])?.run()?.success()?.stdout;
    ensure(exports.contains("\" \"  "), || exports.clone())?;
    browser.end(&url, &[])?;
    gateway.end()
}
