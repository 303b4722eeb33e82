//! Who may do what: every kind of identity by every verb, and what holds for all rules.

use std::net::IpAddr;

use nbd_gateway_policy::access::{Access, Certificate, Condition, Entry, Glob, Identity, Rule, Verb, Verbs};
use nbd_gateway_policy::types::TenantId;
use proptest::prelude::*;

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn entry(index: usize, conditions: Vec<Condition>, verbs: Verbs) -> Entry {
    Entry { path: format!("tenant[0].clients[{index}]"), line: Some(10 + index), conditions, exports: None, verbs }
}

fn of_blue(entries: Vec<Entry>) -> Access {
    Access::new([(tenant("blue"), entries)])
}

fn with_certificate(subject: &str, sans: &[&str]) -> Identity {
    let sans = sans.iter().map(|san| san.parse().unwrap()).collect();
    Identity { certificate: Some(Certificate { subject: subject.parse().unwrap(), sans }), ..Identity::default() }
}

fn from(address: &str) -> Identity {
    Identity { address: Some(address.parse().unwrap()), ..Identity::default() }
}

fn running_as(uid: u32, gid: u32) -> Identity {
    Identity { uid: Some(uid), gid: Some(gid), ..Identity::default() }
}

fn by(listener: &str) -> Identity {
    Identity { listener: listener.into(), ..Identity::default() }
}

/// Each kind: a condition, who fulfils it, and who does not.
fn kinds() -> Vec<(Condition, Vec<Identity>, Vec<Identity>)> {
    let nobody = Identity::default;
    vec![
        (
            Condition::Dn("CN=blue-*".parse().unwrap()),
            vec![with_certificate("O=Acme,CN=blue-1", &[])],
            vec![
                nobody(),
                with_certificate("CN=red-1", &[]),
                with_certificate("O=red\\,CN=blue-1,CN=red", &[]),
                with_certificate("", &["dns:blue-1"]),
            ],
        ),
        (
            Condition::San("dns:*.blue.example".parse().unwrap()),
            vec![with_certificate("", &["ip:10.0.0.1", "dns:vm1.blue.example"])],
            vec![nobody(), with_certificate("CN=vm1.blue.example", &["uri:vm1.blue.example", "dns:a.b.blue.example"])],
        ),
        (
            Condition::San("ip:10.1.0.0/16".parse().unwrap()),
            vec![with_certificate("", &["ip:10.1.2.3"])],
            // What a certificate names and where its owner is are two things.
            vec![nobody(), from("10.1.2.3"), with_certificate("", &["ip:10.2.0.0"])],
        ),
        (
            Condition::Address("10.1.0.0/16".parse().unwrap()),
            vec![from("10.1.2.3"), from("::ffff:10.1.2.3")],
            vec![nobody(), from("10.2.0.0"), from("::10.1.2.3"), with_certificate("", &["ip:10.1.2.3"])],
        ),
        (
            Condition::Address("2001:db8::/32".parse().unwrap()),
            vec![from("2001:db8::1")],
            vec![nobody(), from("2001:db9::"), from("32.1.13.184")],
        ),
        (Condition::Uid(1000), vec![running_as(1000, 5)], vec![nobody(), running_as(0, 1000), running_as(1001, 5)]),
        (Condition::Uid(0), vec![running_as(0, 5)], vec![nobody(), running_as(1, 0)]),
        (Condition::Gid(1000), vec![running_as(5, 1000)], vec![nobody(), running_as(1000, 5)]),
        (
            Condition::Listener("unix:/run/a".into()),
            vec![by("unix:/run/a")],
            vec![nobody(), by("unix:/run/ab"), by("unix:/run/A")],
        ),
    ]
}

#[test]
fn every_kind_of_identity_has_each_verb_that_its_entry_grants_and_no_other() {
    let blue = tenant("blue");
    for (condition, fits, others) in kinds() {
        for bits in 0..1_u32 << Verb::ALL.len() {
            let granted: Verbs = Verb::ALL
                .iter()
                .copied()
                .enumerate()
                .filter(|(i, _)| bits & 1 << i != 0)
                .map(|(_, verb)| verb)
                .collect();
            let access = of_blue(vec![entry(0, vec![condition.clone()], granted)]);
            for verb in Verb::ALL.iter().copied() {
                for identity in &fits {
                    let decision = access.decide(identity, &blue, "vm1");
                    assert_eq!(decision.may(verb), granted.has(verb), "{condition}: {identity} {verb}");
                    assert!(matches!(&decision.rule, Rule::Entry(entry) if entry.line == Some(10)));
                }
                for identity in &others {
                    let decision = access.decide(identity, &blue, "vm1");
                    assert!(!decision.may(verb) && decision.rule == Rule::Nothing, "{condition}: {identity} {verb}");
                }
            }
        }
    }
}

