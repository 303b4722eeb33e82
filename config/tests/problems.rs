//! What is said about each thing that can be wrong with a configuration, word for word.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test crate")]

use std::path::Path;
use std::time::Duration;

use nbd_gateway_config::{Config, Problems};
use proptest::prelude::*;

const LISTENER: &str = "[[listener]]\naddress = \"[::]:10809\"\n";
const EXPORT: &str = "[[export]]\nname = \"vm1\"\nbackend = \"nbd://10.0.0.5/vm1\"\n";
const BACKEND_EXAMPLE: &str = "\n  for example: backend = \"nbd://10.0.0.5:10809/vm1\"";
const TEMPLATE_EXAMPLE: &str = "\n  for example: backend = \"nbd://10.0.0.5/{}\"";

fn problems(text: &str) -> Problems {
    match Config::parse(text, Path::new("gateway.toml")) {
        Ok(_) => panic!("this was taken:\n{text}"),
        Err(problems) => problems,
    }
}

/// Everything that is wrong with the text, each with its key and its example.
#[track_caller]
fn says(text: &str, expected: &[&str]) {
    let found: Vec<String> = problems(text).iter().map(ToString::to_string).collect();
    assert_eq!(found, expected, "\n{text}");
}

/// The same for a text that lacks nothing but what it is asked about.
#[track_caller]
fn with_both(text: &str, expected: &[&str]) {
    Config::parse(&format!("{LISTENER}{EXPORT}"), Path::new("gateway.toml")).unwrap();
    says(&format!("{LISTENER}{EXPORT}{text}"), expected);
}

/// The same for one export of which only the keys below its header are given.
#[track_caller]
fn export(keys: &str, expected: &[&str]) {
    says(&format!("{LISTENER}[[export]]\n{keys}"), expected);
}

