//! Exports as they are declared, and the one that a name means.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nbd_gateway_policy::types::{Bytes, ExportName, TenantId};

use super::Config;
use super::backend::{Backend, BackendError, Target, name_of_file};
use super::driver::{Matched, command};
use super::limits::Limits;
use super::notify::Hook;
use super::resize::Resize;
use super::section::Section;
use super::template::Template;
use crate::raw::{RawFence, RawFenceWord};
use crate::uri::UriTls;

/// One export, ready to be opened: its template, if it came from one, is filled in.
pub type Resolved = Export;

/// An export as it is declared.
pub(super) type Entry = Export<Name, Target>;

/// An export, by its name and where its data is: as these are declared, or as they are for one name.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Export<N = ExportName, B = Backend> {
    /// The name that clients use.
    pub name: N,
    /// The template that the name fits or is; None: it has an entry of its own.
    pub template: Option<String>,
    /// Who it belongs to.
    pub tenant: TenantId,
    /// Where its data is.
    pub backend: B,
    /// A sentence for people.
    pub description: Option<String>,
    /// Whether everything that would change data is refused.
    pub read_only: bool,
    /// Connections to the backend, 1 to 64; 1 for embedded ones.
    pub lanes: NonZeroUsize,
    /// What clients see when the backend is lost. Means nothing for embedded ones.
    pub on_backend_loss: OnBackendLoss,
    /// How long after a lost connection the backend may still carry out what it had received; zero: not at all. Means
    /// nothing for embedded ones.
    pub late_write_guard: Duration,
    /// How the backend is made to be over lost connections. Means nothing for embedded ones.
    pub fence: Fence,
    /// How much is read ahead of sequential readers, and kept. None for embedded ones.
    pub read_ahead: Option<Bytes>,
    /// How long connecting, handshake included, may take. Means nothing for embedded ones.
    pub dial_timeout: Duration,
    /// How long after the last session lanes are let go; zero is at once. Means nothing for embedded ones.
    pub idle_timeout: Duration,
    /// How it grows and shrinks.
    pub resize: Resize,
    /// Who is told of a new size beside the clients.
    pub notify: Vec<Hook>,
    /// Its bounds, complete: its own, else its tenant's, else the global ones.
    pub limits: Limits,
}

/// Why a name means no export.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoExport {
    /// No export has that name, and no template fits it.
    #[error("no export has that name and no template fits it")]
    Unknown,
    /// A template fits it, but its backend cannot be asked for that name. No other template takes its place: which one a
    /// name belongs to does not depend on what can be opened.
    #[error("the template `{template}` fits, but its backend cannot be asked for that name: {why}")]
    Refused {
        /// The template, with its `*`.
        template: String,
        /// What is wrong with the name there.
        why: String,
    },
}

/// What clients see when the connection to a backend is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBackendLoss {
    /// Requests fail with EIO.
    Error,
    /// Requests wait while the backend is dialled again.
    Hold {
        /// How long; then they fail with EIO.
        time: Duration,
        /// Whether writes that the backend answered outlive the connection.
        durable: bool,
    },
}

impl Default for OnBackendLoss {
    fn default() -> Self {
        Self::Hold { time: Duration::from_secs(30), durable: false }
    }
}

/// The time that a backend has for late writes if the configuration says nothing.
pub(super) const LATE_WRITE_GUARD: Duration = Duration::from_secs(10);

/// How a backend is made to be over everything from earlier connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Fence {
    /// In the way of the export's driver, if that has one: `qmp` and `restart`.
    #[default]
    Driver,
    /// Not at all.
    Off,
    /// By a program and its arguments; not empty.
    Command(Vec<String>),
}

impl Fence {
    pub(super) fn read(raw: Option<&RawFence>, section: &mut Section<'_>) -> Self {
        match raw {
            None => Self::Driver,
            Some(RawFence::Word(RawFenceWord::Off)) => Self::Off,
            Some(RawFence::Command(words)) => Self::Command(command("fence", Some(words), section)),
        }
    }

    /// The same for the name in which `*` matched `matched`.
    fn fill(&self, matched: &str) -> Result<Self, BackendError> {
        Ok(match self {
            Self::Driver | Self::Off => self.clone(),
            Self::Command(words) => Self::Command(Matched(matched).words(words)?),
        })
    }
}

/// The time for connecting to a backend if the configuration says nothing.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// The time after which idle lanes are let go if the configuration says nothing.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A name, or many.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Name {
    Exact(ExportName),
    Template(Template),
}

impl Name {
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Exact(name) => name.as_str(),
            Self::Template(template) => template.as_str(),
        }
    }
}

impl Entry {
    fn resolve(&self, name: ExportName, matched: &str) -> Result<Resolved, NoExport> {
        let refused =
            |fault: BackendError| NoExport::Refused { template: self.name.as_str().to_owned(), why: fault.to_string() };
        Ok(Export {
            name,
            template: self.template.clone(),
            tenant: self.tenant.clone(),
            backend: self.backend.fill(matched).map_err(refused)?,
            description: self.description.clone(),
            read_only: self.read_only,
            lanes: self.lanes,
            on_backend_loss: self.on_backend_loss,
            late_write_guard: self.late_write_guard,
            fence: self.fence.fill(matched).map_err(refused)?,
            read_ahead: self.read_ahead,
            dial_timeout: self.dial_timeout,
            idle_timeout: self.idle_timeout,
            resize: self.resize.fill(matched).map_err(refused)?,
            notify: self.notify.iter().map(|hook| hook.fill(matched)).collect::<Result<_, _>>().map_err(refused)?,
            limits: self.limits,
        })
    }
}

