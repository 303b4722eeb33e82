//! Exports whose backend is the gateway itself, and that lead back to themselves: opening one would open another, and so on.
//!
//! Only what the configuration shows is found: a listener's own address, not a name that is resolved to it, nor a way that
//! leads through another server. What is not found here is bounded when it is opened.

use std::net::{IpAddr, SocketAddr};

use crate::problem::Report;
use crate::uri::{Endpoint, Host, NbdUri};

use super::address::ListenAddress;
use super::backend::Backend;
use super::export::Exports;
use super::tls::Listener;

/// An export that leads through more of this gateway's own exports than this leads nowhere.
const HOPS: usize = 8;

/// Notes them; `names` has one name for each entry, and for a template one that fits it.
pub(super) fn note(names: &[(usize, String)], exports: &Exports, listeners: &[Listener], report: &mut Report) {
    for (index, name) in names {
        if let Some(listener) = leads_round(name, exports, listeners) {
            let what = format!(
                "this leads back to the export itself, over the listener `{listener}` of this gateway: opening it would \
                 open it again, without end; name the server that has the disk"
            );
            report.note_with(&format!("export[{index}].backend"), what, None);
        }
    }
}

/// The listener by which an export leads to itself, if it does.
fn leads_round<'a>(name: &str, exports: &Exports, listeners: &'a [Listener]) -> Option<&'a ListenAddress> {
    let mut name = name.to_owned();
    let mut by = None;
    for _ in 0..=HOPS {
        let Ok(export) = exports.resolve(&name) else { return None };
        let Backend::Nbd(uri) = &export.backend else { return None };
        by = Some(&listeners.iter().find(|listener| is_at(uri, &listener.address))?.address);
        name = uri.export().as_str().to_owned();
    }
    by
}

/// Whether a server's address is that of a listener on this host.
fn is_at(uri: &NbdUri, listener: &ListenAddress) -> bool {
    match (uri.endpoint(), listener) {
        (Endpoint::Unix(path), ListenAddress::Unix(own)) => path.components().eq(own.components()),
        (Endpoint::Tcp { host, port }, ListenAddress::Tcp(own)) => *port == own.port() && reaches(host, *own),
        (Endpoint::Tcp { host: Host::Zoned(to, by), port: at }, ListenAddress::Zoned { address, zone, port }) => {
            (to, by, at) == (address, zone, port)
        }
        _ => false,
    }
}

fn reaches(host: &Host, own: SocketAddr) -> bool {
    let own = own.ip().to_canonical();
    match host {
        Host::Name(name) => {
            let local = name.eq_ignore_ascii_case("localhost") || name.eq_ignore_ascii_case("localhost.");
            local && (own.is_loopback() || own.is_unspecified())
        }
        // Whether a name is that of the number is known when it is bound.
        Host::Zoned(..) => false,
        Host::Address(address) => {
            let address = address.to_canonical();
            // Connecting to the unspecified address connects to this host.
            let here = |address: IpAddr| address.is_loopback() || address.is_unspecified();
            address == own || here(address) && own.is_unspecified() || address.is_unspecified() && here(own)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::Config;

    fn problems(listener: &str, exports: &[(&str, &str)]) -> Vec<String> {
        let mut text = format!("[admin]\naddress = \"off\"\n[[listener]]\naddress = \"{listener}\"\n");
        for (name, backend) in exports {
            text += &format!("[[export]]\nname = \"{name}\"\nbackend = \"{backend}\"\n");
        }
        match Config::parse(&text, Path::new("config.toml")) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.to_string().lines().map(str::to_owned).collect(),
        }
    }

    #[test]
    fn a_backend_that_is_the_export_itself_is_found_by_every_address_of_the_listener() {
        for (listener, backend) in [
            ("127.0.0.1:10809", "nbd://127.0.0.1/a"),
            ("[fe80::1%eth0]:10809", "nbd://[fe80::1%25eth0]/a"),
            ("127.0.0.1:10809", "nbd://localhost/a"),
            ("0.0.0.0:10809", "nbd://127.0.0.1/a"),
            ("0.0.0.0:10809", "nbd://localhost/a"),
            ("[::]:10809", "nbd://[::1]/a"),
            ("[::]:10809", "nbd://127.0.0.1/a"),
            ("[::1]:10809", "nbd://[::1]/a"),
            ("10.0.0.1:10809", "nbd://10.0.0.1/a"),
            ("127.0.0.1:10809", "nbd://0.0.0.0/a"),
            ("unix:/run/nbd.sock", "nbd+unix:///a?socket=/run/nbd.sock"),
            ("unix:/run/nbd.sock", "nbd+unix:///a?socket=/run//./nbd.sock"),
        ] {
            let found = problems(listener, &[("a", backend)]);
            assert!(found.len() == 1 && found[0].contains("leads back"), "{listener} {backend}: {found:?}");
        }
    }

    #[test]
    fn circles_over_several_exports_and_templates_that_lead_to_longer_names_are_found() {
        let over = |name: &str| format!("nbd+unix:///{name}?socket=/run/nbd.sock");
        let found = problems("unix:/run/nbd.sock", &[("a", &over("b")), ("b", &over("a")), ("c", &over("a"))]);
        assert_eq!(found.len(), 3, "{found:?}");
        for longer in ["t/x{}", "t/{}", "t/{}x"] {
            let found = problems("unix:/run/nbd.sock", &[("t/*", &over(longer))]);
            assert_eq!(found.len(), 1, "{longer}: {found:?}");
        }
    }

    #[test]
    fn what_leads_elsewhere_in_the_end_is_nobodys_circle() {
        let over = "nbd+unix:///b?socket=/run/nbd.sock";
        assert!(problems("unix:/run/nbd.sock", &[("a", over), ("b", "nbd://10.0.0.1/b")]).is_empty());
        assert!(problems("unix:/run/nbd.sock", &[("b", "nbd+unix:///b?socket=/run/other.sock")]).is_empty());
        assert!(problems("127.0.0.1:10809", &[("a", "nbd://127.0.0.1:10810/a"), ("b", "nbd://10.0.0.1/b")]).is_empty());
        assert!(problems("10.0.0.1:10809", &[("a", "nbd://127.0.0.1/a")]).is_empty());
    }
}
