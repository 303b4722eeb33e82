//! Alternative names of a certificate's subject (RFC 5280, section 4.2.1.6), and patterns for them.
//!
//! A pattern is `KIND:` and a text; a name is never compared with a pattern of another kind. Of several names one that
//! fits is enough, as each of them is a name of the whole subject.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::glob::{Glob, Stops};
use super::network::{Network, NetworkFault};

/// One alternative name: `dns:vm1.example.com`, `ip:10.1.2.3`, `uri:spiffe://example/vm1`, `email:ops@example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum San<T = String, A = IpAddr> {
    /// A host's name. Case means nothing in it.
    Dns(T),
    /// An address.
    Ip(A),
    /// A URI, compared as it is.
    Uri(T),
    /// A mail address. Case means nothing after its `@`.
    Email(T),
}

/// What a subject's alternative name has to be. In a host's name a star stands for characters of one label: `*.example.com`
/// is `a.example.com` and not `a.b.example.com`. An address is one, or a network that it has to be in. In a URI a star
/// stands for characters but `/`, `?`, `#` and `@`, at the very end for all that follows; in a mail address for characters
/// but `@`.
pub type SanPattern = San<Glob, Network>;

/// Why a text is no alternative name and no pattern for one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SanFault {
    /// It does not begin with a kind.
    #[error("`{0}` does not say what kind of name it is: begin it with dns:, ip:, uri: or email:")]
    Kind(String),
    /// Nothing follows the kind.
    #[error("nothing follows the kind in `{0}`")]
    Empty(String),
    /// What follows `ip:` is no address.
    #[error("{0}")]
    Address(NetworkFault),
}

impl San {
    /// A host's name.
    #[must_use]
    pub fn dns(name: &str) -> Self {
        Self::Dns(plain(name))
    }

    /// An address.
    #[must_use]
    pub fn ip(address: IpAddr) -> Self {
        Self::Ip(address.to_canonical())
    }

    /// A URI.
    #[must_use]
    pub fn uri(uri: &str) -> Self {
        Self::Uri(uri.to_owned())
    }

    /// A mail address.
    #[must_use]
    pub fn email(address: &str) -> Self {
        Self::Email(mail(address))
    }
}

/// A host's name as it is compared: without case, and without the dot that stands for the root.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// A mail address as it is compared.
fn mail(address: &str) -> String {
    match address.rsplit_once('@') {
        Some((user, host)) => format!("{user}@{}", host.to_ascii_lowercase()),
        None => address.to_owned(),
    }
}

/// Whether a URI has a segment that leads out of the one before it, written plainly or in percents: `.`, `..`, `%2e%2E`. The
/// names that such a URI leads to are not the ones that it begins with (RFC 3986, section 5.2.4).
fn climbs(uri: &str) -> bool {
    let dots = |segment: &str| {
        let plain = segment.to_ascii_lowercase().replace("%2e", ".");
        plain == "." || plain == ".."
    };
    let folded = uri.to_ascii_lowercase().replace("%2f", "/").replace(['\\', '?', '#'], "/").replace("%5c", "/");
    folded.split('/').any(dots)
}

/// `KIND:` and what follows it.
fn read<T, A>(
    text: &str,
    name: impl Fn(&str) -> T,
    address: impl Fn(&str) -> Result<A, NetworkFault>,
) -> Result<San<T, A>, SanFault> {
    let (kind, rest) = text.split_once(':').ok_or_else(|| SanFault::Kind(text.to_owned()))?;
    if rest.is_empty() {
        return Err(SanFault::Empty(text.to_owned()));
    }
    match kind.to_ascii_lowercase().as_str() {
        "dns" => Ok(San::Dns(name(&plain(rest)))),
        "ip" => address(rest).map(San::Ip).map_err(SanFault::Address),
        "uri" => Ok(San::Uri(name(rest))),
        "email" => Ok(San::Email(name(&mail(rest)))),
        _ => Err(SanFault::Kind(text.to_owned())),
    }
}

impl FromStr for San {
    type Err = SanFault;

    fn from_str(text: &str) -> Result<Self, SanFault> {
        let form = |text: &str| NetworkFault::Form(text.to_owned());
        let address = |text: &str| text.parse::<IpAddr>().map(|address| address.to_canonical()).map_err(|_| form(text));
        read(text, str::to_owned, address)
    }
}

impl FromStr for SanPattern {
    type Err = SanFault;

    fn from_str(text: &str) -> Result<Self, SanFault> {
        read(text, Glob::new, str::parse)
    }
}