/// The same for a backend, of the name `a` or of the template `a/*`.
#[track_caller]
fn backend(name: &str, backend: &str, expected: &str) {
    export(&format!("name = {name:?}\nbackend = {backend:?}"), &[expected]);
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_the_file_with_line_and_column() {
    let text = "stat = \"x\"\n[[export]]\n  backend = \"nbds://h\"\n  lanes = 99\n[log]\nlevel = 3\n";
    let expected = "\
gateway.toml:1:1: stat: this key is not known; did you mean `state`?
gateway.toml:2:1: export[0].name: this key is missing
  for example: name = \"vm1\"
gateway.toml:4:3: export[0].lanes: 99 is not from 1 to 64
  for example: lanes = 4
gateway.toml:6:1: log.level: this has to be `error` or `warn` or `info` or `debug` or `trace`, not a whole number
  for example: level = \"info\"
gateway.toml: listener: at least one listener is needed
  for example: [[listener]]
               address = \"0.0.0.0:10809\"";
    assert_eq!(problems(text).to_string(), expected);
}

#[test]
fn what_is_not_toml_is_told_with_line_and_column_and_nothing_else_is() {
    let text = "nonsense = 1\n[[export]]\nname = vm1\nlanes = \nname = \"x\"\n";
    let shown = problems(text).to_string();
    assert!(shown.starts_with("gateway.toml:3:8: this is not TOML: string values must be quoted"), "{shown}");
    assert!(shown.contains("\ngateway.toml:4:9: this is not TOML: "), "{shown}");
    assert!(shown.contains("\ngateway.toml:5:1: this is not TOML: duplicate key"), "{shown}");
    assert!(!shown.contains("nonsense"), "{shown}");
}

#[test]
fn an_unknown_key_is_told_with_what_was_meant_or_where_it_belongs_or_what_there_is() {
    with_both("lanse = 1", &["export[0].lanse: this key is not known; did you mean `lanes`?"]);
    with_both("read_only = true", &["export[0].read_only: this key is not known; did you mean `read-only`?"]);
    // What is one letter away here is meant, and not what is called so elsewhere.
    says(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[[export]]\nname = \"a\"\nbackend = \"nbd://h/a\"\n[[exports]]\nname = \"b\"\n",
        &["exports: this key is not known here; did you mean `export`?"],
    );
    with_both("drain-timeout = \"1s\"", &["export[0].drain-timeout: this key does not belong here but under [limits]"]);
    with_both("state = \"x\"", &["export[0].state: this key does not belong here but above the first section"]);
    with_both(
        "[export.limits]\ntenant-bytes = 1",
        &["export[0].limits.tenant-bytes: this key does not belong here but under [limits] or under [tenant.limits]"],
    );
    with_both(
        "[log]\n\"colour of it\" = 1",
        &["log.\"colour of it\": this key is not known; known here: format, level, otlp"],
    );
    with_both(
        "on-backend-loss = { hold = \"1s\", durabel = true }",
        &["export[0].on-backend-loss.durabel: this key is not known; did you mean `durable`?"],
    );
}

#[test]
fn a_value_of_the_wrong_type_is_told_with_the_right_one() {
    with_both(
        "read-only = \"yes\"",
        &["export[0].read-only: this has to be true or false, not a text in quotes\n  for example: read-only = true"],
    );
    with_both(
        "[limits]\nsession-bytes = 1.5",
        &["limits.session-bytes: this has to be a text in quotes or a whole number, not a number with a fraction\n  \
         for example: session-bytes = \"64MiB\""],
    );
    with_both(
        "idle-timeout = 10",
        &[
            "export[0].idle-timeout: this has to be a text in quotes, not a whole number\n  for example: idle-timeout = \"60s\"",
        ],
    );
    with_both(
        "on-backend-loss = 1",
        &["export[0].on-backend-loss: this has to be `error` or a table, not a whole number\n  \
         for example: on-backend-loss = { durable = false, hold = \"30s\" }"],
    );
    with_both(
        "description = 1979-05-27",
        &["export[0].description: this has to be a text in quotes, not a date\n  \
         for example: description = \"the build server's scratch disk\""],
    );
    with_both("limits = []", &["export[0].limits: this has to be a table, not a list"]);
}

#[test]
fn a_section_in_single_brackets_that_needs_double_ones_is_told_so() {
    says(
        &format!("[listener]\naddress = \"[::]:1\"\n{EXPORT}"),
        &["listener: there can be several of this, so it stands in double brackets: [[listener]]"],
    );
    says(&format!("listener = [ 7 ]\n{EXPORT}"), &["listener[0]: this has to be a table, not a whole number"]);
}

#[test]
fn a_word_that_is_not_known_is_told_with_what_was_meant_or_all_there_are() {
    with_both(
        "[log]\nformat = \"jsn\"",
        &["log.format: `jsn` is not known; did you mean `json`?\n  for example: format = \"human\""],
    );
    with_both(
        "[log]\nformat = \"xml\"",
        &["log.format: `xml` is not known: use `human` or `json`\n  for example: format = \"human\""],
    );
    with_both(
        "on-backend-loss = \"hold\"",
        &["export[0].on-backend-loss: `hold` is not known: use `error`\n  \
         for example: on-backend-loss = { durable = false, hold = \"30s\" }"],
    );
}

#[test]
fn at_least_one_listener_and_one_export_are_needed() {
    says(
        "",
        &[
            "listener: at least one listener is needed\n  for example: [[listener]]\n               address = \"0.0.0.0:10809\"",
            "export: at least one export is needed\n  for example: [[export]]\n               name = \"vm1\"\n               \
         backend = \"nbd://10.0.0.5:10809/vm1\"",
        ],
    );
}

#[test]
fn a_missing_key_is_told_with_an_example() {
    says(
        "[[listener]]\n[[export]]\n[[tenant]]",
        &[
            "listener[0].address: this key is missing\n  for example: address = \"0.0.0.0:10809\"",
            "export[0].name: this key is missing\n  for example: name = \"vm1\"",
            "export[0].tenant: say which tenant this export belongs to\n  for example: tenant = \"blue\"",
            "export[0].backend: this key is missing\n  for example: backend = \"nbd://10.0.0.5:10809/vm1\"",
            "tenant[0].name: this key is missing\n  for example: name = \"blue\"",
        ],
    );
}

#[test]
fn a_key_with_a_wrong_type_is_not_called_missing_too() {
    says(
        "[[listener]]\naddress = 1\n[[export]]\nname = 1\nbackend = 1\n",
        &[
            "listener[0].address: this has to be a text in quotes, not a whole number\n  for example: address = \"0.0.0.0:10809\"",
            "export[0].name: this has to be a text in quotes, not a whole number\n  for example: name = \"vm1\"",
            "export[0].backend: this has to be a text in quotes, not a whole number\n  \
         for example: backend = \"nbd://10.0.0.5:10809/vm1\"",
        ],
    );
}

#[test]
fn an_address_to_listen_at_has_three_forms() {
    let listener = |address: &str, expected: &str| {
        let expected = format!("listener[0].address: {expected}\n  for example: address = \"0.0.0.0:10809\"");
        says(&format!("[[listener]]\naddress = {address:?}\n{EXPORT}"), &[expected.as_str()]);
    };
    for bad in ["localhost:10809", "0.0.0.0", ":10809", "::1:10809", "tcp:1", ""] {
        listener(
            bad,
            &format!(
                "`{bad}` is not an address to listen at: use IP:PORT (IPv6 in brackets), unix:PATH or systemd:NAME"
            ),
        );
    }
    listener("unix:", "the path of the Unix socket is empty");
    let long = format!("unix:/{}", "x".repeat(107));
    listener(&long, "the path of a Unix socket has at most 107 bytes, this one has 108");
    listener("systemd:a:b", "`a:b` is not a name of a systemd socket: use 1 to 255 ASCII characters without `:`");
}

#[test]
fn an_address_cannot_be_bound_twice() {
    says(
        &format!("{LISTENER}{LISTENER}{EXPORT}"),
        &["listener[1].address: `[::]:10809` stands twice: one socket cannot be bound two times\n  \
         for example: address = \"0.0.0.0:10809\""],
    );
    says(
        &format!("[[listener]]\naddress = \"127.0.0.1:9809\"\n{EXPORT}"),
        &["listener[0].address: `127.0.0.1:9809` is the address of the admin interface too: choose another\n  \
         for example: address = \"0.0.0.0:10809\""],
    );
    let any_port = "[[listener]]\naddress = \"127.0.0.1:0\"\n";
    Config::parse(&format!("{any_port}{any_port}{EXPORT}"), Path::new("gateway.toml")).unwrap();
}

#[test]
fn an_address_that_covers_another_is_a_problem_and_ipv4_can_stand_beside_ipv6() {
    let at = |address: &str| format!("[[listener]]\naddress = \"{address}\"\n");
    for (one, other) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::1]:1", "[::]:1")] {
        let example = "\n  for example: address = \"0.0.0.0:10809\"";
        let what = format!("`{other}` and `{one}` cannot be bound both: one covers the other{example}");
        says(&format!("{}{}{EXPORT}", at(one), at(other)), &[&format!("listener[1].address: {what}")]);
    }
    for (one, other) in [("0.0.0.0:1", "[::]:1"), ("[::]:1", "127.0.0.1:1"), ("127.0.0.1:1", "127.0.0.2:1")] {
        let text = format!("{}{}{EXPORT}", at(one), at(other));
        let config = Config::parse(&text, Path::new("gateway.toml")).unwrap();
        let beside = |at: usize| config.shares_port_with_ipv4(&config.listeners[at].address);
        assert!(beside(0) && beside(1), "{text}");
    }
    let alone = Config::parse(&format!("{}{EXPORT}", at("[::]:1")), Path::new("gateway.toml")).unwrap();
    assert!(!alone.shares_port_with_ipv4(&alone.listeners[0].address));
}

