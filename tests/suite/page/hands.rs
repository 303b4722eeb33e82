//! The page in people's hands: without a mouse, on a phone, by night, and with more on it than one can look at.

use super::Browser;
use super::scene::{TENANTS, automatic, disk, explicit, order, stock};
use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::nbdkit;
use crate::place::Place;
use crate::trouble::{Trouble, ensure};

const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";

/// What has the focus, by its id or what it says.
fn focus(browser: &Browser) -> Result<String, Trouble> {
    let name = browser.value("document.activeElement.id || document.activeElement.innerText")?;
    Ok(name.as_str().unwrap_or_default().to_owned())
}

#[test]
fn everything_can_be_reached_by_keyboard_and_is_seen_to_be() -> Result<(), Trouble> {
    let gateway = Gateway::start(&(TENANTS.to_owned() + &disk("vm", "blue", "8MiB")))?;
    let url = gateway.told("admin on ").to_owned();
    let client = stock(&gateway, "vm")?;
    order(&gateway, "vm", "12MiB")?;
    let browser = Browser::start(1400, 900)?;
    browser.visit(&url)?;
    browser.until_says("#events", "12 MiB")?;
    // The first of all leads past the rest.
    browser.press(TAB)?;
    assert_eq!(focus(&browser)?, "Skip to what there is");
    browser.press(ENTER)?;
    assert_eq!(focus(&browser)?, "main");
    browser.visit(&url)?;
    browser.until_says("#events", "12 MiB")?;
    let mut seen = Vec::new();
    for _ in 0..7 {
        browser.press(TAB)?;
        seen.push(focus(&browser)?);
        let outline = browser.value("getComputedStyle(document.activeElement).outlineStyle")?;
        ensure(outline == "solid", || format!("{seen:?} ends with what nobody sees the focus of: {outline}"))?;
    }
    assert_eq!(seen, ["Skip to what there is", "key", "theme", "by-tenant", "by-export", "vm", "feed"]);
    browser.press("/")?;
    assert_eq!(focus(&browser)?, "by-export");
    // An open detail and the focus stay while the page changes below them.
    browser.press(TAB)?;
    browser.press(ENTER)?;
    browser.until_says("[data-export=vm] .facts", "12,582,912 bytes")?;
    order(&gateway, "vm", "16MiB")?;
    browser.until_says("[data-export=vm] .facts", "16,777,216 bytes")?;
    assert_eq!(focus(&browser)?, "vm");
    assert_eq!(browser.value("document.activeElement.ariaExpanded")?, "true");
    drop(client);
    browser.end(&url, &[])?;
    gateway.end()
}

#[test]
fn a_phone_shows_all_of_it_without_scrolling_sideways() -> Result<(), Trouble> {
    let long = "a/name/that/somebody/thought/would/fit/nowhere/because/it/goes/on-and-on-and-on-and-on";
    let gateway = Gateway::start(&(TENANTS.to_owned() + &disk("vm", "blue", "8MiB") + &disk(long, "blue", "8MiB")))?;
    let url = gateway.told("admin on ").to_owned();
    let browser = Browser::start(1400, 900)?;
    browser.visit(&url)?;
    // WCAG 1.4.10: 320 is as narrow as a page has to be readable.
    browser.screen(320, 780, 2)?;
    let fits = "document.documentElement.scrollWidth <= 320 && innerWidth <= 320";
    // Empty, full, and with a detail open.
    browser.until_says("#sessions-empty", "nbd-gateway client info nbd://127.0.0.1/EXPORT")?;
    assert_eq!(browser.value(fits)?, true);
    let clients = [explicit(&gateway, "vm")?, stock(&gateway, long)?];
    order(&gateway, "vm", "12MiB")?;
    order(&gateway, long, "12MiB")?;
    browser.until_says("#events", long)?;
    browser.until_says("#sessions", long)?;
    assert_eq!(browser.value(fits)?, true);
    browser.click("[data-export=vm] .more")?;
    browser.until_says("[data-export=vm] .facts", "12,582,912 bytes")?;
    let outside = "[...document.querySelectorAll('main *')].filter((it) => it.checkVisibility() && !it.closest('.unseen, thead') && it.getBoundingClientRect().right > 321).map((it) => it.outerHTML.slice(0, 99)).join('\\n')";
    assert_eq!(browser.value(outside)?, "");
    assert_eq!(browser.value(fits)?, true);
    // No name is broken that has room.
    let whole = "document.querySelector('[data-tenant=blue] th').getBoundingClientRect().width > 200";
    assert_eq!(browser.value(whole)?, true);
    // Rows that are cards are rows for who hears them, and every cell says what it is.
    assert_eq!(browser.value("getComputedStyle(document.querySelector('[data-export=vm] tr')).display")?, "grid");
    let label = "getComputedStyle(document.querySelector('[data-export=vm] td.number'), '::before').content";
    assert_eq!(browser.value(label)?, "attr(data-label)".replace("attr(data-label)", "\"Size\""));
    // On a tablet no number stands alone in a row of its own.
    browser.screen(900, 780, 1)?;
    assert_eq!(browser.value("new Set([...document.querySelectorAll('.tile')].map((it) => it.offsetTop)).size")?, 1);
    drop(clients);
    browser.end(&url, &[])?;
    gateway.end()
}

