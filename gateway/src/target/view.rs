//! An export's published size and its end: one writer (its coordinator), many readers.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::gate::Drain;
use crate::ordered_watch::OrderedWatch;

/// A size as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// In bytes.
    pub size: u64,
    /// Rises by one with each change.
    pub generation: u64,
}

/// An export's size, and the end up to which requests are admitted.
#[derive(Debug)]
pub(crate) struct View {
    shown: OrderedWatch<Shown>,
    /// Below the size only while a shrink is under way, or its outcome unknown. Read on the hot path.
    end: AtomicU64,
    /// A shrink that waits until nothing is in flight past the end.
    pub(super) drain: Drain,
}

impl View {
    pub(crate) fn new(size: u64) -> Self {
        let shown = OrderedWatch::new(Shown { size, generation: 0 });
        Self { shown, end: AtomicU64::new(size), drain: Drain::default() }
    }

    /// The size that is shown, in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.shown().size
    }

    /// The published size and its generation.
    pub(crate) fn shown(&self) -> Shown {
        self.shown.look(|shown| *shown)
    }

    /// Where requests must end.
    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Each change from now on; the latest wins.
    pub(crate) fn follow(&self) -> watch::Receiver<Shown> {
        self.shown.follow()
    }

    pub(crate) fn lower_end(&self, end: u64) {
        self.end.store(end, Ordering::Release);
    }

    pub(crate) fn publish(&self, shown: Shown) {
        self.end.store(shown.size, Ordering::Release);
        // Equal sizes tell nobody anything.
        self.shown.set(shown);
    }
}
