//! A headless Chromium of one's own, driven over WebDriver (W3C) by chromedriver, on a port that the kernel picks. Nothing
//! that it does goes unseen: it keeps what the console complains of and every address that was asked.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::place::Place;
use crate::process::{Call, Running, installed};
use crate::trouble::{Trouble, ensure, eventually};

/// What WebDriver calls a reference to an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

pub(super) struct Browser {
    driver: Running,
    /// The driver's address, and the session's below it.
    url: String,
    session: String,
    /// What a command begins with to be where the driver is.
    within: Vec<String>,
    _place: Place,
}

impl Browser {
    /// A browser with an empty profile, `width` by `height`.
    pub(super) fn start(width: u32, height: u32) -> Result<Self, Trouble> {
        Self::start_within(Vec::new(), width, height)
    }

    /// The same, by a command that brings it where it has to be, like into a network of its own.
    pub(super) fn start_within(within: Vec<String>, width: u32, height: u32) -> Result<Self, Trouble> {
        let place = Place::fresh()?;
        let chromium = installed("chromium")?;
        let out = place.path("out");
        let output = Stdio::from(File::create(&out)?);
        // Whatever it keeps beside its profile goes the way of the place, too.
        let home = format!("HOME={}", place.root().display());
        let driver = installed("chromedriver")?;
        let words = within.iter().map(OsStr::new);
        let words = words.chain(["env".as_ref(), home.as_ref(), driver.as_os_str(), "--port=0".as_ref()]);
        let mut driver =
            Running::start_with(Path::new("/usr/bin/env"), words, place.path("log"), Stdio::null(), output)?;
        let port = || -> Option<u16> {
            let said = fs::read_to_string(&out).ok()?;
            said.split_once("started successfully on port ")?.1.split_once('.')?.0.parse().ok()
        };
        driver.await_ready("telling its port", || port().is_some())?;
        let url = format!("http://127.0.0.1:{}", port().ok_or_else(|| driver.trouble("told no port"))?);
        let arguments = [
            "--headless=new",
            "--no-sandbox", // the suite may be root's; it visits nothing but our own page
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--force-device-scale-factor=1",
            "--hide-scrollbars",
            &format!("--window-size={width},{height}"),
            &format!("--user-data-dir={}", place.path("profile").display()),
        ];
        let wishes = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "binary": chromium, "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let mut browser = Self { driver, url, session: String::new(), within, _place: place };
        let begun = browser.ask("POST", "/session", &wishes)?;
        let id = begun["sessionId"].as_str().ok_or_else(|| Trouble::new(format!("no session: {begun}")))?;
        browser.session = format!("/session/{id}");
        Ok(browser)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, Trouble> {
        let call = Call::new("env").args(&self.within).arg("curl");
        let call = call.args(["--silent", "--show-error", "--request", method]);
        let call = match method {
            "POST" => call.args(["--header", "Content-Type: application/json", "--data", &body.to_string()]),
            _ => call,
        };
        let answer = call.arg(format!("{}{}{path}", self.url, self.session)).run()?.success()?;
        let answer: Value = serde_json::from_str(&answer.stdout)?;
        let value = answer["value"].clone();
        ensure(value["error"].is_null(), || format!("{path} {body}: {} {}", value["error"], value["message"]))?;
        Ok(value)
    }

    /// Goes to an address.
    pub(super) fn visit(&self, url: &str) -> Result<(), Trouble> {
        self.ask("POST", "/url", &json!({ "url": url })).map(drop)
    }

    /// What a script returns.
    pub(super) fn script(&self, script: &str) -> Result<Value, Trouble> {
        self.ask("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// What an expression is.
    pub(super) fn value(&self, expression: &str) -> Result<Value, Trouble> {
        self.script(&format!("return ({expression})"))
    }

    /// The text of the first element that a selector finds; empty if there is none.
    pub(super) fn text(&self, selector: &str) -> Result<String, Trouble> {
        let text = self.value(&format!("document.querySelector({selector:?})?.innerText ?? ''"))?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// Looks until an expression is true. If it never is, tells what the page says.
    pub(super) fn until(&self, what: &str, expression: &str) -> Result<(), Trouble> {
        let held = eventually(what, || self.value(expression).is_ok_and(|value| value == true));
        held.map_err(|trouble| trouble.with(self.text("body").unwrap_or_default()))
    }

    /// Looks until an element's text holds some words.
    pub(super) fn until_says(&self, selector: &str, words: &str) -> Result<(), Trouble> {
        let expression = format!("document.querySelector({selector:?})?.innerText.includes({words:?}) ?? false");
        self.until(&format!("{selector} says {words:?}"), &expression)
    }

    fn find(&self, selector: &str) -> Result<String, Trouble> {
        let found = self.ask("POST", "/element", &json!({ "using": "css selector", "value": selector }))?;
        found[ELEMENT].as_str().map(str::to_owned).ok_or_else(|| Trouble::new(format!("no element: {found}")))
    }

    /// Clicks as a person does: the element must be there and in nobody's shadow.
    pub(super) fn click(&self, selector: &str) -> Result<(), Trouble> {
        self.ask("POST", &format!("/element/{}/click", self.find(selector)?), &json!({})).map(drop)
    }

    /// Types into an element; `\u{e007}` is Enter.
    pub(super) fn type_into(&self, selector: &str, text: &str) -> Result<(), Trouble> {
        self.ask("POST", &format!("/element/{}/value", self.find(selector)?), &json!({ "text": text })).map(drop)
    }

    /// Presses a key, wherever the focus is.
    pub(super) fn press(&self, key: &str) -> Result<(), Trouble> {
        let actions = json!([{ "type": "keyDown", "value": key }, { "type": "keyUp", "value": key }]);
        let body = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] });
        self.ask("POST", "/actions", &body).map(drop)
    }

    /// A command of the browser's own tools.
    pub(super) fn command(&self, name: &str, parameters: &Value) -> Result<Value, Trouble> {
        self.ask("POST", "/goog/cdp/execute", &json!({ "cmd": name, "params": parameters }))
    }

    /// Makes it a screen of another size, for phones narrower than a window can be.
    pub(super) fn screen(&self, width: u32, height: u32, scale: u32) -> Result<(), Trouble> {
        let screen = json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600 });
        self.command("Emulation.setDeviceMetricsOverride", &screen).map(drop)
    }

    /// What the system says that people like: `prefers-color-scheme`, `dark`.
    pub(super) fn prefers(&self, features: &[(&str, &str)]) -> Result<(), Trouble> {
        let features: Vec<_> = features.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        self.command("Emulation.setEmulatedMedia", &json!({ "features": features })).map(drop)
    }

    /// Writes what can be seen to a PNG file.
    pub(super) fn picture(&self, file: &Path) -> Result<(), Trouble> {
        let text = self.ask("GET", "/screenshot", &Value::Null)?;
        fs::write(file, decoded(text.as_str().unwrap_or_default()))?;
        Ok(())
    }

    fn log(&self, kind: &str) -> Result<Vec<Value>, Trouble> {
        let entries = self.ask("POST", "/se/log", &json!({ "type": kind }))?;
        Ok(entries.as_array().cloned().unwrap_or_default())
    }

    /// Its end. Nothing was complained of but what holds one of the `expected` words, and nobody but `origin` was asked.
    pub(super) fn end(self, origin: &str, expected: &[&str]) -> Result<(), Trouble> {
        let complaints: Vec<_> = self.log("browser")?.into_iter().filter(|entry| entry["level"] != "DEBUG").collect();
        let unexpected: Vec<_> = complaints
            .iter()
            .filter_map(|entry| entry["message"].as_str())
            .filter(|message| !expected.iter().any(|words| message.contains(words)))
            .collect();
        ensure(unexpected.is_empty(), || format!("the console has:\n{}", unexpected.join("\n")))?;
        let mut asked = 0;
        let events = self.log("performance")?;
        let events: Vec<Value> = events
            .iter()
            .map(|entry| serde_json::from_str(entry["message"].as_str().unwrap_or("null")))
            .collect::<Result<_, _>>()?;
        let of = |method: &'static str| events.iter().map(|e| &e["message"]).filter(move |e| e["method"] == method);
        for request in of("Network.requestWillBeSent").map(|event| &event["params"]) {
            // Its own first page, before ours.
            if request["documentURL"].as_str().is_some_and(|by| by.starts_with("chrome://")) {
                continue;
            }
            let url = request["request"]["url"].as_str().unwrap_or_default();
            let stopped = || {
                of("Network.loadingFailed")
                    .map(|event| &event["params"])
                    .any(|failed| failed["requestId"] == request["requestId"] && failed["blockedReason"] == "csp")
            };
            ensure(url.starts_with(&format!("{origin}/")) || stopped(), || format!("{url} was asked"))?;
            asked += 1;
        }
        // The document, its styles and scripts, and what they ask for.
        ensure(asked > 20, || format!("the log of requests has only {asked}"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // So that the browser ends before its driver does; if it can't be told, the group is killed.
        let _ = self.ask("DELETE", "", &Value::Null);
        let _ = self.driver.stop();
    }
}

/// Base64, of a driver that writes it right.
fn decoded(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut held) = (Vec::with_capacity(text.len()), 0u32, 0);
    for digit in text.bytes().filter_map(|letter| ALPHABET.iter().position(|known| *known == letter)) {
        bits = bits << 6 | digit as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}
