//! One accepted connection: handshake within its deadline, then transmission to its end.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nbd_gateway_config::{Arrivals, Config};
use nbd_gateway_net::tls::ListenerTls;
use nbd_gateway_net::{Peer, Pool, Stream};
use nbd_gateway_proto::Inbox;
use tokio::sync::watch;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::handshake::{EnterError, Entered, negotiate};
use super::shutdown::Shutdown;
use super::status::SessionStatus;
use super::transmission::{Transmission, TransmissionEnd};
use super::visitor::Visitor;
use super::{Known, Session, SessionFacts, SessionTable, table};
use crate::export::{Lease, Registry};
use crate::limits::{Handshake, Place, RateGate};
use crate::request::SessionId;
use crate::resize::openers::OpenGuard;

/// What all sessions of a listener share.
#[derive(Debug)]
pub(crate) struct ListenerConfig {
    /// The listener, as the configuration calls it.
    pub listener: Arc<str>,
    pub registry: Arc<Registry>,
    pub table: Arc<SessionTable>,
    pub pool: Arc<Pool>,
    /// Turns true when the gateway drains.
    pub drain: watch::Receiver<bool>,
    /// How long a client may take for its part of the handshake.
    pub handshake: Duration,
    /// The longest option data taken, in bytes.
    pub option_length: u32,
    /// How many sessions there may be at a time.
    pub most: u32,
    /// Connections before and beside their sessions.
    pub arrivals: Arrivals,
    /// TLS, if it is spoken here.
    pub tls: Option<Arc<ListenerTls>>,
}

/// Serves one client to its end. Never fails: what went wrong is logged, and concerns this client alone.
/// Cancel-safe: during the handshake the connection closes; later the session goes on by itself.
pub(crate) async fn serve(front: Arc<ListenerConfig>, stream: Stream, mut handshake: Handshake) {
    let id = front.table.next_id();
    let (peer, listener) = (stream.peer(), &*front.listener);
    // What is told within it says whose session it is. An error's level: a log of warnings alone is to say so too.
    let span = tracing::error_span!("session", session = id.get(), peer, listener, export = Empty, tenant = Empty);
    let evicted = handshake.evicted();
    let entering = async {
        tokio::select! {
            // A handshake that is done is not closed any more.
            biased;
            opened = enter(&front, id, stream, &handshake) => opened,
            () = evicted => {
                let limit = front.arrivals.handshakes;
                tracing::warn!(limit, "handshake closed to make room for another client; see handshakes-per-listener");
                None
            }
        }
    };
    let Some(opened) = entering.instrument(span.clone()).await else { return };
    drop(handshake);
    let export = opened.entered.lease.export();
    span.record("export", export.name()).record("tenant", export.tenant());
    // From here on the session lives where its lane does.
    let shard = export.core.lanes().and_then(|lanes| lanes.shard(id));
    let shard = shard.unwrap_or_else(|| front.registry.shards().next());
    let session = shard.spawn(transmit(front, opened, span));
    // A session's task does not panic; if it did, its connection is closed and its requests are finished.
    if let Err(error) = session.await {
        tracing::error!(session = id.get(), %error, "session ended by a fault of the gateway");
    }
}

/// Takes a client through its handshake; none: it asks for no export, or gets none.
async fn enter(front: &ListenerConfig, id: SessionId, stream: Stream, handshake: &Handshake) -> Option<Opened> {
    let (peer, identity) = (stream.peer(), stream.identity());
    let mut inbox = Inbox::default();
    let limit = front.handshake;
    let mut visitor = Visitor::new(&front.registry, &front.listener, identity);
    // On the heap, and gone with the handshake: TLS takes room that an idle session must not keep.
    match Box::pin(negotiate(front, &mut visitor, stream, &mut inbox, handshake)).await {
        Ok(entered) => {
            return Some(Opened { id, peer, identity, inbox, entered, judged_by: visitor.judged_by() });
        }
        Err(EnterError::Left) => tracing::debug!("client left after asking"),
        Err(EnterError::Io(error)) => tracing::debug!(%error, "client left during the handshake"),
        Err(EnterError::Late) => tracing::info!(?limit, "handshake took longer than handshake-timeout; closed"),
        Err(EnterError::NoReply(_)) => {}
        Err(error) => tracing::info!(%error, "handshake failed"),
    }
    None
}

