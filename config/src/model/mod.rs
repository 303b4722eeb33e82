//! The configuration as the rest of the program sees it: checked, complete, every default filled in.
//!
//! Owns what a configuration means and which combinations make none. A value of these types has passed all checks, so
//! nobody checks again. Never touches a socket or a disk, but for reading the file itself.

mod address;
mod backend;
mod build;
mod changes;
mod circle;
mod clash;
mod clients;
mod driver;
mod embedded;
mod export;
mod io;
mod limits;
mod notify;
mod place;
mod resize;
mod section;
mod template;
mod tenant;
mod tls;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use nbd_gateway_policy::access::Access;
use nbd_gateway_policy::words;

use crate::problem::{Problems, Report};
use crate::shape;

pub use address::{AdminAddress, ListenAddress};
pub use backend::Backend;
pub use changes::{Change, Changes, How, KeyChange, Thing};
pub use driver::{Driver, Qmp};
use export::Exports;
pub use export::{Export, Fence, NoExport, OnBackendLoss, Resolved};
pub use io::IoRates;
pub use limits::{Arrivals, LimitOverrides, Limits};
pub use notify::{Hook, Way};
use place::{Misplaced, Reserved, misplaced};
pub use resize::Resize;
pub use tenant::{Crowd, Rates, Tenant};
pub use tls::{Listener, ListenerTls};

/// A whole configuration that was checked: at least one listener, at least one export.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Directory for what the gateway keeps; relative to the working directory. Created by whoever first needs it.
    pub state: PathBuf,
    /// Where clients connect; at least one, no two at the same address.
    pub listeners: Vec<Listener>,
    /// The admin interface; None: it is off.
    pub admin: Option<AdminAddress>,
    /// The file that holds the admin interface's token; None: nothing can be changed there.
    pub token_file: Option<PathBuf>,
    /// Bounds of the process, and those of tenants and exports that have none of their own.
    pub limits: Limits,
    /// What is logged.
    pub log: Log,
    /// Threads that serve sessions; None: one for each processor that the process may use.
    pub threads: Option<NonZeroUsize>,
    access: Access,
    tenants: Vec<Tenant>,
    exports: Exports,
    reserved: Reserved,
}

/// What is logged, to standard error.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Log {
    /// For people or for programs.
    pub format: LogFormat,
    /// The least severe level.
    pub level: LogLevel,
    /// The OpenTelemetry collector that is sent spans: `http://HOST[:PORT]`, with no slash at its end.
    pub otlp: Option<String>,
}

words! {
    /// The form of a log line.
    #[derive(Default)]
    pub enum LogFormat {
        /// For people.
        #[default]
        Human => "human",
        /// One JSON object a line.
        Json => "json",
    }
}

words! {
    /// How severe a log line has to be to be written.
    #[derive(Default)]
    pub enum LogLevel {
        /// A person has to act.
        Error => "error",
        /// Unexpected, but the gateway went on.
        Warn => "warn",
        /// Changes of state.
        #[default]
        Info => "info",
        /// Steps of the protocol.
        Debug => "debug",
        /// Every request.
        Trace => "trace",
    }
}

impl Config {
    /// Reads a configuration, or says everything that is wrong with it. `origin` is the name that problems show.
    pub fn parse(text: &str, origin: &Path) -> Result<Self, Problems> {
        let mut report = Report::default();
        let config = shape::read(text, &mut report).and_then(|raw| build::config(raw, origin, &mut report));
        match report.finish(origin, config)? {
            Some(config) => Ok(config),
            // A configuration is only withheld together with a problem; should one ever not be, it is told here.
            None => Err(Problems::unreadable(origin, "this could not be read".to_owned())),
        }
    }

    /// Reads a configuration from a file, or says everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let bytes = std::fs::read(path)
            .map_err(|error| Problems::unreadable(path, format!("the file cannot be read: {error}")))?;
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            Problems::unreadable(path, format!("the file is not UTF-8 from byte {} on", error.valid_up_to()))
        })?;
        Self::parse(text, path)
    }

    /// What is wrong with where files are once links are followed, each as a sentence: two exports that open one file, a
    /// template whose files are in a directory of the gateway's. `real` tells what a path is without links; it may be asked for
    /// paths that are not there.
    pub fn misplaced_files(&self, real: &dyn Fn(&Path) -> PathBuf) -> Vec<String> {
        let labelled: Vec<_> =
            self.exports.entries().map(|(name, entry)| (format!("export {name:?}"), entry)).collect();
        let sentence = |wrong: Misplaced| {
            let name = labelled.get(wrong.at).map_or("", |(label, _)| label.as_str());
            format!("{name}: {}: {}", wrong.key, wrong.what)
        };
        misplaced(&labelled, &self.reserved, real).into_iter().map(sentence).collect()
    }

    /// Whether another address of the file is an IPv4 address with the same port, so that `[::]` must leave IPv4 to it.
    /// `[::]` alone takes IPv4 connections too.
    pub fn shares_port_with_ipv4(&self, address: &ListenAddress) -> bool {
        let ListenAddress::Tcp(one) = address else { return false };
        let admin = self.admin.as_ref().map(AdminAddress::as_listener);
        let others = self.listeners.iter().map(|listener| &listener.address).chain(&admin);
        one.port() != 0 && others.into_iter().any(|other| other.is_ipv4_at(one.port()))
    }

    /// The tenants: those declared, or the one that is there without. At least one.
    pub fn tenants(&self) -> &[Tenant] {
        &self.tenants
    }

    /// The tenant of that name.
    pub fn tenant(&self, id: &str) -> Option<&Tenant> {
        self.tenants.iter().find(|tenant| tenant.id.as_str() == id)
    }

    /// Who may do what.
    pub fn access(&self) -> &Access {
        &self.access
    }
}
