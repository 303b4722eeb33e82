//! How a backend is resized beside the wire: by its file, by QMP, by commands of the operator's.
//!
//! A driver gets an [`Order`] and says how it went; what the backend's size is afterwards is read from the backend, and
//! that is what counts. It knows nothing of quotas, lanes and sessions: those are quiet before it is called where it needs
//! that (`aside` of [`BackendStyle`](nbd_gateway_policy::style::BackendStyle)). Never bounded by itself: the coordinator's
//! `timeout` is, and whoever runs something outside ends it when dropped.

use nbd_gateway_config as config;
use nbd_gateway_policy::types::{ExportName, TenantId};

use crate::proto::{Errno, ExportFlags};

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Order {
    /// Whose backend it is.
    pub export: ExportName,
    /// The export's tenant.
    pub tenant: TenantId,
    /// The backend's size as last read, in bytes.
    pub from: u64,
    /// The size that it is to have, in bytes.
    pub to: u64,
    /// What the backend was when its export was opened: what a driver puts back has to be the same.
    pub was: Was,
}

/// What a backend's export was when it was opened.
#[derive(Clone, Debug)]
pub struct Was {
    /// Its name at the backend.
    pub name: String,
    /// Its transmission flags.
    pub flags: ExportFlags,
    /// Its metadata contexts.
    pub contexts: Vec<String>,
    /// Its description.
    pub description: Option<String>,
}

/// Why a driver did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Undone {
    /// What a client would get for it: ENOSPC where the backend is full.
    pub errno: Errno,
    /// A sentence for the operator.
    pub message: String,
    /// Whether it may have been done all the same, or still be.
    pub unknown: bool,
}

impl Undone {
    /// It was not done.
    pub fn refused(errno: Errno, message: impl Into<String>) -> Self {
        Self { errno, message: message.into(), unknown: false }
    }

    /// Nobody knows.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self { errno: Errno::EIO, message: message.into(), unknown: true }
    }
}

/// A way to resize a backend beside the wire.
#[derive(Clone, Debug)]
pub enum Driver {}

impl Driver {
    /// The way that the configuration names, if it is one beside the wire.
    pub fn of(config: &config::Driver) -> Option<Self> {
        match config {
            config::Driver::File { .. }
            | config::Driver::Qmp(_)
            | config::Driver::Restart { .. }
            | config::Driver::Exec { .. }
            | config::Driver::Origin
            | config::Driver::Wire
            | config::Driver::Automatic
            | config::Driver::Window { .. }
            | config::Driver::None => None,
        }
    }

    /// Whether what a grow exposes reads as zeroes by itself, as that of a file does.
    pub async fn exposes_zeroes(&self) -> bool {
        match *self {}
    }

    /// Carries an order out. Cancel-safe: dropped, what it started outside is ended; whether the size changed is then
    /// unknown.
    pub async fn resize(&self, _order: &Order) -> Result<(), Undone> {
        match *self {}
    }
}
