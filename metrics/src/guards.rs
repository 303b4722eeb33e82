//! What opens and closes, and what has a part in something shared: gauges that can't be forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use prometheus::IntGauge;

use crate::exports::Gauge;

/// Counts one while it lives.
#[derive(Debug)]
pub struct Open<G: Level = IntGauge>(G);

/// What [`Open`] counts in.
pub trait Level: Clone {
    /// Adds `n`, which may be negative.
    fn change(&self, n: i64);
}

impl Level for IntGauge {
    fn change(&self, n: i64) {
        self.add(n);
    }
}

impl Level for Arc<Gauge> {
    fn change(&self, n: i64) {
        self.add(n);
    }
}

impl<G: Level> Open<G> {
    /// Adds one to `gauge` until it is dropped.
    pub fn new(gauge: &G) -> Self {
        gauge.change(1);
        Self(gauge.clone())
    }
}

impl<G: Level> Drop for Open<G> {
    fn drop(&mut self) {
        self.0.change(-1);
    }
}

/// What one export says in a gauge; cheap to clone. In a series of its own it stays when the export is closed. In a
/// template's series it is what it adds to what the others say there, and goes with the last clone.
#[derive(Clone, Debug)]
pub struct Part(Arc<Share>);

#[derive(Debug)]
struct Share {
    gauge: Arc<Gauge>,
    /// What this one adds now; none: the series is its own.
    added: Option<AtomicI64>,
}

impl Part {
    pub(crate) fn new(gauge: &Arc<Gauge>, shared: bool) -> Self {
        Self(Arc::new(Share { gauge: Arc::clone(gauge), added: shared.then(AtomicI64::default) }))
    }

    /// Says `value` from now on.
    pub fn set(&self, value: i64) {
        match &self.0.added {
            None => self.0.gauge.set(value),
            Some(added) => self.0.gauge.add(value.wrapping_sub(added.swap(value, Ordering::Relaxed))),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(added) = &self.added {
            self.gauge.add(added.load(Ordering::Relaxed).wrapping_neg());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_shared_gauge_add_up_and_take_themselves_away() {
        let gauge = Arc::<Gauge>::default();
        let (one, two) = (Part::new(&gauge, true), Part::new(&gauge, true));
        one.set(5);
        two.set(7);
        one.clone().set(2);
        assert_eq!(gauge.get(), 9);
        drop(one);
        assert_eq!(gauge.get(), 7);
        drop(two);
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn a_series_of_ones_own_keeps_what_was_said_last() {
        let gauge = Arc::<Gauge>::default();
        let first = Part::new(&gauge, false);
        first.set(5);
        drop(first);
        assert_eq!(gauge.get(), 5);
        Part::new(&gauge, false).set(7);
        assert_eq!(gauge.get(), 7);
    }
}
