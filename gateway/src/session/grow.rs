//! A write past the end of an export that grows: it waits for the grow, then goes its ordinary way.
//!
//! Each such write waits in a task of its own and holds its permits; the coordinator grows by steps, so a stream of them
//! costs one resize per step. A refused grow fails the write whole: nothing of it is written (promise: nothing by halves).
//!
//! Where the client is to be cut instead (it would not believe an answer), the write never goes to the backend: the session
//! parts without a word about this write or any other that waits for a grow, and the client sends them again.

use std::sync::Arc;

use nbd_gateway_policy::offer::PastEnd;
use nbd_gateway_policy::plan::Wish;
use nbd_gateway_policy::refusal::{Asked, Reason, Refusal};
use nbd_gateway_proto::Errno;
use tracing::Instrument;

use super::Session;
use crate::export::Export;
use crate::request::{Failure, Finished, Job, Outcome};
use crate::target::Held;

/// How often a write may find the end lowered again under it.
const TRIES: usize = 3;

/// Has `job` wait in a new task until the export has grown.
pub(super) fn spawn(session: Arc<Session>, job: Job) {
    let export = Arc::clone(&session.export);
    let held = export.core.hold(session.id, job);
    let span = session.span.clone();
    let grows = move |held: Held| async move {
        let mut finished = Finished::default();
        let cuts = session.past_end() == PastEnd::GrowAndCut;
        let outcome = match cuts && !export.reconnects.may_cut(session.peer, || session.repeats()).await {
            true => Err(Failure::new(
                Errno::ENOSPC,
                "the export can't grow under this client: when its connection was closed so that it sees the new size, it did not send its write again",
            )),
            false => grown(&export, held.request.end()).await,
        };
        if session.is_left() || (cuts && session.is_closing()) {
            // Its client may have sent it again on another connection: it must not land now.
            return held.forget();
        }
        match outcome {
            Err(failure) => held.finish(Outcome::Failed(failure), &mut finished),
            Ok(()) if cuts => {
                export.reconnects.cut(session.peer, &held.request, export.size());
                tracing::info!(
                    size = export.size(),
                    "the export has grown for a write past its end; the client is cut, so that it sees the new size"
                );
                session.close();
                held.forget();
            }
            Ok(()) => {
                session.wrote_up_to(held.request.end());
                session.hand_over(&mut held.take().into_iter().collect(), &mut finished);
            }
        }
    };
    held.spawn(|held| grows(held).instrument(span));
}

/// Grows the export up to `end`, at least; waits for the tenant's rates as long as `growth-wait` says.
async fn grown(export: &Export, end: u64) -> Result<(), Failure> {
    let patience = tokio::time::Instant::now() + export.settings().config.resize.growth_wait;
    let mut tries = 0;
    while tries < TRIES {
        tries += 1;
        match export.resizer.wish(Wish::Automatic { end }).await {
            Ok(_) if export.core.view().end() >= end => return Ok(()),
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
                return Err(Failure::new(errno, refusal.to_string()));
            }
        }
    }
    Err(Failure::new(Errno::ENOSPC, "the export's size changed while the write waited for it"))
}
