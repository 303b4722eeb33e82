//! The numbers of each export, and how a page shows them.
//!
//! A series of the `prometheus` crate holds its name, help and labels for itself: about 1 KiB. An export has up to a
//! hundred series, and a gateway may have ten thousand exports. Here a series is its number alone, an export's are looked
//! up once when it is opened and go at once when it leaves, and names and labels are written when a page is.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::export_families::{FAMILIES, Lines};
use crate::labels::{Command, Direction, HookResult, HookWay, LossReason, Outcome, ResizeResult, ResizeStyle};

/// Open exports of templates beyond this many have no series of their own: clients make up their names.
const MOST_OF_TEMPLATES: usize = 1000;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds 1.
    pub fn inc(&self) {
        self.inc_by(1);
    }

    /// Adds `n`.
    pub fn inc_by(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Makes it `value`.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Takes 1 away.
    pub fn dec(&self) {
        self.add(-1);
    }

    pub(crate) fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The numbers of one export, or of a template that exports share. A part is shown once somebody has asked for its handles.
#[derive(Debug, Default)]
pub(crate) struct Series {
    pub(crate) open_failures: Counter,
    pub(crate) traffic: OnceLock<Arc<Traffic>>,
    pub(crate) growth: OnceLock<Arc<Growth>>,
    pub(crate) hooks: OnceLock<Arc<Hooks>>,
    /// By tenant: during a reload that gives an export to another it has two.
    pub(crate) tenants: Mutex<BTreeMap<Box<str>, Arc<Sizes>>>,
}

/// What its clients and its backend's connections do.
#[derive(Debug, Default)]
pub struct Traffic {
    pub(crate) requests: [[Counter; Outcome::ALL.len()]; Command::ALL.len()],
    pub(crate) bytes: [Counter; Direction::ALL.len()],
    pub(crate) reconnects: [Counter; LossReason::ALL.len()],
    /// Requests admitted and not yet answered.
    pub in_flight: Gauge,
    /// Bytes asked for ahead of sequential readers.
    pub read_ahead_fetched: Counter,
    /// Bytes that READs got from what was read ahead.
    pub read_ahead_served: Counter,
    /// 1 while the export is open.
    pub open: Arc<Gauge>,
    pub(crate) oldest: Arc<Gauge>,
    pub(crate) lane_up: Arc<Gauge>,
    pub(crate) late_writes: Arc<Gauge>,
}

/// Its size, without its tenant's name.
#[derive(Debug, Default)]
pub struct Growth {
    pub(crate) generation: Arc<Gauge>,
    pub(crate) drift: Arc<Gauge>,
    pub(crate) unsettled: Arc<Gauge>,
    pub(crate) quarantined: Arc<Gauge>,
    pub(crate) looked_at: Arc<Gauge>,
    /// Times that a backend claimed to resize and turned out not to.
    pub claims_lost: Counter,
    /// RESIZE chunks sent to standing NOTIFY requests, and long polls answered.
    pub notices_sent: Counter,
    /// Changes that were told together with a later one.
    pub notices_merged: Counter,
    /// Notices received from the backend.
    pub backend_notices: Counter,
    /// Those of them that a later one took the place of before anybody looked.
    pub backend_notices_dropped: Counter,
}

/// Its size, with its tenant's name.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    pub(crate) resizes: [[Counter; ResizeResult::ALL.len()]; ResizeStyle::ALL.len()],
    pub(crate) size: Arc<Gauge>,
}

/// Hooks that are told its size.
#[derive(Debug, Default)]
pub(crate) struct Hooks {
    pub(crate) attempts: [[Counter; HookResult::ALL.len()]; HookWay::ALL.len()],
    pub(crate) behind: Arc<Gauge>,
}

/// The series of all exports. Exports that the configuration names always have some; those of templates while they are
/// open, and beyond the bound they share the series of their template, whose name has a `*` and so is no export's.
#[derive(Debug, Default)]
pub(crate) struct Exports(Mutex<Shown>);

#[derive(Debug, Default)]
struct Shown {
    series: BTreeMap<Box<str>, Known>,
    /// How many of them clients made the names of up.
    made_up: usize,
}

#[derive(Debug, Default)]
struct Known {
    made_up: bool,
    series: Arc<Series>,
}

impl Shown {
    fn named(&mut self, name: &str) -> Arc<Series> {
        let known = self.series.entry(name.into()).or_default();
        if std::mem::take(&mut known.made_up) {
            self.made_up = self.made_up.saturating_sub(1);
        }
        Arc::clone(&known.series)
    }
}

impl Exports {
    /// The series of an export, its own or its template's; and whether others may have the same.
    pub(crate) fn series(&self, name: &str, template: Option<&str>) -> (Arc<Series>, bool) {
        let mut shown = self.0.lock();
        let Some(template) = template else {
            return (shown.named(name), false);
        };
        // A client may ask for the template's own name.
        if !name.contains('*') {
            if let Some(known) = shown.series.get(name) {
                return (Arc::clone(&known.series), false);
            }
            if shown.made_up < MOST_OF_TEMPLATES {
                let known = Known { made_up: true, series: Arc::default() };
                let series = Arc::clone(&known.series);
                shown.series.insert(name.into(), known);
                shown.made_up = shown.made_up.saturating_add(1);
                return (series, false);
            }
        }
        (shown.named(template), true)
    }

    /// The series that there are of an export, otherwise those of its template, otherwise new ones.
    pub(crate) fn known_or_template(&self, name: &str, template: Option<&str>) -> Arc<Series> {
        let mut shown = self.0.lock();
        match shown.series.get(name) {
            Some(known) => Arc::clone(&known.series),
            None => shown.named(template.unwrap_or(name)),
        }
    }

    /// Takes the series of an export or of a template away, and makes room for another name. An export that shares those of
    /// its template has none. Who still holds handles counts into nothing; under the same name they begin at 0 again.
    pub(crate) fn forget(&self, name: &str) {
        let mut shown = self.0.lock();
        if shown.series.remove(name).is_some_and(|known| known.made_up) {
            shown.made_up = shown.made_up.saturating_sub(1);
        }
    }

    /// All of them in Prometheus' text format.
    pub(crate) fn render_to(&self, to: &mut impl Write) -> io::Result<()> {
        let all: Vec<(Box<str>, Arc<Series>)> = {
            let shown = self.0.lock();
            shown.series.iter().map(|(name, known)| (name.clone(), Arc::clone(&known.series))).collect()
        };
        for family in FAMILIES {
            let mut lines = Lines::new(to, family);
            for (export, series) in &all {
                lines.of(export, series)?;
            }
        }
        Ok(())
    }
}
