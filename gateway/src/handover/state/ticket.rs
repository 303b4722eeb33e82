//! The duty to answer a client's request.

use std::sync::Arc;

use nbd_gateway_net::Released;
use nbd_gateway_proto::Cookie;
use serde::{Deserialize, Serialize};

use super::Age;
use crate::request::{Client, Counts, PendingReply, Request, SessionId, Ticket};

/// A [`Ticket`]: whose request it is, and what the answer needs. The contexts are by their places in the export's list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TicketState {
    pub session: SessionId,
    pub cookie: u64,
    /// The permits that the request holds: `requests` and `resizes` of the session, `bytes`, `notices`.
    pub requests: u32,
    pub resizes: u32,
    pub bytes: u64,
    pub notices: u32,
    pub extents: usize,
    pub only: Option<Vec<usize>>,
    pub since: Age,
}

impl TicketState {
    /// The client is not answered, and gets back what the request holds.
    pub(crate) fn suspend(ticket: Ticket, request: &Request) -> Self {
        let (client, reply) = ticket.into_parts();
        let Released { requests, resizes, bytes, notices } = reply.holds;
        let state = Self {
            session: client.id(),
            cookie: reply.cookie.0,
            requests,
            resizes,
            bytes,
            notices,
            extents: reply.extents,
            only: reply.only.clone().map(Vec::from),
            since: Age::of(reply.since),
        };
        client.forget(reply, request);
        state
    }

    /// What the request holds.
    pub(crate) fn holds(&self) -> Released {
        let Self { requests, resizes, bytes, notices, .. } = *self;
        Released { requests, resizes, bytes, notices }
    }

    /// Answers `client`, which holds what the request does. It counts as nothing where sessions take turns: that count begins again.
    pub(crate) fn resume(self, client: Arc<dyn Client>) -> Ticket {
        let holds = self.holds();
        let Self { cookie, extents, only, since, .. } = self;
        let reply = PendingReply {
            cookie: Cookie(cookie),
            holds,
            extents,
            counts: Counts::Nothing,
            only: only.map(Vec::into_boxed_slice),
            since: since.ago(),
        };
        Ticket::new(client, reply)
    }
}
