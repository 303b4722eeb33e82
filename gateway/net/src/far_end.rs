//! Whether the other side of a socket is still there, asked without reading: a connection whose requests wait is not read.

use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What is known of the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FarEnd {
    /// It may send more.
    Open,
    /// It sends nothing more. Whether it still reads is not known: TCP says the same of both.
    Ended,
    /// It neither sends nor reads.
    Gone,
}

impl FarEnd {
    pub(super) fn of(socket: BorrowedFd<'_>) -> Self {
        let mut asked = [PollFd::new(&socket, PollFlags::RDHUP)];
        let told = poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        let [asked] = asked;
        match asked.revents() {
            // Reading will say what is wrong.
            _ if told.is_err() => Self::Open,
            events if events.intersects(PollFlags::HUP | PollFlags::ERR) => Self::Gone,
            events if events.contains(PollFlags::RDHUP) => Self::Ended,
            _ => Self::Open,
        }
    }
}
