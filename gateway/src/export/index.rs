//! The names that are open, or are being opened or closed. Callers get entries, never a guard of the map: so none is held
//! across an await.

use std::sync::Arc;

use dashmap::DashMap;
use nbd_gateway_config::Backend;

use parking_lot::Mutex;

use super::Export;
use super::entry::Entry;

#[derive(Debug, Default)]
pub(super) struct Index {
    entries: DashMap<String, Arc<Entry>>,
    /// Those of them that leave: few, and asked for at each opening.
    leaving: Mutex<Vec<Arc<Entry>>>,
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Entry>> {
        self.entries.get(name).map(|entry| Arc::clone(&entry))
    }

    pub(super) fn get_or_insert_with(&self, name: &str, make: impl FnOnce() -> Arc<Entry>) -> Arc<Entry> {
        Arc::clone(&self.entries.entry(name.to_owned()).or_insert_with(make))
    }

    pub(super) fn insert(&self, entry: &Arc<Entry>) {
        self.entries.insert(entry.name(), Arc::clone(entry));
    }

    /// An entry leaves: it is closed when its last session has ended. False: it leaves already.
    pub(super) fn leaves(&self, entry: &Arc<Entry>) -> bool {
        // Before it is marked, so that none is marked and not among them.
        let mut leaving = self.leaving.lock();
        let leaves = entry.closes();
        if leaves {
            leaving.push(Arc::clone(entry));
        }
        leaves
    }

    /// Removes an entry, unless another one has its name by now.
    pub(super) fn remove(&self, entry: &Arc<Entry>) {
        self.leaving.lock().retain(|leaving| !Arc::ptr_eq(leaving, entry));
        self.entries.remove_if(&entry.name(), |_, other| Arc::ptr_eq(other, entry));
    }

    /// A snapshot of all entries.
    pub(super) fn all(&self) -> Vec<Arc<Entry>> {
        self.entries.iter().map(|entry| Arc::clone(entry.value())).collect()
    }

    /// The open exports, sorted by name, without those that are being opened or closed.
    pub(super) fn open_now(&self) -> Vec<Arc<Export>> {
        let mut open: Vec<Arc<Export>> = self.all().iter().filter_map(|entry| entry.now_open()).collect();
        open.sort_by(|a, b| a.name().cmp(b.name()));
        open
    }

    /// Leaving entries whose disk is a file.
    pub(super) fn leaving_files(&self) -> Vec<Arc<Entry>> {
        let leaving = self.leaving.lock();
        leaving.iter().filter(|entry| matches!(entry.config().backend, Backend::File { .. })).cloned().collect()
    }
}
