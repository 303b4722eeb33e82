//! Noticing what the backend does by itself: by its notices, by asking in band, or by a second handshake.
//!
//! A flood of notices costs one wake-up per look, not per notice: the latest size wins at the door. A backend that sends
//! notices faster than `MOST_PER_SECOND` loses its subscription and is polled for a while.

use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_metrics::ResizeMetrics;
use nbd_gateway_policy::style::Tells;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Resizer;
use crate::export::Core;
use crate::lane::Heard;
use crate::proto::{Cmd, CmdFlags, Payload};
use crate::work::{Outcome, Request};

/// The least time between two notices that is asked for, in milliseconds.
const INTERVAL: u64 = 50;
/// Notices that one subscription may bring before it has to be renewed.
const CREDIT: u64 = 4096;
/// A backend above this is polled instead, for [`REST`].
const MOST_PER_SECOND: u64 = 100;
const REST: Duration = Duration::from_secs(60);

/// Follows until the export closes. `poll` zero: a backend that can't notify is not asked.
pub async fn follow(
    core: Arc<Core>,
    resizer: Resizer,
    tells: Tells,
    poll: Duration,
    metrics: ResizeMetrics,
    mut end: watch::Receiver<bool>,
) {
    let following = async {
        loop {
            let watched = tells == Tells::Notify || !(poll.is_zero() || core.takes_one());
            metrics.looked_at.set(i64::from(watched));
            if tells == Tells::Notify {
                match listen(&core, &resizer, &metrics).await {
                    Ended::Flooded => {
                        tracing::warn!(export = core.name(), limit = MOST_PER_SECOND, rest = ?REST, "the backend floods size notices; it is polled for a while instead");
                        let until = Instant::now() + REST;
                        while Instant::now() < until {
                            tokio::time::sleep(poll.max(Duration::from_secs(1))).await;
                            look(&core, &resizer, &metrics).await;
                        }
                    }
                    // Lost or refused: not at once again.
                    Ended::Over => tokio::time::sleep(Duration::from_millis(500)).await,
                }
            } else if poll.is_zero() {
                std::future::pending::<()>().await;
            } else {
                tokio::time::sleep(jitter(poll, core.name())).await;
                look(&core, &resizer, &metrics).await;
            }
        }
    };
    tokio::select! {
        () = following => {}
        _ = end.wait_for(|e| *e) => {}
    }
}

enum Ended {
    Flooded,
    Over,
}

async fn listen(core: &Core, resizer: &Resizer, metrics: &ResizeMetrics) -> Ended {
    let (tx, mut heard) = watch::channel(Heard::default());
    let subscribe = Request {
        command: Cmd::RESIZE,
        flags: CmdFlags::NOTIFY,
        offset: INTERVAL,
        length: CREDIT,
        payload: Payload::empty(),
    };
    let over = core.subscribe(subscribe, tx);
    tokio::pin!(over);
    let (mut counted, mut since, mut at_since) = (0, Instant::now(), 0);
    loop {
        tokio::select! {
            outcome = &mut over => {
                if let Outcome::Resized(size) = outcome {
                    resizer.seen(size);
                }
                return Ended::Over;
            }
            changed = heard.changed() => {
                if changed.is_err() {
                    return Ended::Over;
                }
                let now = *heard.borrow_and_update();
                metrics.backend_notices.inc_by(now.count.saturating_sub(counted));
                counted = now.count;
                resizer.seen(now.size);
                if since.elapsed() >= Duration::from_secs(1) {
                    if counted.saturating_sub(at_since) > MOST_PER_SECOND {
                        core.unsubscribe().await;
                        return Ended::Flooded;
                    }
                    (since, at_since) = (Instant::now(), counted);
                }
                // One look per interval, however many notices came: bounded work.
                tokio::time::sleep(Duration::from_millis(INTERVAL)).await;
            }
        }
    }
}

async fn look(core: &Core, resizer: &Resizer, metrics: &ResizeMetrics) {
    let looked = core.look().await;
    metrics.looked_at.set(i64::from(looked.is_ok()));
    match looked {
        Ok(size) => resizer.seen(size),
        Err(why) => tracing::debug!(export = core.name(), %why, "the backend's size can't be read now"),
    }
}

/// Up to a tenth more, by the export's name: exports of one backend do not ask all at once.
fn jitter(poll: Duration, name: &str) -> Duration {
    let seed = name.bytes().fold(7u32, |n, b| n.wrapping_mul(31).wrapping_add(u32::from(b)));
    poll + poll / 10 * (seed % 100) / 100
}
