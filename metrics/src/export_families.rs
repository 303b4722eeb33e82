//! The metrics of an export as one table: name, labels, type, help, and where its numbers are.

use std::fmt::{self, Display, Write as _};
use std::io::{self, Write};

use crate::exports::{Counter, Series};
use crate::labels::{Command, Direction, HookResult, HookWay, LossReason, Outcome, ResizeResult, ResizeStyle};
use crate::{PREFIX, catalogue};

/// Metrics of one name.
pub(crate) struct Family {
    /// Without the prefix.
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) help: &'static str,
    /// The first is the export's.
    pub(crate) labels: &'static [&'static str],
    /// Writes an export's lines.
    pub(crate) tell: fn(&Series, &mut Lines<'_>) -> io::Result<()>,
}

/// Where the lines of one family go.
pub(crate) struct Lines<'a> {
    to: &'a mut dyn Write,
    family: &'a Family,
    export: &'a str,
    has_lines: bool,
}

impl Family {
    /// `name{labels} type help`.
    pub(crate) fn describe(&self) -> String {
        catalogue::describe(PREFIX, self.name, &self.labels.join(","), self.kind, self.help)
    }
}

impl<'a> Lines<'a> {
    pub(crate) fn new(to: &'a mut dyn Write, family: &'a Family) -> Self {
        Self { to, family, export: "", has_lines: false }
    }

    /// Writes the lines of the export of this name.
    pub(crate) fn of(&mut self, export: &'a str, series: &Series) -> io::Result<()> {
        self.export = export;
        (self.family.tell)(series, self)
    }

    /// `values` are those of the labels after the export's.
    fn line(&mut self, values: &[&str], number: impl Display) -> io::Result<()> {
        let Family { name, kind, help, labels, .. } = self.family;
        if !std::mem::replace(&mut self.has_lines, true) {
            writeln!(self.to, "# HELP {PREFIX}_{name} {help}\n# TYPE {PREFIX}_{name} {kind}")?;
        }
        // Sorted, as the encoder of the other metrics writes them.
        let mut pairs = [("", ""); 4];
        let values = std::iter::once(&self.export).chain(values);
        let given = pairs.iter_mut().zip(labels.iter().zip(values));
        let count = given.map(|(pair, (label, value))| *pair = (label, value)).count();
        let pairs = pairs.get_mut(..count).unwrap_or_default();
        pairs.sort_unstable();
        write!(self.to, "{PREFIX}_{name}")?;
        let mut before = '{';
        for (label, value) in pairs {
            write!(self.to, "{before}{label}=\"{}\"", Value(value))?;
            before = ',';
        }
        writeln!(self.to, "}} {number}")
    }
}

/// Hands on each number of a row with its label's text.
fn row(texts: &[&str], numbers: &[Counter], mut line: impl FnMut(&str, u64) -> io::Result<()>) -> io::Result<()> {
    texts.iter().zip(numbers).try_for_each(|(text, number)| line(text, number.get()))
}

/// The same for a row of rows.
fn rows<const N: usize>(
    texts: (&[&str], &[&str]),
    numbers: &[[Counter; N]],
    mut line: impl FnMut(&str, &str, u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut rows = texts.0.iter().zip(numbers);
    rows.try_for_each(|(first, numbers)| row(texts.1, numbers, |second, number| line(first, second, number)))
}

/// The value of a label, escaped as the text format wants it.
struct Value<'a>(&'a str);

impl Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.contains(['\\', '"', '\n']) {
            return f.write_str(self.0);
        }
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str(r"\\"),
            '"' => f.write_str(r#"\""#),
            '\n' => f.write_str(r"\n"),
            c => f.write_char(c),
        })
    }
}

macro_rules! families {
    ($($kind:ident $name:literal $labels:tt $help:literal: $tell:expr;)*) => {
        &[$(Family { name: $name, kind: stringify!($kind), help: $help, labels: &$labels, tell: $tell },)*]
    };
}

/// A number of a part of the series, once somebody has asked for the part.
macro_rules! number {
    ($part:ident.$field:ident) => {
        |s, to| s.$part.get().map_or(Ok(()), |part| to.line(&[], part.$field.get()))
    };
}