#[test]
fn conditions_are_shown_as_they_are_written() {
    let shown: Vec<String> = kinds().iter().map(|(condition, ..)| condition.to_string()).collect();
    assert_eq!(
        shown,
        [
            "dn = \"CN=blue-*\"",
            "san = \"dns:*.blue.example\"",
            "san = \"ip:10.1.0.0/16\"",
            "address = \"10.1.0.0/16\"",
            "address = \"2001:db8::/32\"",
            "uid = 1000",
            "uid = 0",
            "gid = 1000",
            "listener = \"unix:/run/a\"",
        ]
    );
    let everything = Identity { listener: "[::]:10809".into(), uid: Some(7), gid: Some(8), ..from("::ffff:10.1.2.3") };
    let certificate = with_certificate("CN=a\\0ab", &["dns:b"]).certificate;
    assert_eq!(
        Identity { certificate, ..everything }.to_string(),
        r#"listener=[::]:10809 address=10.1.2.3 uid=7 gid=8 dn="CN=a\\0ab" san="dns:b""#
    );
}

#[test]
fn a_certificate_is_read_from_what_tls_says_of_it() {
    let names = ["DNS:VM1.example", "IP:::ffff:10.0.0.7", "URI:spiffe://a/b", "email:a@B", "RID:1.2.3", "DNS"];
    let read = Certificate::read("CN=blue\\,7,O=Acme", names).unwrap();
    assert_eq!(read.subject.to_string(), "CN=blue\\,7,O=Acme");
    let sans: Vec<String> = read.sans.iter().map(ToString::to_string).collect();
    assert_eq!(sans, ["dns:vm1.example", "ip:10.0.0.7", "uri:spiffe://a/b", "email:a@b"]);
    assert!(Certificate::read("blue", names).is_err());
}

#[test]
fn all_conditions_of_an_entry_have_to_hold() {
    let conditions = vec![Condition::Uid(1000), Condition::Gid(1000), Condition::Listener("unix:/a".into())];
    let access = of_blue(vec![entry(0, conditions, Verbs::ALL)]);
    let may = |uid, gid, listener: &str| {
        let identity = Identity { listener: listener.into(), ..running_as(uid, gid) };
        access.decide(&identity, &tenant("blue"), "vm1").may(Verb::List)
    };
    assert!(may(1000, 1000, "unix:/a"));
    assert!(!may(1000, 1000, "unix:/b") && !may(1000, 1, "unix:/a") && !may(1, 1000, "unix:/a"));
    // No condition at all: whoever comes.
    assert!(of_blue(vec![entry(0, vec![], Verbs::ALL)]).decide(&from("::1"), &tenant("blue"), "vm1").may(Verb::Shrink));
}

#[test]
fn the_first_entry_that_fits_decides_alone() {
    let some: Verbs = [Verb::List, Verb::Read].into_iter().collect();
    let network = |text: &str| vec![Condition::Address(text.parse().unwrap())];
    let access = of_blue(vec![
        entry(0, network("10.1.0.66"), Verbs::NONE),
        entry(1, network("10.1.0.0/24"), some),
        entry(2, network("10.1.0.0/16"), Verbs::ALL),
    ]);
    for (address, verbs, place) in [
        ("10.1.0.66", Verbs::NONE, "tenant[0].clients[0] (line 10)"),
        ("10.1.0.1", some, "tenant[0].clients[1] (line 11)"),
        ("10.1.1.1", Verbs::ALL, "tenant[0].clients[2] (line 12)"),
        ("10.2.0.0", Verbs::NONE, "no entry of `clients` fits"),
    ] {
        let decision = access.decide(&from(address), &tenant("blue"), "vm1");
        assert_eq!((decision.verbs, decision.rule.to_string().as_str()), (verbs, place), "{address}");
    }
}

#[test]
fn an_entry_can_be_about_some_exports_only() {
    let only = |index, names: &[&str], verbs| Entry {
        exports: Some(names.iter().map(|name| Glob::new(name)).collect()),
        ..entry(index, vec![Condition::Uid(1)], verbs)
    };
    let some = Verbs::NONE.with(Verb::List);
    let access =
        of_blue(vec![only(0, &["golden", "images/*"], some), only(1, &["vm*"], Verbs::ALL), only(2, &[], Verbs::ALL)]);
    for (export, verbs) in
        [("golden", some), ("images/a/b", some), ("vm1", Verbs::ALL), ("golden2", Verbs::NONE), ("", Verbs::NONE)]
    {
        assert_eq!(access.decide(&running_as(1, 1), &tenant("blue"), export).verbs, verbs, "{export}");
        assert_eq!(access.decide(&running_as(2, 1), &tenant("blue"), export).verbs, Verbs::NONE, "{export}");
    }
}

