//! Putting a session together again.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use nbd_gateway_net::tls::PeerCertificate;
use nbd_gateway_net::{Released, Stream, Unsent};
use nbd_gateway_policy::access::Verbs;
use nbd_gateway_policy::notice::SuspendedNotice;
use nbd_gateway_policy::offer::{Contexts, Features, Offer};
use nbd_gateway_policy::types::{Granularity, Size};
use nbd_gateway_proto::resize::Context;
use nbd_gateway_proto::{ExportFlags, Inbox};
use tokio::time::{Instant, sleep_until};

use super::held::submit_again;
use super::{SuspendedSession, words};
use crate::export::{Export, OpenError};
use crate::handover::state::{
    AgreementState, Beside, GateState, HeldState, NotifyState, ReleaseState, StateError, StepState, TicketState,
};
use crate::limits::{Place, RateGate};
use crate::request::{Client, Outcome, SessionId};
use crate::session::serve::{ListenerConfig, Membership, run};
use crate::session::shutdown::Shutdown;
use crate::session::transmission::{Step, Transmission};
use crate::session::{Agreement, Known, Session, SessionFacts};

/// Why a session can't go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResumeError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// A session that is to go on, once the lanes do.
pub(crate) struct ResumedSession {
    transmission: Transmission,
    membership: Membership,
}

impl ResumedSession {
    pub(crate) fn id(&self) -> SessionId {
        self.transmission.session.id
    }

    /// Who gets the answer to a request that a lane has: it holds what the request does.
    pub(crate) fn client(&self, ticket: &TicketState) -> Arc<dyn Client> {
        let session = &self.transmission.session;
        session.hold(ticket.holds());
        session.export.admit(1);
        Arc::<Session>::clone(session)
    }

    pub(super) fn parts(&self) -> (&Arc<Session>, Shutdown) {
        (&self.transmission.session, self.transmission.shutdown())
    }

    /// Goes on with all of an export, on the caller's shard; they run to their ends by themselves. Requests that tasks had begin
    /// again before any other comes.
    pub(crate) fn start(all: Vec<Self>, held: Vec<HeldState>, beside: &Beside) -> Result<(), StateError> {
        for Self { transmission: Transmission { session, .. }, .. } in &all {
            if session.is_left() {
                // What its client has in flight must not be overtaken.
                session.export.core.adopt_orphans(session.id);
            }
        }
        submit_again(held, beside, &all)?;
        for Self { transmission, membership } in all {
            transmission.session.flush();
            tokio::spawn(run(transmission, membership));
        }
        Ok(())
    }
}

/// Makes a session of its state.
pub(crate) async fn resume(
    front: &ListenerConfig,
    place: Place,
    suspended: SuspendedSession,
) -> Result<ResumedSession, ResumeError> {
    let SuspendedSession { socket, kind, state, beside } = suspended;
    let lease = front.registry.open(&state.export).await?.for_session()?;
    let export = Arc::clone(lease.export());
    let style = words::to_style(state.agreement.style);
    let guard = export.resizer.openers.enter(style);
    let unread = beside.get(state.unread)?;
    let unsent = Unsent {
        bytes: beside.get(state.unsent)?.into(),
        releases: state.releases.iter().map(|state| (state.after, state.released())).collect(),
    };
    let span = tracing::error_span!("session", session = state.id.get(), peer = state.from, export = export.name());
    let (peer, certificate) = (
        state.peer.into(),
        state.certificate.map(|shown| PeerCertificate { subject: shown.subject, sans: shown.sans }),
    );
    let agreement = agreement(&export, front, &state.agreement, peer, &state.listener, certificate.as_ref())?;
    let known =
        Known { told: state.told, repeats: state.repeats, losses: state.losses, notices: export.session_notices() };
    let facts = SessionFacts {
        id: state.id,
        peer,
        from: state.from,
        listener: state.listener.into(),
        tls: state.tls,
        since: SystemTime::now() - Duration::from_secs(state.age),
        span,
        export: Arc::clone(&export),
        agreement,
        certificate,
    };
    let session = Session::new(facts, known);
    session.status.rise(words::to_status(state.status));
    let (read, write) = Stream::adopt(socket, kind)?.split();
    session.out.connect(write);
    unsent.releases.iter().for_each(|(_, released)| session.hold(*released));
    session.out.append(|batch| batch.put_back(&unsent));
    let entered = front.table.enter(&session);
    if !session.is_admitted_by(&front.registry.config()) {
        session.close();
    }
    let shutdown = Shutdown::new(front.drain.clone(), export.leaving());
    let mut gate = RateGate::new(export.limiters());
    let GateState { passed, waits } = state.gate;
    if let Some((own, io)) = gate.own().zip(state.io) {
        own.resume(io);
    }
    session.notices.resume(state.notices, export.notice_time());
    gate.resume(passed, waits.map(|waits| Instant::now() + Duration::from_nanos(waits)));
    let pool = Arc::clone(&front.pool);
    let mut transmission =
        Transmission::new(Arc::clone(&session), read, Inbox::resume(unread.into()), pool, shutdown.clone(), gate);
    transmission.step = match state.step {
        StepState::Next => Step::Header,
        StepState::Answers(header, None) => Step::Answer(words::to_header(&header), Outcome::Done),
        StepState::Answers(header, Some(failure)) => {
            Step::Answer(words::to_header(&header), Outcome::Failed(words::to_failure(failure)))
        }
        StepState::Skips(header, failure, left) => {
            Step::Skip(words::to_header(&header), words::to_failure(failure), left)
        }
        StepState::Closing(closing) => Step::Closing(words::end(closing)),
    };
    *session.watching.lock() = state.watching;
    if let Some(notify) = &state.notify {
        session.go_on_notifying(notify);
    }
    let patience = state.patience.map(|left| Instant::now() + Duration::from_nanos(left));
    transmission.patience = patience.map(|over| Box::pin(sleep_until(over)));
    Ok(ResumedSession { transmission, membership: Membership { place, lease, entered, guard } })
}

