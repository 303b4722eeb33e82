//! A coordinator at rest: nothing of a resize is under way, so that its export can be suspended.

use tokio::sync::{mpsc, oneshot};

use super::coordinator::{Act, Coordinator};
use super::effects::Effects;
use super::jobs::JobState;

impl<H: Effects> Coordinator<H> {
    /// Rests until `over` ends. A wish that came meanwhile, and whose client has taken it along, is not carried out: the client
    /// wishes again. False: an act was the last.
    pub(super) async fn rest(
        &mut self,
        resting: oneshot::Sender<()>,
        over: oneshot::Receiver<()>,
        acts: &mut mpsc::Receiver<Act>,
    ) -> bool {
        if resting.send(()).is_ok() {
            // An error means the same.
            let _ = over.await;
        }
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
