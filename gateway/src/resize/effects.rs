//! What a coordinator can do. [`LiveEffects`](super::live_effects::LiveEffects) are the gateway's; property tests have others,
//! with faults, in virtual time.

use std::future::Future;
use std::time::Duration;

use nbd_gateway_policy::plan::{Ask, Lanes};
use nbd_gateway_policy::types::{ByteRange, Size};

use super::rules::Rules;
use crate::accounting::history::Happened;
use crate::fault::Fault;
use crate::target::Shown;

/// How the backend answered when it was asked for a size. Not believed either way: the size is read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    Yes,
    /// An error of the protocol's, with the backend's sentence.
    No {
        /// The errno on the wire.
        errno: u32,
        /// For people; may be empty.
        message: String,
    },
    /// Nothing that can be told: no answer in time, a lost connection, an answer that makes no sense.
    Unknown(String),
}

/// What a coordinator can do. Each may be dropped midway only together with the coordinator.
pub(crate) trait Effects: Send {
    /// The backend's size now, in bytes, read from the backend.
    fn read_size(&mut self) -> impl Future<Output = Result<u64, Fault>> + Send;
    /// What there is beside the backend's own word, in bytes: a file that was made longer, and that its server has not looked
    /// at again.
    fn size_on_host(&mut self) -> impl Future<Output = Option<u64>> + Send;
    /// Asks the backend, as the plan says.
    fn ask(&mut self, ask: Ask) -> impl Future<Output = Answered> + Send;
    /// Whether an ask that was given up may still be carried out. Answering ends that, and so does the connection's end.
    fn in_doubt(&mut self) -> bool;
    /// The size that was asked for has been read: it is done, answered or not.
    fn confirmed(&mut self);
    /// The size that a lane's handshake told since the backend was asked last, and since that ask can't be carried out any
    /// more, in bytes. A backend that takes one connection only is reconnected for it.
    fn size_from_handshake(&mut self) -> impl Future<Output = Option<u64>> + Send;
    /// Makes a range read as zeroes.
    fn zero(&mut self, range: ByteRange) -> impl Future<Output = Result<(), Fault>> + Send;
    /// Whether the backend takes one connection only, so that its size can be read only while no lane has one.
    fn single_connection(&self) -> bool;
    /// Closes the lanes' connections, after what is in flight; requests wait until they are renewed. Whether that was done
    /// in time; if not, they are renewed.
    fn drop_lanes(&mut self) -> impl Future<Output = bool> + Send;
    /// Lets the lanes see the new size.
    fn renew(&mut self, lanes: Lanes) -> impl Future<Output = ()> + Send;
    /// No request past `end` is admitted from now on.
    fn lower_end(&mut self, end: Size);
    /// Waits until no request past `end` is in flight, at most so long. Whether none is.
    fn drain(&mut self, end: Size, limit: Duration) -> impl Future<Output = bool> + Send;
    /// Shows a size: requests up to it are admitted, and everybody who may be told is.
    fn publish(&mut self, shown: Shown);
    /// How long the backend has to answer from now on.
    fn apply_rules(&mut self, rules: &Rules);
    /// Tells the history; waits for nothing.
    fn log_event(&mut self, happened: Happened);
}
