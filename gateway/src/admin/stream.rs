//! The events as they happen, as server-sent events (the HTML standard's `text/event-stream`).
//!
//! A stream reads its events from the ledger, a page at a time, and waits for the ledger's word that there are newer ones:
//! nothing is asked for in between, and who reads slowly holds a page and delays nobody. It ends when the ledger is
//! closed, at the end of a drain; whoever comes back with the number of the last event misses none.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::fmt::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use hyper::body::Frame;
use nbd_gateway_ledger::{EventFilter, Ledger, LedgerError};
use nbd_gateway_net::Peer;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::answer::{Answer, refuse};
use super::view::EventView;
use crate::limits::Source;

/// The most streams at a time; one address has at most half of them.
const STREAMS: usize = 64;
/// How many events are read at a time. The longest possible take 0.5 MiB then.
const PAGE: u32 = 32;
/// After so long without an event a comment shows that there is still somebody.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// How long a reader whose connection broke waits before it comes back.
const RETRY: Duration = Duration::from_secs(1);

/// What a filter selects, then each new event that it selects. Its `since` is the number of the last event that the
/// reader has seen.
pub(super) async fn stream(ledger: &Ledger, streams: &Streams, peer: Peer, filter: EventFilter) -> Answer {
    let Some(place) = streams.place(peer) else {
        let says = format!(
            "{STREAMS} readers follow the events already, or half as many from this address; try again later, or ask for JSON"
        );
        return Err(refuse(StatusCode::SERVICE_UNAVAILABLE, says));
    };
    let body = begin(ledger, filter, place).await?;
    let head = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((head, Body::new(body)).into_response())
}

async fn begin(ledger: &Ledger, filter: EventFilter, place: StreamPlace) -> Result<Frames, LedgerError> {
    let told = ledger.told();
    let since = match filter.since {
        // What is not told yet can only have been seen in another ledger.
        Some(since) => since.min(*told.borrow()),
        None => ledger.before_newest(filter.clone()).await?,
    };
    let (frames, body) = mpsc::channel(1);
    let stream = Stream { ledger: ledger.clone(), told, filter, since, frames, _place: place };
    tokio::spawn(stream.run());
    Ok(Frames(body))
}

/// The places of streams, by where their readers are.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams(Arc<Mutex<HashMap<Source, usize>>>);

/// Given back when it is dropped.
struct StreamPlace {
    streams: Streams,
    source: Source,
}

