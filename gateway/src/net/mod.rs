//! Sockets: streams of every kind the gateway speaks over, the pool of receive buffers, and the outgoing queue.

mod outbox;
mod pool;
mod stream;

pub use outbox::{Batch, Outbox, Released, Written};
pub use pool::Pool;
pub use stream::{Address, Listening, Peer, ReadHalf, Stream, WriteHalf};
