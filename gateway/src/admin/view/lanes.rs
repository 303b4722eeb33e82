//! What the interface says of an export's backend: its connections, and in a word whether it can be used. As with all
//! views, fields may be added; none is ever renamed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nbd_gateway_policy::types::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lane::LaneStatus;

/// A connection to an export's backend, that is or is to be.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct LaneView {
    /// Its number within the export, from 0.
    pub number: u64,
    /// Whether it is connected.
    pub up: bool,
    /// Where to: the URI of the configuration, for this export.
    pub backend: String,
    /// When it was connected, or when it no longer was, in seconds since 1970-01-01 UTC.
    pub since: u64,
    /// How often it was connected again.
    pub reconnects: u64,
    /// Requests that are not answered, those that wait for a connection among them.
    pub in_flight: u64,
    /// How long the oldest of them has waited for its answer, in whole seconds; 0 if there is none.
    #[serde(default)]
    pub oldest_request_seconds: u64,
    /// The last thing that went wrong with it; it stays when that is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Whether an export's backend can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct HealthView {
    /// In a word: up, degraded (some connections are missing, or requests wait), down (requests fail) or embedded (the
    /// gateway has the data itself).
    pub state: String,
    /// In a sentence.
    pub says: String,
}

/// A server that is well answers sooner.
const SLOW: Duration = Duration::from_secs(10);

/// How long the oldest request of these has waited for its answer; zero if there is none.
pub(crate) fn oldest(lanes: &[LaneStatus]) -> Duration {
    let waited = lanes.iter().filter_map(|lane| lane.oldest).min().map(|since| since.elapsed()).unwrap_or_default();
    Duration::from_secs(waited.as_secs())
}

/// Seconds since 1970.
pub(super) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl LaneView {
    /// The lanes of an export, by number.
    pub(super) fn all(lanes: &[LaneStatus], backend: &str) -> Vec<Self> {
        let view = |(number, status): (u64, &LaneStatus)| Self {
            number,
            up: status.up,
            backend: backend.to_owned(),
            since: seconds(status.since),
            reconnects: status.reconnects,
            in_flight: u64::try_from(status.in_flight).unwrap_or(u64::MAX),
            oldest_request_seconds: oldest(std::slice::from_ref(status)).as_secs(),
            last_error: status.last_error.clone(),
        };
        (0..).zip(lanes).map(view).collect()
    }
}

impl HealthView {
    /// Of an export with these lanes; none: it is embedded.
    pub(super) fn of(lanes: &[LaneStatus]) -> Self {
        let health = |state: &str, says: String| Self { state: state.to_owned(), says };
        let (all, up) = (lanes.len(), lanes.iter().filter(|lane| lane.up).count());
        let trouble = || {
            let why = lanes.iter().filter(|lane| !lane.up).find_map(|lane| lane.last_error.as_ref());
            why.map_or_else(String::new, |why| format!(": {why}"))
        };
        let connections = if all == 1 { "its connection" } else { "its connections" };
        if all == 0 {
            return health("embedded", "the gateway has the data itself".to_owned());
        }
        if lanes.iter().all(|lane| lane.failing.is_some()) {
            return health("down", format!("requests fail until the backend is back{}", trouble()));
        }
        if lanes.iter().any(|lane| lane.aside) {
            return health("degraded", format!("the backend is being changed without {connections}; requests wait"));
        }
        let waited = oldest(lanes);
        match up {
            1.. if waited >= SLOW => health(
                "degraded",
                format!("a request has waited {} for the server's answer{}", Span(waited), trouble()),
            ),
            up if up == all => health("up", format!("{connections} {} up", if all == 1 { "is" } else { "are" })),
            0 => health("degraded", format!("requests wait for the backend to come back{}", trouble())),
            up => health("degraded", format!("{} of {all} connections are away{}", all.saturating_sub(up), trouble())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(up: bool, failing: bool, aside: bool) -> LaneStatus {
        LaneStatus {
            up,
            since: UNIX_EPOCH,
            reconnects: 0,
            in_flight: 0,
            oldest: None,
            last_error: (!up && !aside).then(|| "closed by the backend".to_owned()),
            failing: failing.then(|| "it is away".to_owned()),
            aside,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_hangs_is_not_up() {
        let waits =
            LaneStatus { in_flight: 1, oldest: Some(tokio::time::Instant::now()), ..status(true, false, false) };
        let lanes = [status(true, false, false), waits];
        tokio::time::advance(SLOW - Duration::from_millis(1)).await;
        assert_eq!(HealthView::of(&lanes).state, "up");
        tokio::time::advance(Duration::from_secs(35)).await;
        let health = HealthView::of(&lanes);
        assert_eq!(health.state, "degraded");
        assert_eq!(health.says, "a request has waited 44s for the server's answer");
        let waited =
            LaneView::all(&lanes, "nbd://h/x").iter().map(|lane| lane.oldest_request_seconds).collect::<Vec<_>>();
        assert_eq!(waited, [0, 44]);
    }

    #[test]
    fn health_is_a_word_and_a_sentence() {
        let (up, away, failing, aside) = (
            status(true, false, false),
            status(false, false, false),
            status(false, true, false),
            status(false, false, true),
        );
        for (lanes, state, says) in [
            (vec![], "embedded", "the gateway has the data itself"),
            (vec![up.clone()], "up", "its connection is up"),
            (vec![up.clone(), up.clone()], "up", "its connections are up"),
            (vec![up.clone(), away.clone()], "degraded", "1 of 2 connections are away: closed by the backend"),
            (vec![up, failing.clone()], "degraded", "1 of 2 connections are away: closed by the backend"),
            (vec![away], "degraded", "requests wait for the backend to come back: closed by the backend"),
            (vec![aside], "degraded", "the backend is being changed without its connection; requests wait"),
            (vec![failing.clone(), failing], "down", "requests fail until the backend is back: closed by the backend"),
        ] {
            assert_eq!(HealthView::of(&lanes), HealthView { state: state.to_owned(), says: says.to_owned() });
        }
    }
}
