//! One accepted connection: handshake within its deadline, then transmission to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::handshake::{Entered, NoSession, negotiate};
use super::part::Life;
use super::permits::Permits;
use super::throttle::Turnstile;
use super::transmission::{End, Transmission};
use super::visitor::Visitor;
use super::{Refusals, Session, SessionTable};
use crate::export::Registry;
use crate::net::{Outbox, Peer, Pool, Stream};
use crate::proto::Inbox;
use crate::tls::ListenerTls;

/// What all sessions of a listener share.
#[derive(Debug)]
pub struct Front {
    /// The listener, as the configuration calls it.
    pub listener: String,
    /// What is told of refusals.
    pub refusals: Arc<Refusals>,
    /// The exports.
    pub registry: Arc<Registry>,
    /// The open sessions.
    pub table: Arc<SessionTable>,
    /// Receive buffers.
    pub pool: Arc<Pool>,
    /// Turns true when the gateway drains.
    pub drain: watch::Receiver<bool>,
    /// How long a client may take for its part of the handshake.
    pub handshake: Duration,
    /// The longest option data taken, in bytes.
    pub option_length: u32,
    /// TLS, if it is spoken here.
    pub tls: Option<ListenerTls>,
}

/// Serves one client to its end. Never fails: what went wrong is logged, and concerns this client alone.
/// Cancel-safe: during the handshake the connection closes; later the session goes on by itself.
pub async fn serve(front: Arc<Front>, stream: Stream) {
    let id = front.table.next_id();
    let (peer, identity) = (stream.peer(), stream.identity());
    let mut inbox = Inbox::default();
    let limit = front.handshake;
    let mut visitor = Visitor::new(&front.registry, &front.refusals, id, &front.listener, identity);
    // On the heap, and gone with the handshake: TLS takes room that an idle session must not keep.
    let entered = match Box::pin(negotiate(&front, &mut visitor, stream, &mut inbox)).await {
        Ok(entered) => entered,
        Err(NoSession::Left) => return tracing::debug!(session = id, %peer, "client left after asking"),
        Err(NoSession::Io(error)) => {
            return tracing::debug!(session = id, %peer, %error, "client left during the handshake");
        }
        Err(NoSession::Late) => {
            return tracing::info!(session = id, %peer, ?limit, "handshake took longer than handshake-timeout; closed");
        }
        // A client can have as many of these as it likes.
        Err(NoSession::NoReply(error)) => return visitor.refused(error.export(), &error),
        Err(error) => return tracing::info!(session = id, %peer, %error, "handshake failed"),
    };
    // From here on the session lives where its lane does.
    let shard = entered.lease.export().shard(id).unwrap_or_else(|| front.registry.shards().next());
    let session = shard.spawn(transmit(front, Opened { id, peer, identity, inbox, entered }));
    // A session's task does not panic; if it did, its connection is closed and its requests are finished.
    if let Err(error) = session.await {
        tracing::error!(session = id, %error, "session ended by a fault of the gateway");
    }
}

/// A client that has just entered transmission.
struct Opened {
    id: u64,
    peer: String,
    identity: Peer,
    inbox: Inbox,
    entered: Entered,
}

async fn transmit(front: Arc<Front>, opened: Opened) {
    let Opened { id, peer, identity, inbox, entered } = opened;
    let Entered { stream, lease, agreement, seat, certificate } = entered;
    let (read, write) = match stream.rehome() {
        Ok(stream) => stream.split(),
        Err(error) => return tracing::info!(session = id, %peer, %error, "client connection failed"),
    };
    let export = Arc::clone(lease.export());
    let limits = export.limits();
    let session = Arc::new(Session {
        id,
        peer: identity,
        from: peer.clone(),
        told: AtomicU64::new(agreement.size),
        notify: Mutex::new(None),
        pace: export.session_pace(),
        notifies: AtomicU64::new(0),
        unread: AtomicBool::new(false),
        read: Notify::new(),
        resizes: AtomicU32::new(0),
        watching: AtomicBool::new(false),
        life: watch::channel(Life::Open).0,
        parting: AtomicBool::new(false),
        repeats: AtomicBool::new(export.awaits(identity, agreement.size)),
        permits: Permits::new(limits.requests, limits.bytes, limits.largest, Arc::clone(export.budget())),
        export: Arc::clone(&export),
        agreement,
        certificate,
        out: Outbox::default(),
        task: Mutex::new(None),
        broken: AtomicBool::new(false),
        gone: AtomicBool::new(false),
        leaves: AtomicBool::new(false),
        refusals: Arc::clone(&front.refusals),
        losses: AtomicU64::new(export.losses()),
    });
    session.out.connect(write);
    let entered = front.table.enter(&session);
    tracing::info!(
        session = id, %peer, export = export.name(), tenant = export.tenant(), size = session.agreement.size,
        framing = ?session.agreement.framing, verbs = %session.verbs(), rule = %session.agreement.decision.rule,
        subject = session.certificate.as_ref().map(|c| c.subject.as_str()),
        "session opened"
    );
    let drain = front.drain.clone();
    let gate = Turnstile::new(export.throttles());
    let transmission =
        Transmission::new(Arc::clone(&session), read, inbox, Arc::clone(&front.pool), limits.largest, drain, gate);
    let end = transmission.run().await;
    seat.leave(matches!(end, End::Disconnected | End::Drained));
    session.end_notify(nbd_gateway_policy::notice::End::Disconnected);
    // From here on replies go nowhere; requests that change data and are still out must not be overtaken.
    export.leave(&session);
    let released = session.out.disconnect();
    session.permits.release(released);
    session.life.send_replace(Life::Gone);
    match end {
        End::Disconnected | End::Closed | End::Drained | End::Parted => {
            tracing::info!(session = id, export = export.name(), why = %end, "session closed");
        }
        End::Torn | End::Magic(_) | End::Protocol(_) | End::Io(_) => {
            tracing::info!(session = id, export = export.name(), %peer, why = %end, "session ended by a fault of the client or its network");
        }
    }
    drop(lease);
    drop(entered);
}
