//! Why an export is not opened, for the log and for the client: what a client is told names nothing of the inside.

use nbd_gateway_config::NoExport;
use nbd_gateway_policy::access::{Rule, Verb};
use nbd_gateway_policy::refusal::Refusal;

use crate::fault::Whose;
use crate::limits::PlaceError;

/// Why an export can't be opened.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The configuration has no such name.
    #[error("there is no export {export:?}: {why}")]
    Unknown {
        export: String,
        /// Nothing fits, or a template refuses it: with the template's name, for operators.
        why: NoExport,
    },
    /// It is there, and this client may not know of it.
    #[error("the client may not list export {export:?}: {rule}")]
    Hidden { export: String, rule: Rule },
    /// It is there, and this client may not open it.
    #[error("the client may not {verb} export {export:?}: {rule}")]
    Forbidden { export: String, verb: Verb, rule: Rule },
    /// The gateway is going away.
    #[error("the gateway is shutting down")]
    Draining,
    /// Its tenant has as much open as it may have.
    #[error("{0}")]
    Crowded(Refusal),
    /// A template leads to it, and its server does not have it.
    #[error("there is no export {export:?}: the template's server does not have it: {why}")]
    Missing {
        export: String,
        /// What the server said: with its address, for operators.
        why: String,
    },
    /// Its server came back different, and clients rely on what it was.
    #[error(
        "export {export:?} can't be opened: its server came back different: {how}; it is opened as it is now once the \
         {clients} that rely on what it was have left, or are not awaited any more (shrink-grace)"
    )]
    Changed {
        export: String,
        /// What the server no longer has.
        how: String,
        /// How many clients are connected, or may come back.
        clients: usize,
    },
    /// Something that others use up is short now.
    #[error("export {export:?} can't be opened now: {why}")]
    Busy {
        export: String,
        /// What is short, and what to do.
        why: String,
    },
    /// Its client's listener has as many sessions as it may have.
    #[error("{why}")]
    Full {
        export: String,
        /// How many there may be.
        why: PlaceError,
    },
    /// Its backend can't be reached or opened.
    #[error("export {export:?} can't be opened: {why}")]
    Backend {
        export: String,
        /// Why not: with the backend's address, for operators.
        why: String,
    },
}

impl OpenError {
    /// Whose fault it is.
    pub(crate) const fn whose(&self) -> Whose {
        match self {
            OpenError::Unknown { .. }
            | OpenError::Hidden { .. }
            | OpenError::Forbidden { .. }
            | OpenError::Missing { .. } => Whose::Client,
            OpenError::Crowded(_) | OpenError::Full { .. } => Whose::Tenant,
            OpenError::Changed { .. } | OpenError::Backend { .. } => Whose::Backend,
            OpenError::Busy { .. } => Whose::Host,
            OpenError::Draining => Whose::Us,
        }
    }

    /// The export that was asked for.
    pub(crate) fn export(&self) -> &str {
        match self {
            OpenError::Unknown { export, .. }
            | OpenError::Hidden { export, .. }
            | OpenError::Forbidden { export, .. }
            | OpenError::Missing { export, .. }
            | OpenError::Changed { export, .. }
            | OpenError::Full { export, .. }
            | OpenError::Busy { export, .. }
            | OpenError::Backend { export, .. } => export,
            OpenError::Crowded(refusal) => refusal.export.as_str(),
            OpenError::Draining => "",
        }
    }

    /// The sentence for a client: without addresses and other names of the inside.
    pub(crate) fn for_client(&self) -> String {
        match self {
            OpenError::Unknown { export, .. }
            | OpenError::Hidden { export, .. }
            | OpenError::Missing { export, .. } => {
                format!("there is no export {export:?}")
            }
            OpenError::Forbidden { export, verb, .. } => {
                format!("you may not {verb} export {export:?}; ask the operator for the verb `{verb}`")
            }
            OpenError::Changed { export, .. } => {
                format!(
                    "export {export:?} can't be opened now: its server came back different, and clients that rely on what it \
                     was are connected or may come back; try again when they have left"
                )
            }
            OpenError::Draining | OpenError::Crowded(_) | OpenError::Full { .. } | OpenError::Busy { .. } => {
                self.to_string()
            }
            OpenError::Backend { export, .. } => {
                format!(
                    "export {export:?} can't be opened now: its backend does not answer as it should; the gateway's log says why"
                )
            }
        }
    }
}
