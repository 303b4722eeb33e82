//! Values as the file would write them.

use std::time::Duration;

use nbd_gateway_policy::access;
use nbd_gateway_policy::offer::Features;
use nbd_gateway_policy::rate::Rate;
use nbd_gateway_policy::types::Bytes;

use super::super::resize::OFFERS;
use crate::units::{Interval, Per};

/// A name among other words: in quotes where it would not look like one name.
pub(super) fn plain(name: &str) -> String {
    let fits = |c: char| c.is_alphanumeric() || "/._-+@%*:[]".contains(c);
    if !name.is_empty() && name.chars().all(fits) { name.to_owned() } else { format!("{name:?}") }
}

/// A text in quotes.
pub(super) fn text(text: impl AsRef<str>) -> String {
    format!("{:?}", text.as_ref())
}

pub(super) fn size(bytes: u64) -> String {
    Bytes(bytes).written()
}

pub(super) fn time(time: Duration) -> String {
    Interval::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)).to_string()
}

/// A rate of things, and of how many at once where that is not as many as in its time.
pub(super) fn rate(rate: Rate) -> String {
    of(rate, |amount| amount.to_string())
}

/// The same of bytes.
pub(super) fn size_rate(rate: Rate) -> String {
    of(rate, size)
}

fn of(rate: Rate, amount: impl Fn(u64) -> String) -> String {
    let per = Per::ALL.iter().find(|per| per.duration() == rate.per());
    let per = per.map_or_else(|| time(rate.per()), |per| per.to_string());
    let said = format!("{}/{per}", amount(rate.amount()));
    if rate.burst() == rate.amount() { said } else { format!("{said} ({} at once)", amount(rate.burst())) }
}

/// What is offered, but for what follows from the rest.
pub(super) fn offer(offer: Features) -> String {
    let words: Vec<&str> = OFFERS.iter().filter(|(_, _, bit)| offer.has(*bit)).map(|(_, word, _)| *word).collect();
    format!("[{}]", words.join(", "))
}

/// An entry of `clients`, wherever it stands.
pub(super) fn client(entry: &access::Entry) -> String {
    // A new field is to be told too.
    let access::Entry { path: _, line: _, conditions, exports, verbs } = entry;
    let mut parts: Vec<String> = conditions.iter().map(ToString::to_string).collect();
    if let Some(exports) = exports {
        let names: Vec<String> = exports.iter().map(|name| text(name.to_string())).collect();
        parts.push(format!("exports = [{}]", names.join(", ")));
    }
    parts.push(if *verbs == access::Verbs::NONE { "nothing".to_owned() } else { format!("may {verbs}") });
    format!("{{{}}}", parts.join(", "))
}
