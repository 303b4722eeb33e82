//! Notices that the client of a session has gone while the session does not read: its permits are out, or it has read the
//! last request and its server does not answer.
//!
//! Such a session ends at once, and gives back its places; what it has in flight is the export's from then on
//! (`target/orphans.rs`). A client that has only ended its sending side still gets its replies, as long as they come.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use nbd_gateway_net::FarEnd;
use tokio::time::{Instant, Sleep, sleep};

use super::transmission::{Step, Transmission, TransmissionEnd};

/// How often a session that does not read looks. A client that has ended its sending side is gone when none of its requests
/// was answered between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// The looks of one session. Begins with the first time that it does not read.
#[derive(Debug, Default)]
pub(super) struct Looks {
    next: Option<Pin<Box<Sleep>>>,
    /// How many requests were answered at the last look, if the client had ended its sending side by then.
    answered: Option<u64>,
}

impl Transmission {
    /// Whether its client is gone. Wakes the task for the next look.
    pub(super) fn is_deserted(&mut self, cx: &mut Context<'_>) -> bool {
        let next = self.looks.next.get_or_insert_with(|| Box::pin(sleep(LOOK)));
        while next.as_mut().poll(cx).is_ready() {
            next.as_mut().reset(Instant::now() + LOOK);
            let answered = Some(self.session.permits.answered());
            match self.read.far_end() {
                FarEnd::Gone => return true,
                FarEnd::Ended if self.looks.answered == answered => return true,
                FarEnd::Ended => self.looks.answered = answered,
                FarEnd::Open => self.looks.answered = None,
            }
        }
        false
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
