//! The duty to answer a client's request.

use std::sync::Arc;

use nbd_gateway_net::Released;
use nbd_gateway_proto::Cookie;
use serde::{Deserialize, Serialize};

use super::Age;
use crate::request::{Client, Counts, PendingReply, SessionId, Ticket};

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
    /// The client is not answered.
    pub(crate) fn suspend(ticket: Ticket) -> Self {
        let (client, PendingReply { cookie, holds, extents, counts: _, only, since }) = ticket.into_parts();
        let Released { requests, resizes, bytes, notices } = holds;
        Self {
            session: client.id(),
            cookie: cookie.0,
            requests,
            resizes,
            bytes,
            notices,
            extents,
            only: only.map(Vec::from),
            since: Age::of(since),
        }
    }

    /// Answers `client`. It counts as nothing where sessions take turns: that count begins anew.
    pub(crate) fn resume(self, client: Arc<dyn Client>) -> Ticket {
        let Self { session: _, cookie, requests, resizes, bytes, notices, extents, only, since } = self;
        let reply = PendingReply {
            cookie: Cookie(cookie),
            holds: Released { requests, resizes, bytes, notices },
            extents,
            counts: Counts::Nothing,
            only: only.map(Vec::into_boxed_slice),
            since: since.ago(),
        };
        Ticket::new(client, reply)
    }
}
