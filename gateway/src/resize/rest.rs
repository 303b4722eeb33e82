//! A coordinator at rest: nothing of a resize is under way, so that its export can be suspended.

use tokio::sync::{mpsc, oneshot};

use super::coordinator::{Act, Coordinator};
use super::effects::Effects;
use super::jobs::JobState;
use crate::handover::state::CoordinatorState;

impl<H: Effects> Coordinator<H> {
    /// Rests, and knows nothing until `over` brings that back. A wish that came meanwhile, and whose client has taken it along, is not carried out: the client
    /// wishes again. False: it does not go on, or an act was the last.
    pub(super) async fn rest(
        &mut self,
        resting: oneshot::Sender<CoordinatorState>,
        over: oneshot::Receiver<CoordinatorState>,
        acts: &mut mpsc::Receiver<Act>,
    ) -> bool {
        let state = match resting.send(self.suspend()) {
            Ok(()) => over.await.ok(),
            Err(state) => Some(state),
        };
        let Some(state) = state else { return false };
        self.resume(state);
        let waiting: Vec<Act> = std::iter::from_fn(|| acts.try_recv().ok()).collect();
        for act in waiting {
            match act {
                Act::Wish { job, reply, .. } if reply.is_closed() => {
                    self.desk.jobs.end(job, JobState::Refused, 0, Some("its client has taken it along".to_owned()));
                }
                act => {
                    if !Box::pin(self.apply(act)).await {
                        return false;
                    }
                }
            }
        }
        true
    }
}
