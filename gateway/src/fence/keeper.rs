//! The task beside the lanes of an export that has time: it ends the guard of late writes, uses the fence, and has the first
//! change marked.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_metrics::Part;
use nbd_gateway_policy::backoff::Backoff;
use nbd_gateway_policy::types::ExportName;
use tokio::time::{Instant, sleep_until};

use super::{Fence, Marks};
use crate::lane::{Dialer, LateWrites, tell_over};

/// How long after a fence has failed it is used again: from, to.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What the task needs.
pub(crate) struct Keeper {
    pub late: Arc<LateWrites>,
    pub export: ExportName,
    /// Where its backend listens, and the export's name there.
    pub backend: String,
    pub fence: Option<Fence>,
    /// How to see whether anybody listens there still.
    pub dialer: Dialer,
    pub marks: Arc<Marks>,
    /// Where late writes are counted.
    pub counted: Part,
}

impl Keeper {
    /// Keeps the guard, the fence and the mark. Never ends by itself: dropped when the lanes have ended. Cancel-safe: yes.
    pub(crate) async fn run(self) {
        let mut fencing: Option<Pin<Box<dyn Future<Output = bool> + Send + '_>>> = None;
        let (mut again, mut backoff) = (Instant::now(), Backoff::named(AGAIN.0, AGAIN.1, self.export.as_str()));
        loop {
            let (over, guard) = self.late.expire();
            tell_over(self.export.as_str(), over, "late-write-guard has passed");
            self.late.send_what_may_be();
            self.counted.set(i64::try_from(self.late.count()).unwrap_or(i64::MAX));
            if let Some(server) = self.late.mark_wanted() {
                self.marks.mark(&self.export, &self.backend, server.as_ref()).await;
                self.late.marked(server.as_ref());
                continue;
            }
            let wanted = self.fence.as_ref().filter(|_| self.late.wants_fence());
            if wanted.is_none() && fencing.is_none() {
                again = Instant::now();
                backoff.reset();
                self.late.fence_tried();
            }
            let mut wake = guard;
            if let (Some(fence), None) = (wanted, &fencing) {
                if again <= Instant::now() {
                    fencing = Some(Box::pin(use_fence(&self.late, fence, &self.dialer, &self.export)));
                } else {
                    wake = Some(guard.map_or(again, |guard| guard.min(again)));
                }
            }
            let running = async {
                match &mut fencing {
                    Some(fencing) => fencing.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // News come as often as requests do: last, so that neither the fence nor the guard waits for them to stop.
                biased;
                done = running => {
                    fencing = None;
                    if !done {
                        again = Instant::now() + backoff.next_delay();
                        // Whoever waits goes on: now the guard counts.
                        self.late.fence_tried();
                    }
                }
                () = async { sleep_until(wake.unwrap_or_else(Instant::now)).await }, if wake.is_some() => {}
                () = self.late.news() => {}
            }
        }
    }
}

/// Uses a fence, unless the server has ended anyway. Whether it is over what it received before. Cancel-safe: as the fence.
pub(crate) async fn use_fence(late: &LateWrites, fence: &Fence, dialer: &Dialer, export: &ExportName) -> bool {
    let begun = Instant::now();
    match dialer.knock().await {
        Some(Ok(link)) => tell_over(export.as_str(), late.connected(&link), "another process has the socket"),
        Some(Err(refused)) if refused.is_refused() => {
            tell_over(export.as_str(), late.refused(), "nobody listens there")
        }
        Some(Err(_)) | None => {}
    }
    if !late.wants_fence() {
        return true;
    }
    match fence.cut().await {
        Ok(()) => {
            tell_over(export.as_str(), late.fenced(begun), "the fence was used");
            true
        }
        Err(why) => {
            tracing::warn!(export = export.as_str(), why = why.message(), guard = ?late.guard(), "cannot fence the server off from its lost connections; writes that overlap theirs wait for late-write-guard");
            false
        }
    }
}
