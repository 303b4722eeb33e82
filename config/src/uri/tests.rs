//! The URI specification's examples, every fault with its text, and round trips.

use std::ffi::OsString;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStringExt;

use proptest::prelude::*;

use super::*;

fn uri(text: &str) -> NbdUri {
    text.parse().unwrap_or_else(|fault| panic!("{text}: {fault}"))
}

fn fault(text: &str) -> String {
    text.parse::<NbdUri>().unwrap_err().to_string()
}

fn tcp(host: Host, port: u16) -> Endpoint {
    Endpoint::Tcp { host, port }
}

#[test]
fn export_names_are_the_path_less_one_slash_as_in_the_specification() {
    for (text, name) in [
        ("nbd://example.com/disk", "disk"),
        ("nbd+unix:///disk?socket=sock", "disk"),
        ("nbd://example.com/", ""),
        ("nbd://example.com", ""),
        ("nbd://example.com//disk", "/disk"),
        ("nbd://example.com/hello%20world", "hello world"),
        ("nbd://example.com/a/b%2Fc", "a/b/c"),
        ("nbd://example.com/%C3%A4+", "ä+"),
        ("nbd://example.com/a?", "a"),
    ] {
        assert_eq!(uri(text).export().as_str(), name, "{text}");
    }
}

#[test]
fn a_host_is_a_name_or_an_address_and_the_port_defaults_to_10809() {
    let name = |text: &str| Host::Name(text.to_owned());
    let v6 = |text: &str| Host::Address(text.parse().unwrap());
    for (text, endpoint) in [
        ("nbd://example.com/x", tcp(name("example.com"), 10809)),
        ("NBD://example.com:/x", tcp(name("example.com"), 10809)),
        ("nbd://disk_1:1", tcp(name("disk_1"), 1)),
        ("nbd://127.0.0.1:65535/x", tcp(Host::Address("127.0.0.1".parse().unwrap()), 65535)),
        ("nbd://[::1]/x", tcp(v6("::1"), 10809)),
        ("nbd://[fe80::2]:7/x", tcp(v6("fe80::2"), 7)),
        ("nbd://[fe80::2%25eth0.7]:7/x", tcp(Host::Zoned("fe80::2".parse().unwrap(), "eth0.7".to_owned()), 7)),
        ("nbd://[fe80::2%253]/x", tcp(Host::Zoned("fe80::2".parse().unwrap(), "3".to_owned()), 10809)),
        ("nbd://[fe80::2%25a%40b]/x", tcp(Host::Zoned("fe80::2".parse().unwrap(), "a@b".to_owned()), 10809)),
    ] {
        assert_eq!(uri(text).endpoint(), &endpoint, "{text}");
    }
}

#[test]
fn a_unix_socket_is_the_parameter_socket() {
    assert_eq!(uri("nbd+unix:///?socket=/run/a%20b.sock").endpoint(), &Endpoint::Unix("/run/a b.sock".into()));
    assert_eq!(uri("nbd+unix://?socket=rel").endpoint(), &Endpoint::Unix("rel".into()));
    let bytes = OsString::from_vec(b"/run/\xff".to_vec());
    assert_eq!(uri("nbd+unix:///x?socket=/run/%FF").endpoint(), &Endpoint::Unix(bytes.into()));
}

#[test]
fn tls_is_asked_for_by_the_scheme_and_told_by_parameters() {
    assert_eq!(uri("nbd://h/x").tls(), None);
    assert_eq!(uri("nbds://h/x").tls(), Some(&UriTls::default()));
    assert_eq!(uri("NBDS://h/x?tls-type=x509&tls-verify-peer=1").tls(), Some(&UriTls::default()));
    let all = uri("nbds+unix:///x?tls-verify-peer=0&socket=s&tls-hostname=a.example&tls-certificates=/etc/%FFpki");
    let certificates = OsString::from_vec(b"/etc/\xffpki".to_vec()).into();
    let told = UriTls { certificates: Some(certificates), hostname: Some("a.example".to_owned()), verify_peer: false };
    assert_eq!((all.tls(), all.endpoint()), (Some(&told), &Endpoint::Unix("s".into())));
    assert!(!uri("nbds://h/x?tls-verify-peer=false").tls().unwrap().verify_peer, "as libnbd writes it");
}

#[test]
fn the_name_that_a_certificate_must_have_is_the_host_unless_another_is_told() {
    let name = |text: &str| uri(text).tls().unwrap().name_of(uri(text).endpoint());
    assert_eq!(name("nbds://h:1/x").as_deref(), Some("h"));
    assert_eq!(name("nbds://[fe80::1%25eth0]/x").as_deref(), Some("fe80::1"));
    assert_eq!(name("nbds://[::1]/x").as_deref(), Some("::1"));
    assert_eq!(name("nbds://10.0.0.5/x?tls-hostname=a.example").as_deref(), Some("a.example"));
    assert_eq!(name("nbds://h/x?tls-hostname=%3A%3A1").as_deref(), Some("::1"));
    assert_eq!(name("nbds+unix:///x?socket=s"), None);
}

