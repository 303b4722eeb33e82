//! Noticing what the backend does by itself: by its notices, by asking in band, or by a second handshake.
//!
//! A flood of notices costs one wake-up per look, not per notice: the latest size wins at the door. A backend that sends
//! notices faster than `backend-notice-rate` loses its subscription and is polled for a while.

use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_config::{Backend, Resolved};
use nbd_gateway_metrics::ResizeMetrics;
use nbd_gateway_policy::rate::{Limiter, Rate, adjust};
use nbd_gateway_policy::style::Tells;
use nbd_gateway_policy::types::Moment;
use nbd_gateway_proto::{Cmd, CmdFlags};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Desk, Resizer};
use crate::fault::Fault;
use crate::lane::Heard;
use crate::request::{Outcome, Request};
use crate::target::{Core, Purpose};

/// The least time between two notices that is asked for, in milliseconds.
const INTERVAL: u64 = 50;
/// Notices that one subscription may bring before it has to be renewed.
const CREDIT: u64 = 4096;
/// How long a subscription that ended is not renewed: at first, and at most where each comes to nothing.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How often the length of a file is looked at.
const FILES: Duration = Duration::from_secs(5);
/// The least time between two looks at a backend that floods.
const LOOKS: Duration = Duration::from_secs(1);

/// What is borne of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    /// How often one that can't notify is asked; zero: never.
    pub poll: Duration,
    /// How many notices it may send; none: no bound.
    pub rate: Option<Rate>,
    /// For how long one that sent more is polled instead.
    pub rest: Duration,
}

impl Patience {
    pub(crate) fn of(export: &Resolved) -> Self {
        let resize = &export.resize;
        let file = matches!(export.backend, Backend::File { .. }).then_some(FILES);
        Self {
            poll: file.or(resize.poll).unwrap_or_default(),
            rate: resize.backend_notice_rate,
            rest: resize.backend_notice_rest,
        }
    }
}

/// Follows until the export closes.
pub(crate) async fn follow(
    core: Arc<Core>,
    resizer: Resizer,
    tells: Tells,
    mut patience: watch::Receiver<Patience>,
    metrics: ResizeMetrics,
    mut end: watch::Receiver<bool>,
) {
    let mut gaze = Gaze { told: None, unchanged: 0 };
    let mut again = AGAIN.0;
    let following = async {
        loop {
            let poll = patience.borrow_and_update().poll;
            let looks = tells == Tells::Notify || !poll.is_zero();
            metrics.looked_at.set(i64::from(looks && gaze.told.is_none()));
            if tells == Tells::Notify {
                while let Some(until) = resizer.deaf_until() {
                    let next = (Instant::now() + patience.borrow().poll.max(LOOKS)).min(until);
                    tokio::time::sleep_until(next).await;
                    gaze.look(&core, &resizer, &metrics).await;
                }
                match listen(&core, &resizer, &patience, &metrics).await {
                    Ended::Flooded => {
                        let rest = patience.borrow().rest;
                        tracing::warn!(
                            export = core.name(),
                            ?rest,
                            "the backend sends size notices faster than backend-notice-rate; it is asked for its size for a while instead"
                        );
                        *resizer.deaf.lock() = Some(Instant::now() + rest);
                    }
                    // Lost or refused: not at once again, and less often where it comes to nothing. What it would have told
                    // meanwhile is looked at.
                    Ended::Over { heard } => {
                        again = if heard { AGAIN.0 } else { again.saturating_mul(2).min(AGAIN.1) };
                        tokio::time::sleep(again).await;
                        gaze.look(&core, &resizer, &metrics).await;
                    }
                }
            } else {
                let pause = async {
                    match poll.is_zero() {
                        true => std::future::pending().await,
                        false => tokio::time::sleep(jitter(gaze.pause(poll), core.name())).await,
                    }
                };
                tokio::select! {
                    // A look that is due is not put off by a reload. The next pause is a new one, so neither starves.
                    biased;
                    () = pause => gaze.look(&core, &resizer, &metrics).await,
                    changed = patience.changed() => if changed.is_err() {
                        return;
                    }
                }
            }
        }
    };
    tokio::select! {
        // The end first: no look begins after it.
        biased;
        _ = end.wait_for(|e| *e) => {}
        () = following => {}
    }
}

