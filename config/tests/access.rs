//! Who may do what, as the file says it: what it means, and what is said about what it can't mean.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test crate")]

use std::path::Path;

use nbd_gateway_config::{Config, TenantId};
use nbd_gateway_policy::access::{Identity, Verb, Verbs};

const HEAD: &str = "\
[[listener]]
address = \"0.0.0.0:10809\"
[[listener]]
address = \"unix:/run/a\"
[[listener]]
address = \"systemd:disks\"
";

const EXPORTS: &str = "
[[export]]
name = \"vm1\"
tenant = \"blue\"
backend = \"nbd://10.0.0.5/vm1\"
[[export]]
name = \"red/*\"
tenant = \"red\"
backend = \"file:disks/{}\"
";

fn file(clients: &str) -> String {
    format!("{HEAD}[[tenant]]\nname = \"blue\"\n{clients}\n[[tenant]]\nname = \"red\"\n{EXPORTS}")
}

fn parse(clients: &str) -> Config {
    Config::parse(&file(clients), Path::new("x")).unwrap_or_else(|problems| panic!("{clients}\n{problems}"))
}

#[track_caller]
fn says(clients: &str, expected: &[&str]) {
    match Config::parse(&file(clients), Path::new("x")) {
        Ok(_) => panic!("this was taken: {clients}"),
        Err(problems) => assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), expected),
    }
}

fn verbs(config: &Config, identity: &Identity, export: &str) -> Verbs {
    let owner = config.owner_of(export).unwrap();
    config.access().decide(identity, owner, export).verbs
}

#[test]
fn without_clients_everyone_may_do_everything_and_with_any_nobody_else_may() {
    let user = |uid| Identity { uid: Some(uid), ..Identity::default() };
    let open = parse("");
    assert!(open.access().is_open());
    assert_eq!(verbs(&open, &user(1), "red/a"), Verbs::ALL);
    let closed = parse("clients = [{ uid = 1 }]");
    assert_eq!(verbs(&closed, &user(1), "vm1"), Verbs::ALL);
    assert_eq!(verbs(&closed, &user(2), "vm1"), Verbs::NONE);
    assert_eq!(verbs(&closed, &user(1), "red/a"), Verbs::NONE);
    assert_eq!(verbs(&parse("clients = []"), &user(1), "vm1"), Verbs::NONE);
}

#[test]
fn both_ways_to_write_a_list_of_tables_mean_the_same_and_know_their_lines() {
    let short = parse("clients = [\n  { uid = 1, verbs = [\"list\"] },\n  { gid = 2, exports = [\"vm*\"] },\n]");
    let long =
        parse("[[tenant.clients]]\nuid = 1\nverbs = [\"list\"]\n[[tenant.clients]]\ngid = 2\nexports = [\"vm*\"]");
    let blue = TenantId::new("blue").unwrap();
    for (config, lines) in [(short, ["10", "11"]), (long, ["9", "12"])] {
        let entries = config.access().of(&blue).unwrap();
        let shown: Vec<String> = entries.iter().map(ToString::to_string).collect();
        let expected = [0, 1].map(|i| format!("tenant[0].clients[{i}] (line {})", lines.get(i).unwrap()));
        assert_eq!(shown, expected);
        assert_eq!(entries.first().unwrap().verbs, Verbs::NONE.with(Verb::List));
        assert_eq!(entries.get(1).unwrap().verbs, Verbs::ALL);
        assert!(entries.get(1).unwrap().covers("vm1") && !entries.get(1).unwrap().covers("x"));
    }
}

#[test]
fn all_that_is_wrong_with_an_entry_is_told_at_once() {
    says(
        "clients = [{ dn = \"blue\", san = \"vm1\", address = \"10.1.2.3/16\", listener = \"0.0.0.0:10808\", verbs = [\"read\"] }]",
        &[
            "tenant[0].clients[0].dn: `blue` is no kind of attribute: write KIND=VALUE with commas between, like \
             CN=blue-*,O=Example, with a backslash before a comma that belongs to a value\n  \
             for example: dn = \"CN=blue-*,O=Example\"",
            "tenant[0].clients[0].san: `vm1` does not say what kind of name it is: begin it with dns:, ip:, uri: or email:\n  \
             for example: san = \"dns:*.blue.example\"",
            "tenant[0].clients[0].address: `10.1.2.3/16` has bits set beyond its length: write 10.1.0.0/16 for the network, \
             or leave the length out for one host\n  for example: address = \"10.1.0.0/16\"",
            "tenant[0].clients[0].listener: there is no listener `0.0.0.0:10808`; did you mean `0.0.0.0:10809`?",
            "tenant[0].clients[0].verbs: `read` is of no use without `list`: add it\n  for example: verbs = [\"list\",\"read\"]",
        ],
    );
    says(
        "clients = [{ user = 1 }, { verbs = [\"delete\"] }, 7]",
        &[
            "tenant[0].clients[0].user: this key is not known; known here: address, dn, exports, gid, listener, san, uid, verbs",
            "tenant[0].clients[1].verbs[0]: `delete` is not known: use `list` or `read` or `write` or `trim` or `resize` or `shrink`\n  \
             for example: verbs = [\"list\",\"read\"]",
            "tenant[0].clients[2]: this has to be a table, not a whole number",
        ],
    );
    says(
        "clients = [{ uid = -1 }, { gid = 4294967295 }]",
        &[
            "tenant[0].clients[0].uid: -1 is not from 0 to 4294967294\n  for example: uid = 1000",
            "tenant[0].clients[1].gid: 4294967295 is not from 0 to 4294967294\n  for example: gid = 1000",
        ],
    );
}

#[test]
fn an_entry_that_no_client_or_every_client_fits_by_mistake_is_told() {
    let nobody = "no client is both: uid and gid are known over Unix sockets, address over TCP";
    let listener = "\n  for example: listener = \"unix:/run/nbd-gateway.sock\"";
    says(
        "clients = [{ uid = 1, address = \"::1\" }, { gid = 1, listener = \"0.0.0.0:10809\" }, { address = \"::1\", listener = \"unix:/run/a\" }, {}]",
        &[
            &format!("tenant[0].clients[0].address: {nobody}\n  for example: address = \"10.1.0.0/16\""),
            &format!("tenant[0].clients[1].listener: {nobody}{listener}"),
            &format!("tenant[0].clients[2].listener: {nobody}{listener}"),
            "tenant[0].clients[3]: this lets everyone do everything: say who is meant, or what everyone may do\n  \
             for example: verbs = [\"list\", \"read\"]",
        ],
    );
    parse("clients = [{ verbs = [\"list\", \"read\"] }]");
    parse("clients = [{ uid = 1, listener = \"systemd:disks\" }, { address = \"::1\", listener = \"systemd:disks\" }]");
}

#[test]
fn the_owner_of_a_name_is_told_without_a_look_at_the_name() {
    let config = parse("");
    let owner = |name: &str| config.owner_of(name).map(|tenant| tenant.as_str().to_owned());
    assert_eq!(owner("vm1").as_deref(), Some("blue"));
    assert_eq!(owner("red/a").as_deref(), Some("red"));
    // Its template takes it, its backend would not.
    assert_eq!(owner("red/../a").as_deref(), Some("red"));
    assert!(config.export_for("red/../a").is_err());
    assert_eq!(owner("vm2"), None);
    assert_eq!(owner(&"x".repeat(5000)), None);
}