/// A client that has just entered transmission.
struct Opened {
    id: SessionId,
    peer: String,
    identity: Peer,
    inbox: Inbox,
    entered: Entered,
    judged_by: Arc<Config>,
}

/// Not inside the span, which would be entered and left at each wake-up: what is told here enters it by itself.
async fn transmit(front: Arc<ListenerConfig>, opened: Opened, span: Span) {
    let Opened { id, peer, identity, inbox, entered, judged_by } = opened;
    let Entered { stream, lease, agreement, guard, certificate, place } = entered;
    let tls = stream.is_tls();
    let (read, write) = match stream.rehome() {
        Ok(stream) => stream.split(),
        Err(error) => return span.in_scope(|| tracing::info!(%error, "client connection failed")),
    };
    let export = Arc::clone(lease.export());
    let known = Known {
        told: agreement.size,
        repeats: export.reconnects.awaits(identity, agreement.size),
        losses: export.core.lanes().map_or(0, |lanes| lanes.durability.newcomer()),
        notices: export.session_notices(),
    };
    let facts = SessionFacts {
        id,
        peer: identity,
        from: peer,
        listener: Arc::clone(&front.listener),
        tls,
        since: SystemTime::now(),
        span,
        export: Arc::clone(&export),
        agreement,
        certificate,
    };
    let session = Session::new(facts, known);
    session.out.connect(write);
    let entered = front.table.enter(&session);
    session.span.in_scope(|| {
        tracing::info!(
            size = session.agreement.size, framing = ?session.agreement.framing, verbs = %session.verbs(),
            rule = %session.agreement.decision.rule,
            subject = session.certificate.as_ref().map(|c| c.subject.as_str()),
            "session opened"
        );
    });
    // It may have been judged by what was in force before, and have come too late to be found in the table.
    let active = front.registry.config();
    if !Arc::ptr_eq(&active, &judged_by) && !session.is_admitted_by(&active) {
        session.close();
    }
    drop((active, judged_by));
    let shutdown = Shutdown::new(front.drain.clone(), export.leaving());
    let throttle = RateGate::new(export.limiters());
    let transmission = Transmission::new(session, read, inbox, Arc::clone(&front.pool), shutdown, throttle);
    run(transmission, Membership { entered, place, lease, guard }).await;
}

/// What a session has as long as it lasts, in the order in which it gives it back.
pub(super) struct Membership {
    /// Its place among the listener's sessions.
    pub(super) place: Place,
    pub(super) lease: Lease,
    /// Its place in the session table.
    pub(super) entered: table::Entered,
    /// Its place in the export's openers.
    pub(super) guard: OpenGuard,
}

/// Runs a session to its end.
pub(super) async fn run(mut transmission: Transmission, membership: Membership) {
    let session = Arc::clone(&transmission.session);
    let end = transmission.run().await;
    #[cfg(test)]
    if matches!(end, TransmissionEnd::Suspended) {
        return transmission.hand_over(membership);
    }
    let Membership { place, lease, entered, guard } = membership;
    guard.leave(matches!(end, TransmissionEnd::Disconnected | TransmissionEnd::Drained));
    session.end_notify(nbd_gateway_policy::notice::NoticeEnd::Disconnected);
    // From here on replies go nowhere; requests that change data and are still out must not be overtaken.
    session.export.core.adopt_orphans(session.id);
    session.release(session.out.disconnect());
    session.permits.abandon();
    session.status.rise(SessionStatus::Gone);
    // What was answered in between went into the queue all the same.
    session.release(session.out.disconnect());
    session.span.in_scope(|| match end {
        TransmissionEnd::Disconnected
        | TransmissionEnd::Closed
        | TransmissionEnd::Drained
        | TransmissionEnd::ByGateway => {
            tracing::info!(why = %end, "session closed");
        }
        #[cfg(test)]
        TransmissionEnd::Suspended => {}
        TransmissionEnd::Torn | TransmissionEnd::Magic(_) | TransmissionEnd::Protocol(_) | TransmissionEnd::Io(_) => {
            tracing::info!(why = %end, "session ended by a fault of the client or its network");
        }
    });
    drop(place);
    drop(lease);
    drop(entered);
}
