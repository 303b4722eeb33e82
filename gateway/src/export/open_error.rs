//! Why an export is not opened, for the log and for the client: what a client is told names nothing of the inside.

use nbd_gateway_config::NoExport;
use nbd_gateway_policy::access::{Rule, Verb};
use nbd_gateway_policy::refusal::Refusal;

use crate::fault::Whose;
use crate::limits::PlaceError;
use crate::request::SHUTTING_DOWN;

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
    #[error("{SHUTTING_DOWN}")]
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
            Self::Unknown { .. } | Self::Hidden { .. } | Self::Forbidden { .. } | Self::Missing { .. } => Whose::Client,
            Self::Crowded(_) | Self::Full { .. } => Whose::Tenant,
            Self::Changed { .. } | Self::Backend { .. } => Whose::Backend,
            Self::Busy { .. } => Whose::Host,
            Self::Draining => Whose::Us,
        }
    }

    /// The sentence for a client: without addresses and other names of the inside.
    pub(crate) fn for_client(&self) -> String {
        match self {
            Self::Unknown { export, .. } | Self::Hidden { export, .. } | Self::Missing { export, .. } => {
                format!("there is no export {export:?}")
            }
            Self::Forbidden { export, verb, .. } => {
                format!("you may not {verb} export {export:?}; ask the operator for the verb `{verb}`")
            }
            Self::Changed { export, .. } => {
                format!(
                    "export {export:?} can't be opened now: its server came back different, and clients that rely on what it \
                     was are connected or may come back; try again when they have left"
                )
            }
            Self::Draining | Self::Crowded(_) | Self::Full { .. } | Self::Busy { .. } => self.to_string(),
            Self::Backend { export, .. } => {
                format!(
                    "export {export:?} can't be opened now: its backend does not answer as it should; the gateway's log says why"
                )
            }
        }
    }
}
