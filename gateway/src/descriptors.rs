//! How many descriptors are left. Some are kept for what must go on when clients have taken all others: the ledger, the admin
//! interface, connections to servers that are made anew.
//!
//! The kernel gives out the lowest number that is free. So one that is near the limit says that almost none is left, and
//! nothing has to be counted.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{Resource, getrlimit};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Client,
    /// An export that is not open yet. Clients choose which, so it leaves descriptors for other clients.
    Export,
    /// A connection to the admin interface: there when clients have taken all of theirs, and not the last.
    Operator,
}

pub(crate) fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many of them are kept.
fn kept(limit: u64) -> u64 {
    (limit / 8).clamp(8, 64)
}

/// Whether none may be taken for this use now.
pub(crate) fn are_short(of: Use) -> bool {
    let limit = limit();
    let kept = match of {
        Use::Client => kept(limit),
        Use::Export => kept(limit).saturating_mul(2),
        Use::Operator => kept(limit) / 2,
    };
    let Ok(least) = i32::try_from(limit.saturating_sub(kept)) else { return false };
    // As many are taken as there are numbers below the lowest that is free.
    match fcntl_dupfd_cloexec(std::io::stderr().as_fd(), 0) {
        Ok(probe) => probe.as_raw_fd() >= least,
        Err(error) => error == Errno::MFILE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eighth_is_kept_up_to_a_bound() {
        assert_eq!([48, 256, 1024, 65536].map(kept), [8, 32, 64, 64]);
    }
}