#[test]
fn what_can_not_be_had_of_tls_is_a_fault() {
    let none =
        "the parameter `tls-hostname` is about TLS, which this URI does not ask for: use nbds:// or nbds+unix://";
    assert_eq!(fault("nbd://h/x?tls-hostname=y"), none);
    assert_eq!(fault("nbd+unix:///x?socket=s&tls-hostname=y"), none);
    assert_eq!(
        fault("nbds://me@h/x"),
        "a user name (`me@`) is for TLS with pre-shared keys, which are not spoken here: leave it out"
    );
    assert_eq!(
        fault("nbds://h/x?tls-type=psk"),
        "`tls-type=psk` is not spoken here: servers are known by certificates, which is tls-type=x509"
    );
    assert_eq!(fault("nbds://h/x?tls-verify-peer=2"), "`tls-verify-peer=2` is neither 1 nor 0");
    let name = "is no host name and no address that a certificate could have";
    assert_eq!(fault("nbds://h/x?tls-hostname=a%20b"), format!("`a b` {name}"));
    assert_eq!(fault("nbds://h/x?tls-hostname="), format!("`` {name}"));
    assert_eq!(
        fault("nbds://h/x?tls-certificates="),
        "`tls-certificates` has to be a directory: not empty, and without NUL"
    );
    assert_eq!(fault("nbds://h/x?tls-hostname=a&tls-hostname=a"), "the parameter `tls-hostname` stands twice");
    assert!(fault("nbds://h/x?tls-psk-file=f").starts_with("the parameter `tls-psk-file` is not known"));
}

#[test]
fn what_is_not_an_nbd_uri_says_what_one_is() {
    assert_eq!(
        fault("nbd:h:1"),
        "`nbd:h:1` is not an NBD URI: it starts with nbd://, nbds://, nbd+unix:// or nbds+unix://"
    );
    assert_eq!(fault("http://h/x"), "the scheme `http` is not known: use nbd://, nbds://, nbd+unix:// or nbds+unix://");
    assert_eq!(
        fault("nbd:///x"),
        "the host is missing: write nbd://HOST/EXPORT, or nbd+unix:///EXPORT?socket=PATH for a Unix socket"
    );
}

#[test]
fn a_bad_host_or_port_is_named() {
    let host = "is not a host: use a name, an IPv4 address or an IPv6 address in brackets, like [::1]";
    for text in ["::1", "[::1", "[::g]", "[::1]x", "[127.0.0.1]", "fe80::1:80"] {
        assert_eq!(fault(&format!("nbd://{text}/x")), format!("`{text}` {host}"));
    }
    let zone = "has no zone as one is written: it stands after %25 and a link-local address, and is the name or number of a \
                network interface, like [fe80::1%25eth0]";
    for text in ["[fe80::1%eth0]", "[fe80::1%25]", "[::1%25lo]", "[fe80::1%25a%2Fb]", "[fe80::1%25sixteen-letters-]"] {
        assert_eq!(fault(&format!("nbd://{text}/x")), format!("`{text}` {zone}"));
    }
    for text in ["a b", "a%20b", "ä", "{}", &"x".repeat(254)] {
        assert_eq!(fault(&format!("nbd://{text}/x")), format!("`{text}` {host}"));
    }
    for port in ["0", "65536", "x", "+1", "-1"] {
        assert_eq!(fault(&format!("nbd://h:{port}/x")), format!("`{port}` is not a port: use 1 to 65535"));
    }
}

#[test]
fn parameters_are_socket_or_a_fault() {
    assert_eq!(
        fault("nbd://h/x?timeout=3"),
        "the parameter `timeout` is not known: nbd+unix:// has `socket`, TLS has `tls-certificates`, `tls-hostname`, \
         `tls-verify-peer` and `tls-type`"
    );
    assert_eq!(fault("nbd://h/x?socket=s"), "the parameter `socket` belongs to nbd+unix://, not to nbd://");
    assert_eq!(fault("nbd+unix:///x?socket=s&socket=s"), "the parameter `socket` stands twice");
    assert_eq!(fault("nbd+unix:///x"), "the parameter `socket` is missing: write nbd+unix:///EXPORT?socket=PATH");
    assert_eq!(
        fault("nbd+unix://h/x?socket=s"),
        "`h` stands where a host would, but a Unix socket has none: write nbd+unix:///EXPORT?socket=PATH"
    );
}

#[test]
fn a_socket_path_has_1_to_107_bytes_without_nul() {
    assert_eq!(fault("nbd+unix:///x?socket="), "the path of the Unix socket is empty");
    assert_eq!(
        fault("nbd+unix:///x?socket=%00/abstract"),
        "the path of the Unix socket has a NUL byte: abstract sockets are not supported, use a path"
    );
    let path = |length| format!("nbd+unix:///x?socket={}", "s".repeat(length));
    assert!(path(107).parse::<NbdUri>().is_ok());
    assert_eq!(fault(&path(108)), "the path of a Unix socket has at most 107 bytes, this one has 108");
}

