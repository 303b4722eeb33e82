//! From a backend's bytes to finished jobs: decodes replies, finds the request that each answers, and gathers what comes
//! in pieces.
//!
//! Owns the reader's state on one connection; never touches a socket, and tells nobody: who calls it finishes the jobs.

use nbd_gateway_proto::reply::{Body, Event, ReplyError, ReplyReader};
use nbd_gateway_proto::{Cmd, CmdFlags, Errno, Framing, Inbox};

use super::Lane;
use super::gather::{Gather, at_once, most_chunks};
use crate::request::{Failure, Job, Outcome};

/// Decodes the replies of one connection.
pub(super) struct Decoder {
    pub(super) replies: ReplyReader,
    /// The numbers of the export's contexts on this connection.
    pub(super) ids: Vec<u32>,
    /// The export's name, for the log.
    export: String,
    /// Answered, and still to be finished.
    pub(super) done: Vec<(Job, Outcome)>,
    /// Whether this connection has answered any request.
    pub(super) answered: bool,
    /// Whether the backend has said ESHUTDOWN.
    pub(super) refused: bool,
}

impl Decoder {
    pub(super) fn new(framing: Framing, ids: Vec<u32>, export: String) -> Self {
        Self {
            replies: ReplyReader::new(framing),
            ids,
            export,
            done: Vec::with_capacity(64),
            answered: false,
            refused: false,
        }
    }

    /// Everything whole in the inbox; under one lock, finishing nothing yet.
    pub(super) fn decode(&mut self, inbox: &mut Inbox, lane: &Lane) -> Result<(), ReplyError> {
        if inbox.is_empty() {
            return Ok(());
        }
        let mut table = lane.table.lock();
        let now = lane.durability.tick();
        while let Some(Event { cookie, done, body }) = self.replies.next(inbox, |c| table.expected(c))? {
            let Some(slot) = table.slot(cookie) else { return Err(ReplyError::Cookie(cookie)) };
            if let (false, Body::Resize { size }) = (done, &body)
                && slot.job.hear(*size)
            {
                continue;
            }
            let outcome = match (done, slot.gather.is_some()) {
                (true, false) => at_once(&slot.job.request, body),
                _ => Err(body),
            };
            let outcome = match outcome {
                Ok(outcome) => outcome,
                Err(body) => {
                    let gather = slot.gather.get_or_insert_default();
                    if !gather.add(&slot.job.request, body, &self.ids) {
                        // Sent again, it would be answered so again, and end the next connection too.
                        let most = most_chunks(&slot.job.request);
                        if let Some(slot) = table.answer(cookie, now) {
                            let why = format!("the backend's reply did not end within {most} chunks");
                            self.done.push((slot.job, Outcome::Failed(Failure::new(Errno::EIO, why))));
                        }
                        return Err(ReplyError::Chunks(most));
                    }
                    if !done {
                        continue;
                    }
                    let gather: Gather = *core::mem::take(&mut slot.gather).unwrap_or_default();
                    let (outcome, fault) = gather.finish(&slot.job.request);
                    if let Some(fault) = fault {
                        tracing::warn!(export = self.export, command = %slot.job.request.command, offset = slot.job.request.offset, length = slot.job.request.length, fault = &*fault, "backend answered wrongly");
                    }
                    outcome
                }
            };
            if let Outcome::Failed(Failure { errno: Errno::ESHUTDOWN, .. }) = outcome {
                // Not carried out, and nothing will be: this request and all to come are for the next connection.
                table.leave(cookie);
                self.refused = true;
                continue;
            }
            self.answered = true;
            let Some(slot) = table.answer(cookie, now) else { return Err(ReplyError::Cookie(cookie)) };
            if slot.late != 0 {
                lane.late.answered(slot.late, !matches!(outcome, Outcome::Failed(_)));
            }
            if !matches!(outcome, Outcome::Failed(_)) {
                match slot.job.request.command {
                    Cmd::FLUSH => lane.durability.flushed(slot.covers),
                    command if command.changes_data() && !slot.job.request.flags.has(CmdFlags::FUA) => {
                        lane.durability.wrote()
                    }
                    _ => {}
                }
            }
            self.done.push((slot.job, outcome));
        }
        Ok(())
    }
}
