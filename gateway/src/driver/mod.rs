//! How a backend is resized beside the wire: by its file, by QMP, by commands of the operator's.
//!
//! A driver gets an [`Order`] and says how it went; what the backend's size is afterwards is read from the backend, and
//! that is what counts. It knows nothing of quotas, lanes and sessions: those are quiet before it is called where it needs
//! that (`aside` of [`BackendStyle`](nbd_gateway_policy::style::BackendStyle)). Each keeps within the export's `timeout`, and
//! whoever runs something outside ends it when dropped. A program that has to be killed takes up to
//! [`GRACE`](crate::command::GRACE) and a second longer.

mod exec;
mod file;
mod qmp;
mod restart;

use std::path::Path;
use std::time::Duration;

use nbd_gateway_config as config;
use nbd_gateway_policy::types::{ExportName, TenantId};
use nbd_gateway_proto::ExportFlags;

use crate::command::Occasion;
use crate::fault::Fault;

pub(crate) use exec::Exec;
pub(crate) use file::File;
pub(crate) use qmp::{Healed, Qmp};
pub(crate) use restart::Restart;

#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// Whose backend it is.
    pub export: ExportName,
    pub tenant: TenantId,
    /// The backend's size as last read, in bytes.
    pub from: u64,
    /// The size that it is to have, in bytes.
    pub to: u64,
    /// What the backend was when its export was opened: what a driver puts back has to be the same.
    pub was: BackendSnapshot,
    /// How long all of it may take; a QMP driver has other limits.
    pub limit: Duration,
}

impl Order {
    /// What a program is told of it.
    pub(crate) fn occasion(&self) -> Occasion {
        let (export, tenant) = (self.export.clone(), self.tenant.clone());
        Occasion { export, tenant, old_size: self.from, size: self.to, generation: None }
    }
}

/// What a backend's export was when it was opened.
#[derive(Clone, Debug)]
pub(crate) struct BackendSnapshot {
    /// Its name at the backend.
    pub name: String,
    pub flags: ExportFlags,
    pub contexts: Vec<String>,
    pub description: Option<String>,
}

/// A way to resize a backend beside the wire.
#[derive(Clone, Debug)]
pub(crate) enum Driver {
    /// By the length of the file that the server serves.
    File(File),
    /// The same, and the server is restarted.
    Restart(Restart),
    Exec(Exec),
    Qmp(Qmp),
}

impl Driver {
    /// The way that the configuration names, if it is one beside the wire; `state` is the state directory, `export` the
    /// gateway's name of it.
    pub(crate) fn of(config: &config::Driver, state: &Path, export: &str) -> Option<Self> {
        match config {
            config::Driver::File { path } => Some(Self::File(File(path.clone()))),
            config::Driver::Restart { path, command } => {
                Some(Self::Restart(Restart { file: path.clone().map(File), words: command.clone() }))
            }
            config::Driver::Exec { command } => Some(Self::Exec(Exec(command.clone()))),
            config::Driver::Qmp(at) => Some(Self::Qmp(Qmp::new(at, state, export))),
            config::Driver::Origin
            | config::Driver::Wire
            | config::Driver::Automatic
            | config::Driver::Window { .. }
            | config::Driver::None => None,
        }
    }

    /// Whether what a grow exposes reads as zeroes by itself, as that of a file does.
    pub(crate) async fn exposes_zeroes(&self) -> bool {
        match (self, self.file()) {
            (Self::Qmp(qmp), _) => qmp.exposes_zeroes().await,
            (_, Some(file)) => file.exposes_zeroes().await,
            // A volume may show what it held before.
            (_, None) => false,
        }
    }

    /// How long the file is that it resizes, in bytes: more than the server shows, if that has not looked at it again. `None`
    /// also if the file system does not say it within `limit`.
    pub(crate) async fn length(&self, limit: Duration) -> Option<u64> {
        self.file()?.length(limit).await
    }

    const fn file(&self) -> Option<&File> {
        match self {
            Self::File(file) | Self::Restart(Restart { file: Some(file), .. }) => Some(file),
            Self::Restart(_) | Self::Exec(_) | Self::Qmp(_) => None,
        }
    }

    /// Whether it can make sure that the server is over its earlier connections.
    pub(crate) const fn can_fence(&self) -> bool {
        matches!(self, Self::Restart(_) | Self::Qmp(_))
    }

    /// Makes sure that the server is over its earlier connections; the order's sizes mean nothing. An error: nobody knows.
    /// Cancel-safe: dropped, a program is ended, and an export that was taken off is put back.
    pub(crate) async fn fence(&self, order: &Order) -> Result<(), Fault> {
        match self {
            Self::Restart(restart) => restart.fence(order).await,
            Self::Qmp(qmp) => qmp.fence(order).await,
            Self::File(_) | Self::Exec(_) => Err(Fault::us("this driver has no fence")),
        }
    }

    /// Carries an order out. Cancel-safe: dropped, what it started outside is ended; whether the size changed is then
    /// unknown.
    pub(crate) async fn resize(&self, order: &Order) -> Result<(), Fault> {
        match self {
            Self::File(file) => file.resize(order).await,
            Self::Restart(restart) => restart.resize(order).await,
            Self::Exec(exec) => exec.resize(order).await,
            Self::Qmp(qmp) => qmp.resize(order).await,
        }
    }
}

#[cfg(test)]
mod tests;
