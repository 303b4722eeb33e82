//! An export's lanes, suspended and resumed together: late writes and durability are one for all of them.

use std::io;

use super::Lanes;
use crate::handover::SpeaksTls;
use crate::handover::state::{LanesState, StateError};
use crate::lane::{Clients, SuspendedLane};

/// The lanes of one export on their way.
pub(crate) struct SuspendedLanes {
    pub(crate) state: LanesState,
    lanes: Vec<SuspendedLane>,
}

impl Lanes {
    /// Stops the lanes: no reply is read from here on.
    pub(crate) async fn stop(&self) -> Result<(), SpeaksTls> {
        if self.dialer.tls.is_some() && !self.dialer.plain {
            return Err(SpeaksTls);
        }
        self.lanes.iter().for_each(|(lane, _)| lane.order_stop());
        self.end.set(true);
        let tasks = core::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            // A lane's task does not panic.
            let _ = task.await;
        }
        self.end.set(false);
        Ok(())
    }

    /// Takes lanes that have stopped, when no more requests can come.
    pub(crate) fn suspend(&self) -> io::Result<SuspendedLanes> {
        let oldest = self.lanes.iter().filter_map(|(lane, _)| lane.oldest_sent()).min().unwrap_or(u64::MAX);
        let lanes = self.lanes.iter().filter_map(|(lane, _)| lane.suspend(oldest));
        let mut lanes = lanes.collect::<io::Result<Vec<_>>>()?;
        let state = LanesState {
            durability: self.durability.suspend(),
            late: self.late.suspend(),
            lanes: lanes.iter_mut().map(|lane| lane.state.clone()).collect(),
        };
        Ok(SuspendedLanes { state, lanes })
    }

    /// Goes on with lanes.
    pub(crate) fn resume(&self, suspended: SuspendedLanes, clients: Clients<'_>) -> io::Result<()> {
        let SuspendedLanes { state, lanes } = suspended;
        let (came, has) = (state.lanes.len(), self.lanes.len());
        if came != has {
            return Err(io::Error::other(StateError::Lanes { came, has }));
        }
        self.durability.resume(&state.durability);
        self.late.resume(state.late).map_err(io::Error::other)?;
        for (((lane, shard), mut suspended), state) in self.lanes.iter().zip(lanes).zip(state.lanes) {
            suspended.state = state;
            let task = lane.resume(suspended, clients)?;
            self.tasks.lock().push(shard.spawn(task));
        }
        Ok(())
    }
}