#[test]
fn as_soon_as_any_tenant_has_rules_everybody_else_is_denied_everywhere() {
    let (blue, red) = (tenant("blue"), tenant("red"));
    let open = Access::default();
    assert_eq!(open.decide(&Identity::default(), &blue, "vm1").verbs, Verbs::ALL);
    assert_eq!(open.decide(&Identity::default(), &blue, "vm1").rule.to_string(), "no tenant has `clients`");
    // An empty list is a rule too: nobody.
    for entries in [vec![], vec![entry(0, vec![Condition::Uid(1)], Verbs::ALL)]] {
        let access = of_blue(entries);
        assert_eq!(access.decide(&running_as(2, 2), &blue, "vm1").verbs, Verbs::NONE);
        assert_eq!(access.decide(&running_as(1, 1), &red, "vm1").verbs, Verbs::NONE);
    }
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        (0..3_u32).prop_map(Condition::Uid),
        (0..3_u32).prop_map(Condition::Gid),
        "[ab]".prop_map(Condition::Listener),
        prop_oneof![Just("10.0.0.0/8"), Just("::/0"), Just("10.1.0.0/16")]
            .prop_map(|n| Condition::Address(n.parse().unwrap())),
        prop_oneof![Just("CN=a*"), Just("CN=*"), Just("O=a")].prop_map(|d| Condition::Dn(d.parse().unwrap())),
    ]
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let exports = prop_oneof![Just(None), proptest::collection::vec("[ab*]{0,2}", 0..3).prop_map(Some)];
    (proptest::collection::vec(condition(), 0..3), exports, 0..1_u32 << 6).prop_map(|(conditions, exports, bits)| {
        let verbs = Verb::ALL.iter().copied().enumerate().filter(|(i, _)| bits & 1 << i != 0).map(|(_, verb)| verb);
        let exports = exports.map(|names| names.iter().map(|name| Glob::new(name)).collect());
        Entry { exports, ..entry(0, conditions, verbs.collect()) }
    })
}

fn any_identity() -> impl Strategy<Value = Identity> {
    let address = prop_oneof![Just(None), Just(Some("10.1.0.1")), Just(Some("::ffff:10.2.0.1")), Just(Some("::1"))];
    let certificate = prop_oneof![Just(None), Just(Some("CN=a1")), Just(Some("CN=b,O=a")), Just(Some("CN=a1,CN=b"))];
    (address, certificate, proptest::option::of((0..3_u32, 0..3_u32)), "[ab]").prop_map(
        |(address, subject, user, listener)| Identity {
            certificate: subject.and_then(|subject| with_certificate(subject, &[]).certificate),
            address: address.map(|a| a.parse::<IpAddr>().unwrap()),
            uid: user.map(|u| u.0),
            gid: user.map(|u| u.1),
            listener,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    /// The whole of it a second time, as plainly as it can be said.
    #[test]
    fn a_decision_is_what_the_first_fitting_entry_of_the_exports_tenant_says(
        blue in proptest::option::of(proptest::collection::vec(any_entry(), 0..4)),
        red in proptest::option::of(proptest::collection::vec(any_entry(), 0..4)),
        identity in any_identity(), name in "blue|red|green", export in "[ab]{0,2}",
    ) {
        let lists = [("blue", blue), ("red", red)];
        let access = Access::new(lists.iter().filter_map(|(name, list)| Some((tenant(name), list.clone()?))));
        let decision = access.decide(&identity, &tenant(&name), &export);
        let expected = if lists.iter().all(|(_, list)| list.is_none()) {
            Verbs::ALL
        } else {
            let mine = lists.iter().find(|(n, _)| *n == name).and_then(|(_, list)| list.clone()).unwrap_or_default();
            let fitting = mine.into_iter().find(|entry| {
                entry.conditions.iter().all(|c| c.holds(&identity))
                    && entry.exports.as_ref().is_none_or(|names| names.iter().any(|n| n.matches(&export)))
            });
            fitting.map_or(Verbs::NONE, |entry| entry.verbs)
        };
        prop_assert_eq!(decision.verbs, expected);
        // Whoever is known less has no more conditions fulfilled.
        for condition in lists.iter().flat_map(|(_, list)| list.iter().flatten()).flat_map(|entry| &entry.conditions) {
            let less = Identity { listener: identity.listener.clone(), ..Identity::default() };
            prop_assert!(!condition.holds(&less) || condition.holds(&identity));
        }
    }
}
