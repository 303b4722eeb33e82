//! What becomes of requests in flight when a backend connection is lost: the one table of replay (promise 7).
//!
//! | request in flight | connection closed by the backend | given up by the gateway |
//! |---|---|---|
//! | READ, CACHE, BLOCK_STATUS | sent again | sent again |
//! | WRITE, TRIM, WRITE_ZEROES | sent again, unless an overlapping request was answered after it was sent: EIO | EIO |
//! | FLUSH, answered writes may be gone | EIO once, to every session (sent again where `durable`) | the same |
//! | FLUSH, nothing may be gone | sent again | sent again |
//! | RESIZE | EIO: the size is read back | EIO |
//!
//! What was sent and changes data may be carried out late, sent again or not: from then on it is a late write (`late`), and
//! holds back what overlaps it.
//!
//! What was never sent, or came back with ESHUTDOWN and nothing else, was not carried out: it is sent (again), except a
//! FLUSH or a RESIZE, for which the table holds.

use std::time::Duration;

use nbd_gateway_policy::types::ByteRange;
use nbd_gateway_proto::{Cmd, Cookie, Errno};

use super::Lane;
use super::late::Link;
use super::table::Slot;
use crate::request::{Failure, Finished};

/// What an export does when its backend's connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OnLoss {
    /// How long requests wait for the backend to come back; zero: they fail at once.
    pub hold: Duration,
    /// Whether answered writes outlive the connection (a server that still runs, with its page cache).
    pub durable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndedBy {
    /// The backend closed or reset it: it will not carry out anything more of it.
    Backend,
    /// The gateway gave it up: requests that were sent may still be carried out.
    Gateway,
}

impl Lane {
    /// The connection is lost: sorts what is in flight into what waits to be sent again and what fails now. What was sent and
    /// changes data is a late write from now on, whatever becomes of it here.
    pub(super) fn lose(&self, ended: EndedBy, policy: OnLoss, finished: &mut Finished) {
        let link = self.link.lock().clone().unwrap_or_else(|| Link::new(None));
        let mut failed: Vec<(Slot, String)> = Vec::new();
        let mut again: Vec<Again> = Vec::new();
        if self.table.lock().has_changes_out() {
            self.out.forget_unsent();
        }
        self.out.disconnect();
        {
            let mut table = self.table.lock();
            let all = table.take_all();
            let any_gone = !policy.durable && self.durability.lost();
            for mut slot in all {
                let request = &slot.job.request;
                if slot.sent {
                    slot.late = self.late.lost(slot.late, request, &link);
                }
                // If a server ends, one lane counts the loss for all.
                let gone = any_gone || !policy.durable && self.durability.lost_since(slot.at);
                let carried = slot.sent || slot.doubtful;
                let fate = if policy.hold.is_zero() {
                    Some("the backend's connection was lost".to_owned())
                } else {
                    fate(request.command, carried.then_some(ended), gone, || slot.sent && table.overtaken(&slot))
                };
                if let Some(why) = fate {
                    failed.push((slot, why));
                } else {
                    // One that was not sent on this connection was judged when it was lost, and nothing has passed it since.
                    let judged = request.range().filter(|_| slot.sent && request.changes_data());
                    let at = slot.at;
                    let cookie = table.keep(slot);
                    again.extend(judged.map(|range| Again { cookie, at, range }));
                }
            }
            table.away();
        }
        // What other lanes send from now on waits for the late writes.
        for Again { cookie, at, range } in again {
            if self.late.touched_beside(self, at, range)
                && let Some(slot) = self.table.lock().take(cookie)
            {
                let why = overtaken(slot.job.request.command);
                failed.push((slot, why));
            }
        }
        failed.iter().for_each(|(slot, _)| self.late.answered(slot.late, false));
        self.late.all_lost();
        for (Slot { job, .. }, why) in failed {
            if job.request.command == Cmd::FLUSH
                && let Some(ticket) = job.ticket()
            {
                ticket.client().settle_losses(self.durability.losses());
            }
            job.fail(Failure::new(Errno::EIO, why), finished);
        }
    }
}

/// A request that is to be sent again, unless another lane has gone on.
struct Again {
    cookie: Cookie,
    at: u64,
    range: ByteRange,
}

fn overtaken(command: Cmd) -> String {
    format!(
        "{command} was in flight when the backend's connection was lost, and an overlapping request has been answered since it was sent"
    )
}

/// `None`: to be sent again. Otherwise why it fails. `ended` is `None` for a request that was surely not
/// carried out.
fn fate(command: Cmd, ended: Option<EndedBy>, gone: bool, was_overtaken: impl Fn() -> bool) -> Option<String> {
    match (command, ended) {
        (Cmd::FLUSH, _) if gone => {
            Some("the backend's connection was lost with answered writes that may not be durable".to_owned())
        }
        (command, Some(EndedBy::Gateway)) if command.changes_data() => {
            Some(format!("{command} was in flight on a connection that was given up; whether it was done is unknown"))
        }
        (command, Some(EndedBy::Backend)) if command.changes_data() && was_overtaken() => Some(overtaken(command)),
        // Whether it was done is for the coordinator to find out.
        (Cmd::RESIZE, _) => Some("NBD_CMD_RESIZE was in flight when the backend's connection was lost".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Durability;
    use super::*;

    #[test]
    fn a_loss_counts_again_for_sessions_that_began_after_it() {
        let durability = Durability::default();
        assert!(!durability.lost(), "there was nothing to lose");
        durability.wrote();
        assert!(durability.lost());
        assert!(!durability.lost(), "another lane to the same server");
        assert_eq!(durability.newcomer(), 1);
        assert!(durability.lost(), "the new session takes a FLUSH to cover them");
        durability.newcomer();
        durability.flushed(1);
        assert!(!durability.lost(), "a FLUSH did cover them");
        let again = Durability::new(true);
        assert!(again.lost(), "an earlier opening left them");
    }

    #[test]
    fn a_flush_from_before_a_loss_is_not_sent_again_after_it() {
        let durability = Durability::default();
        durability.wrote();
        let before = durability.tick();
        assert!(durability.lost() && durability.lost_since(before));
        assert!(!durability.lost_since(durability.tick()));
    }

    #[test]
    fn the_table_of_replay_is_the_one_in_the_doc() {
        use EndedBy::{Backend, Gateway};
        for ended in [Some(Backend), Some(Gateway), None] {
            for gone in [false, true] {
                for overtaken in [false, true] {
                    for command in [Cmd::READ, Cmd::CACHE, Cmd::BLOCK_STATUS] {
                        assert_eq!(fate(command, ended, gone, || overtaken), None, "{command} {ended:?}");
                    }
                    for command in [Cmd::WRITE, Cmd::TRIM, Cmd::WRITE_ZEROES] {
                        let again = ended.is_none() || ended == Some(Backend) && !overtaken;
                        assert_eq!(fate(command, ended, gone, || overtaken).is_none(), again, "{command} {ended:?}");
                    }
                    assert_eq!(fate(Cmd::FLUSH, ended, gone, || overtaken).is_none(), !gone);
                }
            }
        }
    }
}