#[test]
fn what_a_shell_would_expand_and_abstract_sockets_are_not_taken_literally() {
    for (text, what) in [
        (format!("[[listener]]\naddress = \"unix:@x\"\n{EXPORT}"), "`@x` looks like an abstract socket"),
        (format!("[[listener]]\naddress = \"unix:~/x\"\n{EXPORT}"), "`~/x` would be taken literally"),
        (format!("state = \"~/x\"\n{LISTENER}{EXPORT}"), "`~/x` would be taken literally"),
        (format!("{LISTENER}{EXPORT}[admin]\ntoken-file = \"~/t\"\n"), "`~/t` would be taken literally"),
        (format!("{LISTENER}{EXPORT}").replace("nbd://10.0.0.5/vm1", "file:~/x"), "`~/x` would be taken literally"),
        (
            format!("{LISTENER}{EXPORT}").replace("nbd://10.0.0.5/vm1", "nbd+unix:///?socket=@x"),
            "`@x` looks like an abstract socket",
        ),
    ] {
        let found = problems(&text).to_string();
        assert!(found.contains(what), "{found}");
    }
    // Files whose names only begin so.
    let text = format!("[[listener]]\naddress = \"unix:./@x\"\n{EXPORT}").replace("nbd://10.0.0.5/vm1", "file:~x");
    Config::parse(&text, Path::new("gateway.toml")).unwrap();
}

