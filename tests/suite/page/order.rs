//! What one export's details are for: its own history, and what who has the token orders there.

use super::Browser;
use super::scene::{MIB, TENANTS, ask, disk, explicit, order, slow, stock};
use crate::gateway::{Gateway, TOKEN, export};
use crate::process::Call;
use crate::trouble::Trouble;

/// What changed a quiet export last is long past among what became of all of them.
#[test]
fn a_quiet_exports_own_history_is_in_its_details() -> Result<(), Trouble> {
    let gateway = Gateway::start(&(TENANTS.to_owned() + &disk("", "free", "8MiB") + &disk("busy", "free", "8MiB")))?
        .expecting_warnings();
    let url = gateway.told("admin on ").to_owned();
    let clients = [stock(&gateway, "")?, stock(&gateway, "busy")?];
    for size in ["16MiB", "48MiB", "40MiB"] {
        gateway.operator(&["resize", "", size])?.run()?;
    }
    // More than the page asks for of all.
    let grow = format!("{url}/api/v1/exports/busy/resize");
    let asked =
        Call::new("curl").args(["--silent", "--output", "/dev/null", "--header", "Content-Type: application/json"]);
    let asked =
        asked.args(["--header", &format!("Authorization: Bearer {}", TOKEN), "--data", "{\"size\": \"+4KiB\"}"]);
    asked.arg(format!("{grow}?[1-1001]")).run()?.success()?;
    let browser = Browser::start(1400, 900)?;
    browser.visit(&url)?;
    browser.until_says("#link", "live")?;
    let line = "document.querySelector('[data-export=\"\"] .spark svg').ariaLabel";
    assert_eq!(browser.value(line)?, "Size over time: 48 MiB, unchanged");
    browser.click("[data-export=''] .more")?;
    let plot = "document.querySelector('[data-export=\"\"] .plot svg').ariaLabel";
    browser.until("its own history is there", &format!("{plot}.endsWith('from 8 MiB to 48 MiB')"))?;
    assert_eq!(browser.value(&format!("{plot} === {line}"))?, true);
    // What happens now is added once.
    order(&gateway, "", "64MiB")?;
    browser.until("the new step is there", &format!("{plot}.includes('3 changes') && {plot}.endsWith('to 64 MiB')"))?;
    drop(clients);
    browser.end(&url, &[])?;
    gateway.end()
}

#[test]
fn who_has_the_token_publishes_what_is_held_back_and_calls_off_what_waits() -> Result<(), Trouble> {
    let backend = slow()?;
    let held = "tenant = \"free\"\nsize = \"8MiB\"\n[export.resize]\npublish = \"manual\"\n";
    let tables =
        TENANTS.to_owned() + &export("vm", "memory:", held) + &export("far", &backend.uri(), "tenant = \"free\"");
    let gateway = Gateway::start(&tables)?.expecting_warnings();
    let url = gateway.told("admin on ").to_owned();
    let mut clients = [explicit(&gateway, "vm")?, explicit(&gateway, "far")?, explicit(&gateway, "far")?];
    let browser = Browser::start(1400, 1100)?;
    browser.visit(&url)?;
    browser.until_says("#link", "live")?;
    browser.click("[data-export=vm] .more")?;
    browser.click("[data-export=far] .more")?;
    gateway.operator(&["resize", "vm", "12MiB"])?.run()?.success()?;
    browser.until_says("[data-export=vm]", "4 MiB not shown")?;
    let shown =
        |selector: &str| browser.value(&format!("document.querySelector({selector:?})?.checkVisibility() ?? false"));
    // Without the token nothing can be ordered.
    assert_eq!(shown("[data-export=vm] .publish")?, false);
    browser.click("#key")?;
    browser.type_into("#operator", &format!("{}\u{e007}", TOKEN))?;
    browser.until_says("[data-export=vm] .publish", "Show clients 4 MiB more")?;
    browser.type_into("[data-export=vm] .order input", "+4MiB\u{e007}")?;
    browser
        .until_says("[data-export=vm] .order", "It has 16 MiB now; clients are shown 8 MiB until that is published")?;
    browser.until_says("[data-export=vm] .publish", "Show clients 8 MiB more")?;
    browser.click("[data-export=vm] .publish")?;
    browser.until_says("[data-export=vm] .order", "It has 16 MiB now.")?;
    browser.until_says("#sessions", "16 MiB")?;
    browser.until("nothing is held back", "!document.querySelector('[data-export=vm] .publish').checkVisibility()")?;
    // One is with the backend, one waits for it.
    backend.hold();
    let [_, first, second] = &mut clients;
    ask(first, 64 * MIB)?;
    browser.until_says("[data-export=far] .jobs", "asking backend")?;
    assert_eq!(shown("[data-export=far] .off")?, false);
    ask(second, 96 * MIB)?;
    browser.until_says("[data-export=far] .jobs", "waiting")?;
    let off = "[data-export=far] .jobs li:first-child .off";
    browser.until("it can be called off", &format!("document.querySelector({off:?}).checkVisibility()"))?;
    browser.click(off)?;
    browser.until_says("[data-export=far] .order", "is called off")?;
    browser.until("nothing waits", "![...document.querySelectorAll('.off')].some((it) => it.checkVisibility())")?;
    backend.release();
    browser.until_says("[data-export=far] strong", "64 MiB")?;
    drop(clients);
    browser.end(&url, &[])?;
    gateway.end()
}