#[test]
fn escapes_are_strict() {
    let escape = "is not an escape: `%` is followed by two hexadecimal digits, and a literal `%` is written %25";
    for (text, shown) in [("%", "%"), ("a%2", "%2"), ("%zz", "%zz"), ("%+1", "%+1"), ("%2ä", "%2ä")] {
        assert_eq!(fault(&format!("nbd://h/{text}")), format!("`{shown}` {escape}"));
    }
    assert_eq!(fault("nbd://h/a b"), "the character ` ` has to be percent-encoded: write %20");
    assert_eq!(fault("nbd://h/ä"), "the character `ä` has to be percent-encoded: write %C3%A4");
    assert_eq!(fault("nbd://h/{}"), "the character `{` has to be percent-encoded: write %7B");
    assert_eq!(fault("nbd://h/\n"), "the character `\\n` has to be percent-encoded: write %0A");
    assert_eq!(fault("nbd://h/a#b"), "an NBD URI has no fragment: write `#` in an export name as %23");
    assert_eq!(fault("nbd://h/%ff"), "its escapes do not decode to UTF-8");
}

#[test]
fn an_export_name_keeps_the_protocols_bounds() {
    let name = |length| format!("nbd://h/{}", "%41".repeat(length));
    assert_eq!(uri(&name(4096)).export().as_str().len(), 4096);
    assert_eq!(fault(&name(4097)), "its path is no export name: the name has 4097 bytes; the most is 4096");
    assert_eq!(fault("nbd://h/a%00"), "its path is no export name: the name has the character '\\0'; leave it out");
}

#[test]
fn an_endpoint_is_shown_short() {
    assert_eq!(uri("nbd://h:10809/x").endpoint().to_string(), "h");
    assert_eq!(uri("nbd://[::1]:7/x").endpoint().to_string(), "[::1]:7");
    assert_eq!(uri("nbd+unix:///x?socket=/s").endpoint().to_string(), "unix:/s");
}

proptest! {
    #[test]
    fn a_tcp_uri_survives_being_printed(name in "\\PC{0,40}", address: [u8; 16], v4: bool, port in 1u16..) {
        let ip = if v4 { IpAddr::from([address[0], address[1], address[2], address[3]]) } else { Ipv6Addr::from(address).into() };
        let uri = NbdUri::tcp(SocketAddr::new(ip, port), ExportName::new(&name).unwrap());
        prop_assert_eq!(uri.to_string().parse::<NbdUri>(), Ok(uri));
    }

    #[test]
    fn a_unix_uri_survives_being_printed(name in ".{0,40}", path in proptest::collection::vec(1u8.., 1..=107)) {
        // Abstract sockets and home directories, which are refused.
        prop_assume!(!matches!(path.first(), Some(b'@' | b'~')));
        let name = ExportName::new(&name.replace('\0', "")).unwrap();
        let uri = NbdUri::unix(OsString::from_vec(path).into(), name).unwrap();
        prop_assert_eq!(uri.to_string().parse::<NbdUri>(), Ok(uri));
    }

    #[test]
    fn a_zone_survives_being_printed(low: [u8; 8], zone in "[!-$&-.0-9;-Z^-~]{1,15}", port in 1u16..) {
        let low = low.iter().fold(0, |n, byte| n << 8 | u128::from(*byte));
        let host = Host::Zoned(Ipv6Addr::from_bits(0xfe80 << 112 | low), zone);
        let uri = NbdUri::new(tcp(host, port), ExportName::new("x").unwrap(), None);
        prop_assert_eq!(uri.to_string().parse::<NbdUri>(), Ok(uri));
    }

    #[test]
    fn a_named_host_survives_being_printed(host in "[a-z0-9_.-]{1,20}", port in 1u16..) {
        let uri = uri(&format!("nbd://{host}:{port}/x"));
        prop_assert_eq!(uri.to_string().parse::<NbdUri>(), Ok(uri));
    }

    #[test]
    fn what_is_said_about_tls_survives_being_printed(
        unix: bool,
        directory in proptest::option::of(proptest::collection::vec(1u8.., 1..=40)),
        hostname in proptest::option::of("[a-z0-9_.-]{1,20}|::1"),
        verify_peer: bool,
    ) {
        // A home directory, which is refused.
        prop_assume!(directory.as_ref().is_none_or(|bytes| bytes.first() != Some(&b'~')));
        let mut uri = uri(if unix { "nbds+unix:///a?socket=%2Fs" } else { "nbds://h/a" });
        let certificates = directory.map(|bytes| OsString::from_vec(bytes).into());
        *uri.tls_mut().unwrap() = UriTls { certificates, hostname, verify_peer };
        prop_assert_eq!(uri.to_string().parse::<NbdUri>(), Ok(uri));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "(nbds?(\\+unix)?://)?[a-z0-9\\[\\]:@%/?=&#äé]{0,40}") {
        let _ = text.parse::<NbdUri>();
    }
}