#[test]
fn the_admin_interface_stays_on_this_host_or_has_a_token() {
    let example = "\n  for example: address = \"127.0.0.1:9809\"";
    with_both(
        "[admin]\naddress = \"0.0.0.0:9809\"",
        &[&format!(
            "admin.address: `0.0.0.0:9809` can be reached from other hosts: set token-file, or use a loopback address or \
             unix:PATH{example}"
        )],
    );
    let open = "[admin]\naddress = \"0.0.0.0:9809\"\ntoken-file = \"t\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n";
    let config = Config::parse(&format!("{open}{EXPORT}"), Path::new("gateway.toml")).unwrap();
    assert!(config.admin.is_some_and(|address| address.is_open()));
    with_both(
        "[admin]\naddress = \"on\"",
        &[&format!(
            "admin.address: `on` is not an address of the admin interface: use IP:PORT, unix:PATH or off{example}"
        )],
    );
    with_both(
        "[admin]\naddress = \"unix:\"",
        &[&format!("admin.address: the path of the Unix socket is empty{example}")],
    );
}

#[test]
fn a_state_directory_has_a_name_that_can_stand_in_a_template() {
    for bad in ["", "a{}", "a\\u0000"] {
        says(
            &format!("state = \"{bad}\"\n{LISTENER}{EXPORT}"),
            &[
                "state: this has to be a directory: not empty, and without NUL or `{}`\n  for example: state = \"/var/lib/nbd-gateway\"",
            ],
        );
    }
}

#[test]
fn a_tenant_has_a_plain_name_of_its_own() {
    let export = format!("{EXPORT}tenant = \"a\"\n");
    says(
        &format!("{LISTENER}{export}[[tenant]]\nname = \"a\"\n[[tenant]]\nname = \"B\"\n[[tenant]]\nname = \"a\""),
        &[
            "tenant[1].name: `B` is not a tenant name: use 1 to 64 of a-z, 0-9, `.`, `_` and `-`\n  for example: name = \"blue\"",
            "tenant[2].name: there is a tenant `a` already\n  for example: name = \"another\"",
        ],
    );
}

#[test]
fn an_export_belongs_to_a_tenant_that_is_declared() {
    with_both(
        "[[tenant]]\nname = \"red\"\n[[tenant]]\nname = \"blue\"",
        &["export[0].tenant: say which tenant this export belongs to: red, blue\n  for example: tenant = \"blue\""],
    );
    with_both(
        "tenant = \"bleu\"\n[[tenant]]\nname = \"blue\"",
        &["export[0].tenant: there is no tenant `bleu`; did you mean `blue`?"],
    );
    with_both(
        "tenant = \"green\"\n[[tenant]]\nname = \"red\"\n[[tenant]]\nname = \"blue\"",
        &["export[0].tenant: there is no tenant `green`; declared are red, blue"],
    );
    with_both(
        "tenant = \"blue\"",
        &[
            "export[0].tenant: there is no tenant `blue`, for none is declared\n  for example: [[tenant]]\n               name = \"blue\"",
        ],
    );
}

#[test]
fn an_export_has_a_name_of_its_own_with_at_most_one_star() {
    let example = "\n  for example: name = \"vm1\"";
    let long = "x".repeat(4097);
    let backend = "backend = \"nbd://h/{}\"";
    export(
        &format!("name = \"{long}\"\nbackend = \"nbd://h\""),
        &[&format!("export[0].name: the name has 4097 bytes; the most is 4096{example}")],
    );
    export(
        "name = \"a\\u0000\"\nbackend = \"nbd://h\"",
        &[&format!("export[0].name: the name has the character '\\0'; leave it out{example}")],
    );
    export(
        &format!("name = \"a*b*\"\n{backend}"),
        &[&format!("export[0].name: `a*b*` has more than one `*`: a template has exactly one{example}")],
    );
    with_both(EXPORT, &["export[1].name: `vm1` is the name of export[0] already: every export needs its own"]);
    export(
        &format!("name = \"a*\"\n{backend}\n[[export]]\nname = \"*b\"\n{backend}"),
        &["export[1].name: some names fit both `*b` and `a*` of export[0], and neither has more literal characters: \
         make one of them longer"],
    );
}

#[test]
fn a_name_that_stands_twice_is_told_whatever_else_is_wrong_with_the_export() {
    with_both(
        "[[export]]\nname = \"vm1\"\nbackend = \"memory:\"",
        &[
            "export[1].size: `memory:` needs a `size`\n  for example: size = \"10GiB\"",
            "export[1].name: `vm1` is the name of export[0] already: every export needs its own",
        ],
    );
}

