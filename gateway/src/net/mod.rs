//! Sockets: streams of every kind the gateway speaks over, the pool of receive buffers, and the outgoing queue.

mod far_end;
pub(crate) mod keepalive;
mod listening;
mod outbox;
mod peer;
mod pool;
mod reached;
mod stream;
mod tls;
mod zone;

pub use far_end::FarEnd;
pub use listening::{Listening, check_backlog};
pub use outbox::{Batch, Outbox, Released, Written};
pub use peer::Peer;
pub use pool::Pool;
pub use reached::Reached;
pub use stream::{Address, ReadHalf, Stream, WriteHalf};
pub use tls::{TlsRead, TlsStream, TlsWrite};
