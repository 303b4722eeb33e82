//! Where each request of a session goes: to the target as it is, over the bridge, to the ceiling, or to wait for a grow.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use nbd_gateway_policy::offer::PastEnd;
use nbd_gateway_policy::types::Bytes;
use nbd_gateway_proto::{Cmd, Errno};

use super::{Session, grow};
use crate::request::{Client, Failure, Finished, Job, Origin, Request};

impl Session {
    /// Takes a batch of its requests.
    pub(super) fn submit(self: &Arc<Self>, jobs: &mut Vec<Job>, finished: &mut Finished) {
        self.export.admit(jobs.len());
        if self.repeats() {
            let again = |job: &Job| self.export.reconnects.recognise(self.peer, &job.request);
            if jobs.iter().any(again) {
                self.repeats.store(false, Ordering::Release);
            }
        }
        self.hand_over(jobs, finished);
    }

    /// Hands requests over that are counted already. What the target can take goes to it as one batch.
    pub(super) fn hand_over(self: &Arc<Self>, jobs: &mut Vec<Job>, finished: &mut Finished) {
        let core = &self.export.core;
        let pass = core.pass();
        let (orphans, end) = (core.has_orphans(), self.reach_with(jobs));
        let losses = || core.lanes().map_or(0, |lanes| lanes.durability.losses());
        let special = |request: &Request| {
            orphans
                || (request.length > 0 && request.end() > end)
                || core.needs_bridge(request)
                || (request.command == Cmd::FLUSH && self.owes(losses()))
        };
        if jobs.iter().any(|job| special(&job.request)) {
            let (rare, plain): (Vec<Job>, Vec<Job>) = jobs.drain(..).partition(|job| special(&job.request));
            *jobs = plain;
            for job in rare {
                self.submit_special(job, end, finished);
            }
        }
        core.submit(Origin::Session(self.id), jobs, finished);
        drop(pass);
    }

    /// How far its requests reach: a write past what its client was told, for which an earlier one has grown the export
    /// already, extends that as its own grow would have.
    fn reach_with(&self, jobs: &[Job]) -> u64 {
        let (reach, there) = (self.reach(), self.export.core.view().end());
        if reach >= there || self.past_end() != PastEnd::Grow {
            return reach;
        }
        let ends = jobs
            .iter()
            .filter(|job| job.request.command.writes() && job.request.length > 0)
            .map(|job| job.request.end());
        if let Some(end) = ends.filter(|end| *end <= there).max() {
            self.wrote_up_to(end);
        }
        self.reach()
    }

    /// A request that can't go to the target as it is, or not now.
    fn submit_special(self: &Arc<Self>, job: Job, end: u64, finished: &mut Finished) {
        let core = &self.export.core;
        let losses = core.lanes().map_or(0, |lanes| lanes.durability.losses());
        let request = &job.request;
        if request.command == Cmd::FLUSH && self.owes(losses) {
            self.settle_losses(losses);
            let why =
                "the backend's connection was lost with answered writes that may not be durable; write them again";
            return job.fail(Failure::new(Errno::EIO, why), finished);
        }
        if request.length == 0 || request.end() <= end {
            return core.bridge(self.id, job);
        }
        let writes = request.command.writes();
        if writes && self.past_end() != PastEnd::Refuse {
            grow::spawn(Arc::clone(self), job);
        } else if !writes && self.sees_ceiling() {
            core.carry_to_ceiling(self.id, job, end, finished);
        } else {
            // Admitted before a shrink lowered the end.
            let errno = if writes { Errno::ENOSPC } else { Errno::EINVAL };
            let why = format!("{} ends past the export's size of {}", request.command, Bytes(end));
            job.fail(Failure::new(errno, why), finished);
        }
    }
}