#[test]
fn a_backend_has_four_forms() {
    for bad in ["10.0.0.5:10809", "/srv/a.img", "nbd:h:1", ""] {
        let forms = "use nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=PATH (or nbds:// and nbds+unix:// for \
                     TLS), file:PATH or memory:";
        backend("a", bad, &format!("export[0].backend: `{bad}` is not a backend: {forms}{BACKEND_EXAMPLE}"));
    }
    for (bad, expected) in [
        ("file:", "the file has no path: write file:PATH"),
        (
            "file:///srv/a",
            "`///srv/a` is not a path: write file:/PATH with one slash, or file:PATH for a file in the state directory",
        ),
        ("memory:1GiB", "`memory:` is all there is to write; how much is said by `size`"),
        ("http://h/x", "the scheme `http` is not known: use nbd://, nbds://, nbd+unix:// or nbds+unix://"),
        ("nbd://h/{}", "`{}` takes what `*` matched, but the name has no `*`"),
    ] {
        backend("a", bad, &format!("export[0].backend: {expected}{BACKEND_EXAMPLE}"));
    }
    export(
        "name = \"a\"\nbackend = \"file:a\\u0000\"",
        &[&format!("export[0].backend: a path cannot have a NUL byte{BACKEND_EXAMPLE}")],
    );
}

#[test]
fn a_template_puts_names_only_where_they_are_harmless() {
    for (bad, expected) in [
        ("nbd://h/x", "the name is a template, but the backend has no `{}`: all names would open the same disk"),
        ("nbd://{}/x", "`{}` cannot stand in the host or the port: clients would choose which server is connected to"),
        (
            "nbd://h:{}/x",
            "`{}` cannot stand in the host or the port: clients would choose which server is connected to",
        ),
        (
            "nbd+unix:///x?{}=/run/a",
            "the parameter `{}` is not known: nbd+unix:// has `socket`, TLS has `tls-certificates`, `tls-hostname`, `tls-verify-peer` and `tls-type`",
        ),
    ] {
        backend("a/*", bad, &format!("export[0].backend: {expected}{TEMPLATE_EXAMPLE}"));
    }
    export(
        "name = \"a/*\"\nbackend = \"memory:\"\nsize = 512",
        &[&format!(
            "export[0].backend: `memory:` cannot serve a template: every name that a client makes up would take memory until \
         the gateway ends{TEMPLATE_EXAMPLE}"
        )],
    );
}

#[test]
fn one_file_is_the_backend_of_one_export() {
    let file = |name: &str, path: &str| format!("[[export]]\nname = {name:?}\nbackend = \"file:{path}\"\n");
    let expected = |path: &str| {
        format!(
            "export[1].backend: `file:{path}` is the backend of export[0] too: two exports on one file destroy each \
             other's data\n  for example: backend = \"file:another.img\""
        )
    };
    for (one, other, shown) in [
        (file("a", "x.img"), file("b", ".//x.img"), "nbd-gateway-data/x.img"),
        (file("a/*", "/srv/{}.img"), file("b/*", "/srv/{}.img"), "/srv/{}.img"),
        (file("a", "/srv/x.img"), file("b/*", "/srv/{}.img"), "/srv/x.img"),
        (file("b/*", "/srv/{}.img"), file("a", "/srv/x.img"), "/srv/x.img"),
    ] {
        says(&format!("{LISTENER}{one}{other}"), &[expected(shown).as_str()]);
    }
    let settings_of_its_own = format!("{LISTENER}{}{}", file("b/*", "/srv/{}.img"), file("b/x", "/srv/x.img"));
    Config::parse(&settings_of_its_own, Path::new("gateway.toml")).unwrap();
}

#[test]
fn a_size_is_for_backends_that_the_gateway_serves_itself() {
    let example = "\n  for example: size = \"10GiB\"";
    with_both(
        "size = \"1GiB\"",
        &[&format!(
            "export[0].size: an NBD server says its own size: leave this out, or use file: or memory:{example}"
        )],
    );
    let memory = |size: &str, expected: &str| {
        export(
            &format!("name = \"a\"\nbackend = \"memory:\"\nsize = {size}"),
            &[&format!("export[0].size: {expected}{example}")],
        );
    };
    export("name = \"a\"\nbackend = \"memory:\"", &[&format!("export[0].size: `memory:` needs a `size`{example}")]);
    memory("-1", "-1 is negative");
    memory("0", "0 is not from 1 to 9223372036854775807");
    memory("\"8EiB\"", "8EiB is not from 1 to 9223372036854775807");
    memory("\"10G\"", "`10G` could mean two things: write GiB for powers of 1024 or GB for powers of 1000");
    memory("99999999999999999999", "`99999999999999999999` is too large: it does not fit in 64 bits");
}

