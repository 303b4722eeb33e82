//! What becomes of requests in flight when a backend connection is lost: the one table of replay (promise 7).
//!
//! | request in flight | connection closed by the backend | given up by the gateway |
//! |---|---|---|
//! | READ, CACHE, BLOCK_STATUS | sent again | sent again |
//! | WRITE, TRIM, WRITE_ZEROES | sent again, unless an overlapping request was answered after it was sent: EIO | EIO |
//! | FLUSH, answered writes may be gone | EIO once, to every session (sent again where `durable`) | the same |
//! | FLUSH, nothing may be gone | sent again | sent again |
//! | RESIZE | EIO: the size is read back | EIO |

use std::time::Duration;

use super::Lane;
use crate::proto::{Cmd, Errno};
use crate::work::{Failure, Finished, Job};

/// What an export does when its backend's connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnLoss {
    /// How long requests wait for the backend to come back; zero: they fail at once.
    pub hold: Duration,
    /// Whether answered writes outlive the connection (a server that still runs, with its page cache).
    pub durable: bool,
}

/// Who ended the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndedBy {
    /// The backend closed or reset it: it will not carry out anything more of it.
    Backend,
    /// The gateway gave it up: requests that were sent may still be carried out.
    Gateway,
}

impl Lane {
    /// The connection is lost: sorts what is in flight into what waits to be sent again and what fails now.
    pub(super) fn lose(&self, ended: EndedBy, policy: OnLoss, finished: &mut Finished) {
        self.out.disconnect();
        let mut failed: Vec<(Job, Failure)> = Vec::new();
        {
            let mut table = self.table.lock();
            let gone = !policy.durable && self.durability.lost();
            for slot in table.take_all() {
                let fate = if policy.hold.is_zero() {
                    Some("the backend's connection was lost".to_owned())
                } else {
                    fate(slot.job.request.command, ended, gone, || table.overtaken(&slot))
                };
                match fate {
                    None => table.keep(slot),
                    Some(why) => failed.push((slot.job, Failure::new(Errno::EIO, why))),
                }
            }
            table.away();
        }
        for (job, failure) in failed {
            if job.request.command == Cmd::FLUSH
                && let Some(ticket) = job.ticket()
            {
                ticket.session().settle_losses(self.durability.losses());
            }
            job.fail(failure, finished);
        }
    }
}

/// `None`: to be sent again. Otherwise why it fails.
fn fate(command: Cmd, ended: EndedBy, gone: bool, overtaken: impl Fn() -> bool) -> Option<String> {
    match (command, ended) {
        (Cmd::FLUSH, _) if gone => {
            Some("the backend's connection was lost with answered writes that may not be durable".to_owned())
        }
        (Cmd::WRITE | Cmd::TRIM | Cmd::WRITE_ZEROES, EndedBy::Gateway) => {
            Some(format!("{command} was in flight on a connection that was given up; whether it was done is unknown"))
        }
        (Cmd::WRITE | Cmd::TRIM | Cmd::WRITE_ZEROES, EndedBy::Backend) if overtaken() => Some(format!(
            "{command} was in flight when the backend's connection was lost, and an overlapping request has been answered since it was sent"
        )),
        // Whether it was done is for the coordinator to find out.
        (Cmd::RESIZE, _) => Some("NBD_CMD_RESIZE was in flight when the backend's connection was lost".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_replay_is_the_one_in_the_doc() {
        use EndedBy::{Backend, Gateway};
        for ended in [Backend, Gateway] {
            for gone in [false, true] {
                for overtaken in [false, true] {
                    for command in [Cmd::READ, Cmd::CACHE, Cmd::BLOCK_STATUS] {
                        assert_eq!(fate(command, ended, gone, || overtaken), None, "{command} {ended:?}");
                    }
                    for command in [Cmd::WRITE, Cmd::TRIM, Cmd::WRITE_ZEROES] {
                        let again = ended == Backend && !overtaken;
                        assert_eq!(fate(command, ended, gone, || overtaken).is_none(), again, "{command} {ended:?}");
                    }
                    assert_eq!(fate(Cmd::FLUSH, ended, gone, || overtaken).is_none(), !gone);
                }
            }
        }
    }
}
