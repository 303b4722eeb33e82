//! What the keys about sizes mean, and what is said where they cannot stand together.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test crate")]

use std::path::Path;
use std::time::Duration;

use nbd_gateway_config::{Config, Driver, Qmp, Resize, Way};
use nbd_gateway_policy::export::{AutomaticGrowth, ExportPolicy, External, OverQuota, Publish};
use nbd_gateway_policy::offer::Features;
use nbd_gateway_policy::quota::TenantLimits;
use nbd_gateway_policy::rate::{Oversize, Rate};
use nbd_gateway_policy::types::{Bytes, Granularity, Size};
use proptest::prelude::*;

const TOP: &str = "listener = [{ address = \"[::]:10809\" }]\n";
const DIALLED: &str = "[[export]]\nname = \"a\"\nbackend = \"nbd://h/a\"\n";
const EMBEDDED: &str = "[[export]]\nname = \"a\"\nbackend = \"memory:\"\nsize = \"4GiB\"\n";
const NOTHING: &str = "this does nothing where driver = \"none\": leave it out";

fn parse(text: &str) -> Result<Config, Vec<String>> {
    let config = Config::parse(&format!("{TOP}{text}"), Path::new("test"));
    config.map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

/// The resizing of the one export.
fn resize(text: &str) -> Resize {
    parse(text).unwrap_or_else(|problems| panic!("{problems:#?}\n{text}")).export_for("a").unwrap().resize
}

#[track_caller]
fn says(text: &str, expected: &[&str]) {
    let problems = parse(text).err().unwrap_or_default();
    assert_eq!(problems, expected, "\n{text}");
}

/// What is said about one key of `[export.resize]` of a dialled backend.
#[track_caller]
fn key(line: &str, expected: &str) {
    let name = line.split(" =").next().unwrap();
    says(&format!("{DIALLED}[export.resize]\n{line}"), &[&format!("export[0].resize.{name}: {expected}")]);
}

fn size(gib: u64) -> Size {
    Size::new(gib << 30).unwrap()
}

#[test]
fn an_export_without_a_word_about_it_grows_for_those_who_ask() {
    let said = resize(DIALLED);
    assert_eq!(said.driver, Driver::Wire);
    let policy = ExportPolicy { step: Bytes(1 << 30), max_step: Some(Bytes(64 << 30)), ..ExportPolicy::DEFAULT };
    assert_eq!(said.policy, policy);
    assert_eq!(said.backend_notice_rate, Rate::new(100, Duration::from_secs(1), 100, Oversize::Refuse).ok());
    assert_eq!(said.backend_notice_rest, Duration::from_secs(60));
    assert_eq!((said.poll, said.timeout), (Some(Duration::from_secs(5)), Duration::from_secs(30)));
    assert_eq!((said.shrink_grace, said.growth_wait), (Duration::from_secs(60), Duration::from_secs(1)));
    assert_eq!(resize(&format!("{DIALLED}[export.resize]")), said);

    let own = resize(EMBEDDED);
    assert_eq!((own.driver, own.poll), (Driver::Origin, None));
    assert_eq!(own.policy, said.policy);
    assert!(resize(&format!("{DIALLED}read-only = true")).policy.read_only);
}

#[test]
fn every_key_arrives() {
    let text = format!(
        r#"{DIALLED}
        max-size = "200GiB"
        [export.resize]
        driver = "automatic"
        automatic = "always"
        step = "2GiB"
        max-step = "16GiB"
        granularity = "1MiB"
        min-size = "1GiB"
        shrink = false
        shrink-grace = "5s"
        over-quota = "clamp"
        poll = "250ms"
        timeout = "7s"
        growth-wait = "2s"
        external = "manual"
        publish = "auto"
        backend-notice-rate = "7/s"
        backend-notice-rest = "3s"
        exclusive = true
        offer = ["automatic", "notify"]
        "#
    );
    let policy = ExportPolicy {
        automatic: AutomaticGrowth::Always,
        ceiling: false,
        shrink: false,
        over_quota: OverQuota::Clamp,
        external: External::Manual,
        publish: Publish::Auto,
        min_size: size(1),
        max_size: size(200),
        granularity: Granularity::new(1 << 20).unwrap(),
        step: Bytes(2 << 30),
        max_step: Some(Bytes(16 << 30)),
        exclusive: true,
        read_only: false,
        offer: Features::AUTOMATIC.with(Features::NOTIFY).with(Features::SHRINK).with(Features::ZEROED),
    };
    let found = resize(&text);
    assert_eq!((found.driver, &found.policy), (Driver::Automatic, &policy));
    assert_eq!((found.poll, found.timeout), (Some(Duration::from_millis(250)), Duration::from_secs(7)));
    assert_eq!(found.backend_notice_rate, Rate::new(7, Duration::from_secs(1), 7, Oversize::Refuse).ok());
    assert_eq!(found.backend_notice_rest, Duration::from_secs(3));
    assert_eq!((found.shrink_grace, found.growth_wait), (Duration::from_secs(5), Duration::from_secs(2)));

    let other = resize(&format!("{EMBEDDED}[export.resize]\nshrink = true\nover-quota = \"reject\""));
    assert_eq!((other.policy.shrink, other.policy.over_quota), (true, OverQuota::Reject));
    let ignoring = resize(&format!("{DIALLED}[export.resize]\nexternal = \"ignore\"\nautomatic = \"never\""));
    let policy = ignoring.policy;
    assert_eq!((policy.external, policy.automatic), (External::Ignore, AutomaticGrowth::Never));
}

#[test]
fn one_write_is_bounded_by_max_step_or_max_size_and_where_nobody_wrote_either_by_a_default() {
    let most = |export: &str, keys: &str| resize(&format!("{export}[export.resize]\n{keys}")).policy.max_step;
    let gib = |gib: u64| Some(Bytes(gib << 30));
    assert_eq!(resize(DIALLED).policy.max_step, gib(64));
    assert_eq!(most(DIALLED, "max-step = \"2GiB\""), gib(2));
    assert_eq!(most(DIALLED, "step = \"100GiB\""), gib(100));
    assert_eq!(most(DIALLED, "granularity = \"128GiB\""), gib(128));
    assert_eq!(most(&format!("{DIALLED}max-size = \"2TiB\"\n"), ""), None);
    assert_eq!(most(&format!("{DIALLED}max-size = \"2TiB\"\n"), "max-step = \"2GiB\""), gib(2));
}

#[test]
fn sizes_can_be_published_later_where_nothing_else_shows_them() {
    for (word, publish) in [("auto", Publish::Auto), ("manual", Publish::Manual), ("never", Publish::Never)] {
        for export in [DIALLED, EMBEDDED] {
            assert_eq!(resize(&format!("{export}[export.resize]\npublish = {word:?}")).policy.publish, publish);
        }
    }
    for (keys, path) in [
        ("max-size = \"2GiB\"\n[export.resize]\npresent = \"ceiling\"\n", "present"),
        ("size = \"1GiB\"\n[export.resize]\ndriver = \"window\"\n", "publish"),
        ("[export.resize]\nautomatic = \"always\"\n", "automatic"),
    ] {
        for word in ["manual", "never"] {
            let problems = parse(&format!("{DIALLED}{keys}publish = {word:?}")).unwrap_err().concat();
            assert!(problems.contains(&format!("resize.{path}")), "{keys}: {problems}");
        }
    }
}

#[test]
fn every_key_of_a_template_holds_for_its_names() {
    let text =
        "[[export]]\nname = \"*\"\nbackend = \"nbd://h/{}\"\nmax-size = \"2GiB\"\n[export.resize]\nshrink = true";
    let policy = resize(text).policy;
    assert_eq!((policy.max_size, policy.shrink), (size(2), true));
}

#[test]
fn polling_is_switched_off_by_a_word_or_by_no_time_at_all() {
    for off in ["off", "0s", "0ms"] {
        assert_eq!(resize(&format!("{DIALLED}[export.resize]\npoll = {off:?}")).poll, None, "{off}");
    }
}

#[test]
fn a_step_that_nobody_wrote_fits_what_somebody_did() {
    for (keys, step) in [
        ("granularity = \"4GiB\"", 4 << 30),
        ("max-step = \"64MiB\"", 64 << 20),
        ("granularity = \"4GiB\"\nmax-step = \"8GiB\"", 4 << 30),
        ("step = 0\ngranularity = \"4GiB\"", 0),
    ] {
        assert_eq!(resize(&format!("{DIALLED}[export.resize]\n{keys}")).policy.step, Bytes(step), "{keys}");
    }
}

#[test]
fn what_is_offered_is_a_choice_of_four() {
    let follows = Features::SHRINK.with(Features::ZEROED);
    let all = [
        ("explicit", Features::EXPLICIT),
        ("automatic", Features::AUTOMATIC),
        ("query", Features::QUERY),
        ("notify", Features::NOTIFY),
    ];
    for choice in 0..16_u32 {
        let chosen: Vec<_> =
            all.iter().enumerate().filter(|(bit, _)| choice & (1 << bit) != 0).map(|(_, each)| each).collect();
        let words: Vec<_> = chosen.iter().map(|(word, _)| *word).collect();
        let expected =
            chosen.iter().fold(Features::NONE, |features, (_, feature)| features.with(*feature).with(follows));
        assert_eq!(
            resize(&format!("{EMBEDDED}[export.resize]\noffer = {words:?}")).policy.offer,
            expected,
            "{words:?}"
        );
    }
    let example = "\n  for example: offer = [\"explicit\",\"query\"]";
    key("offer = [\"query\", \"query\"]", &format!("`query` stands twice{example}"));
    key("offer = \"query\"", &format!("this has to be a list, not a text in quotes{example}"));
    key("offer = { }", &format!("this has to be a list, not a table{example}"));
    says(
        &format!("{DIALLED}[export.resize]\noffer = [\"querry\", \"shrink\"]"),
        &[
            &format!("export[0].resize.offer[0]: `querry` is not known; did you mean `query`?{example}"),
            &format!(
                "export[0].resize.offer[1]: `shrink` is not known: use `explicit` or `automatic` or `query` or `notify`{example}"
            ),
        ],
    );
}

#[test]
fn growth_by_writes_is_offered_if_and_only_if_it_happens() {
    let example = "\n  for example: offer = [\"explicit\",\"query\"]";
    says(
        &format!("{DIALLED}[export.resize]\nautomatic = \"never\"\noffer = [\"automatic\"]"),
        &[&format!(
            "export[0].resize.offer: `automatic` cannot be offered where automatic = \"never\": leave out one of them{example}"
        )],
    );
    for automatic in ["always", "opt-in"] {
        says(
            &format!("{DIALLED}[export.resize]\nautomatic = {automatic:?}\noffer = [\"explicit\"]"),
            &[
                "export[0].resize.automatic: this does nothing where `offer` has no `automatic`: put it there, or say never\n  \
             for example: automatic = \"never\"",
            ],
        );
    }
    resize(&format!("{DIALLED}[export.resize]\nautomatic = \"never\"\noffer = [\"explicit\"]"));
}

#[test]
fn a_driver_of_none_switches_all_of_it_off() {
    for export in [DIALLED, EMBEDDED] {
        let off = resize(&format!("{export}read-only = true\n[export.resize]\ndriver = \"none\""));
        assert_eq!((off.driver, off.poll), (Driver::None, None));
        assert_eq!((off.policy.offer, off.policy.automatic), (Features::NONE, AutomaticGrowth::Never));
        assert_eq!((off.policy.max_size, off.policy.read_only), (Size::MAX, true));
    }
    let keys = [
        ("automatic", "\"always\""),
        ("step", "0"),
        ("max-step", "1"),
        ("granularity", "1"),
        ("min-size", "0"),
        ("shrink", "false"),
        ("shrink-grace", "\"1s\""),
        ("over-quota", "\"clamp\""),
        ("poll", "\"off\""),
        ("timeout", "\"1s\""),
        ("growth-wait", "\"1s\""),
        ("external", "\"adopt\""),
        ("exclusive", "false"),
        ("offer", "[]"),
    ];
    for (name, value) in keys {
        says(
            &format!("{DIALLED}[export.resize]\ndriver = \"none\"\n{name} = {value}"),
            &[&format!("export[0].resize.{name}: {NOTHING}")],
        );
    }
    says(
        &format!("{DIALLED}max-size = \"1GiB\"\n[export.resize]\ndriver = \"none\""),
        &[&format!("export[0].max-size: {NOTHING}")],
    );
}

#[test]
fn each_driver_says_what_it_needs_and_what_belongs_to_another() {
    let driver = |name: &str, rest: &str| format!("{DIALLED}[export.resize]\ndriver = {name:?}\n{rest}");
    let resized = |text: &str| resize(text).driver;
    let texts = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    assert_eq!(resized(&driver("file", "path = \"/srv/a\"")), Driver::File { path: "/srv/a".into() });
    assert_eq!(
        resized(&driver("qmp", "socket = \"/run/q\"\nnode = \"n\"\nexport = \"e\"")),
        Driver::Qmp(Qmp { socket: "/run/q".into(), node: "n".into(), export: "e".into() })
    );
    assert_eq!(
        resized(&driver("restart", "command = [\"a\", \"b\"]")),
        Driver::Restart { path: None, command: texts(&["a", "b"]) }
    );
    assert_eq!(resized(&driver("exec", "command = [\"a\"]")), Driver::Exec { command: texts(&["a"]) });
    let window = format!("{}size = \"1GiB\"\n[export.resize]\ndriver = \"window\"", DIALLED);
    assert_eq!(resized(&window), Driver::Window { size: size(1) });
    says(
        &driver("window", ""),
        &[
            "export[0].size: a window needs a size: how much of the backend is shown at first\n  for example: size = \"10GiB\"",
        ],
    );
    says(
        &driver("file", ""),
        &["export[0].resize.path: this key is missing\n  for example: path = \"/srv/disks/vm1.img\""],
    );
    says(
        &driver("exec", "command = []"),
        &[
            "export[0].resize.command: this needs a program and its arguments, each a text without NUL byte\n  for example: command = [\"/usr/local/bin/grow-volume\",\"vg0/vm1\"]",
        ],
    );
    says(
        &driver("wire", "node = \"n\""),
        &["export[0].resize.node: this goes with driver = \"qmp\" only: leave it out"],
    );
}

#[test]
fn a_template_puts_its_name_into_the_driver_too() {
    let template = |rest: &str| {
        format!("[[export]]\nname = \"d/*\"\nbackend = \"nbd+unix:///?socket=/run/{{}}.sock\"\n[export.resize]\n{rest}")
    };
    let text = template("driver = \"file\"\npath = \"/srv/{}.img\"");
    let config = parse(&text).unwrap();
    assert_eq!(config.export_for("d/one").unwrap().resize.driver, Driver::File { path: "/srv/one.img".into() });
    assert!(config.export_for("d/..").is_err());
    let said = parse(&template("driver = \"file\"\npath = \"/srv/a.img\"")).unwrap_err();
    assert!(said[0].contains("all names would resize the same disk"), "{said:?}");
}

#[test]
fn a_ceiling_needs_an_end_and_somebody_who_may_write() {
    let text = |top: &str, rest: &str| format!("{DIALLED}{top}\n[export.resize]\npresent = \"ceiling\"\n{rest}");
    assert!(resize(&text("max-size = \"4GiB\"", "")).policy.ceiling);
    for (top, rest, what) in [
        ("", "", "it has none"),
        ("max-size = \"4GiB\"\nread-only = true", "", "read-only"),
        ("max-size = \"4GiB\"", "shrink = true", "cannot shrink"),
        ("max-size = \"4GiB\"", "automatic = \"never\"", "writes grow"),
        ("max-size = \"4GiB\"", "external = \"manual\"", "would not stay so"),
    ] {
        let said = parse(&text(top, rest)).unwrap_err();
        assert!(said[0].starts_with("export[0].resize.present: ") && said[0].contains(what), "{said:?}");
    }
}

#[test]
fn a_hook_tells_one_way_and_no_more() {
    let hooks = |text: &str| parse(&format!("{DIALLED}[[export.notify]]\n{text}"));
    let way = |text: &str| hooks(text).unwrap().export_for("a").unwrap().notify[0].way.clone();
    assert_eq!(way("qmp = \"/q\"\nnode = \"n\""), Way::Qmp { socket: "/q".into(), node: "n".into() });
    assert_eq!(way("http = \"http://h:1/x\""), Way::Http { url: "http://h:1/x".into() });
    assert_eq!(way("exec = [\"a\"]"), Way::Exec { command: vec!["a".to_owned()] });
    for url in ["http://h", "http://[::1]", "http://[::1]:81/a?b=c#d", "http://h?x=a@b:c"] {
        assert_eq!(way(&format!("http = {url:?}")), Way::Http { url: url.into() });
    }
    for (text, what) in [
        ("timeout = \"1s\"", "exactly one of"),
        ("exec = [\"a\"]\nhttp = \"http://h\"", "exactly one of"),
        ("qmp = \"/q\"", "this key is missing"),
        ("exec = [\"a\"]\nnode = \"n\"", "goes with `qmp` only"),
        ("http = \"https://h\"", "TLS is not spoken here; as http://HOST[:PORT]/PATH"),
        ("http = \"h:80/x\"", "it does not begin with http://"),
        ("http = \"http://me:secret@h/\"", "a password in a URL"),
        ("http = \"http://h:port/\"", "its port is not a number"),
        ("http = \"http://h:70000\"", "its port is not a number"),
        ("http = \"http://[::1]:/\"", "its port is not a number"),
        ("http = \"http:///x\"", "the host is missing"),
        ("http = \"http://?x\"", "the host is missing"),
        ("http = \"http://h/a b\"", "it has spaces"),
    ] {
        let said = hooks(text).unwrap_err();
        assert!(said[0].starts_with("export[0].notify[0].") && said[0].contains(what), "{said:?}");
    }
}

#[test]
fn the_name_of_a_template_is_one_part_of_a_hooks_url_and_one_word_of_its_program() {
    let config = parse(
        "[[export]]\nname = \"t/*\"\nbackend = \"nbd://b/{}\"\n\
         [[export.notify]]\nhttp = \"http://h/on/{}?of={}\"\n[[export.notify]]\nexec = [\"a\", \"of {}\"]",
    )
    .unwrap();
    let hooks = |name: &str| config.export_for(name).unwrap().notify;
    let hooks = hooks("t/a b?c=d&e#f%2f@g;$(x)");
    let url = "a%20b%3Fc%3Dd%26e%23f%252f%40g%3B%24%28x%29";
    assert_eq!(hooks[0].way, Way::Http { url: format!("http://h/on/{url}?of={url}") });
    assert_eq!(hooks[1].way, Way::Exec { command: vec!["a".into(), "of a b?c=d&e#f%2f@g;$(x)".into()] });
    for name in ["t/..", "t/a/b", "t/"] {
        config.export_for(name).unwrap_err();
    }
}

#[test]
fn a_backend_of_the_gateways_own_needs_no_driver_and_no_polling() {
    let nothing = "this does nothing for a file: or memory: backend: leave it out";
    says(
        &format!("{EMBEDDED}[export.resize]\ndriver = \"wire\"\npoll = \"1s\"\nexternal = \"adopt\"\nexclusive = true"),
        &[
            "export[0].resize.driver: the gateway resizes a file: or memory: backend itself: leave this out, or write `none` to \
             switch that off\n  for example: driver = \"none\"",
            &format!("export[0].resize.poll: {nothing}"),
            &format!("export[0].resize.external: {nothing}"),
            &format!("export[0].resize.exclusive: {nothing}"),
        ],
    );
}

#[test]
fn a_backend_that_grows_by_writes_never_shrinks() {
    says(
        &format!("{DIALLED}[export.resize]\ndriver = \"automatic\"\nshrink = true"),
        &["export[0].resize.shrink: a backend that grows by writes never shrinks: leave this out\n  \
         for example: shrink = false"],
    );
}

#[test]
fn sizes_fit_each_other() {
    says(
        &format!(
            "{EMBEDDED}max-size = \"2GiB\"\n[export.resize]\nmin-size = \"5GiB\"\nstep = \"8GiB\"\nmax-step = \"7GiB\""
        ),
        &[
            "export[0].size: size (4GiB) is less than min-size (5GiB) of [export.resize]\n  for example: size = \"10GiB\"",
            "export[0].size: size (4GiB) is more than max-size (2GiB)\n  for example: size = \"10GiB\"",
            "export[0].resize.min-size: min-size (5GiB) is more than max-size (2GiB)\n  for example: min-size = \"1GiB\"",
            "export[0].resize.step: step (8GiB) is more than max-step (7GiB), so no write could grow by it\n  \
             for example: step = \"1GiB\"",
        ],
    );
    let equal = "max-size = \"4GiB\"\n[export.resize]\nmin-size = \"4GiB\"\nstep = \"1MiB\"\nmax-step = \"1MiB\"";
    assert_eq!(resize(&format!("{EMBEDDED}{equal}")).policy.max_size, size(4));
}

#[test]
fn sizes_are_multiples_of_the_granularity() {
    let uneven = "1025KiB is not a multiple of granularity (2KiB)";
    says(
        "[[export]]\nname = \"a\"\nbackend = \"file:a\"\nsize = \"1025KiB\"\nmax-size = \"1025KiB\"\n\
         [export.resize]\nmin-size = \"1025KiB\"\nstep = \"1025KiB\"\nmax-step = \"1025KiB\"\ngranularity = \"2KiB\"",
        &[
            &format!("export[0].size: {uneven}\n  for example: size = \"10GiB\""),
            &format!("export[0].max-size: {uneven}\n  for example: max-size = \"200GiB\""),
            &format!("export[0].resize.min-size: {uneven}\n  for example: min-size = \"1GiB\""),
            &format!("export[0].resize.step: {uneven}\n  for example: step = \"1GiB\""),
            &format!("export[0].resize.max-step: {uneven}\n  for example: max-step = \"16GiB\""),
        ],
    );
    let example = "\n  for example: granularity = \"1MiB\"";
    let not = |size: &str| format!("a granularity of {size} is not a power of two between 1 and 2^62{example}");
    key("granularity = 0", &not("0 bytes"));
    key("granularity = \"3KiB\"", &not("3 KiB"));
    key("granularity = \"8EiB\"", &not("8 EiB"));
}

#[test]
fn sizes_and_times_have_ranges() {
    says(
        &format!("{DIALLED}max-size = 0"),
        &["export[0].max-size: 0 is not from 1 to 9223372036854775807\n  for example: max-size = \"200GiB\""],
    );
    key("max-step = 0", "0 is not from 1 to 9223372036854775807\n  for example: max-step = \"16GiB\"");
    key("min-size = \"8EiB\"", "8EiB is not from 0 to 9223372036854775807\n  for example: min-size = \"1GiB\"");
    key("step = \"8EiB\"", "8EiB is not from 0 to 9223372036854775807\n  for example: step = \"1GiB\"");
    key("poll = \"25h\"", "25h is not from 0s to 24h\n  for example: poll = \"5s\"");
    key("shrink-grace = \"25h\"", "25h is not from 0s to 24h\n  for example: shrink-grace = \"60s\"");
    key("timeout = \"0s\"", "0s is not from 1ms to 1h\n  for example: timeout = \"30s\"");
    key("growth-wait = \"11m\"", "11m is not from 0s to 10m\n  for example: growth-wait = \"1s\"");
    let time = "is not a time: write a number and a unit, like 250ms, 30s, 5m or 1h";
    key("poll = \"never\"", &format!("`never` {time}\n  for example: poll = \"5s\""));
}

#[test]
fn a_tenants_bounds_and_rates_arrive() {
    let text = format!(
        r#"{DIALLED}tenant = "blue"
        [[tenant]]
        name = "blue"
        quota = "2TiB"
        soft-quota = "1TiB"
        resize-rate = "10/min"
        growth-rate = "500GiB/h"
        notice-rate = "5/s"
        largest-export = "500GiB"
        max-exports = 100
        max-sessions = 200
        session-rate = "10/min"
        limits.session-notice-rate = "1/min"
        enforce = false
        [[tenant]]
        name = "red"
        soft-quota = 7
        [[tenant]]
        name = "frozen"
        quota = 0
        "#
    );
    let config = parse(&text).unwrap();
    let blue = config.tenant("blue").unwrap();
    let allowance = TenantLimits {
        quota: Some(Bytes(2 << 40)),
        soft_quota: Some(Bytes(1 << 40)),
        enforce: false,
        largest_export: Some(size(500)),
    };
    let rate = |amount, seconds, oversize| Rate::new(amount, Duration::from_secs(seconds), amount, oversize).ok();
    assert_eq!((blue.id.as_str(), blue.allowance), ("blue", allowance));
    let crowd = (blue.crowd.exports, blue.crowd.sessions, blue.crowd.session_rate, blue.crowd.enforce);
    assert_eq!(crowd, (Some(100), Some(200), rate(10, 60, Oversize::Refuse), false));
    assert_eq!(blue.limits.session_notices, rate(1, 60, Oversize::Refuse));
    assert_eq!(blue.rates.resize, rate(10, 60, Oversize::Refuse));
    assert_eq!(blue.rates.growth, rate(500 << 30, 3600, Oversize::Borrow));
    assert_eq!(blue.rates.notice, rate(5, 1, Oversize::Refuse));

    let red = config.tenant("red").unwrap();
    assert_eq!(red.allowance, TenantLimits { soft_quota: Some(Bytes(7)), ..TenantLimits::NONE });
    assert_eq!((red.rates.resize, red.rates.growth, red.rates.notice), (None, None, None));
    assert_eq!(config.tenant("frozen").unwrap().allowance.quota, Some(Bytes(0)));
    assert_eq!(config.tenant("green"), None);
    assert_eq!(parse(DIALLED).unwrap().tenant("default").unwrap().allowance, TenantLimits::NONE);
}

#[test]
fn a_tenants_bounds_are_checked() {
    let export = format!("{DIALLED}tenant = \"a\"\n[[tenant]]\nname = \"a\"\n");
    let soft = "soft-quota (2GiB) is more than quota (1GiB), so it would never warn of anything";
    let most = "a rate needs an amount, a time and a burst of at least one, and at most 2^62 units in 2^62 nanoseconds; write for \
                example 20/s";
    let rate = "is not a rate: write a number per time, like 20/s, 10/min or 5/h";
    says(
        &format!(
            "{export}quota = \"1GiB\"\nsoft-quota = \"2GiB\"\nresize-rate = \"10\"\ngrowth-rate = \"8EiB/s\"\nnotice-rate = \"0/s\""
        ),
        &[
            &format!("tenant[0].soft-quota: {soft}\n  for example: soft-quota = \"1.8TiB\""),
            &format!("tenant[0].resize-rate: `10` {rate}\n  for example: resize-rate = \"10/min\""),
            &format!("tenant[0].growth-rate: {most}\n  for example: growth-rate = \"500GiB/h\""),
            "tenant[0].notice-rate: `0/s` would never let anything through: a rate is at least 1\n  \
             for example: notice-rate = \"5/s\"",
        ],
    );
    parse(&format!("{export}quota = \"1GiB\"\nsoft-quota = \"1GiB\"")).unwrap();
}

proptest! {
    #[test]
    fn sizes_that_were_taken_fit_each_other(
        first in 1_u64..40, most in prop::option::of(1_u64..40), least in prop::option::of(0_u64..40),
        step in prop::option::of(0_u64..40), max_step in prop::option::of(1_u64..40), grain in prop::option::of(0_u32..5),
    ) {
        let line = |key: &str, value: Option<u64>| value.map_or(String::new(), |value| format!("{key} = {value}\n"));
        let text = format!(
            "[[export]]\nname = \"a\"\nbackend = \"memory:\"\nsize = {first}\n{}[export.resize]\n{}{}{}{}",
            line("max-size", most), line("min-size", least), line("step", step), line("max-step", max_step),
            line("granularity", grain.map(|shift| 1 << shift)),
        );
        let grain = 1 << grain.unwrap_or(0);
        let whole = |size: Option<u64>| size.is_none_or(|size| size % grain == 0);
        let fits = [Some(first), most, least, step, max_step].into_iter().all(whole)
            && least.unwrap_or(0) <= first
            && most.is_none_or(|most| first <= most)
            && step.zip(max_step).is_none_or(|(step, most)| step <= most);
        let found = parse(&text);
        prop_assert_eq!(found.is_ok(), fits, "{}\n{:?}", text, found.err());
        if let Ok(config) = found {
            let policy = config.export_for("a").unwrap().resize.policy;
            prop_assert!(policy.step.0 % policy.granularity.bytes() == 0);
            prop_assert!(policy.max_step.is_none_or(|most| policy.step <= most));
        }
    }
}

#[test]
fn what_is_open_from_the_start_has_to_fit_in() {
    let tables = |most: u32, enforce: bool| {
        let disk =
            |name: &str| format!("[[export]]\nname = {name:?}\ntenant = \"t\"\nbackend = \"memory:\"\nsize = 512\n");
        let tenant = format!("[[tenant]]\nname = \"t\"\nmax-exports = {most}\nenforce = {enforce}\n");
        tenant + &disk("a") + &disk("b")
    };
    let what = "tenant[0].max-exports: 2 exports of `t` are file: or memory: ones, which are open from the start: \
                allow at least as many";
    says(&tables(1, true), &[what]);
    parse(&tables(1, false)).unwrap();
    parse(&tables(2, true)).unwrap();
}