impl Desk {
    /// Until when the backend, which flooded, is not subscribed to.
    fn deaf_until(&self) -> Option<Instant> {
        let mut deaf = self.deaf.lock();
        if deaf.take_if(|until| *until <= Instant::now()).is_some() {
            tracing::info!(export = self.export.as_str(), "the backend is subscribed to again");
        }
        *deaf
    }
}

enum Ended {
    Flooded,
    Over {
        /// Whether it had told anything.
        heard: bool,
    },
}

async fn listen(
    core: &Core,
    resizer: &Resizer,
    patience: &watch::Receiver<Patience>,
    metrics: &ResizeMetrics,
) -> Ended {
    let (tx, mut heard) = watch::channel(Heard::default());
    let subscribe = Request::new(Cmd::RESIZE, CmdFlags::NOTIFY, INTERVAL, CREDIT);
    let over = core.subscribe(subscribe, tx);
    tokio::pin!(over);
    let start = Instant::now();
    let mut limiter = patience.borrow().rate.map(|rate| Limiter::new(rate, Moment::default()));
    let mut counted = 0;
    loop {
        tokio::select! {
            // The answer first: it has the last size, and the channel of the others closes with it.
            biased;
            outcome = &mut over => {
                if let Outcome::Resized(size) = outcome {
                    resizer.seen(size);
                    counted = 1;
                }
                return Ended::Over { heard: counted > 0 };
            }
            changed = heard.changed() => {
                if changed.is_err() {
                    return Ended::Over { heard: counted > 0 };
                }
                let now = *heard.borrow_and_update();
                let fresh = now.count.saturating_sub(counted);
                counted = now.count;
                metrics.backend_notices.inc_by(fresh);
                // Only the last of them says anything.
                metrics.backend_notices_dropped.inc_by(fresh.saturating_sub(1));
                resizer.seen(now.size);
                let at = Moment::from_elapsed(start.elapsed());
                let rate = patience.borrow().rate;
                if limiter.as_ref().map(Limiter::rate) != rate {
                    adjust(&mut limiter, rate, at);
                }
                if limiter.as_mut().is_some_and(|limiter| limiter.take(at, fresh).is_err()) {
                    core.unsubscribe().await;
                    return Ended::Flooded;
                }
                // One look per interval, however many notices came: bounded work.
                tokio::time::sleep(Duration::from_millis(INTERVAL)).await;
            }
        }
    }
}

/// Looks in a row that found the same before the next one waits longer; and how many times `poll` it waits at most.
const SAME: u32 = 12;
const LONGEST: u32 = 6;

/// What looking came to so far.
struct Gaze {
    /// Why the size can't be read; told once.
    told: Option<Fault>,
    /// Looks in a row that found the size that was known.
    unchanged: u32,
}

impl Gaze {
    /// Until the next look.
    fn pause(&self, poll: Duration) -> Duration {
        poll.saturating_mul((1 + self.unchanged / SAME).min(LONGEST))
    }

    async fn look(&mut self, core: &Arc<Core>, resizer: &Resizer, metrics: &ResizeMetrics) {
        let before = core.disk();
        let looked = core.read_size(Purpose::Look).await;
        metrics.looked_at.set(i64::from(looked.is_ok()));
        match looked {
            Ok(size) => {
                self.told = None;
                self.unchanged = if size == before { self.unchanged.saturating_add(1) } else { 0 };
                resizer.seen(size);
            }
            Err(why) => {
                if self.told.as_ref() != Some(&why) {
                    tracing::info!(export = core.name(), %why, "the backend's size can't be read now; it is looked at again");
                }
                (self.told, self.unchanged) = (Some(why), 0);
            }
        }
    }
}

/// Up to a tenth more, by the export's name: exports of one backend do not ask all at once.
fn jitter(poll: Duration, name: &str) -> Duration {
    let seed = name.bytes().fold(7u32, |n, b| n.wrapping_mul(31).wrapping_add(u32::from(b)));
    poll + poll / 10 * (seed % 100) / 100
}

#[cfg(test)]
mod suspend;
#[cfg(test)]
mod tests;
