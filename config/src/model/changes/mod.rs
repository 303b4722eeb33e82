//! What differs between two configurations, in the words of the file: one line for each thing that was added, removed or
//! changed, with its keys and their values before and after.
//!
//! Owns what counts as the same thing: a listener is its address, a tenant or an export its name. Where an entry stands in
//! the file is no difference. A value that may hold a secret (a command, a URL that is posted to) is never told, only that
//! it differs. A bound that an export or tenant has from above is told once, there. Decides nothing about what follows from
//! a difference, but for which no running gateway can follow.

mod facts;
mod words;

use std::collections::{HashMap, HashSet};
use std::fmt;

use nbd_gateway_policy::types::TenantId;

use facts::{Fact, Facts};

use super::Config;
use super::export::Entry;

/// All differences, the process's first, then listeners, tenants and exports; in the order of the new file, removed ones
/// last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes(Vec<Change>);

/// One thing that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// What it is.
    pub what: Thing,
    /// How it differs.
    pub how: How,
}

/// A thing of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thing {
    /// `state`.
    State,
    /// `[admin]`.
    Admin,
    /// `[limits]`.
    Limits,
    /// `[log]`.
    Log,
    /// `[runtime]`.
    Runtime,
    /// A `[[listener]]`, by its address.
    Listener(String),
    /// A `[[tenant]]`, by its name.
    Tenant(TenantId),
    /// An `[[export]]`, by its name; with its `*` if it is a template.
    Export(String),
}

/// How a thing differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// Only the new configuration has it.
    Added,
    /// Only the old one has it.
    Removed,
    /// Both have it, and these keys of it differ; at least one.
    Changed(Vec<KeyChange>),
}

/// A key whose value differs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyChange {
    /// The key inside its thing, like `resize.step`.
    pub key: String,
    /// What it was; None: there was none.
    pub old: Option<String>,
    /// What it is; None: there is none.
    pub new: Option<String>,
    /// The values may be secrets: they are not told by [`Display`](fmt::Display), and not to be told otherwise.
    pub secret: bool,
}

impl Changes {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Change> {
        self.0.iter()
    }

    /// The differences that only a restart can bring into force, each in words: the state directory, the number of
    /// threads, the address of the admin interface, the form of the log's lines, the backlog of listening sockets.
    pub fn by_restart_only(&self) -> impl Iterator<Item = String> {
        let fixed = |what: &Thing, key: &str| match what {
            Thing::State | Thing::Runtime => true,
            Thing::Admin => key == "address",
            Thing::Log => matches!(key, "format" | "otlp"),
            Thing::Limits => key == "listen-backlog",
            Thing::Listener(_) | Thing::Tenant(_) | Thing::Export(_) => false,
        };
        self.0.iter().flat_map(move |Change { what, how }| {
            let keys = if let How::Changed(keys) = how { keys.as_slice() } else { &[] };
            keys.iter().filter(move |key| fixed(what, &key.key)).map(move |key| format!("{what}: {key}"))
        })
    }
}

/// One line, like `export vm1: max-size 200GiB -> 300GiB`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.how {
            How::Added => write!(f, "{} added", self.what),
            How::Removed => write!(f, "{} removed", self.what),
            How::Changed(keys) => {
                for (at, key) in keys.iter().enumerate() {
                    if at == 0 {
                        write!(f, "{}: {key}", self.what)?;
                    } else {
                        write!(f, ", {key}")?;
                    }
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State => f.write_str("the gateway"),
            Self::Admin => f.write_str("[admin]"),
            Self::Limits => f.write_str("[limits]"),
            Self::Log => f.write_str("[log]"),
            Self::Runtime => f.write_str("[runtime]"),
            Self::Listener(address) => write!(f, "listener {}", words::plain(address)),
            Self::Tenant(name) => write!(f, "tenant {name}"),
            Self::Export(name) => write!(f, "export {}", words::plain(name)),
        }
    }
}

/// `max-size 200GiB -> 300GiB`; of a secret, whether there is one.
impl fmt::Display for KeyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.old, &self.new, self.secret) {
            (None, _, true) => write!(f, "{} added", self.key),
            (_, None, true) => write!(f, "{} removed", self.key),
            (_, _, true) => write!(f, "{} changed", self.key),
            (old, new, false) => {
                let said = |value: &Option<String>| value.as_deref().unwrap_or("none").to_owned();
                write!(f, "{} {} -> {}", self.key, said(old), said(new))
            }
        }
    }
}

impl Config {
    /// What would differ if `new` took this one's place.
    pub fn changes_to(&self, new: &Self) -> Changes {
        let mut list = Vec::new();
        let limits = differing(facts::global, &self.limits, &new.limits);
        for (what, keys) in [
            (Thing::State, differing(facts::state, self, new)),
            (Thing::Admin, differing(facts::admin, self, new)),
            (Thing::Limits, limits.clone()),
            (Thing::Log, differing(facts::log, &self.log, &new.log)),
            (Thing::Runtime, differing(facts::runtime, self, new)),
        ] {
            list.extend(changed(what, keys));
        }
        listeners(self, new, &mut list);
        let above = tenants(self, new, &limits, &mut list);
        exports(self, new, &above, &mut list);
        Changes(list)
    }
}

