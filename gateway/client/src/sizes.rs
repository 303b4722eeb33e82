//! Each size of an export as it comes, by the best way that the server offers: for `client watch`, and for the agent.
//!
//! Owns how each way is used. Never tells a size that was not just told: what is remembered only keeps the same size from
//! being told twice, and a NOTIFY's chunk is told even then, because the size was another in between.

use std::time::Duration;

use super::ClientError;
use super::connect::{Connection, Connector};
use super::parts::{Part, Parts, handshake, opted_in, query};
use nbd_gateway_proto::resize::{Context, ResizeRequest, Wish};

/// Asked more often than this, a server is only kept busy.
const LEAST_PAUSE: Duration = Duration::from_millis(10);

/// How sizes are wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// The least time between two that a server tells by itself.
    pub(crate) interval: Duration,
    /// The time between two questions.
    pub(crate) pause: Duration,
    /// How many are wanted; 0: no end.
    pub(crate) count: u32,
}

/// Who wants sizes.
pub(crate) trait SizeObserver {
    /// In which way they will come: once, before the first.
    fn starts(&mut self, part: Part, pause: Duration);
    /// A size, in bytes; whether it was the last that was wanted.
    fn observes(&mut self, size: u64) -> Result<bool, ClientError>;
}

/// Tells `observer` the sizes of the export until it has enough, or the server fails.
pub(crate) async fn listen(
    connector: &impl Connector,
    pace: &Pace,
    observer: &mut impl SizeObserver,
) -> Result<(), ClientError> {
    let contexts = [Context::SizeLow, Context::SizeHigh, Context::Watch];
    let mut connection = connector.open(opted_in(connector.export(), &contexts)).await?;
    let parts = Parts::of(connection.export());
    let part = parts.best();
    let pause = pace.pause.max(LEAST_PAUSE);
    observer.starts(part, pause);
    let first = connection.export().size;
    let mut news = News { observer, last: None };
    let outcome = match part {
        Part::Notify => notified(&mut connection, pace, &mut news).await,
        Part::Query => queried(&mut connection, pause, &mut news).await,
        Part::Watch => waited(&mut connection, &parts, first, &mut news).await,
        Part::Handshake => {
            // Some servers take one connection at a time.
            connection.leave().await;
            return shaken(connector, pause, first, &mut news).await;
        }
    };
    connection.leave().await;
    outcome
}

async fn notified(
    connection: &mut Connection,
    pace: &Pace,
    news: &mut News<'_, impl SizeObserver>,
) -> Result<(), ClientError> {
    let wish = Wish::Notify { interval: pace.interval, most: u64::from(pace.count) };
    connection.send_resize(ResizeRequest { wish, durable: false }).await?;
    loop {
        let notice = connection.notice().await?;
        // A chunk is news, even with the size of the one before: it tells that the size changed and came back.
        if let Some(size) = notice.size
            && news.observer.observes(size)?
        {
            return Ok(());
        }
        match notice.size {
            _ if notice.last => return Err(ClientError::NotifyEnded),
            None => return Err(ClientError::NoSize { what: "NOTIFY" }),
            Some(_) => {}
        }
    }
}

async fn queried(
    connection: &mut Connection,
    pause: Duration,
    news: &mut News<'_, impl SizeObserver>,
) -> Result<(), ClientError> {
    while !news.tell_new(query(connection).await?)? {
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

async fn waited(
    connection: &mut Connection,
    parts: &Parts,
    first: u64,
    news: &mut News<'_, impl SizeObserver>,
) -> Result<(), ClientError> {
    let mut size = first;
    while !news.tell_new(size)? {
        size = parts.changed(connection).await?;
        // An answer that tells the same again: a server that does not wait, or that drains. It is not to be flooded.
        if news.last == Some(size) {
            tokio::time::sleep(LEAST_PAUSE).await;
        }
    }
    Ok(())
}

async fn shaken(
    connector: &impl Connector,
    pause: Duration,
    first: u64,
    news: &mut News<'_, impl SizeObserver>,
) -> Result<(), ClientError> {
    let mut size = first;
    while !news.tell_new(size)? {
        tokio::time::sleep(pause).await;
        size = handshake(connector).await?;
    }
    Ok(())
}

/// What was told last, to whom.
struct News<'a, E> {
    observer: &'a mut E,
    last: Option<u64>,
}

impl<E: SizeObserver> News<'_, E> {
    /// Tells it, unless the last one was the same; whether it was the last that was wanted.
    fn tell_new(&mut self, size: u64) -> Result<bool, ClientError> {
        if self.last == Some(size) {
            return Ok(false);
        }
        self.last = Some(size);
        self.observer.observes(size)
    }
}