fn agreement(
    export: &Export,
    front: &ListenerConfig,
    state: &AgreementState,
    peer: nbd_gateway_net::Peer,
    listener: &str,
    certificate: Option<&PeerCertificate>,
) -> Result<Agreement, StateError> {
    for (number, context) in &state.contexts {
        if export.contexts().get(*number) != Some(context) {
            let (export, context) = (export.name().to_owned(), context.clone());
            return Err(StateError::Context { export, context, number: *number });
        }
    }
    let size = Size::new(state.size).unwrap_or(Size::MAX);
    let flags = ExportFlags(state.flags);
    // What it may do was told to it; by which rule, is judged anew.
    let verbs = state.verbs.iter().filter_map(|verb| verb.parse().ok()).fold(Verbs::NONE, Verbs::with);
    let identity = crate::session::visitor::identity(listener, peer, certificate);
    let tenant = &export.settings().config.tenant;
    let decision = front.registry.config().access().decide(&identity, tenant, export.name());
    Ok(Agreement {
        framing: state.framing.into(),
        flags,
        contexts: state.contexts.iter().map(|(number, _)| *number).collect(),
        size: state.size,
        style: words::to_style(state.style),
        // Only what holds after the handshake is known.
        offer: Offer {
            features: Features::from_wire(state.features),
            answers: false,
            flag: flags.has(ExportFlags::SEND_RESIZE),
            contexts: Contexts { automatic: false, no_automatic: false, size: false, watch: false },
            past_end: words::to_past_end(state.past_end),
            ceiling: state.ceiling,
            min: size,
            max: size,
            granularity: Granularity::ONE,
        },
        sizes: Context::ALL.into_iter().filter(|c| state.sizes.iter().any(|name| name == c.name())).collect(),
        decision: nbd_gateway_policy::access::Decision { verbs, ..decision },
    })
}

impl ReleaseState {
    fn released(&self) -> Released {
        let Self { requests, resizes, bytes, notices, .. } = *self;
        Released { requests, resizes, bytes, notices }
    }
}

impl Session {
    /// Holds what was held before.
    pub(super) fn hold(&self, released: Released) {
        self.permits.hold(released);
        self.resizes.fetch_add(released.resizes, Ordering::AcqRel);
        if released.notices > 0 {
            self.unread.store(true, Ordering::Release);
        }
    }

    fn go_on_notifying(self: &Arc<Self>, state: &NotifyState) {
        let suspended = SuspendedNotice {
            latest: Size::new(state.latest).unwrap_or(Size::MAX),
            due: state.due,
            credit: state.credit.and_then(NonZeroU32::new),
            interval: Duration::from_nanos(state.interval),
            sent: state.sent.map(|sent| sent.ago().elapsed()),
            merged: state.merged,
        };
        self.resume_notify(words::to_header(&state.header), &suspended, state.begun);
    }
}