fn changed(what: Thing, keys: Vec<KeyChange>) -> Option<Change> {
    (!keys.is_empty()).then_some(Change { what, how: How::Changed(keys) })
}

/// Port 0 can stand several times: the first of the one file is the first of the other.
fn listeners(old: &Config, new: &Config, list: &mut Vec<Change>) {
    let mut left: Vec<_> = old.listeners.iter().collect();
    for listener in &new.listeners {
        let what = Thing::Listener(listener.to_string());
        match left.iter().position(|known| known.address == listener.address) {
            None => list.push(Change { what, how: How::Added }),
            Some(at) => {
                let known = left.remove(at);
                list.extend(changed(what, differing(facts::listener, known, listener)));
            }
        }
    }
    let gone = |listener: &super::Listener| Thing::Listener(listener.to_string());
    list.extend(left.into_iter().map(|listener| Change { what: gone(listener), how: How::Removed }));
}

/// Answers which bounds of each tenant differ, whether told or not.
fn tenants<'a>(
    old: &Config,
    new: &'a Config,
    above: &[KeyChange],
    list: &mut Vec<Change>,
) -> HashMap<&'a TenantId, Vec<KeyChange>> {
    let mut bounds = HashMap::new();
    for tenant in new.tenants() {
        let what = Thing::Tenant(tenant.id.clone());
        let Some(known) = old.tenant(tenant.id.as_str()) else {
            list.push(Change { what, how: How::Added });
            continue;
        };
        let of = |(config, tenant): &(&Config, &super::Tenant), facts: &mut Facts| {
            facts::tenant(tenant, config.access().of(&known.id), facts);
        };
        let mut keys = differing(of, &(old, known), &(new, tenant));
        bounds.insert(&tenant.id, keys.iter().filter(|key| key.key.starts_with("limits.")).cloned().collect());
        keys.retain(|key| !is_from_above(key, "limits.", above));
        list.extend(changed(what, keys));
    }
    let gone = old.tenants().iter().filter(|tenant| new.tenant(tenant.id.as_str()).is_none());
    list.extend(gone.map(|tenant| Change { what: Thing::Tenant(tenant.id.clone()), how: How::Removed }));
    bounds
}

fn exports(old: &Config, new: &Config, above: &HashMap<&TenantId, Vec<KeyChange>>, list: &mut Vec<Change>) {
    let known: HashMap<&str, &Entry> = old.exports.entries().collect();
    let mut there = HashSet::new();
    for (name, entry) in new.exports.entries() {
        there.insert(name);
        let before = known.get(name);
        // Most are the same, and there may be ten thousand.
        if before.is_some_and(|before| *before == entry) {
            continue;
        }
        let what = Thing::Export(name.to_owned());
        let Some(&before) = before else {
            list.push(Change { what, how: How::Added });
            continue;
        };
        let mut keys = differing(facts::export, before, entry);
        if before.tenant == entry.tenant {
            let above = above.get(&entry.tenant).map_or(&[][..], Vec::as_slice);
            // An export's own `io` is about another thing than its tenant's.
            keys.retain(|key| key.key.starts_with("limits.io.") || !is_from_above(key, "", above));
        }
        list.extend(changed(what, keys));
    }
    let gone = old.exports.entries().filter(|(name, _)| !there.contains(name));
    list.extend(gone.map(|(name, _)| Change { what: Thing::Export(name.to_owned()), how: How::Removed }));
}

/// Whether the same bound differs in the same way above; `prefix` is what it has here before its name there.
fn is_from_above(key: &KeyChange, prefix: &str, above: &[KeyChange]) -> bool {
    let name = key.key.strip_prefix(prefix);
    above.iter().any(|other| Some(other.key.as_str()) == name && other.old == key.old && other.new == key.new)
}

/// The keys whose values are not the same, in the order of the new ones.
fn differing<T>(say: impl Fn(&T, &mut Facts), old: &T, new: &T) -> Vec<KeyChange> {
    let [Facts(mut old), Facts(new)] = [old, new].map(|told| {
        let mut facts = Facts::default();
        say(told, &mut facts);
        facts
    });
    let mut keys = Vec::new();
    for Fact { key, value, secret } in new {
        let known = old.iter().position(|fact| fact.key == key).map(|at| old.remove(at));
        let before = known.and_then(|fact| fact.value);
        if before != value {
            keys.push(KeyChange { key, old: before, new: value, secret });
        }
    }
    let gone = old.into_iter().filter(|fact| fact.value.is_some());
    keys.extend(gone.map(|Fact { key, value, secret }| KeyChange { key, old: value, new: None, secret }));
    keys
}
