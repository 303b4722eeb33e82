//! Clients that may do other things than before.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::reload;
use crate::gateway::{Gateway, export};
use crate::scripted::numbers::{errno, opt, rep};
use crate::scripted::{Framing, RawClient, go_request};
use crate::trouble::{Trouble, ensure, eventually};

/// Two tenants with a disk each, and entries of `clients` for each.
fn tables(blue: &str, red: &str) -> String {
    let one = |name: &str, clients: &str| {
        let disk = export(name, "memory:", &format!("tenant = {name:?}\nsize = \"1MiB\""));
        format!("[[tenant]]\nname = {name:?}\nclients = [{clients}]\n\n{disk}")
    };
    [one("blue", blue), one("red", red)].concat()
}

fn uid(verbs: &str) -> String {
    format!("{{uid = {}{verbs}}}", rustix::process::getuid().as_raw())
}

#[test]
fn a_session_whose_client_may_do_less_or_more_ends_and_comes_back_under_the_new_rules() -> Result<(), Trouble> {
    let all = uid("");
    let gateway = Gateway::start(&tables(&all, &all))?;
    let (mut blue, _) = RawClient::open(gateway.socket(), "blue", Framing::Structured)?;
    let (mut red, _) = RawClient::open(gateway.socket(), "red", Framing::Structured)?;
    red.write(0, &[7; 512])?.success()?;
    let reads = uid(", verbs = [\"list\", \"read\"]");
    let told = reload(&gateway, &tables(&reads, &all))?;
    ensure(told.starts_with("tenant blue: clients[0] {uid = "), || told.clone())?;
    blue.link().await_close()?;
    assert_eq!(red.read(0, 512)?, [7; 512], "it never notices");
    let (mut blue, _) = RawClient::open(gateway.socket(), "blue", Framing::Structured)?;
    assert_eq!(blue.write(0, &[1; 512])?.error, errno::EPERM);
    blue.read(0, 512)?;
    reload(&gateway, &tables("", &all))?;
    blue.link().await_close()?;
    let mut asking = RawClient::connect(gateway.socket())?;
    assert_eq!(asking.verdict(opt::GO, &go_request("blue", &[]))?, rep::ERR_UNKNOWN, "it is nobody's now");
    reload(&gateway, &tables(&all, &all))?;
    // The same connection, asking again: what is in force now is what counts.
    assert_eq!(asking.verdict(opt::GO, &go_request("blue", &[]))?, rep::ACK);
    asking.write(0, &[1; 512])?.success()?;
    asking.leave()?;
    red.leave()?;
    gateway.end()
}

/// Whenever a client comes, before, while or after the rules change: once they have, nobody is there by the old ones.
#[test]
fn nobody_slips_in_between_two_rules() -> Result<(), Trouble> {
    let all = uid("");
    let gateway = Gateway::start(&tables(&all, &all))?.expecting_warnings();
    let (socket, over) = (gateway.socket().to_owned(), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut open = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    // Refused half of the time.
                    open.extend(RawClient::open(&socket, "blue", Framing::Simple).ok());
                    if open.len() > 50 {
                        open.clear();
                    }
                }
                open
            });
        }
        let turns = (0..8).try_for_each(|_| {
            reload(&gateway, &tables("", &all))?;
            eventually("nobody is there", || super::sessions(&gateway).is_ok_and(|list| list.is_empty()))?;
            reload(&gateway, &tables(&all, &all))?;
            eventually("somebody is there", || super::sessions(&gateway).is_ok_and(|list| !list.is_empty()))
        });
        over.store(true, Ordering::Relaxed);
        turns
    })?;
    gateway.end()
}

/// The line that an entry stands on, and the order of entries that grant the same, are no rules.
#[test]
fn a_session_whose_rule_only_stands_elsewhere_stays() -> Result<(), Trouble> {
    let all = uid("");
    let gateway = Gateway::start(&tables(&all, &all))?;
    let (mut blue, _) = RawClient::open(gateway.socket(), "blue", Framing::Structured)?;
    let first = format!("{{uid = 4294967, verbs = []}},\n {all}");
    reload(&gateway, &tables(&first, &all))?;
    blue.write(0, &[1; 512])?.success()?;
    blue.leave()?;
    gateway.end()
}