/// All exports: exact names by name, templates in the order in which they are tried.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Exports {
    names: Vec<ExportName>,
    exact: HashMap<ExportName, Entry>,
    templates: Vec<(Template, Entry)>,
}

impl Exports {
    /// Sorts the entries. Of two with the same name the first is kept; that they clash is told elsewhere.
    pub(super) fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut exports = Self::default();
        for entry in entries {
            match entry.name.clone() {
                Name::Exact(name) => {
                    exports.names.push(name.clone());
                    exports.exact.entry(name).or_insert(entry);
                }
                Name::Template(template) => exports.templates.push((template, entry)),
            }
        }
        exports.templates.sort_by_key(|(template, _)| std::cmp::Reverse(template.literal()));
        exports
    }

    /// The export that `name` means.
    pub(super) fn resolve(&self, name: &str) -> Result<Resolved, NoExport> {
        let name = ExportName::new(name).map_err(|_| NoExport::Unknown)?;
        let (matched, entry) = self.find(name.as_str()).ok_or(NoExport::Unknown)?;
        entry.resolve(name.clone(), matched)
    }

    /// The entry that `name` means, and what its `*` stands for; nothing where the name is exact.
    fn find<'a>(&self, name: &'a str) -> Option<(&'a str, &Entry)> {
        if let Some(entry) = self.exact.get(name) {
            return Some(("", entry));
        }
        self.templates.iter().find_map(|(template, entry)| Some((template.matched(name)?, entry)))
    }

    /// Each entry with its name: the exact ones in the order of the file, then the templates.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        let exact = self.names.iter().filter_map(|name| Some((name.as_str(), self.exact.get(name)?)));
        exact.chain(self.templates.iter().map(|(template, entry)| (template.as_str(), entry)))
    }
}

impl Config {
    /// Whose export a name means, by the same choice as [`export_for`](Self::export_for) and without a look at what the
    /// name does to a template's backend. None: no export has that name and no template fits it.
    pub fn owner_of(&self, name: &str) -> Option<&TenantId> {
        self.exports.find(name).map(|(_, entry)| &entry.tenant)
    }

    /// The export that a client means by `name`: the exact name, or the template with the most literal characters that
    /// the name fits.
    ///
    /// # Errors
    /// [`NoExport::Unknown`] if there is neither; [`NoExport::Refused`] if the template's backend cannot be asked for
    /// that name: what `*` matched does not belong in a path, or makes it too long.
    pub fn export_for(&self, name: &str) -> Result<Resolved, NoExport> {
        self.exports.resolve(name)
    }

    /// The names that LIST shows, in the order of the file: the exact ones. The names of a template cannot be listed.
    pub fn listable(&self) -> impl Iterator<Item = &str> {
        self.exports.names.iter().map(ExportName::as_str)
    }

    /// Whether an export has its own entry, so that [`listable`](Self::listable) has it.
    pub fn is_listable(&self, name: &str) -> bool {
        self.exports.exact.contains_key(name)
    }

    /// The names among them whose disks are embedded; they are open from the start.
    pub fn embedded(&self) -> impl Iterator<Item = &str> {
        // An exact name has no blanks that something else would be filled into.
        let embedded = |entry: &Entry| matches!(&entry.backend, Target::Fixed(backend) if backend.is_embedded());
        let Exports { names, exact, .. } = &self.exports;
        names.iter().filter(move |name| exact.get(*name).is_some_and(embedded)).map(ExportName::as_str)
    }

    /// Whether a name means the same by another configuration.
    pub fn has_same_export(&self, other: &Self, name: &str) -> bool {
        let found = self.exports.find(name);
        found.is_some() && found == other.exports.find(name)
    }

    /// What LIST tells: each name of [`listable`](Self::listable), with its description if it has one.
    pub fn listing(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let exact = &self.exports.exact;
        let description = |name| exact.get(name).and_then(|entry: &Entry| entry.description.as_deref());
        self.exports.names.iter().map(move |name| (name.as_str(), description(name)))
    }

    /// The directories in which files of templates are, each file right in one.
    pub fn directories_of_templates(&self) -> impl Iterator<Item = PathBuf> {
        self.exports.templates.iter().filter_map(|(_, entry)| match &entry.backend {
            Target::File { path, .. } if !path.names_directories() => Some(path.directory()),
            _ => None,
        })
    }

    /// The name of the export that a file in one of them is; none: it is nobody's.
    pub fn export_of_file(&self, file: &Path) -> Option<String> {
        self.exports.templates.iter().find_map(|(template, entry)| {
            let Target::File { path, .. } = &entry.backend else { return None };
            let name = template.name_of(&name_of_file(path.matched(file.to_str()?)?)?);
            let own = self.export_for(&name).ok()?;
            matches!(&own.backend, Backend::File { path, .. } if path == file).then_some(name)
        })
    }

    /// How backends are reached by TLS, one entry for each export or template that says so.
    pub fn backends_tls(&self) -> impl Iterator<Item = &UriTls> {
        self.exports.entries().filter_map(|(_, entry)| entry.backend.tls())
    }

    /// The names of the templates, with their `*`, in the order in which they are tried.
    pub fn templates(&self) -> impl Iterator<Item = &str> {
        self.exports.templates.iter().map(|(template, _)| template.as_str())
    }
}
