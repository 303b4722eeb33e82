//! `client watch`: the size now, then a line for each new one, by the best way that the server offers.
//!
//! Owns when it ends: after the lines that were asked for, or with a failure that does not pass. A server that restarts, and
//! a network that was cut, are waited for; then only a size that is another than the last one is a line. A server that tells
//! sizes is given the count, so that it can't send more than was asked for.

use std::time::Duration;

use nbd_gateway_policy::types::Span;

use super::connect::Connector;
use super::output::shown;
use super::parts::Part;
use super::sizes::{Pace, SizeObserver, listen};
use super::{ClientError, Output};

/// How long to wait before the next attempt to connect to a server that was lost.
const PACE: Duration = Duration::from_secs(1);

/// Prints sizes, no more than one in `interval`, until there are `count` of them; 0: no end.
pub(super) async fn run(
    connector: &impl Connector,
    interval: Duration,
    count: u32,
    json: bool,
    output: &mut Output<'_>,
) -> Result<(), ClientError> {
    let mut lines = Lines { output, part: None, json, most: count, printed: 0, last: None, away: false };
    loop {
        // A server that is back tells first what may be known.
        let left = count.saturating_sub(lines.printed).saturating_add(u32::from(lines.last.is_some()));
        let pace = Pace { interval, pause: interval, count: if count == 0 { 0 } else { left } };
        match listen(connector, &pace, &mut lines).await {
            Err(fault) if lines.last.is_some() && fault.may_pass() => lines.lost(&fault),
            outcome => return lines.ended(outcome),
        }
        tokio::time::sleep(PACE).await;
    }
}

/// What was printed, and what is still to come.
struct Lines<'a, 'v> {
    output: &'a mut Output<'v>,
    /// None before the server has said what it offers.
    part: Option<Part>,
    json: bool,
    /// 0: no end.
    most: u32,
    printed: u32,
    /// The size that was printed last, in bytes.
    last: Option<u64>,
    /// The server was lost, and that was said.
    away: bool,
}

impl SizeObserver for Lines<'_, '_> {
    fn starts(&mut self, part: Part, pause: Duration) {
        if self.part.replace(part) == Some(part) {
            return;
        }
        self.output.note(&match part {
            Part::Notify | Part::Watch => format!("the size: {part}"),
            Part::Query | Part::Handshake => format!("the size: {part}, every {}", Span(pause)),
        });
    }

    fn observes(&mut self, size: u64) -> Result<bool, ClientError> {
        if std::mem::take(&mut self.away) {
            self.output.note("the server is back");
            if self.last == Some(size) {
                return Ok(false);
            }
        }
        self.last = Some(size);
        let line = if self.json {
            serde_json::json!({ "size": size, "how": self.part.map(Part::key) }).to_string()
        } else {
            shown(size)
        };
        self.output.print(&format!("{line}\n"))?;
        self.printed = self.printed.saturating_add(1);
        Ok(self.printed == self.most)
    }
}

impl Lines<'_, '_> {
    /// The server is lost for now.
    fn lost(&mut self, why: &ClientError) {
        if !std::mem::replace(&mut self.away, true) {
            self.output.note(&format!("the server is lost: {why}; waiting until it is back"));
        }
    }

    /// How it ended. A reader of the lines that went away is no fault of the server.
    fn ended(&self, outcome: Result<(), ClientError>) -> Result<(), ClientError> {
        outcome.map_err(|cause| match cause {
            local @ ClientError::Local { .. } => local,
            // Nothing was watched yet.
            cause if self.part.is_none() => cause,
            cause => ClientError::WatchEnded { lines: u64::from(self.printed), cause: Box::new(cause) },
        })
    }
}
