//! `client watch`: the size now, then a line for each new one, by the best way that the server offers.
//!
//! Owns when it ends: after the lines that were asked for, or with the server, which is a failure. A server that tells
//! sizes is given the count, so that it can't send more than was asked for.

use std::time::Duration;

use nbd_gateway_config::cli;

use super::connect::Reach;
use super::parts::Part;
use super::sizes::{Ear, Pace, listen};
use super::voice::shown;
use super::{ClientFault, Voice};

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub(super) interval: Duration,
    /// How many lines; 0: no end.
    pub(super) count: u32,
}

impl From<&cli::Watch> for Order {
    fn from(args: &cli::Watch) -> Self {
        Self { interval: args.interval.duration(), count: args.count.unwrap_or(0) }
    }
}

/// Prints sizes until there are enough of them.
pub(super) async fn run(
    reach: &impl Reach,
    order: &Order,
    json: bool,
    voice: &mut Voice<'_>,
) -> Result<(), ClientFault> {
    let pace = Pace { interval: order.interval, pause: order.interval, count: order.count };
    let mut lines = Lines { voice, part: None, json, most: u64::from(order.count), printed: 0 };
    let outcome = listen(reach, &pace, &mut lines).await;
    lines.ended(outcome)
}

/// What was printed, and what is still to come.
struct Lines<'a, 'v> {
    voice: &'a mut Voice<'v>,
    /// None before the server has said what it offers.
    part: Option<Part>,
    json: bool,
    /// 0: no end.
    most: u64,
    printed: u64,
}

impl Ear for Lines<'_, '_> {
    fn begins(&mut self, part: Part, pause: Duration) {
        self.part = Some(part);
        self.voice.aside(&match part {
            Part::Notify | Part::Watch => format!("the size: {part}"),
            Part::Query | Part::Handshake => format!("the size: {part}, every {pause:?}"),
        });
    }

    fn hears(&mut self, size: u64) -> Result<bool, ClientFault> {
        let line = if self.json {
            serde_json::json!({ "size": size, "how": self.part.map(Part::key) }).to_string()
        } else {
            shown(size)
        };
        self.voice.print(&format!("{line}\n"))?;
        self.printed = self.printed.saturating_add(1);
        Ok(self.printed == self.most)
    }
}

impl Lines<'_, '_> {
    /// How it ended. A reader of the lines that went away is no fault of the server.
    fn ended(&self, outcome: Result<(), ClientFault>) -> Result<(), ClientFault> {
        outcome.map_err(|cause| match cause {
            local @ ClientFault::Local { .. } => local,
            // Nothing was watched yet.
            cause if self.part.is_none() => cause,
            cause => ClientFault::WatchEnded { lines: self.printed, cause: Box::new(cause) },
        })
    }
}
