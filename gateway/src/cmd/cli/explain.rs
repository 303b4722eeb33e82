//! The command line of `explain`: whom and what it is asked about.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use nbd_gateway_policy::access::{Dn, San, Verb};

/// Whom and what to ask about.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Explain {
    /// The configuration file; without it, the configuration that `serve` has without one
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What is known of the client: dn=NAME, san=KIND:NAME, address=IP, uid=NUMBER, gid=NUMBER or listener=ADDRESS; can be
    /// given several times. What is not given is not known, and fits nothing
    #[arg(long = "as", value_name = "WHAT=VALUE")]
    pub client: Vec<Known>,
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
    /// The export, by the name that clients use
    #[arg(value_name = "EXPORT")]
    pub export: String,
    /// list, read, write, trim, resize or shrink
    #[arg(value_name = "VERB")]
    pub verb: Verb,
}

/// One thing that is known of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Its certificate's subject.
    Dn(Dn),
    /// An alternative name in its certificate.
    San(San),
    /// Its address.
    Address(IpAddr),
    /// The user that it runs as.
    Uid(u32),
    /// Its primary group.
    Gid(u32),
    /// The listener that it came by.
    Listener(String),
}

/// Why a word says nothing of a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnknownFact(String);

impl FromStr for Known {
    type Err = UnknownFact;

    fn from_str(text: &str) -> Result<Self, UnknownFact> {
        let forms = "write dn=NAME, san=KIND:NAME, address=IP, uid=NUMBER, gid=NUMBER or listener=ADDRESS";
        let (what, value) =
            text.split_once('=').ok_or_else(|| UnknownFact(format!("`{text}` says nothing of a client: {forms}")))?;
        let number = || value.parse().map_err(|_| UnknownFact(format!("`{value}` is no number of a user or group")));
        match what {
            "dn" => value.parse().map(Self::Dn).map_err(|fault| UnknownFact(fault.to_string())),
            "san" => value.parse().map(Self::San).map_err(|fault| UnknownFact(fault.to_string())),
            "address" => {
                value.parse().map(Self::Address).map_err(|_| UnknownFact(format!("`{value}` is no IP address")))
            }
            "uid" => number().map(Self::Uid),
            "gid" => number().map(Self::Gid),
            "listener" => Ok(Self::Listener(value.to_owned())),
            _ => Err(UnknownFact(format!("`{what}` is nothing that is known of a client: {forms}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_that_can_be_known_is_read() {
        for (text, known) in [
            ("dn=CN=blue-1,O=Acme", Known::Dn("CN=blue-1,O=Acme".parse().unwrap())),
            ("san=dns:a", Known::San(San::dns("a"))),
            ("address=::1", Known::Address("::1".parse().unwrap())),
            ("uid=1000", Known::Uid(1000)),
            ("gid=0", Known::Gid(0)),
            ("listener=unix:/a=b", Known::Listener("unix:/a=b".into())),
        ] {
            assert_eq!(text.parse(), Ok(known), "{text}");
        }
        for (text, why) in [
            ("root", "`root` says nothing of a client: write dn="),
            ("user=1", "`user` is nothing that is known of a client: write dn="),
            ("uid=-1", "`-1` is no number of a user or group"),
            ("address=h", "`h` is no IP address"),
            ("dn=blue", "`blue` is no kind of attribute"),
            ("san=a", "`a` does not say what kind of name it is"),
        ] {
            let fault = text.parse::<Known>().unwrap_err().to_string();
            assert!(fault.starts_with(why), "{fault}");
        }
    }
}
