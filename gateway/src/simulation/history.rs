//! The events of a simulation in order: their hash, their printed form for a replay, and the first violation.

use std::fmt;

use tokio::sync::watch;
use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct History {
    begun: Instant,
    /// Number of events so far.
    step: u64,
    fingerprint: u64,
    /// Whether to print each event.
    verbose: bool,
    /// The first violation. It ends the simulation.
    first_violation: watch::Sender<Option<String>>,
}

impl History {
    pub(super) fn new(verbose: bool) -> Self {
        let first_violation = watch::Sender::new(None);
        Self { begun: Instant::now(), step: 0, fingerprint: 0xcbf2_9ce4_8422_2325, verbose, first_violation }
    }

    /// Adds an event. Returns its step.
    pub(super) fn note(&mut self, what: fmt::Arguments<'_>) -> u64 {
        self.step += 1;
        let at = self.begun.elapsed().as_micros();
        let line = format!("{at} {what}");
        for byte in line.bytes() {
            // FNV-1a
            self.fingerprint = (self.fingerprint ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.verbose {
            eprintln!("{:5} {:9}.{:03} ms  {what}", self.step, at / 1000, at % 1000);
        }
        self.step
    }

    /// Step of the latest event.
    pub(super) const fn now(&self) -> u64 {
        self.step
    }

    pub(super) const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Adds a violation of a promise.
    pub(super) fn violated(&mut self, promise: fmt::Arguments<'_>) {
        self.note(format_args!("VIOLATION: {promise}"));
        self.first_violation.send_if_modified(|first| {
            let none = first.is_none();
            first.get_or_insert_with(|| promise.to_string());
            none
        });
    }

    pub(super) fn first_violation(&self) -> watch::Receiver<Option<String>> {
        self.first_violation.subscribe()
    }
}