impl Streams {
    fn place(&self, peer: Peer) -> Option<StreamPlace> {
        let source = Source::of(peer);
        let mut taken = self.0.lock();
        let own = taken.get(&source).copied().unwrap_or(0);
        if own >= STREAMS / 2 || taken.values().sum::<usize>() >= STREAMS {
            return None;
        }
        taken.insert(source, own.saturating_add(1));
        Some(StreamPlace { streams: self.clone(), source })
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        if let Entry::Occupied(mut own) = self.streams.0.lock().entry(self.source) {
            *own.get_mut() = own.get().saturating_sub(1);
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

struct Stream {
    ledger: Ledger,
    told: watch::Receiver<u64>,
    filter: EventFilter,
    /// The last event that was sent, or passed over.
    since: u64,
    frames: mpsc::Sender<Bytes>,
    _place: StreamPlace,
}

/// Nobody reads any more.
struct Gone;

impl Stream {
    async fn run(mut self) {
        // A number without data: who loses the connection before the first event comes back for what followed it.
        let begin = format!("retry: {}\nid: {}\n\n", RETRY.as_millis(), self.since);
        let Ok(()) = self.send(begin).await else { return };
        while let Ok(()) = self.catch_up().await {
            let alive = tokio::select! {
                // A closed stream first: events may come for ever. While they come, no keep-alive is needed.
                biased;
                () = self.frames.closed() => return,
                news = self.told.changed() => if news.is_ok() { continue } else { return },
                () = tokio::time::sleep(KEEPALIVE) => self.send(":\n\n".to_owned()).await,
            };
            let Ok(()) = alive else { return };
        }
    }

    /// Sends all that there is. An error: it can't be read, or nobody reads it.
    async fn catch_up(&mut self) -> Result<(), Gone> {
        loop {
            // Looked at before the read: what comes meanwhile is told again.
            let newest = *self.told.borrow_and_update();
            if self.since >= newest {
                return Ok(());
            }
            let filter = EventFilter { since: Some(self.since), limit: PAGE, ..self.filter.clone() };
            let page = self.ledger.events(filter).await.map_err(|error| {
                tracing::debug!(%error, "a stream of events ends");
                Gone
            })?;
            let whole = u32::try_from(page.len()).is_ok_and(|length| length == PAGE);
            for event in page {
                self.since = event.id;
                self.send(written(&event.into())).await?;
            }
            if !whole {
                // What the filter does not select need not be looked through again.
                self.since = self.since.max(newest);
            }
        }
    }

    async fn send(&self, text: String) -> Result<(), Gone> {
        self.frames.send(text.into()).await.map_err(|_| Gone)
    }
}

fn written(event: &EventView) -> String {
    let mut text = format!("id: {}\n", event.id);
    // JSON has no line break of its own; a value of these types can always be written.
    if let Ok(data) = serde_json::to_string(event) {
        let _ = write!(text, "data: {data}\n\n");
    }
    text
}

/// The body of the answer.
struct Frames(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.get_mut().0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use nbd_gateway_ledger::NewEvent;

    use super::*;

    async fn tell(ledger: &Ledger, kind: &'static str) -> u64 {
        ledger.event(NewEvent { kind, detail: "a\nb".to_owned(), ..NewEvent::default() }).await.unwrap()
    }

    async fn opened(ledger: &Ledger, filter: EventFilter) -> Frames {
        let place = Streams::default().place(Peer::Unknown).unwrap();
        begin(ledger, filter, place).await.unwrap()
    }

    /// The next text; none at the end.
    async fn next(frames: &mut Frames) -> Option<String> {
        frames.0.recv().await.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    /// The number of the next event.
    async fn number(frames: &mut Frames) -> u64 {
        let text = next(frames).await.unwrap();
        let (id, data) = text.split_once('\n').unwrap();
        let event: EventView =
            serde_json::from_str(data.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap()).unwrap();
        assert_eq!(id, format!("id: {}", event.id));
        assert_eq!(event.detail, "a\nb");
        event.id
    }

    fn newest(limit: u32) -> EventFilter {
        EventFilter { limit, ..EventFilter::default() }
    }

    #[tokio::test]
    async fn a_stream_begins_with_the_newest_and_goes_on_with_each_new_one() {
        let ledger = Ledger::in_memory().unwrap();
        for _ in 0..5 {
            tell(&ledger, "resized").await;
        }
        let mut frames = opened(&ledger, newest(2)).await;
        let mut fresh = opened(&ledger, newest(0)).await;
        assert_eq!(next(&mut frames).await.unwrap(), "retry: 1000\nid: 3\n\n");
        assert_eq!(next(&mut fresh).await.unwrap(), "retry: 1000\nid: 5\n\n");
        assert_eq!((number(&mut frames).await, number(&mut frames).await), (4, 5));
        for id in 6..9 {
            assert_eq!(tell(&ledger, "refused").await, id);
            assert_eq!((number(&mut frames).await, number(&mut fresh).await), (id, id));
        }
    }

    #[tokio::test]
    async fn who_comes_back_gets_what_followed_and_nothing_else() {
        let ledger = Ledger::in_memory().unwrap();
        for kind in ["resized", "refused", "resized", "refused", "refused"] {
            tell(&ledger, kind).await;
        }
        let filter = EventFilter { since: Some(1), kind: Some("resized".to_owned()), ..newest(0) };
        let mut frames = opened(&ledger, filter).await;
        assert_eq!(next(&mut frames).await.unwrap(), "retry: 1000\nid: 1\n\n");
        assert_eq!(number(&mut frames).await, 3);
        tell(&ledger, "refused").await;
        tell(&ledger, "resized").await;
        assert_eq!(number(&mut frames).await, 7);
        // A number of another ledger's.
        let mut stranger = opened(&ledger, EventFilter { since: Some(1_000), ..newest(0) }).await;
        assert_eq!(next(&mut stranger).await.unwrap(), "retry: 1000\nid: 7\n\n");
        tell(&ledger, "resized").await;
        assert_eq!(number(&mut stranger).await, 8);
    }

    #[tokio::test]
    async fn a_slow_reader_gets_a_burst_whole_and_in_order() {
        let ledger = Ledger::in_memory().unwrap();
        let mut frames = opened(&ledger, newest(0)).await;
        for _ in 0..1000 {
            tell(&ledger, "resized").await;
        }
        assert_eq!(next(&mut frames).await.unwrap(), "retry: 1000\nid: 0\n\n");
        for id in 1..=1000 {
            assert_eq!(number(&mut frames).await, id);
        }
    }

    #[tokio::test]
    async fn a_stream_ends_with_the_ledger() {
        let ledger = Ledger::in_memory().unwrap();
        let mut frames = opened(&ledger, newest(9)).await;
        next(&mut frames).await.unwrap();
        ledger.close().await;
        assert_eq!(next(&mut frames).await, None);
    }

    #[tokio::test]
    async fn readers_of_one_address_leave_half_of_the_streams_to_others_and_who_goes_away_makes_room() {
        let (ledger, streams) = (Ledger::in_memory().unwrap(), Streams::default());
        let [one, other, third] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|text| Peer::Tcp(text.parse().unwrap()));
        let mut held = Vec::new();
        for peer in [one, other] {
            for _ in 0..STREAMS / 2 {
                held.push(stream(&ledger, &streams, peer, newest(9)).await.into_response());
            }
            let refused = stream(&ledger, &streams, peer, newest(9)).await.into_response();
            assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        }
        assert!(held.iter().all(|response| response.status() == StatusCode::OK));
        assert_eq!(held[0].headers()[header::CONTENT_TYPE], "text/event-stream");
        let refused = stream(&ledger, &streams, third, newest(9)).await.into_response();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(held);
        while !streams.0.lock().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_without_news_shows_that_it_lives() {
        let ledger = Ledger::in_memory().unwrap();
        let mut frames = opened(&ledger, EventFilter { since: Some(0), ..newest(9) }).await;
        next(&mut frames).await.unwrap();
        let began = tokio::time::Instant::now();
        assert_eq!((next(&mut frames).await.unwrap().as_str(), began.elapsed()), (":\n\n", KEEPALIVE));
        assert_eq!((next(&mut frames).await.unwrap().as_str(), began.elapsed()), (":\n\n", 2 * KEEPALIVE));
    }
}
