//! Who gets the page and what is on it, and what a browser lets it do.

use super::Browser;
use super::scene::{TENANTS, disk, order, stock};
use crate::gateway::{Gateway, export};
use crate::place::Place;
use crate::process::Call;
use crate::trouble::{Trouble, ensure};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// Status line and headers, in lower case.
fn head(url: &str, more: &[&str]) -> Result<String, Trouble> {
    let call = Call::new("curl").args(["--silent", "--show-error", "--output", "/dev/null", "--dump-header", "-"]);
    Ok(call.args(more).arg(url).run()?.success()?.stdout.to_lowercase())
}

#[test]
fn the_page_may_load_and_reach_nothing_but_the_gateway() -> Result<(), Trouble> {
    let gateway = Gateway::start(&disk("vm", "default", "1MiB"))?;
    let url = gateway.told("admin on ").to_owned();
    for (path, kind) in [("/", "text/html"), ("/page/page.js", "text/javascript"), ("/page/look.css", "text/css")] {
        let sent = head(&format!("{url}{path}"), &[])?;
        for line in [
            format!("content-type: {kind}; charset=utf-8\r\n"),
            format!("content-security-policy: {}\r\n", POLICY.to_lowercase()),
            "x-content-type-options: nosniff\r\n".to_owned(),
            "referrer-policy: no-referrer\r\n".to_owned(),
            "cache-control: no-cache\r\n".to_owned(),
        ] {
            ensure(sent.contains(&line), || format!("{path} lacks {line:?}:\n{sent}"))?;
        }
        let tag = sent.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap_or_default();
        let again = head(&format!("{url}{path}"), &["--header", &format!("If-None-Match: {tag}")])?;
        ensure(again.starts_with("http/1.1 304 "), || format!("{path} was sent again:\n{again}"))?;
    }
    let browser = Browser::start(1000, 700)?;
    browser.visit(&url)?;
    browser.until_says("#link", "live")?;
    // What the policy is for: none of this works, and the console says so.
    browser.script(
        "document.body.append(Object.assign(document.createElement('img'), { src: 'http://192.0.2.1/x.png' }))",
    )?;
    let fails = |script: &str| {
        browser.value(&format!("(() => {{ try {{ {script}; return false; }} catch {{ return true; }} }})()"))
    };
    assert_eq!(fails("document.body.innerHTML = '<p>x'")?, true);
    browser
        .script("document.body.append(Object.assign(document.createElement('script'), { text: 'window.hurt = 1' }))")
        .ok();
    assert_eq!(browser.value("window.hurt ?? 0")?, 0);
    // The policy stopped it before anybody was asked.
    browser.end(&url, &["Content Security Policy", "TrustedHTML", "TrustedScript"])?;
    gateway.end()
}

#[test]
fn a_name_that_looks_like_markup_is_text() -> Result<(), Trouble> {
    const NAME: &str = "<img src=x onerror=window.hurt=1><b>vm";
    let place = Place::fresh()?;
    let backend = format!("file:{}/{{}}", place.root().display());
    // Names that clients make up: whatever they ask for is an export.
    let gateway = Gateway::start(&export("*", &backend, "size = \"1MiB\""))?;
    let url = gateway.told("admin on ").to_owned();
    let client = stock(&gateway, NAME)?;
    let browser = Browser::start(1400, 900)?;
    browser.visit(&url)?;
    browser.until_says("#exports .name", NAME)?;
    browser.until_says("#sessions .name", NAME)?;
    order(&gateway, NAME, "2MiB")?;
    browser.until_says("#events .name", NAME)?;
    browser.until_says("[data-tile='Last change']", NAME)?;
    browser.click("#exports .more")?;
    browser.until_says("#exports .jobs", "2 MiB")?;
    assert_eq!(browser.value("document.querySelectorAll('main img, main b').length + (window.hurt ?? 0)")?, 0);
    drop(client);
    browser.end(&url, &[])?;
    gateway.end()
}

#[test]
fn where_readers_need_the_token_the_page_asks_for_it() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    std::fs::write(place.path("token"), "a-token-of-this-suite\n")?;
    let tables = format!(
        "[[listener]]\naddress = \"unix:{}\"\n\n[admin]\naddress = \"0.0.0.0:0\"\ntoken-file = {:?}\n\n{TENANTS}{}",
        place.path("g").display(),
        place.path("token"),
        disk("vm", "blue", "8MiB"),
    );
    let gateway = Gateway::start_in(place, &tables)?;
    let url = gateway.told("admin on ").replace("0.0.0.0", "127.0.0.1");
    let client = stock(&gateway, "vm")?;
    let browser = Browser::start(1400, 900)?;
    browser.visit(&url)?;
    browser.until_says("#locked h2", "asks for its token")?;
    assert_eq!(browser.value("document.querySelector('#shown').hidden")?, true);
    // The focus is where the token goes.
    browser.until("the field has the focus", "document.activeElement.id === 'token'")?;
    browser.type_into("#token", "not it\u{e007}")?;
    browser.until_says("#unlock-error", "not the token")?;
    browser.type_into("#token", "a-token-of-this-suite\u{e007}")?;
    browser.until_says("#link", "live")?;
    browser.until_says("[data-export=vm] strong", "8 MiB")?;
    assert_eq!(browser.value("document.querySelector('#locked').hidden")?, true);
    // It lasts as long as the tab, and lets its owner resize.
    browser.visit(&url)?;
    browser.until_says("#link", "live")?;
    browser.click("[data-export=vm] .more")?;
    browser.type_into("[data-export=vm] .order input", "+4MiB\u{e007}")?;
    browser.until_says("[data-export=vm] .order", "It has 12 MiB now")?;
    browser.until_says("#events", "8 MiB → 12 MiB")?;
    browser.type_into("[data-export=vm] .order input", "1TiB\u{e007}")?;
    browser.until_says("[data-export=vm] .order .wrong", "blue")?;
    browser.click("#key")?;
    browser.click("#forget")?;
    browser.until_says("#locked h2", "asks for its token")?;
    drop(client);
    browser.end(&url, &["401 (Unauthorized)", "409 (Conflict)"])?;
    gateway.end()
}
