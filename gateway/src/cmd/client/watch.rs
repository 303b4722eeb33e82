//! `client watch`: the size now, then a line for each new one, by the best way that the server offers.
//!
//! Owns when it ends: after the lines that were asked for, or with the server, which is a failure. A server that tells
//! sizes is given the count, so that it can't send more than was asked for.

use std::time::Duration;

use nbd_gateway_config::cli;

use super::connect::{Connection, Reach};
use super::parts::{Part, Parts, handshake, opted_in, query};
use super::voice::shown;
use super::{ClientFault, Voice};
use crate::proto::resize::{Context, ResizeRequest, Wish};

/// Asked more often than this, a server is only kept busy.
const LEAST_PAUSE: Duration = Duration::from_millis(10);

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
    let contexts = [Context::SizeLow, Context::SizeHigh, Context::Watch];
    let mut connection = reach.open(opted_in(reach.export(), &contexts)).await?;
    let parts = Parts::of(connection.export());
    let part = parts.best();
    voice.aside(&match part {
        Part::Notify | Part::Watch => format!("the size: {part}"),
        Part::Query | Part::Handshake => format!("the size: {part}, every {:?}", pause(order)),
    });
    let mut lines = Lines { voice, part, json, most: u64::from(order.count), printed: 0, last: None };
    let first = connection.export().size;
    let outcome = match part {
        Part::Notify => notified(&mut connection, order, &mut lines).await,
        Part::Query => queried(&mut connection, order, &mut lines).await,
        Part::Watch => waited(&mut connection, &parts, first, &mut lines).await,
        Part::Handshake => {
            // Some servers take one connection at a time.
            connection.leave().await;
            let outcome = shaken(reach, order, first, &mut lines).await;
            return lines.ended(outcome);
        }
    };
    connection.leave().await;
    lines.ended(outcome)
}

async fn notified(connection: &mut Connection, order: &Order, lines: &mut Lines<'_, '_>) -> Result<(), ClientFault> {
    let wish = Wish::Notify { interval: order.interval, most: u64::from(order.count) };
    connection.send_resize(ResizeRequest { wish, durable: false }).await?;
    loop {
        let notice = connection.notice().await?;
        // A chunk is a line, even with the size of the one before: it tells that the size changed and came back.
        if let Some(size) = notice.size
            && lines.print(size)?
        {
            return Ok(());
        }
        match notice.size {
            _ if notice.last => return Err(ClientFault::NotifyEnded),
            None => return Err(ClientFault::NoSize { what: "NOTIFY" }),
            Some(_) => {}
        }
    }
}

async fn queried(connection: &mut Connection, order: &Order, lines: &mut Lines<'_, '_>) -> Result<(), ClientFault> {
    while !lines.print_new(query(connection).await?)? {
        tokio::time::sleep(pause(order)).await;
    }
    Ok(())
}

async fn waited(
    connection: &mut Connection,
    parts: &Parts,
    first: u64,
    lines: &mut Lines<'_, '_>,
) -> Result<(), ClientFault> {
    let mut size = first;
    while !lines.print_new(size)? {
        size = parts.changed(connection).await?;
        // An answer that tells the same again: a server that does not wait, or that drains. It is not to be flooded.
        if lines.last == Some(size) {
            tokio::time::sleep(LEAST_PAUSE).await;
        }
    }
    Ok(())
}

async fn shaken(reach: &impl Reach, order: &Order, first: u64, lines: &mut Lines<'_, '_>) -> Result<(), ClientFault> {
    let mut size = first;
    while !lines.print_new(size)? {
        tokio::time::sleep(pause(order)).await;
        size = handshake(reach).await?;
    }
    Ok(())
}

/// How long to wait between two questions.
fn pause(order: &Order) -> Duration {
    order.interval.max(LEAST_PAUSE)
}

/// What was printed, and what is still to come.
struct Lines<'a, 'v> {
    voice: &'a mut Voice<'v>,
    part: Part,
    json: bool,
    /// 0: no end.
    most: u64,
    printed: u64,
    last: Option<u64>,
}

impl Lines<'_, '_> {
    /// A line; whether it was the last.
    fn print(&mut self, size: u64) -> Result<bool, ClientFault> {
        let line = if self.json {
            serde_json::json!({ "size": size, "how": self.part.key() }).to_string()
        } else {
            shown(size)
        };
        self.voice.print(&format!("{line}\n"))?;
        self.last = Some(size);
        self.printed = self.printed.saturating_add(1);
        Ok(self.printed == self.most)
    }

    /// A line, unless the last one was the same; whether it was the last.
    fn print_new(&mut self, size: u64) -> Result<bool, ClientFault> {
        if self.last == Some(size) { Ok(false) } else { self.print(size) }
    }

    /// How it ended. A reader of the lines that went away is no fault of the server.
    fn ended(&self, outcome: Result<(), ClientFault>) -> Result<(), ClientFault> {
        outcome.map_err(|cause| match cause {
            local @ ClientFault::Local { .. } => local,
            cause => ClientFault::WatchEnded { lines: self.printed, cause: Box::new(cause) },
        })
    }
}