impl SanPattern {
    /// Whether the name fits.
    #[must_use]
    pub fn matches(&self, san: &San) -> bool {
        let within = |glob: &Glob, text: &str, at, but_not_at_the_end| {
            glob.matches_within(text, Stops { at, but_not_at_the_end })
        };
        // A name that is none fits nothing, however much a star can stand for.
        match (self, san) {
            (Self::Dns(glob), San::Dns(name)) => {
                !name.split('.').any(str::is_empty) && within(glob, name, &['.'], false)
            }
            (Self::Ip(network), San::Ip(address)) => network.holds(*address),
            (Self::Uri(glob), San::Uri(uri)) => !climbs(uri) && within(glob, uri, &['/', '?', '#', '@'], true),
            (Self::Email(glob), San::Email(address)) => {
                let whole = address.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty());
                whole && within(glob, address, &['@'], false)
            }
            (Self::Dns(_) | Self::Ip(_) | Self::Uri(_) | Self::Email(_), _) => false,
        }
    }
}

impl<T: fmt::Display, A: fmt::Display> fmt::Display for San<T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "dns:{name}"),
            Self::Ip(address) => write!(f, "ip:{address}"),
            Self::Uri(uri) => write!(f, "uri:{uri}"),
            Self::Email(address) => write!(f, "email:{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_kind_is_compared_in_its_own_way() {
        for (pattern, fits, others) in [
            (
                "dns:*.blue.example",
                &["dns:vm1.blue.example", "DNS:VM1.Blue.Example", "dns:vm1.blue.example.", "dns:*.blue.example"][..],
                &[
                    "dns:blue.example",
                    "dns:.blue.example",
                    "dns:..blue.example",
                    "dns:a.vm1.blue.example",
                    "dns:xblue.example",
                    "uri:vm1.blue.example",
                ][..],
            ),
            ("dns:vm*.Blue.example", &["dns:vm1.blue.example"], &["dns:vm.x.blue.example", "email:vm1.blue.example"]),
            ("ip:10.1.0.0/16", &["ip:10.1.2.3", "ip:::ffff:10.1.2.3"], &["ip:10.2.0.0", "dns:10.1.2.3"]),
            (
                "uri:spiffe://blue/*",
                &["uri:spiffe://blue/vm/1", "uri:spiffe://blue/"],
                &[
                    "uri:spiffe://blue",
                    "uri:spiffe://Blue/vm",
                    "uri:spiffe://bluer/vm",
                    "uri:spiffe://blue/../red/vm",
                    "uri:spiffe://blue/vm/..",
                    "uri:spiffe://blue/./vm",
                    "uri:spiffe://blue/%2e%2E/red",
                    "uri:spiffe://blue/.%2e%2Fred",
                ],
            ),
            (
                "uri:https://*.blue.example/vm",
                &["uri:https://a.blue.example/vm", "uri:https://a.b.blue.example/vm"],
                &[
                    "uri:https://evil/x.blue.example/vm",
                    "uri:https://evil?.blue.example/vm",
                    "uri:https://u@.blue.example/vm",
                    "uri:https://evil#.blue.example/vm",
                ],
            ),
            (
                "email:*@Blue.example",
                &["email:ops@blue.example", "email:ops@BLUE.example"],
                &["email:@blue.example", "email:ops@red@blue.example", "email:ops@blue.example.red"],
            ),
            ("email:Ops@blue.example", &["email:Ops@blue.example"], &["email:ops@blue.example"]),
        ] {
            let pattern: SanPattern = pattern.parse().unwrap();
            assert_eq!(pattern.to_string().parse(), Ok(pattern.clone()));
            for name in fits {
                assert!(pattern.matches(&name.parse().unwrap()), "{pattern} {name}");
            }
            for name in others {
                assert!(!pattern.matches(&name.parse().unwrap()), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn a_name_says_its_kind() {
        for text in ["", "vm1.example", "host:vm1"] {
            let told =
                format!("`{text}` does not say what kind of name it is: begin it with dns:, ip:, uri: or email:");
            assert_eq!(text.parse::<San>().unwrap_err().to_string(), told);
            assert_eq!(text.parse::<SanPattern>().unwrap_err().to_string(), told);
        }
        assert_eq!("dns:".parse::<SanPattern>().unwrap_err().to_string(), "nothing follows the kind in `dns:`");
        assert!("ip:10.1.2.3/16".parse::<SanPattern>().unwrap_err().to_string().contains("bits set"));
        assert!("ip:vm1".parse::<San>().unwrap_err().to_string().contains("`vm1` is no address"));
    }

    proptest! {
        #[test]
        fn a_name_without_stars_fits_itself_and_is_read_back(kind in "dns|uri|email", rest in "[a-zA-Z0-9./@:-]{1,20}") {
            let text = format!("{kind}:{rest}");
            let san: San = text.parse().unwrap();
            let odd = match kind.as_str() {
                "dns" => rest.strip_suffix('.').unwrap_or(&rest).split('.').any(str::is_empty),
                "uri" => climbs(&rest),
                _ => rest.split_once('@').is_none_or(|(user, host)| user.is_empty() || host.is_empty()),
            };
            prop_assert!(odd || text.parse::<SanPattern>().unwrap().matches(&san));
            if let Ok(again) = san.to_string().parse::<San>() {
                prop_assert!(again == san || rest.ends_with('.'));
            }
        }
    }
}
