//! Late writes, suspended and resumed.

use std::sync::atomic::Ordering;

use nbd_gateway_policy::types::ByteRange;

use super::{Inner, LATE, LateWrite, LateWrites, Link, Server, UNMARKED};
use crate::handover::state::{Age, LateState, LateWriteState, LinkState, StateError};

impl LinkState {
    pub(in crate::lane) fn of(link: &Link) -> Self {
        Self { made: Age::of(link.made), server: link.server.as_ref().map(ToString::to_string) }
    }

    pub(in crate::lane) fn link(self) -> Result<Link, StateError> {
        Ok(Link { made: self.made.ago(), server: server(self.server)? })
    }
}

fn server(text: Option<String>) -> Result<Option<Server>, StateError> {
    text.map(|text| text.parse().map_err(|_| StateError::Server(text))).transpose()
}

impl LateWrites {
    /// After all lanes were suspended, which may leave some behind.
    pub(crate) fn suspend(&self) -> LateState {
        let inner = self.inner.lock();
        let write = |late: &LateWrite| LateWriteState {
            id: late.id,
            from: late.range.start().bytes(),
            to: late.range.end().bytes(),
            lost: Age::of(late.lost),
            link: LinkState::of(&late.link),
            again: late.again,
            failed: late.failed,
            over: late.over,
            resize: late.resize,
        };
        LateState {
            last: inner.last,
            writes: inner.list.iter().map(write).collect(),
            fenced: inner.fenced.map(Age::of),
            marks: inner.marks,
            mark_wanted: inner.mark_wanted,
            has_mark: inner.has_mark,
            unmarked: self.state.load(Ordering::Acquire) & UNMARKED != 0,
            server: inner.server.as_ref().map(ToString::to_string),
        }
    }

    /// The guard and the fence stay: they are the configuration's.
    pub(crate) fn resume(&self, state: LateState) -> Result<(), StateError> {
        let write = |late: LateWriteState| {
            let (offset, length) = (late.from, late.to.saturating_sub(late.from));
            Ok(LateWrite {
                id: late.id,
                range: ByteRange::at(offset, length).ok_or(StateError::Outside { offset, length })?,
                lost: late.lost.ago(),
                link: late.link.link()?,
                again: late.again,
                failed: late.failed,
                over: late.over,
                resize: late.resize,
            })
        };
        let list: Vec<LateWrite> = state.writes.into_iter().map(write).collect::<Result<_, StateError>>()?;
        let flags = if list.is_empty() { 0 } else { LATE } | if state.unmarked { UNMARKED } else { 0 };
        let server = server(state.server)?;
        let inner = &mut *self.inner.lock();
        *inner = Inner {
            list,
            last: state.last,
            guard: inner.guard,
            fence: inner.fence,
            fenced: state.fenced.map(Age::ago),
            marks: state.marks,
            mark_wanted: state.mark_wanted,
            has_mark: state.has_mark,
            server,
        };
        self.state.store(flags, Ordering::Release);
        Ok(())
    }
}