#[test]
fn it_is_dark_where_the_system_is_and_wherever_one_likes() -> Result<(), Trouble> {
    let gateway = Gateway::start(&disk("vm", "default", "8MiB"))?;
    let url = gateway.told("admin on ").to_owned();
    let browser = Browser::start(1400, 900)?;
    browser.visit(&url)?;
    browser.until_says("#link", "live")?;
    let dark = || browser.value("getComputedStyle(document.body).backgroundColor === 'rgb(12, 16, 23)'");
    for (system, is_dark) in [("light", false), ("dark", true)] {
        browser.prefers(&[("prefers-color-scheme", system)])?;
        assert_eq!(dark()?, is_dark, "{system}");
    }
    browser.click("#theme")?;
    assert_eq!(dark()?, false);
    // It is remembered, and comes back to what the system says.
    browser.visit(&url)?;
    browser.until("it is light", "document.documentElement.dataset.theme === 'light'")?;
    assert_eq!(dark()?, false);
    for is_dark in [true, true] {
        browser.click("#theme")?;
        assert_eq!(dark()?, is_dark);
    }
    assert_eq!(browser.value("document.documentElement.dataset.theme ?? 'system'")?, "system");
    browser.end(&url, &[])?;
    gateway.end()
}

/// All that there can be, with an alarm of each kind, is there to be read; and every field has a name.
#[test]
fn every_text_stands_out_from_its_ground_by_day_and_by_night() -> Result<(), Trouble> {
    let mut server = nbdkit(&[], &["file", "DISK"], &Image::sparse(3))?;
    let more = "tenant = \"blue\"\non-backend-loss = \"error\"";
    let tables = TENANTS.to_owned() + &disk("vm", "blue", "8MiB") + &export("far", &server.uri(), more);
    let gateway = Gateway::start(&tables)?.expecting_warnings();
    let url = gateway.told("admin on ").to_owned();
    let clients = [explicit(&gateway, "vm")?, automatic(&gateway, "vm")?, stock(&gateway, "far")?];
    order(&gateway, "vm", "50MiB")?;
    gateway.operator(&["resize", "vm", "1GiB"])?.run()?;
    let browser = Browser::start(1400, 1400)?;
    browser.visit(&url)?;
    browser.until_says("#events", "refused")?;
    browser.click("[data-export=far] .more")?;
    server.kill()?;
    browser.until_says("#alarms", "far is down")?;
    browser.until_says("#alarms", "blue")?;
    browser.until_says("[data-export=far] .lanes", "down")?;
    browser.type_into("#by-export", "nothing")?;
    browser.until_says("#exports-empty", "fits")?;
    for theme in ["light", "dark"] {
        browser.prefers(&[("prefers-color-scheme", theme)])?;
        assert_eq!(browser.script(include_str!("contrast.js"))?, "", "{theme}, and a filter that nothing fits");
    }
    browser.type_into("#by-export", &"\u{e003}".repeat(7))?;
    browser.until_says("[data-export=far] .lanes", "down")?;
    for theme in ["light", "dark"] {
        browser.prefers(&[("prefers-color-scheme", theme)])?;
        assert_eq!(browser.script(include_str!("contrast.js"))?, "", "{theme}");
    }
    // It would have been noticed.
    browser.script("document.body.style.setProperty('--faint', '#67707c')")?;
    assert_ne!(browser.script(include_str!("contrast.js"))?, "");
    browser.until("the title counts what needs somebody", "document.title === '(2) nbd-gateway'")?;
    let nameless = "[...document.querySelectorAll('input, button')].filter((it) => !it.labels?.length && !it.ariaLabel && !it.innerText.trim() && it.checkVisibility()).length";
    assert_eq!(browser.value(nameless)?, 0);
    drop(clients);
    browser.end(&url, &[])?;
    gateway.end()
}

#[test]
fn four_hundred_exports_are_filtered_and_kept_up_with() -> Result<(), Trouble> {
    const EXPORTS: usize = 400;
    let place = Place::fresh()?;
    let backend = format!("file:{}/{{}}", place.root().display());
    let gateway = Gateway::start(&export("vm/*", &backend, "size = \"1MiB\""))?;
    let url = gateway.told("admin on ").to_owned();
    let browser = Browser::start(1400, 900)?;
    browser.visit(&url)?;
    browser.until_says("#exports-empty", "nbd-gateway client watch nbd://127.0.0.1/EXPORT")?;
    let clients: Vec<_> = (0..EXPORTS).map(|n| stock(&gateway, &format!("vm/{n:03}"))).collect::<Result<_, _>>()?;
    browser.until_says("#exports-count", "400")?;
    // As many as one can look at; the rest are a filter away.
    assert_eq!(browser.value("document.querySelectorAll('[data-export]').length")?, 300);
    browser.until_says("#exports-empty", "100 more are not shown")?;
    browser.type_into("#by-export", "vm/39")?;
    browser.until_says("#exports-count", "10 of 400")?;
    browser.until_says("#sessions-count", "10 of 400")?;
    // The address has the filter, for who keeps it.
    let address = browser.value("location.href")?;
    browser.visit(address.as_str().unwrap_or_default())?;
    browser.until_says("#exports-count", "10 of 400")?;
    order(&gateway, "vm/395", "2MiB")?;
    browser.until_says("[data-export='vm/395'] strong", "2 MiB")?;
    browser.type_into("#by-export", "x")?;
    browser.until_says("#exports-empty", "fits the filter")?;
    browser.type_into("#by-export", "\u{e003}\u{e003}\u{e003}\u{e003}\u{e003}\u{e003}")?;
    browser.until("all are back", "document.querySelectorAll('[data-export]').length === 300")?;
    // Bringing all of it up to date takes a fraction of the pace at which that is done.
    browser.script("window.began = performance.now(); document.querySelector('#filter').dispatchEvent(new Event('input')); window.took = performance.now() - window.began")?;
    let took = browser.value("window.took")?.as_f64().unwrap_or(f64::MAX);
    ensure(took < 500.0, || format!("a refresh took {took} ms"))?;
    drop(clients);
    browser.end(&url, &[])?;
    gateway.end()
}