/// Every metric of an export.
pub(crate) const FAMILIES: &[Family] = families! {
    counter "backend_notices_dropped_total" ["export"]
        "Size notices from the backend that a later one took the place of before they were looked at.":
        number!(growth.backend_notices_dropped);
    counter "backend_notices_total" ["export"]
        "Size notices received from the backend.":
        number!(growth.backend_notices);
    counter "backend_resize_claims_lost_total" ["export"]
        "Times that a backend claimed to resize and turned out not to; it is taken as fixed from then on.":
        number!(growth.claims_lost);
    gauge "backend_size_watched" ["export"]
        "1 while a size that another hand gives the backend would be noticed; 0 where polling is off or the backend takes one connection only.":
        number!(growth.looked_at);
    counter "bytes_total" ["export", "direction"]
        "Payload bytes of successful READs and WRITEs.":
        |s, to| {
        s.traffic.get().map_or(Ok(()), |traffic| {
            row(Direction::TEXTS, &traffic.bytes, |direction, n| to.line(&[direction], n))
        })
    };
    gauge "export_generation" ["export"]
        "Number of changes of the export's size, continued over openings and restarts.":
        number!(growth.generation);
    gauge "export_open" ["export"]
        "1 while the export is open: it has clients, or had some lately.":
        number!(traffic.open);
    counter "export_open_failures_total" ["export"]
        "Times that an export could not be opened for a client.":
        |s, to| to.line(&[], s.open_failures.get());
    gauge "export_quarantined" ["export"]
        "1 while the backend says a size that can't be, smaller than clients rely on; nothing is resized.":
        number!(growth.quarantined);
    gauge "export_size_bytes" ["export", "tenant"]
        "The size that clients are shown, in bytes.":
        |s, to| s.tenants.lock().iter().try_for_each(|(tenant, sizes)| to.line(&[tenant], sizes.size.get()));
    gauge "export_unsettled" ["export"]
        "1 while nobody knows whether the backend did what a resize asked of it; its bytes stay counted.":
        number!(growth.unsettled);
    counter "hook_attempts_total" ["export", "way", "result"]
        "Attempts to tell a hook of a size, by way and result.":
        |s, to| {
        s.hooks.get().map_or(Ok(()), |hooks| {
            let texts = (HookWay::TEXTS, HookResult::TEXTS);
            rows(texts, &hooks.attempts, |way, result, n| to.line(&[way, result], n))
        })
    };
    gauge "hooks_behind" ["export"]
        "Hooks that have not heard of the export's size yet.":
        number!(hooks.behind);
    gauge "in_flight_requests" ["export"]
        "Requests admitted and not yet answered.":
        number!(traffic.in_flight);
    counter "lane_reconnects_total" ["export", "reason"]
        "Backend connections that had to be made anew, by reason.":
        |s, to| {
        s.traffic.get().map_or(Ok(()), |traffic| {
            row(LossReason::TEXTS, &traffic.reconnects, |reason, n| to.line(&[reason], n))
        })
    };
    gauge "lane_up" ["export"]
        "1 while the backend can be used, 0 while it is away; always 1 for embedded backends.":
        number!(traffic.lane_up);
    gauge "late_writes" ["export"]
        "Number of writes of lost connections that the backend may still carry out; requests that overlap them wait.":
        number!(traffic.late_writes);
    counter "notices_merged_total" ["export"]
        "Changes of size told together with a later one.":
        number!(growth.notices_merged);
    counter "notices_sent_total" ["export"]
        "Size notices sent to clients.":
        number!(growth.notices_sent);
    gauge "oldest_request_seconds" ["export"]
        "Time that the oldest unanswered request has waited for the backend, in whole seconds; 0 without one.":
        number!(traffic.oldest);
    counter "read_ahead_fetched_bytes_total" ["export"]
        "Bytes asked for ahead of sequential readers.":
        number!(traffic.read_ahead_fetched);
    counter "read_ahead_served_bytes_total" ["export"]
        "Bytes that READs got from what was read ahead.":
        number!(traffic.read_ahead_served);
    counter "requests_total" ["export", "command", "result"]
        "Requests answered, by command and result.":
        |s, to| {
        s.traffic.get().map_or(Ok(()), |traffic| {
            Command::TEXTS.iter().zip(&traffic.requests).try_for_each(|(command, results)| {
                // A page of what clients do, not of what they could.
                if results.iter().all(|n| n.get() == 0) {
                    return Ok(());
                }
                row(Outcome::TEXTS, results, |result, n| to.line(&[command, result], n))
            })
        })
    };
    counter "resize_requests_total" ["export", "tenant", "style", "result"]
        "Resizes that ended, by who wished for them and how they ended.":
        |s, to| {
        s.tenants.lock().iter().try_for_each(|(tenant, sizes)| {
            let texts = (ResizeStyle::TEXTS, ResizeResult::TEXTS);
            rows(texts, &sizes.resizes, |style, result, n| to.line(&[tenant, style, result], n))
        })
    };
    gauge "size_drift_bytes" ["export"]
        "What the backend has more than clients are shown, in bytes; negative: it has less.":
        number!(growth.drift);
};
