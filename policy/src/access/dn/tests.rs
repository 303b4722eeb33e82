//! Names are taken apart as RFC 4514 says, and nobody passes for somebody else.

use proptest::prelude::*;

use super::*;

fn dn(text: &str) -> Dn {
    text.parse().unwrap_or_else(|fault| panic!("{text}: {fault}"))
}

fn pattern(text: &str) -> DnPattern {
    text.parse().unwrap_or_else(|fault| panic!("{text}: {fault}"))
}

#[test]
fn names_are_read_as_rfc_4514_writes_them() {
    for (text, same) in [
        // The examples of section 4.
        ("UID=jsmith,DC=example,DC=net", "UID=jsmith,DC=example,DC=net"),
        ("OU=Sales+CN=J.  Smith,DC=example,DC=net", "OU=Sales,CN=J.  Smith,DC=example,DC=net"),
        ("CN=James \\\"Jim\\\" Smith\\, III,DC=example,DC=net", "CN=James \\\"Jim\\\" Smith\\, III,DC=example,DC=net"),
        ("CN=Before\\0dAfter,DC=example,DC=net", "CN=Before\\0dAfter,DC=example,DC=net"),
        ("1.3.6.1.4.1.1466.0=#04024869", "1.3.6.1.4.1.1466.0=#04024869"),
        ("CN=Lu\\C4\\8Di\\C4\\87", "CN=Lučić"),
        // What is written otherwise and is the same.
        ("cn = blue-1 , o=Acme", "CN=blue-1,O=Acme"),
        ("2.5.4.3=a,commonName=b,OID.2.5.4.3=c", "CN=a,CN=b,CN=c"),
        ("emailAddress=a@b,E=c", "EMAILADDRESS=a@b,EMAILADDRESS=c"),
        ("CN=\\ a\\ ", "CN=\\ a\\ "),
        ("CN=\\#a=b", "CN=\\#a=b"),
        ("CN=a*", "CN=a\\2a"),
        ("x-Own=1", "X-OWN=1"),
        ("CN=", "CN="),
        ("", ""),
    ] {
        assert_eq!(dn(text).to_string(), same);
        assert_eq!(dn(same), dn(text));
    }
}

#[test]
fn what_is_no_name_says_why() {
    for (text, fault) in [
        ("blue", DnFault::Kind("blue".into())),
        ("CN=a,", DnFault::Kind("".into())),
        ("CN=a,b", DnFault::Kind("b".into())),
        ("/C=GB/CN=a", DnFault::Kind("/C".into())),
        ("=a", DnFault::Kind("".into())),
        ("C N=a", DnFault::Kind("C N".into())),
        ("2.05.4=a", DnFault::Kind("2.05.4".into())),
        ("CN=\"a, b\"", DnFault::Bare('"')),
        ("CN=a;O=b", DnFault::Bare(';')),
        ("CN=a\0", DnFault::Bare('\0')),
        ("CN=a\\", DnFault::Escape),
        ("CN=a\\x", DnFault::Escape),
        ("CN=a\\2", DnFault::Escape),
        ("CN=#0", DnFault::Hex),
        ("CN=#", DnFault::Hex),
        ("CN=#zz", DnFault::Hex),
        ("CN=\\ff", DnFault::NotUtf8),
    ] {
        assert_eq!(text.parse::<Dn>(), Err(fault.clone()), "{text:?}");
        assert!(!fault.to_string().is_empty());
    }
    assert_eq!(" ".parse::<DnPattern>(), Err(DnFault::Empty));
}

