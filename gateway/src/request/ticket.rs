//! The duty to answer a client once, and what a backend may know of that client.

use std::fmt::Debug;
use std::sync::Arc;

use nbd_gateway_net::Released;
use nbd_gateway_proto::Cookie;
use tokio::time::Instant;

use super::{Finished, Outcome, Request, SessionId};

/// What a request that is served needs of the client that sent it. One call for each request (`reply` or `forget`), and
/// one for each batch (`flush`); the others are rare, or for requests that change data.
pub(crate) trait Client: Debug + Send + Sync {
    fn id(&self) -> SessionId;

    /// Queues the reply, and remembers in `finished` that this client is to be flushed.
    fn reply(self: Arc<Self>, reply: PendingReply, request: &Request, outcome: Outcome, finished: &mut Finished);

    /// Gives the permits of a request back that is not answered.
    fn forget(&self, reply: PendingReply, request: &Request);

    /// Writes the replies that are queued, if nobody is at it.
    fn flush(&self);

    /// Whether it does not wait for its requests any more: it has left, or sends them again when it is back.
    fn has_given_up(&self) -> bool;

    /// A FLUSH that fails tells this client that answered writes may have been lost `losses` times so far.
    fn settle_losses(&self, losses: u64);
}

/// A reply that has to be given: to which request of its client, and what that request holds until then.
#[derive(Debug)]
pub(crate) struct PendingReply {
    pub cookie: Cookie,
    /// What the request holds until the reply is written.
    pub holds: Released,
    /// The most extents of one context that the answer may have.
    pub extents: usize,
    /// What the request counts as where sessions take turns.
    pub counts: Counts,
    /// The contexts that a BLOCK_STATUS with a payload asks for; `None` for all that were selected.
    pub only: Option<Box<[usize]>>,
    /// When the request was admitted, to within what [`Stamp`](crate::stamp::Stamp) says.
    pub since: Instant,
}

/// What a request in flight counts as where sessions take turns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Counts {
    /// Its session takes no turns.
    Nothing,
    /// One of few.
    Light,
    /// One of many.
    Heavy,
}

/// The duty to reply once to one request of one client, and the permits that this request holds.
#[derive(Debug)]
pub(crate) struct Ticket {
    client: Arc<dyn Client>,
    reply: PendingReply,
}

impl Ticket {
    /// For a request of `client`.
    pub(crate) fn new(client: Arc<dyn Client>, reply: PendingReply) -> Self {
        Self { client, reply }
    }

    /// Takes it apart; nobody is answered.
    #[cfg(test)]
    pub(crate) fn into_parts(self) -> (Arc<dyn Client>, PendingReply) {
        (self.client, self.reply)
    }

    pub(crate) fn client(&self) -> &dyn Client {
        &*self.client
    }

    pub(crate) fn cookie(&self) -> Cookie {
        self.reply.cookie
    }

    /// The most extents of one context that the answer may have.
    pub(crate) fn extents(&self) -> usize {
        self.reply.extents
    }

    /// When the request was admitted.
    pub(crate) fn since(&self) -> Instant {
        self.reply.since
    }

    /// Gives the permits back; there is no reply.
    pub(crate) fn forget(self, request: &Request) {
        self.client.forget(self.reply, request);
    }

    /// Queues the reply at the client and remembers to write it.
    pub(crate) fn reply(self, request: &Request, outcome: Outcome, finished: &mut Finished) {
        self.client.reply(self.reply, request, outcome, finished);
    }
}