#[test]
fn what_is_about_connections_does_nothing_for_a_backend_without_any() {
    let nothing = "this does nothing for a file: or memory: backend: leave it out";
    export(
        "name = \"a\"\nbackend = \"file:a\"\nlanes = 2\non-backend-loss = \"error\"\nlate-write-guard = \"1s\"\nfence = \"off\"\nread-ahead = \"1MiB\"\ndial-timeout = \"1s\"\nidle-timeout = \"1s\"",
        &[
            "export[0].lanes: a file: or memory: backend has no connections: leave this out\n  for example: lanes = 1",
            &format!("export[0].on-backend-loss: {nothing}"),
            &format!("export[0].late-write-guard: {nothing}"),
            &format!("export[0].fence: {nothing}"),
            &format!("export[0].read-ahead: {nothing}"),
            &format!("export[0].dial-timeout: {nothing}"),
            &format!("export[0].idle-timeout: {nothing}"),
        ],
    );
}

#[test]
fn what_is_read_ahead_needs_a_disk_that_nobody_else_changes_and_a_bound() {
    let nbd = "name = \"a\"\nbackend = \"nbd://10.0.0.5/a\"\n";
    export(
        &format!("{nbd}read-ahead = \"8MiB\""),
        &["export[0].read-ahead: what was read ahead would be old where somebody else changes the server's disk: say \
           `exclusive = true` in [export.resize] if only this gateway does, or leave this out"],
    );
    for size in ["512KiB", "2GiB"] {
        export(
            &format!("{nbd}read-ahead = {size:?}\n[export.resize]\nexclusive = true"),
            &[&format!("export[0].read-ahead: {size} is not from 1MiB to 1GiB\n  for example: read-ahead = \"8MiB\"")],
        );
    }
}

#[test]
fn a_file_that_a_template_opens_is_closed_when_idle_like_others() {
    let text = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[export]]\nname = \"a/*\"\nbackend = \"file:disks/{}\"\nidle-timeout = \"1s\"\n";
    let config = Config::parse(text, Path::new("config.toml")).unwrap();
    assert_eq!(config.export_for("a/b").unwrap().idle_timeout, Duration::from_secs(1));
}

#[test]
fn numbers_sizes_and_times_have_ranges() {
    with_both(
        "lanes = 65\nlate-write-guard = \"61m\"\nfence = [\"\"]\ndial-timeout = \"0s\"\nidle-timeout = \"25h\"\non-backend-loss = { hold = \"0ms\" }\n[runtime]\nthreads = 0",
        &[
            "export[0].lanes: 65 is not from 1 to 64\n  for example: lanes = 4",
            "export[0].late-write-guard: 61m is not from 0s to 1h\n  for example: late-write-guard = \"10s\"",
            "export[0].fence: this needs a program and its arguments, each a text without NUL byte\n  for example: fence = [\"/usr/local/bin/fence-vm1\"]",
            "export[0].dial-timeout: 0s is not from 1ms to 10m\n  for example: dial-timeout = \"10s\"",
            "export[0].idle-timeout: 25h is not from 0s to 24h\n  for example: idle-timeout = \"60s\"",
            "export[0].on-backend-loss.hold: 0s is not from 1ms to 24h\n  for example: hold = \"30s\"",
            "runtime.threads: 0 is not from 1 to 1024\n  for example: threads = 4",
        ],
    );
    with_both(
        "[limits]\nhandshake-timeout = \"2h\"\noption-length = 4096\nsessions-per-listener = 0\nsession-requests = -1\n\
         largest-payload = \"128MiB\"\ndrain-timeout = \"2h\"",
        &[
            "limits.handshake-timeout: 2h is not from 1ms to 1h\n  for example: handshake-timeout = \"10s\"",
            "limits.option-length: 4KiB is not from 12KiB to 16MiB\n  for example: option-length = \"64KiB\"",
            "limits.sessions-per-listener: 0 is not from 1 to 1000000\n  for example: sessions-per-listener = 1024",
            "limits.session-requests: -1 is not from 1 to 65536\n  for example: session-requests = 256",
            "limits.largest-payload: 128MiB is not from 64KiB to 64MiB\n  for example: largest-payload = \"32MiB\"",
            "limits.drain-timeout: 2h is not from 0s to 1h\n  for example: drain-timeout = \"30s\"",
        ],
    );
    with_both(
        "[limits]\nlargest-payload = 65537",
        &["limits.largest-payload: 65537 is not a multiple of 64KiB, which a maximum block size has to be\n  \
         for example: largest-payload = \"32MiB\""],
    );
}

