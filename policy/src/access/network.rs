//! Addresses of hosts and networks. IPv4 inside IPv6 is IPv4.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network, or one host: `10.1.0.0/16`, `2001:db8::/32`, `10.1.2.3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    /// How many leading bits are the network's.
    bits: u8,
}

/// Why a text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkFault {
    /// Not an address, or not with a length.
    #[error("`{0}` is no address and no network: write 10.1.2.3, 10.1.0.0/16 or 2001:db8::/32")]
    Form(String),
    /// More bits than the address has.
    #[error("a network of {bits} bits: there are {most}")]
    Bits {
        /// How many were written.
        bits: u8,
        /// How many there are.
        most: u8,
    },
    /// Bits of the host are set: it is not clear what is meant.
    #[error(
        "`{text}` has bits set beyond its length: write {network} for the network, or leave the length out for one host"
    )]
    Host {
        /// As written.
        text: String,
        /// The network that it is in.
        network: Network,
    },
}

impl Network {
    /// Whether the host is in it. An IPv4 host is in IPv4 networks only, however its address is written.
    #[must_use]
    pub fn holds(&self, host: IpAddr) -> bool {
        match (self.base, host.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(host)) => {
                first(base.to_bits().into(), self.bits + 96) == first(host.to_bits().into(), self.bits + 96)
            }
            (IpAddr::V6(base), IpAddr::V6(host)) => {
                first(base.to_bits(), self.bits) == first(host.to_bits(), self.bits)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    const fn most(&self) -> u8 {
        match self.base {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        }
    }
}

/// The first `bits` of 128.
fn first(address: u128, bits: u8) -> u128 {
    let rest = 128_u32.saturating_sub(bits.into());
    address.checked_shr(rest).unwrap_or(0)
}

impl FromStr for Network {
    type Err = NetworkFault;

    fn from_str(text: &str) -> Result<Self, NetworkFault> {
        let form = || NetworkFault::Form(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => {
                // `+8` and `08` are numbers to Rust.
                let plain = bits == "0" || (bits.bytes().all(|b| b.is_ascii_digit()) && !bits.starts_with('0'));
                (address, Some(bits.parse::<u8>().ok().filter(|_| plain).ok_or_else(form)?))
            }
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| form())?;
        let most = Self { base: address, bits: 0 }.most();
        let bits = bits.unwrap_or(most);
        if bits > most {
            return Err(NetworkFault::Bits { bits, most });
        }
        let base = match address {
            IpAddr::V4(v4) => {
                IpAddr::V4(Ipv4Addr::from_bits(kept(v4.to_bits().into(), bits + 96).try_into().unwrap_or(0)))
            }
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(kept(v6.to_bits(), bits))),
        };
        // ::ffff:10.1.0.0/112 is 10.1.0.0/16; a shorter prefix holds more than IPv4 and stays what it is.
        let network = match (base, base.to_canonical()) {
            (IpAddr::V6(_), v4 @ IpAddr::V4(_)) if bits >= 96 => Self { base: v4, bits: bits - 96 },
            _ => Self { base, bits },
        };
        if base == address { Ok(network) } else { Err(NetworkFault::Host { text: text.to_owned(), network }) }
    }
}

/// The address with nothing after its first `bits`.
fn kept(address: u128, bits: u8) -> u128 {
    let rest = 128_u32.saturating_sub(bits.into());
    first(address, bits).checked_shl(rest).unwrap_or(0)
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bits == self.most() { write!(f, "{}", self.base) } else { write!(f, "{}/{}", self.base, self.bits) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap_or_else(|fault| panic!("{text}: {fault}"))
    }

    #[test]
    fn a_network_holds_its_hosts_and_no_others() {
        for (text, inside, outside) in [
            (
                "10.1.0.0/16",
                &["10.1.0.0", "10.1.255.255", "::ffff:10.1.2.3"][..],
                &["10.2.0.0", "::10.1.2.3", "::1"][..],
            ),
            ("10.1.2.3", &["10.1.2.3", "::ffff:10.1.2.3"], &["10.1.2.4"]),
            ("10.1.2.3/32", &["10.1.2.3"], &["10.1.2.2"]),
            ("0.0.0.0/0", &["0.0.0.0", "255.255.255.255", "::ffff:1.2.3.4"], &["::", "::1", "2001:db8::1"]),
            ("::/0", &["::", "::1", "ffff::"], &["1.2.3.4", "::ffff:1.2.3.4"]),
            ("2001:db8::/33", &["2001:db8:7fff::1"], &["2001:db8:8000::1"]),
            ("::1", &["::1"], &["::2", "127.0.0.1"]),
            ("::ffff:10.1.0.0/112", &["10.1.2.3", "::ffff:10.1.2.3"], &["10.2.0.0"]),
            ("::ffff:10.1.2.3", &["10.1.2.3"], &["10.1.2.2"]),
        ] {
            for host in inside {
                assert!(network(text).holds(host.parse().unwrap()), "{text} {host}");
            }
            for host in outside {
                assert!(!network(text).holds(host.parse().unwrap()), "{text} {host}");
            }
        }
        assert_eq!(network("::ffff:10.1.0.0/112").to_string(), "10.1.0.0/16");
    }

    #[test]
    fn what_could_be_meant_otherwise_is_refused() {
        for (text, why) in [
            ("10.1.0.0/33", "a network of 33 bits: there are 32"),
            ("::/129", "a network of 129 bits: there are 128"),
            (
                "10.1.2.3/16",
                "`10.1.2.3/16` has bits set beyond its length: write 10.1.0.0/16 for the network, or leave the length out for one host",
            ),
        ] {
            assert_eq!(text.parse::<Network>().unwrap_err().to_string(), why);
        }
        for text in [
            "",
            "10.1",
            "10.1.0.0/",
            "10.1.0.0/+8",
            "10.1.0.0/08",
            "10.1.0.0/256",
            "10.01.0.0",
            "host",
            "fe80::1%eth0",
            "10.1.*",
            " ::1",
        ] {
            assert_eq!(text.parse::<Network>(), Err(NetworkFault::Form(text.to_owned())), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_network_is_read_back_and_agrees_with_a_count_of_common_bits(a: u128, flip in 0u32..128, bits in 0u8..=128) {
            let base = Ipv6Addr::from_bits(kept(a, bits));
            prop_assume!(base.to_ipv4_mapped().is_none());
            let net = network(&format!("{base}/{bits}"));
            prop_assert_eq!(network(&net.to_string()), net);
            let host = Ipv6Addr::from_bits(base.to_bits() ^ (1 << (127 - flip)));
            prop_assume!(host.to_ipv4_mapped().is_none());
            prop_assert_eq!(net.holds(host.into()), flip >= u32::from(bits));
        }

        #[test]
        fn an_ipv4_host_is_the_same_in_both_forms(a: u32, b: u32, bits in 0u8..=32) {
            let base = Ipv4Addr::from_bits(u32::try_from(kept(a.into(), bits + 96)).unwrap());
            let (plain, mapped) = (network(&format!("{base}/{bits}")), network(&format!("{}/{}", base.to_ipv6_mapped(), bits + 96)));
            prop_assert_eq!(plain, mapped);
            for host in [Ipv4Addr::from_bits(b), base] {
                prop_assert_eq!(plain.holds(host.into()), plain.holds(host.to_ipv6_mapped().into()));
            }
            prop_assert!(plain.holds(base.into()));
        }
    }
}
