//! Whose fault a failure is, and what follows from that: one table for the whole program.
//!
//! Where a caller tells cases apart, the room has an error enum of its own, which says for each case whose fault it is, and becomes a [`Fault`] there. A
//! failure that is only passed on (to a log, an operator, a client) becomes a [`Fault`]. A wish that the rules forbid is no
//! fault: it is refused, by policy's `refusal`, with a table of its own.

use std::borrow::Cow;

use nbd_gateway_ledger::LedgerError;
use nbd_gateway_proto::Errno;
use tracing::Level;

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The client asks for what it can't have, or breaks the protocol.
    Client,
    /// The backend, or another server that the gateway asks.
    Backend,
    /// The tenant has used up what it may have.
    Tenant,
    /// The host of the gateway: its disks, its file system, what an operator runs on it.
    Host,
    Us,
}

impl Whose {
    /// The error number for a client, and the level of the line in the log.
    const fn row(self) -> (Errno, Level) {
        match self {
            Self::Client => (Errno::EINVAL, Level::INFO),
            Self::Backend => (Errno::EIO, Level::WARN),
            Self::Tenant => (Errno::ENOSPC, Level::INFO),
            Self::Host => (Errno::EIO, Level::WARN),
            Self::Us => (Errno::EIO, Level::ERROR),
        }
    }

    /// Whether an operator has to read of it.
    pub(crate) fn is_for_operators(self) -> bool {
        self.row().1 <= Level::WARN
    }
}

/// Why something failed that the gateway undertook.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Fault {
    whose: Whose,
    /// Where that is known better than from whose fault it is.
    errno: Option<Errno>,
    message: Cow<'static, str>,
    unknown: bool,
}

impl Fault {
    /// It was not done, and `message` tells an operator why.
    pub(crate) fn new(whose: Whose, message: impl Into<Cow<'static, str>>) -> Self {
        Self { whose, errno: None, message: message.into(), unknown: false }
    }

    pub(crate) fn client(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Whose::Client, message)
    }

    pub(crate) fn backend(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Whose::Backend, message)
    }

    pub(crate) fn host(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Whose::Host, message)
    }

    /// The gateway ends, or has lost a task.
    pub(crate) fn us(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Whose::Us, message)
    }

    /// The same, with another error number.
    #[must_use]
    pub(crate) fn with_errno(self, errno: Errno) -> Self {
        Self { errno: Some(errno), ..self }
    }

    /// The same, except that it may have been done, or still be.
    #[must_use]
    pub(crate) fn or_done(self) -> Self {
        Self { unknown: true, ..self }
    }

    /// The same, with more to say.
    #[must_use]
    pub(crate) fn saying(self, message: impl FnOnce(&str) -> String) -> Self {
        Self { message: message(&self.message).into(), ..self }
    }

    /// What a client would get for it.
    pub(crate) fn errno(&self) -> Errno {
        self.errno.unwrap_or(self.whose.row().0)
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Whether it may have been done all the same, or still be.
    pub(crate) const fn is_unknown(&self) -> bool {
        self.unknown
    }
}

impl From<LedgerError> for Fault {
    fn from(error: LedgerError) -> Self {
        Self::host(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_and_tenants_cause_is_not_told_to_operators_as_a_warning() {
        for whose in [Whose::Client, Whose::Tenant, Whose::Backend, Whose::Host, Whose::Us] {
            let theirs = matches!(whose, Whose::Client | Whose::Tenant);
            assert_eq!(whose.is_for_operators(), !theirs, "{whose:?}");
        }
    }

    #[test]
    fn a_better_known_error_number_wins_over_the_table() {
        assert_eq!(Fault::host("full").errno(), Errno::EIO);
        assert_eq!(Fault::host("full").with_errno(Errno::ENOSPC).errno(), Errno::ENOSPC);
    }
}
