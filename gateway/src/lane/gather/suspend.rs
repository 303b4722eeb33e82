//! A reply in pieces, suspended: what was found is left out, for who asks finds it again.

use nbd_gateway_proto::Errno;

use super::Gather;
use crate::handover::state::{FailureState, ReplyState};
use crate::request::Failure;

impl Gather {
    /// Whether something was found already.
    pub(in crate::lane) fn has_found(&self) -> bool {
        !self.pieces.is_empty() || !self.statuses.is_empty()
    }

    /// For a reply whose rest is thrown away. The error keeps what is missing from counting as the server's fault.
    pub(in crate::lane) fn of_nobody() -> Self {
        Self { error: Some(Failure::new(Errno::EIO, "asked again")), ..Self::default() }
    }

    pub(in crate::lane) fn suspend(self) -> ReplyState {
        let error = self.error.map(|Failure { errno, message, offset }| FailureState {
            errno: errno.0,
            message: message.into_owned(),
            offset,
        });
        ReplyState { chunks: self.chunks, error, fault: self.fault.map(String::from) }
    }

    pub(in crate::lane) fn resume(ReplyState { chunks, error, fault }: ReplyState) -> Self {
        let error = error.map(|FailureState { errno, message, offset }| Failure {
            errno: Errno(errno),
            message: message.into(),
            offset,
        });
        Self { chunks, error, fault: fault.map(Into::into), ..Self::default() }
    }
}
