//! One client connection.

use std::sync::Arc;

use crate::work::{Finished, Outcome, Request};

/// One client connection (under construction).
#[derive(Debug)]
pub struct Session;

impl Session {
    /// Writes what is queued.
    pub fn flush(&self) {}
}

/// The right to one reply.
#[derive(Debug)]
pub struct Ticket {
    session: Arc<Session>,
}

impl Ticket {
    /// Queues the reply.
    pub fn reply(self, _request: &Request, _outcome: Outcome, finished: &mut Finished) {
        finished.touch(self.session);
    }
}
