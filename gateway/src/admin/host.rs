//! By which name the interface may be asked, where nobody needs a token to look.
//!
//! A browser lets a page read whatever its own name leads to, and whoever owns a name can have it lead to 127.0.0.1 (DNS
//! rebinding): a stranger's page could read an operator's gateway. The browser says by which name it asks, so only names that
//! nobody can have lead elsewhere are answered. Never looks a name up.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::answer::refuse;

/// Lets a request pass that was sent to an address, to localhost, or to no name at all.
pub(super) async fn require(request: Request, next: Next) -> Response {
    match stranger(request.uri(), request.headers()) {
        None => next.run(request).await,
        Some(name) => {
            let says = format!(
                "{name:?} is not a name of this host: ask http://127.0.0.1, the address itself, or http://localhost, or send such a Host"
            );
            refuse(StatusCode::MISDIRECTED_REQUEST, says).into_response()
        }
    }
}

/// The first name that a request was sent to and that anybody could own. HTTP/1.0 need not say any.
fn stranger(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let said = headers.get_all(header::HOST).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    uri.authority().map(|authority| authority.as_str().to_owned()).into_iter().chain(said).find(|name| !is_here(name))
}

/// Whether `host`, with or without a port, is an IP address or a name below `localhost` (RFC 6761, section 6.3).
fn is_here(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => return address.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn addresses_and_localhost_are_here_and_every_other_name_could_lead_anywhere() {
        for host in ["127.0.0.1", "127.0.0.1:9809", "[::1]", "[::1]:9809", "10.0.0.5:80", "localhost", "LocalHost:9809"]
        {
            assert!(is_here(host), "{host}");
        }
        for host in ["vm.localhost:9809", "localhost.", "127.0.0.1.:80"] {
            assert!(is_here(host), "{host}");
        }
        for host in
            ["", ":9809", "evil.example", "evil.example:9809", "localhost.evil.example", "evillocalhost", "gateway"]
        {
            assert!(!is_here(host), "{host}");
        }
        // What a browser would look up, however much it looks like an address.
        for host in
            ["127.0.0.1.evil.example", "[evil.example]", "[127.0.0.1]", "localhost@evil.example", "1.2.3.4x", "[::1"]
        {
            assert!(!is_here(host), "{host}");
        }
    }

    #[test]
    fn every_name_that_a_request_says_has_to_be_one_of_this_host() {
        let said = |uri: &'static str, hosts: &[&'static str]| {
            let headers = hosts.iter().map(|host| (header::HOST, HeaderValue::from_static(host))).collect();
            stranger(&Uri::from_static(uri), &headers)
        };
        assert_eq!(said("/", &[]), None);
        assert_eq!(said("/", &["localhost:9809"]), None);
        assert_eq!(said("/", &["localhost", "evil.example"]), Some("evil.example".to_owned()));
        assert_eq!(said("http://evil.example/", &["localhost"]), Some("evil.example".to_owned()));
        let odd = HeaderMap::from_iter([(header::HOST, HeaderValue::from_bytes(b"\xfflocalhost").unwrap())]);
        assert!(stranger(&Uri::from_static("/"), &odd).is_some());
    }
}
