//! The clients that a batch of outcomes concerns: each of them is written to once.

use std::ptr::addr_eq;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Client, Request};
use crate::stamp::Stamp;

/// The clients that a batch of outcomes concerns; each is written to once, when this is flushed or dropped.
#[derive(Default, Debug)]
pub(crate) struct Finished {
    touched: Vec<Arc<dyn Client>>,
    stamp: Stamp,
}

impl Finished {
    /// Remembers that `client` has replies to send.
    pub(crate) fn touch(&mut self, client: Arc<dyn Client>) {
        // By its address alone: one type may have several virtual tables.
        if !self.touched.iter().any(|other| addr_eq(Arc::as_ptr(other), Arc::as_ptr(&client))) {
            self.touched.push(client);
        }
    }

    /// When a request was finished, to within what [`Stamp`] says.
    pub(crate) fn now(&mut self, request: &Request) -> Instant {
        self.stamp.now(request.length)
    }

    /// What is done next may take long, within the same batch.
    pub(crate) fn takes_long(&mut self) {
        self.stamp.forget();
    }

    /// One vectored write for each client touched. Keeps its allocation for the next batch.
    pub(crate) fn flush(&mut self) {
        self.stamp.forget();
        for client in self.touched.drain(..) {
            client.flush();
        }
    }
}

impl Drop for Finished {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nbd_gateway_proto::{Cmd, CmdFlags};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_finished_after_a_wait_is_not_said_to_be_from_before() {
        let request = Request::new(Cmd::FLUSH, CmdFlags::NONE, 0, 0);
        let mut finished = Finished::default();
        let mut waits = async |after: fn(&mut Finished)| {
            let before = finished.now(&request);
            after(&mut finished);
            tokio::time::advance(Duration::from_secs(1)).await;
            finished.now(&request) - before
        };
        assert_eq!(waits(Finished::flush).await, Duration::from_secs(1));
        assert_eq!(waits(Finished::takes_long).await, Duration::from_secs(1));
    }
}
