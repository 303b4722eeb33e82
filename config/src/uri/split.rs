//! Takes an URI apart into raw parts, escapes untouched, so that a template can put names in after the parts are known:
//! what a client calls an export can then never become a host, a path or a parameter.

use std::net::IpAddr;

use super::{DEFAULT_PORT, Host, UriError, UriTls, can_be_zoned, decode};

/// An URI taken apart. The export and the socket are still percent-encoded, and not yet checked; of TLS all is.
pub(crate) struct Parts<'a> {
    /// The path without its first `/`.
    pub(crate) export: &'a str,
    /// Where the server listens.
    pub(crate) place: Place<'a>,
    /// What is said about TLS, if it is asked for.
    pub(crate) tls: Option<UriTls>,
}

/// Where the server listens.
pub(crate) enum Place<'a> {
    /// TCP, checked.
    Tcp {
        /// A name or an address.
        host: Host,
        /// 1 to 65535.
        port: u16,
    },
    /// A Unix socket.
    Unix {
        /// The value of `socket`, still percent-encoded.
        socket: &'a str,
    },
}

impl<'a> Parts<'a> {
    /// Takes `text` apart, or says what is wrong with it.
    pub(crate) fn split(text: &'a str) -> Result<Self, UriError> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| UriError::NoScheme(text.to_owned()))?;
        // RFC 3986, 3.1: schemes have no case.
        let (unix, tls) = match scheme.to_ascii_lowercase().as_str() {
            "nbd" => (false, false),
            "nbds" => (false, true),
            "nbd+unix" => (true, false),
            "nbds+unix" => (true, true),
            _ => return Err(UriError::Scheme(scheme.to_owned())),
        };
        if rest.contains('#') {
            return Err(UriError::Fragment);
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, export) = rest.split_once('/').unwrap_or((rest, ""));
        if let Some((user, _)) = authority.split_once('@') {
            return Err(UriError::User(user.to_owned()));
        }
        let (socket, tls) = parameters(query, tls)?;
        let place = match (unix, socket) {
            (true, _) if !authority.is_empty() => return Err(UriError::HostOfUnix(authority.to_owned())),
            (true, None) => return Err(UriError::NoSocket),
            (true, Some(socket)) => Place::Unix { socket },
            (false, Some(_)) => return Err(UriError::SocketOfTcp),
            (false, None) => {
                let (host, port) = host_and_port(authority)?;
                Place::Tcp { host, port }
            }
        };
        Ok(Self { export, place, tls })
    }
}

/// The value of `socket`, and what is said about TLS if that is `asked` for.
fn parameters(query: &str, asked: bool) -> Result<(Option<&str>, Option<UriTls>), UriError> {
    let (mut socket, mut tls, mut seen) = (None, asked.then(UriTls::default), Vec::new());
    for parameter in query.split(['&', ';']).filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if seen.contains(&key) {
            return Err(UriError::Twice(key.to_owned()));
        }
        seen.push(key);
        match (key, &mut tls) {
            ("socket", _) => socket = Some(value),
            (key, Some(tls)) if key.starts_with("tls-") => tls.take(key, value)?,
            (key, None) if key.starts_with("tls-") => return Err(UriError::TlsParameter(key.to_owned())),
            (other, _) => return Err(UriError::Parameter(other.to_owned())),
        }
    }
    Ok((socket, tls))
}

fn host_and_port(authority: &str) -> Result<(Host, u16), UriError> {
    let bad_host = || UriError::Host(authority.to_owned());
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or_else(bad_host)?;
        let host = match address.split_once('%') {
            Some((address, zone)) => zoned(address, zone).ok_or_else(|| UriError::Zone(authority.to_owned()))?,
            None => Host::Address(IpAddr::V6(address.parse().map_err(|_| bad_host())?)),
        };
        let port = if after.is_empty() { Some("") } else { after.strip_prefix(':') };
        (host, port.ok_or_else(bad_host)?)
    } else {
        let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
        if port.contains(':') {
            return Err(bad_host()); // an IPv6 address without its brackets
        }
        (name_or_ipv4(host)?, port)
    };
    // RFC 3986, 3.2.3: an empty port is the default one.
    let number = if port.is_empty() { Some(DEFAULT_PORT) } else { digits(port) };
    Ok((host, number.ok_or_else(|| UriError::Port(port.to_owned()))?))
}

/// RFC 6874, 2: what follows the address's `%` begins with the `25` that makes it one.
fn zoned(address: &str, zone: &str) -> Option<Host> {
    let (address, zone) = (address.parse().ok()?, decode(zone.strip_prefix("25")?).ok()?);
    can_be_zoned(address, &zone).then_some(Host::Zoned(address, zone))
}

fn digits(port: &str) -> Option<u16> {
    let plain = port.bytes().all(|byte| byte.is_ascii_digit());
    port.parse().ok().filter(|number| plain && *number != 0)
}

/// Whether it can be the name of a host.
pub(super) fn is_host(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=253).contains(&name.len()) && name.bytes().all(legal)
}

fn name_or_ipv4(host: &str) -> Result<Host, UriError> {
    if host.is_empty() {
        Err(UriError::NoHost)
    } else if let Ok(address) = host.parse::<IpAddr>() {
        Ok(Host::Address(address))
    } else if is_host(host) {
        Ok(Host::Name(host.to_owned()))
    } else {
        Err(UriError::Host(host.to_owned()))
    }
}
