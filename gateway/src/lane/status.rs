//! How a lane is, for people. Written when its connection changes, never for a request.

use std::time::SystemTime;
use tokio::time::Instant;

use super::Lane;

/// What a lane's task knows of its connections.
#[derive(Debug)]
pub(super) struct ConnectionHistory {
    pub(super) up: bool,
    /// When that began.
    pub(super) since: SystemTime,
    /// How many connections there have been.
    pub(super) connections: u64,
    /// The last thing that went wrong.
    pub(super) trouble: Option<String>,
}

impl Default for ConnectionHistory {
    fn default() -> Self {
        Self { up: false, since: SystemTime::now(), connections: 0, trouble: None }
    }
}

/// A lane as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LaneStatus {
    /// Whether it is connected.
    pub up: bool,
    /// When it was connected, or when it no longer was.
    pub since: SystemTime,
    /// How often it was connected again.
    pub reconnects: u64,
    /// Requests that are not answered, those that wait for a connection among them.
    pub in_flight: usize,
    /// When the oldest of them came, if there is one. A NOTIFY is not one: it is to stand.
    pub oldest: Option<Instant>,
    /// The last thing that went wrong with it, for operators: it may name addresses. It stays when that is over.
    pub last_error: Option<String>,
    /// Why requests fail: it was given up until it is back.
    pub failing: Option<String>,
    /// The gateway itself keeps it without a connection, for a change of the backend.
    pub aside: bool,
}

impl Lane {
    pub(crate) fn status(&self) -> LaneStatus {
        let (in_flight, oldest, failing) = {
            let table = self.table.lock();
            (table.len(), table.oldest(), table.down().map(String::from))
        };
        let aside = *self.resting.borrow();
        let history = self.history.lock();
        LaneStatus {
            up: history.up,
            since: history.since,
            reconnects: history.connections.saturating_sub(1),
            in_flight,
            oldest,
            last_error: history.trouble.clone(),
            failing,
            aside,
        }
    }

    pub(super) fn note_up(&self) {
        let mut history = self.history.lock();
        (history.up, history.since) = (true, SystemTime::now());
        history.connections = history.connections.saturating_add(1);
    }

    /// It is not, any more; `None`: on purpose.
    pub(super) fn note_away(&self, why: Option<&str>) {
        let mut history = self.history.lock();
        (history.up, history.since) = (false, SystemTime::now());
        if let Some(why) = why {
            history.trouble = Some(why.to_owned());
        }
    }

    /// Something else is wrong.
    pub(super) fn note_trouble(&self, why: &str) {
        let trouble = &mut self.history.lock().trouble;
        if trouble.as_deref() != Some(why) {
            *trouble = Some(why.to_owned());
        }
    }
}
