//! The page outlives the gateway.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::Browser;
use super::scene::{Door, TENANTS, disk, order, stock};
use crate::gateway::Gateway;
use crate::trouble::Trouble;

#[test]
fn a_gateway_that_was_killed_is_waited_for_and_nothing_of_it_is_missed() -> Result<(), Trouble> {
    let mut gateway = Gateway::start(&(TENANTS.to_owned() + &disk("vm", "blue", "8MiB")))?;
    let door = Door::before(&gateway)?;
    let url = format!("http://{}", door.address);
    let client = stock(&gateway, "vm")?;
    order(&gateway, "vm", "12MiB")?;
    let browser = Browser::start(1400, 900)?;
    browser.visit(&url)?;
    browser.until_says("#link", "live")?;
    browser.until_says("#events", "12 MiB")?;
    browser.script("window.here = document.querySelector('[data-event]')")?;
    gateway.kill()?;
    drop(client);
    browser.until_says("#link", "connection lost")?;
    browser.until_says("#banner", "Trying again; what is below is as of ")?;
    // What was known is still there to look at.
    browser.until_says("[data-export=vm] strong", "12 MiB")?;
    gateway.start_again()?;
    let client = stock(&gateway, "vm")?;
    order(&gateway, "vm", "16MiB")?;
    door.leads_to(&gateway);
    browser.until_says("#link", "live")?;
    browser.until_says("#events li", "8 MiB → 16 MiB")?;
    browser.until_says("[data-export=vm] strong", "16 MiB")?;
    browser.until("the banner is gone", "document.querySelector('#banner').hidden")?;
    // The same page, and what it had heard before is told once.
    browser.until("two events", "document.querySelectorAll('[data-event]').length === 2 && window.here.isConnected")?;
    drop(client);
    let broken = ["ERR_CONNECTION", "ERR_EMPTY_RESPONSE", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_SOCKET"];
    browser.end(&url, &broken)?;
    gateway.end()
}

/// The gateway lets 64 read its stream at a time, half of them from one address.
#[test]
fn without_a_stream_the_lists_are_still_shown() -> Result<(), Trouble> {
    let gateway = Gateway::start(&(TENANTS.to_owned() + &disk("vm", "blue", "8MiB")))?;
    let url = gateway.told("admin on ").to_owned();
    let mut readers = Vec::new();
    for _ in 0..32 {
        let mut reader = TcpStream::connect(gateway.told("admin on http://"))?;
        reader.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")?;
        let mut status = [0; 15];
        reader.read_exact(&mut status)?;
        assert_eq!(&status, b"HTTP/1.1 200 OK");
        readers.push(reader);
    }
    let browser = Browser::start(1400, 900)?;
    browser.visit(&url)?;
    browser.until_says("#banner", "What happens is not told: 64 readers")?;
    browser.until_says("[data-export=vm] strong", "8 MiB")?;
    order(&gateway, "vm", "12MiB")?;
    browser.until_says("[data-export=vm] strong", "12 MiB")?;
    drop(readers);
    browser.until_says("#link", "live")?;
    browser.until_says("#events", "12 MiB")?;
    let plot = "document.querySelector('[data-export=vm] svg').ariaLabel";
    browser.until("the plot is right", &format!("{plot}.endsWith('from 8 MiB to 12 MiB')"))?;
    browser.end(&url, &["503 (Service Unavailable)"])?;
    gateway.end()
}

#[test]
fn a_gateway_that_drains_says_so() -> Result<(), Trouble> {
    let mut gateway = Gateway::start(&disk("vm", "default", "8MiB"))?;
    let url = gateway.told("admin on ").to_owned();
    let browser = Browser::start(1400, 900)?;
    browser.visit(&url)?;
    browser.until_says("#link", "live")?;
    browser.until("that it takes clients is not worth a word", "document.querySelector('#phase').hidden")?;
    gateway.ask_to_end();
    gateway.await_end()?;
    browser.until_says("#banner", "the gateway does not answer")?;
    browser.end(&url, &["ERR_CONNECTION", "ERR_EMPTY_RESPONSE", "ERR_INCOMPLETE_CHUNKED_ENCODING"])
}
