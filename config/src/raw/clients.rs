//! The shape of an entry of a tenant's `clients`.

use nbd_gateway_policy::access::Verb;
use schemars::JsonSchema;
use serde::Deserialize;

use super::word::Word;

/// Some clients, and what they may do. All that is said about a client has to be true of it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawClient {
    /// The subject of the client's certificate, as RFC 4514 writes it. A `*` stands for any characters of one value. For
    /// each kind of attribute that is named, the subject has to have as many, in this order, each fitting as a whole;
    /// kinds that are not named do not matter. Kinds are compared without case, values with it.
    #[schemars(extend("examples" = ["CN=blue-*,O=Example"]))]
    pub(crate) dn: Option<String>,
    /// An alternative name in the client's certificate, of which one has to fit: `dns:`, `ip:`, `uri:` or `email:`, and a
    /// text in which `*` stands for any characters of a label of a host's name, of a part of a URI (at its end: for all
    /// that follows), or of a mail address up to its `@`. After `ip:` a network can stand.
    #[schemars(extend("examples" = ["dns:*.blue.example", "uri:spiffe://example/blue/*", "ip:10.1.0.0/16"]))]
    pub(crate) san: Option<String>,
    /// The client's address, or the network that it is in. An IPv4 client is the same host over an IPv6 listener.
    #[schemars(extend("examples" = ["10.1.0.0/16", "2001:db8::/32", "10.1.2.3"]))]
    pub(crate) address: Option<String>,
    /// The user, by number, that the client's process ran as when it connected to a Unix socket.
    #[schemars(range(min = 0, max = 4_294_967_294_u32), extend("examples" = [1000]))]
    pub(crate) uid: Option<i64>,
    /// The primary group of that process, by number.
    #[schemars(range(min = 0, max = 4_294_967_294_u32), extend("examples" = [1000]))]
    pub(crate) gid: Option<i64>,
    /// The listener that the client came by: its `address`.
    #[schemars(extend("examples" = ["unix:/run/nbd-gateway.sock"]))]
    pub(crate) listener: Option<String>,
    /// The tenant's exports that this is about, by name; a `*` stands for any characters. Default: all of them.
    #[schemars(extend("examples" = [["vm1", "images/*"]]))]
    pub(crate) exports: Option<Vec<String>>,
    /// What these clients may do. `read` needs `list`, `write` needs `read`, `trim` and `resize` need `write`, `shrink`
    /// needs `resize`. An empty list refuses them. Default: everything.
    #[schemars(extend("examples" = [["list", "read"]]))]
    pub(crate) verbs: Option<Vec<Word<Verb>>>,
}
