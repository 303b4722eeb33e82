//! Who may use a tenant's exports: the entries of `clients`, as `policy` takes them.

use nbd_gateway_policy::access::{Condition, Entry, Glob, Verb, Verbs};

use crate::problem::nearest;
use crate::raw::RawListener;
use crate::raw::clients::RawClient;
use crate::raw::word::Word;

use super::address::ListenAddress;
use super::section::Section;

/// The listeners as they are written, whatever their problems: an entry that names one of these is not to blame.
pub(super) struct Listeners(Vec<String>);

impl Listeners {
    pub(super) fn written(raw: Option<&[RawListener]>) -> Self {
        let written = raw.unwrap_or_default().iter().filter_map(|listener| listener.address.as_deref());
        // By the name that a listener has everywhere else, so that `[::0]:1` is `[::]:1`.
        Self(written.map(|text| ListenAddress::read(text).map_or(text.to_owned(), |a| a.to_string())).collect())
    }
}

/// Reads every entry.
pub(super) fn read(raw: Vec<RawClient>, listeners: &Listeners, section: &mut Section<'_>) -> Vec<Entry> {
    raw.into_iter().enumerate().map(|(index, raw)| entry(raw, listeners, section.entry("clients", index))).collect()
}

/// One entry, without what is wrong with it.
fn entry(raw: RawClient, listeners: &Listeners, mut section: Section<'_>) -> Entry {
    let RawClient { dn, san, address, uid, gid, listener, exports, verbs } = raw;
    let local = uid.is_some() || gid.is_some();
    let remote = address.is_some();
    let nobody = "no client is both: uid and gid are known over Unix sockets, address over TCP";
    if local && remote {
        section.note("address", nobody);
    }
    let mut conditions = Vec::new();
    conditions.extend(dn.and_then(|text| section.accept("dn", text.parse())).map(Condition::Dn));
    conditions.extend(san.and_then(|text| section.accept("san", text.parse())).map(Condition::San));
    conditions.extend(address.and_then(|text| section.accept("address", text.parse())).map(Condition::Address));
    conditions.extend(number("uid", uid, &mut section).map(Condition::Uid));
    conditions.extend(number("gid", gid, &mut section).map(Condition::Gid));
    if let Some(text) = listener
        && let Some(address) = section.accept("listener", ListenAddress::read(&text))
    {
        let label = address.to_string();
        if !listeners.0.contains(&label) {
            let meant = nearest(&label, listeners.0.iter().map(String::as_str));
            let meant = meant.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
            section.note_with("listener", format_args!("there is no listener `{text}`{meant}"), None);
        }
        match address {
            ListenAddress::Tcp(_) | ListenAddress::Zoned { .. } if local => section.note("listener", nobody),
            ListenAddress::Unix(_) if remote => section.note("listener", nobody),
            ListenAddress::Tcp(_)
            | ListenAddress::Zoned { .. }
            | ListenAddress::Unix(_)
            | ListenAddress::Systemd(_) => {}
        }
        conditions.push(Condition::Listener(label));
    }
    if conditions.is_empty() && verbs.is_none() && section.is_clean() {
        let what = "this lets everyone do everything: say who is meant, or what everyone may do";
        section.note_here(what, "verbs = [\"list\", \"read\"]");
    }
    Entry {
        path: section.path().to_owned(),
        line: section.line(),
        conditions,
        exports: exports.map(|names| names.iter().map(|name| Glob::new(name)).collect()),
        verbs: verbs.map_or(Verbs::ALL, |words| granted(&words, &mut section)),
    }
}

fn granted(words: &[Word<Verb>], section: &mut Section<'_>) -> Verbs {
    let verbs: Verbs = words.iter().map(|word| word.0).collect();
    if let Some((useless, missing)) = verbs.useless() {
        section.note("verbs", format_args!("`{useless}` is of no use without `{missing}`: add it"));
    }
    verbs
}

/// The number of a user or group; the largest of 32 bits is nobody's.
fn number(key: &str, value: Option<i64>, section: &mut Section<'_>) -> Option<u32> {
    section.count(key, value, 0..=u32::MAX - 1)
}
