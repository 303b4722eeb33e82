//! What was done lately, and by whom: all that there is to go by when a sum turns out wrong.

use std::collections::VecDeque;
use std::time::Instant;

use parking_lot::Mutex;

use crate::trouble::Trouble;

/// Each action has a line when it begins and one when it ends.
const LINES: usize = 100;

/// The last lines, and the first violation.
pub(crate) struct Diary {
    start: Instant,
    lines: Mutex<VecDeque<String>>,
    violation: Mutex<Option<String>>,
}

impl Diary {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), lines: Mutex::default(), violation: Mutex::default() }
    }

    pub(crate) fn note(&self, who: &str, what: &str) {
        let mut lines = self.lines.lock();
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(format!("{} {who}: {}", self.now(), what.trim_end()));
    }

    fn now(&self) -> String {
        format!("{:9.3}", self.start.elapsed().as_secs_f64())
    }

    /// The first one counts: what follows may follow from it.
    pub(crate) fn violated(&self, what: &str) {
        let mut violation = self.violation.lock();
        if violation.is_none() {
            *violation = Some(format!("{} {what}\n--- what was done before it:\n{}", self.now(), self.recent()));
        }
    }

    pub(crate) fn recent(&self) -> String {
        Vec::from(self.lines.lock().clone()).join("\n")
    }

    pub(crate) fn check(&self) -> Result<(), Trouble> {
        self.violation.lock().clone().map_or(Ok(()), |violation| Err(Trouble::new(violation)))
    }
}