#[test]
fn the_largest_payload_fits_in_what_a_session_and_a_tenant_may_hold() {
    let why = "so the largest request could never be admitted: raise";
    with_both(
        "[limits]\nsession-bytes = \"1MiB\"\ntenant-bytes = \"2MiB\"",
        &[
            &format!(
                "limits.session-bytes: session-bytes (1MiB) is less than largest-payload (32MiB), {why} session-bytes or lower \
             largest-payload\n  for example: session-bytes = \"64MiB\""
            ),
            &format!(
                "limits.tenant-bytes: tenant-bytes (2MiB) is less than largest-payload (32MiB), {why} tenant-bytes or lower \
             largest-payload\n  for example: tenant-bytes = \"1GiB\""
            ),
        ],
    );
    // Told at the export, where the payload is raised over what it takes from its tenant, and only there.
    let tenant = "tenant = \"t\"\n[export.limits]\nlargest-payload = \"64MiB\"\n[[tenant]]\nname = \"t\"\n\
                  [tenant.limits]\nsession-bytes = \"32MiB\"";
    with_both(
        tenant,
        &[&format!(
            "export[0].limits.largest-payload: session-bytes (32MiB) is less than largest-payload (64MiB), {why} session-bytes \
         or lower largest-payload\n  for example: largest-payload = \"32MiB\""
        )],
    );
}

#[test]
fn a_file_that_cannot_be_read_is_told_with_its_name_and_the_cause() {
    let problems = Config::load(Path::new("/nonexistent/gateway.toml")).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "/nonexistent/gateway.toml: the file cannot be read: No such file or directory (os error 2)"
    );
    let path = std::env::temp_dir().join(format!("nbd-gateway-config-not-utf-8-{}.toml", std::process::id()));
    std::fs::write(&path, b"state = \"\xff\"\n").unwrap();
    let problems = Config::load(&path).unwrap_err();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(problems.to_string(), format!("{}: the file is not UTF-8 from byte 9 on", path.display()));
    assert_eq!(problems.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_is_cut_or_changed_in_a_file_it_is_read_or_a_problem_is_told(
        from in 0usize..400, length in 0usize..40, insert in "[a-z0-9=\\[\\]{}\"'.\n*:/ -]{0,6}",
    ) {
        let text = format!("{LISTENER}[limits]\nsession-bytes = \"64MiB\"\noption-length = 65536\n{EXPORT}\
            lanes = 2\nread-only = true\non-backend-loss = {{ hold = \"3s\" }}\n[[export]]\nname = \"a/*\"\n\
            backend = \"file:/srv/{{}}.img\"\nsize = \"1GiB\"\n[log]\nformat = \"json\"\n");
        let from = from.min(text.len());
        let to = (from + length).min(text.len());
        let text = format!("{}{insert}{}", &text[..from], &text[to..]);
        match Config::parse(&text, Path::new("x")) {
            Ok(config) => {
                prop_assert!(!config.listeners.is_empty());
                prop_assert!(config.listable().chain(config.templates()).next().is_some());
            }
            Err(problems) => {
                prop_assert!(problems.len() > 0);
                // What the schema let pass, serde takes: nothing is called a syntax error once the text is TOML.
                let toml = text.parse::<toml::Table>().is_ok();
                prop_assert_eq!(toml, !problems.to_string().contains("this is not TOML"));
            }
        }
    }
}

/// The one's file was the other's as soon as nobody had it open.
#[test]
fn templates_that_lead_two_names_to_one_file_are_told() {
    let two = |first: (&str, &str), second: (&str, &str)| {
        let export =
            |(name, file)| format!("[[export]]\nname = \"{name}\"\nbackend = \"file:{file}\"\nsize = \"1MiB\"\n");
        Config::parse(&format!("{LISTENER}{}{}", export(first), export(second)), Path::new("gateway.toml"))
    };
    let told = two(("red/*", "/d/{}.img"), ("blue/*", "/d/blue-{}.img")).unwrap_err().to_string();
    let words = "export[1].backend: `file:/d/blue-{}.img` is the backend of export[0] too";
    assert!(told.contains(words), "{told}");
    two(("*", "/d/{}.img"), ("blue-*", "/d/blue-{}.img")).unwrap();
    two(("red/*", "/d/red/{}.img"), ("blue/*", "/d/{}.img")).unwrap();
}

