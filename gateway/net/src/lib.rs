//! Sockets: streams of every kind the gateway speaks over, TLS, the pool of receive buffers, and the outgoing queue.
//!
//! A crate under both the gateway and its clients (`client`, `agent`), because each side of a connection needs all of it:
//! the gateway connects to backends exactly as its own client connects to a server. Never decides who may connect, and
//! knows no message but the handshake with a server.

mod far_end;
mod keepalive;
mod listening;
mod negotiation;
mod outbox;
mod peer;
mod pool;
mod reached;
mod stream;
mod text;
pub mod tls;
mod tls_stream;
mod zone;

pub use far_end::FarEnd;
pub use listening::{Listening, check_backlog};
pub use negotiation::{Negotiation, NegotiationError};
pub use outbox::{Batch, Outbox, Released, Unsent, Written};
pub use peer::Peer;
pub use pool::Pool;
pub use reached::Reached;
pub use stream::{Address, FarEndCloses, ReadHalf, SocketKind, Stream, WriteHalf};
pub use text::{clean, escaped, is_harmful};
pub use tls_stream::{TlsRead, TlsStream, TlsWrite};
