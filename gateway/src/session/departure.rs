//! Notices that the client of a session has gone while the session does not read: its permits are out, or it has read the
//! last request and its server does not answer.
//!
//! The kernel tells when a client sends nothing more, whether all of it was read or not. What the session has in flight is
//! the export's from then on (`target/orphans.rs`). If the client is gone the session ends at once, and gives back its
//! places. One that has only ended its sending side still gets its replies, as long as they come.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use nbd_gateway_net::{FarEnd, FarEndCloses};
use tokio::time::{Instant, Sleep, sleep};

use super::transmission::{Step, Transmission, TransmissionEnd};

/// How often a session that does not read looks at a client that has ended its sending side. It is gone when none of its
/// requests was answered between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// What one session knows of its client's leaving. Begins with the first time that it does not read.
#[derive(Default)]
pub(super) enum Departure {
    #[default]
    Unwatched,
    Watched(FarEndCloses),
    /// The client has ended its sending side.
    Ended {
        next: Pin<Box<Sleep>>,
        /// How many requests were answered at the last look.
        answered: Option<u64>,
    },
}

impl Transmission {
    /// Whether its client is gone. Wakes the task when it leaves.
    pub(super) fn is_deserted(&mut self, cx: &mut Context<'_>) -> bool {
        if let Departure::Unwatched = self.departure
            && let Some(closes) = self.session.out.far_end_closes()
        {
            self.departure = Departure::Watched(closes);
        }
        if let Departure::Watched(closes) = &mut self.departure
            && closes.as_mut().poll(cx).is_ready()
        {
            self.departure = Departure::Ended { next: Box::pin(sleep(LOOK)), answered: None };
            if self.read.far_end() == FarEnd::Gone {
                return true;
            }
            self.session.stops_reading();
        }
        let Departure::Ended { next, answered } = &mut self.departure else { return false };
        while next.as_mut().poll(cx).is_ready() {
            next.as_mut().reset(Instant::now() + LOOK);
            let so_far = Some(self.session.permits.answered());
            if self.read.far_end() == FarEnd::Gone || *answered == so_far {
                return true;
            }
            *answered = so_far;
        }
        false
    }

    /// What was just handed over came from a client that may be back on another connection.
    pub(super) fn submitted(&self) {
        if let Departure::Ended { .. } = self.departure {
            self.session.export.core.adopt_orphans(self.session.id);
        }
    }

    /// How a session ends whose client is gone.
    pub(super) fn deserted(&mut self) -> TransmissionEnd {
        self.give_up_payload();
        match core::mem::replace(&mut self.step, Step::Header) {
            Step::Closing(end) => end,
            _ => TransmissionEnd::Closed,
        }
    }
}