/// A client of one tenant could read everybody's sizes from the ledger, and write itself a quota.
#[test]
fn a_template_whose_files_are_where_the_gateway_keeps_its_own_is_told() {
    let told = |export: &str| {
        let head = "state = \"/var/lib/gw\"\n[[listener]]\naddress = \"unix:/run/gw/nbd.sock\"\n\
            tls = \"allow\"\ntls-certificates = \"/etc/pki/gw\"\n\
            [admin]\naddress = \"unix:/run/gw-admin/s\"\ntoken-file = \"/etc/gw-token/token\"\n\
            [[export]]\nname = \"qemu\"\nbackend = \"nbd+unix:///?socket=/run/qemu/{}\"\n"
            .replace("{}", "nbd");
        Config::parse(&format!("{head}[[export]]\nname = \"d/*\"\n{export}"), Path::new("/etc/gw/gateway.toml"))
            .map_err(|problems| problems.to_string())
    };
    let file = |path: &str| told(&format!("backend = \"file:{path}\"\nsize = \"1MiB\"\n"));
    for (path, whose) in [
        ("{}", "`/var/lib/gw`, which is the state directory, with the ledger"),
        ("./{}.img", "`/var/lib/gw`"),
        ("/var/lib/gw/taken-off/{}", "`/var/lib/gw/taken-off`"),
        ("/var/lib/{}/ledger.sqlite", "`/var/lib/gw`"),
        ("/{}/gateway.toml", "`/var/lib/gw`"),
        ("/etc/gw/x{}", "`/etc/gw`, which is the directory of the configuration"),
        ("/etc/gw-token/{}", "`/etc/gw-token`, which is the directory of the token file"),
        ("/etc/pki/gw/{}", "`/etc/pki/gw`, which is a directory of certificates"),
        ("/run/gw/{}", "`/run/gw`, which is the directory of a listener's socket"),
        ("/run/gw-admin/{}", "`/run/gw-admin`, which is the directory of the admin interface's socket"),
        ("/run/qemu/{}", "`/run/qemu`, which is the directory of a socket"),
    ] {
        let told = file(path).unwrap_err();
        assert!(told.contains("export[1].backend: with `") && told.contains(whose), "{path}: {told}");
    }
    for path in ["disks/{}", "disks/{}/disk.img", "/srv/{}.img", "/etc/gw/disks/{}", "/var/lib/gw2/{}"] {
        file(path).unwrap();
    }
    let driver = "backend = \"nbd://h/{}\"\n[export.resize]\ndriver = \"file\"\npath = \"/var/lib/gw/{}\"\n";
    let told = told(driver).unwrap_err();
    assert!(told.contains("export[1].resize.path: with `/var/lib/gw/{}`, clients could name files"), "{told}");
}

#[test]
fn what_links_hide_of_two_exports_with_one_file_is_told_by_whoever_follows_them() {
    let export =
        |name: &str, file: &str| format!("[[export]]\nname = \"{name}\"\nbackend = \"file:{file}\"\nsize = \"1MiB\"\n");
    let exports =
        export("a/*", "/d/{}") + &export("b/*", "/link/b-{}") + &export("c", "/link/c") + &export("e/*", "/keys/{}");
    let text = format!("state = \"/var/gw\"\n{LISTENER}{exports}");
    let config = Config::parse(&text, Path::new("/etc/gw.toml")).unwrap();
    assert_eq!(config.misplaced_files(&Path::to_owned), Vec::<String>::new());
    let real = |path: &Path| match path.to_str().unwrap() {
        "/keys" => "/var/gw".into(),
        other => std::path::PathBuf::from(other.replace("/link", "/d")),
    };
    let told = config.misplaced_files(&real);
    assert_eq!(told.len(), 3, "{told:#?}");
    assert!(told[0].starts_with("export \"e/*\": backend: with `/keys/{}`, clients could name files in `/var/gw`"));
    let twice = "two exports on one file destroy each other's data";
    assert!(told[1..].iter().all(|told| told.ends_with(twice)), "{told:#?}");
}
