//! A write past the end of an export that grows: it waits for the grow, then goes its ordinary way.
//!
//! Each such write waits in a task of its own and holds its permits; the coordinator grows by steps, so a stream of them
//! costs one resize per step. A refused grow fails the write whole: nothing of it is written (promise: nothing by halves).

use std::sync::Arc;

use nbd_gateway_policy::plan::Wish;
use nbd_gateway_policy::refusal::{Asked, Reason, Refusal};

use super::Export;
use crate::proto::Errno;
use crate::session::Session;
use crate::work::{Failure, Finished, Job};

/// How often a write may find the end lowered again under it.
const TRIES: usize = 3;

pub(super) fn spawn(export: Arc<Export>, session: Arc<Session>, job: Job) {
    tokio::spawn(async move {
        let mut finished = Finished::default();
        let end = job.request.end();
        let patience = tokio::time::Instant::now() + export.config.resize.growth_wait;
        let mut tries = 0;
        while tries < TRIES {
            tries += 1;
            match export.resizer.wish(Wish::Automatic { end }).await {
                Ok(_) if export.core.view().end() >= end => {
                    session.wrote_up_to(end);
                    // It was counted when it was first admitted.
                    export.metrics.in_flight.dec();
                    export.submit(&session, &mut vec![job], &mut finished);
                    return;
                }
                Ok(_) => {}
                Err(Refusal { reason: Reason::RateLimited { again_after: Some(wait), .. }, .. })
                    if tokio::time::Instant::now() + wait <= patience =>
                {
                    // Bounded by `growth-wait`, not by tries.
                    tries = 0;
                    tokio::time::sleep(wait).await;
                }
                Err(refusal) => {
                    let errno = Errno(refusal.reason.errno(Asked::Write).wire());
                    return job.fail(Failure::new(errno, refusal.to_string()), &mut finished);
                }
            }
        }
        job.fail(Failure::new(Errno::ENOSPC, "the export's size changed while the write waited for it"), &mut finished);
    });
}
