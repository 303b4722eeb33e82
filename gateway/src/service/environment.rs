//! What a service manager says in the environment: where it listens, and whether it waits for signs of life.
//!
//! Reads and judges; never changes the environment. What the gateway runs does not see these variables (see `command`).

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr;
use std::time::Duration;

/// The variables, as they are.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    /// `NOTIFY_SOCKET`.
    pub(super) socket: Option<OsString>,
    /// `WATCHDOG_USEC`.
    pub(super) watchdog: Option<OsString>,
    /// `WATCHDOG_PID`.
    pub(super) watchdog_of: Option<OsString>,
    /// This process.
    pub(super) own: u32,
}

/// What can't be understood of it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum EnvironmentError {
    /// Of another family than Unix, or no address.
    #[error("NOTIFY_SOCKET={0:?} is no address that can be used; it has to be /PATH or @NAME")]
    Address(OsString),
    /// No time.
    #[error("WATCHDOG_USEC={0:?} is no number of microseconds")]
    Watchdog(OsString),
}

impl Environment {
    pub(super) fn read() -> Self {
        Self {
            socket: std::env::var_os("NOTIFY_SOCKET"),
            watchdog: std::env::var_os("WATCHDOG_USEC"),
            watchdog_of: std::env::var_os("WATCHDOG_PID"),
            own: std::process::id(),
        }
    }

    /// Where the manager listens: a path, or with `@` a name of Linux' abstract kind.
    pub(super) fn address(&self) -> Result<Option<SocketAddr>, EnvironmentError> {
        let Some(socket) = self.socket.as_ref().filter(|socket| !socket.is_empty()) else { return Ok(None) };
        let address = match socket.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            [b'/', ..] => SocketAddr::from_pathname(socket),
            _ => return Err(EnvironmentError::Address(socket.clone())),
        };
        address.map(Some).map_err(|_| EnvironmentError::Address(socket.clone()))
    }

    /// How long the manager waits for a sign of life of this process; none: it does not.
    pub(super) fn watchdog(&self) -> Result<Option<Duration>, EnvironmentError> {
        let Some(watchdog) = self.watchdog.as_ref().filter(|watchdog| !watchdog.is_empty()) else { return Ok(None) };
        let number = |text: &OsString| text.to_str().and_then(|text| text.parse::<u64>().ok());
        // Another process, by which this one was started, may be meant.
        if self.watchdog_of.as_ref().is_some_and(|of| number(of) != Some(self.own.into())) {
            return Ok(None);
        }
        match number(watchdog) {
            Some(0) => Ok(None),
            Some(usec) => Ok(Some(Duration::from_micros(usec))),
            None => Err(EnvironmentError::Watchdog(watchdog.clone())),
        }
    }
}