#[test]
fn a_pattern_fits_by_whole_values_of_each_kind_that_it_names() {
    for (wanted, fits, others) in [
        (
            "CN=blue-*",
            &["CN=blue-1", "O=Acme,CN=blue-", "CN=blue-1,O=x+OU=y", "2.5.4.3=blue-\\,"][..],
            &[
                "",
                "CN=Blue-1",
                "CN=xblue-1",
                "OU=blue-1",
                "CN=blue-1,CN=red",
                "CN=red+CN=blue-1",
                "CN=blue-1,CN=blue-2",
            ][..],
        ),
        (
            "CN=blue-*,O=Acme",
            &["O=Acme,CN=blue-1", "CN=blue-1,OU=x,O=Acme"],
            &["CN=blue-1", "CN=blue-1,O=acme", "CN=blue-1,O=Acme,O=Acme"],
        ),
        (
            "DC=example,DC=net",
            &["CN=a,DC=example,DC=net"],
            &["DC=net,DC=example", "DC=example", "DC=a,DC=example,DC=net"],
        ),
        ("CN=a,CN=*", &["CN=a,CN=b"], &["CN=a", "CN=b,CN=a"]),
        ("CN=*", &["CN=", "CN=a\\, b"], &["", "O=a", "CN=#0c0161"]),
        ("CN=\\2a", &["CN=*"], &["CN=a"]),
        ("CN=\\*", &["CN=*"], &["CN=a"]),
        ("1.2.3=#0401ff", &["1.2.3=#0401FF"], &["1.2.3=\\#0401ff"]),
    ] {
        assert_eq!(pattern(&pattern(wanted).to_string()), pattern(wanted));
        fits.iter().for_each(|subject| assert!(pattern(wanted).matches(&dn(subject)), "{wanted}: {subject}"));
        others.iter().for_each(|subject| assert!(!pattern(wanted).matches(&dn(subject)), "{wanted}: {subject}"));
    }
}

#[test]
fn a_hostile_value_fakes_no_attribute() {
    for hostile in [
        "red,CN=blue-1",
        "red+CN=blue-1",
        "red\0CN=blue-1",
        "red\\,CN=blue-1",
        "\"red\",CN=blue-1",
        "red\nCN=blue-1",
        " CN=blue-1",
        "#0c06",
    ] {
        let subject = Dn::default().and("O", hostile).unwrap().and("CN", "red").unwrap();
        let written = subject.to_string();
        assert_eq!(dn(&written), subject, "{written}");
        assert!(!written.chars().any(char::is_control), "{written}");
        assert!(!pattern("CN=blue-*").matches(&subject), "{written}");
        assert!(pattern("CN=red").matches(&dn(&written)), "{written}");
        let second = Dn::default().and("CN", hostile).unwrap();
        assert!(!pattern("CN=blue-*").matches(&dn(&second.to_string())), "{second}");
    }
    assert_eq!(Dn::default().and("a,b", "x"), Err(DnFault::Kind("a,b".into())));
}

/// Attributes of few kinds, with values full of what has to be escaped.
fn attributes() -> impl Strategy<Value = Vec<(String, String)>> {
    let kind = prop_oneof![Just("CN"), Just("O"), Just("DC"), Just("1.2.3")].prop_map(str::to_owned);
    let value = prop_oneof!["[ab,+\"\\\\#=;<>* \0\né]{0,6}", any::<String>()];
    proptest::collection::vec((kind, value), 0..4)
}

fn made(attributes: &[(String, String)]) -> Dn {
    attributes.iter().fold(Dn::default(), |dn, (kind, value)| dn.and(kind, value).unwrap())
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(attributes in attributes()) {
        let subject = made(&attributes);
        prop_assert_eq!(dn(&subject.to_string()), subject.clone());
        // And is a pattern for itself.
        if !attributes.is_empty() {
            prop_assert!(pattern(&subject.to_string()).matches(&subject));
        }
    }

    #[test]
    fn a_pattern_without_stars_fits_what_has_the_same_values_of_its_kinds(mine in attributes(), theirs in attributes()) {
        prop_assume!(!mine.is_empty());
        let of = |list: &[(String, String)], kind: &str| -> Vec<String> {
            list.iter().filter(|(k, _)| k == kind).map(|(_, v)| v.clone()).collect()
        };
        let expected = mine.iter().all(|(kind, _)| of(&mine, kind) == of(&theirs, kind));
        prop_assert_eq!(pattern(&made(&mine).to_string()).matches(&made(&theirs)), expected);
    }

    #[test]
    fn whatever_is_read_is_read_the_same_again(text in "[CNO=a,+\\\\#\" *;0-9]{0,12}") {
        if let Ok(subject) = text.parse::<Dn>() {
            prop_assert_eq!(dn(&subject.to_string()), subject);
        }
        if let Ok(wanted) = text.parse::<DnPattern>() {
            prop_assert_eq!(pattern(&wanted.to_string()), wanted);
        }
    }
}
