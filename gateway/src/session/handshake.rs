//! The handshake of one client: carries out what the sans-IO server asks for.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_net::tls::{PeerCertificate, TlsError};
use nbd_gateway_net::{FarEnd, Stream, TlsStream};
use nbd_gateway_policy::access::{Certificate, Decision, Verb, Verbs};
use nbd_gateway_policy::offer::{self as policy, Negotiated};
use nbd_gateway_proto::handshake::server::{ServerHandshakeError, match_contexts};
use nbd_gateway_proto::handshake::{Ask, Offer, Progress, Server, Tls};
use nbd_gateway_proto::resize::{Context, ResizeInfo};
use nbd_gateway_proto::{Features, Framing, Inbox, Info, Rep};
use tokio::time::Instant;

use crate::export::{Export, Lease, OpenError};
use crate::limits::{Handshake, Place};
use crate::resize::openers::OpenGuard;
use crate::target::style::replies;

use super::visitor::Visitor;
use super::{Agreement, ListenerConfig};

/// How much of a LIST's answer waits for the client at a time, in bytes.
const SLICE: usize = 16 * 1024;

/// How often a client that waits for an export to be opened is looked after.
const LOOK: Duration = Duration::from_millis(250);

/// How a handshake ended without a session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnterError {
    /// NBD_OPT_ABORT, or a close between options: a client that only asked.
    #[error("client left after asking")]
    Left,
    /// NBD_OPT_EXPORT_NAME for an export that can't be opened: there is no error reply to it.
    #[error("{0}, and NBD_OPT_EXPORT_NAME has no error reply")]
    NoReply(OpenError),
    /// The client took too long.
    #[error("client took longer than handshake-timeout")]
    Late,
    /// The client's stream can't be followed.
    #[error("client broke the protocol: {0}")]
    Bad(#[from] ServerHandshakeError),
    /// There is no TLS.
    #[error("{0}")]
    Tls(#[from] TlsError),
    #[error("client connection failed: {0}")]
    Io(#[from] io::Error),
}

/// A client that enters transmission.
pub(crate) struct Entered {
    /// The connection; inside TLS, if the client asked for it.
    pub(crate) stream: Stream,
    /// The export it has open.
    pub(crate) lease: Lease,
    /// What was agreed on.
    pub(crate) agreement: Agreement,
    /// Its place in the export's openers.
    pub(crate) guard: OpenGuard,
    /// Whose certificate it has shown.
    pub(crate) certificate: Option<PeerCertificate>,
    /// Its place among the listener's sessions.
    pub(crate) place: Place,
}

/// Runs the handshake. While the gateway drains, whatever would open an export is refused. The client has a limit for its
/// part, TLS included; what the gateway takes to open an export has a deadline of its own and does not count.
/// Cancel-safe: no; dropped midway (drain), the connection is to be closed.
pub(crate) async fn negotiate(
    front: &ListenerConfig,
    visitor: &mut Visitor,
    mut stream: Stream,
    inbox: &mut Inbox,
    handshake: &Handshake,
) -> Result<Entered, EnterError> {
    let drain = &front.drain;
    let tls = match &front.tls {
        None => Tls::Off,
        Some(tls) if tls.is_required() => Tls::Require,
        Some(_) => Tls::Allow,
    };
    let mut server = Server::new(front.option_length, tls);
    let mut clock = Clock { over: Instant::now() + front.handshake, handshake };
    let mut certificate = None;
    // What the client was told about stays as it was told, and its server connected, until it is through.
    let mut told: Option<Told> = None;
    loop {
        let progress = server.handle_input(inbox.bytes())?;
        if matches!(progress, Progress::Ask(_)) {
            visitor.asks();
        }
        let mut entered = None;
        match progress {
            Progress::More => {
                send(&mut server, &mut stream, &clock).await?;
                let room = inbox.bytes();
                if room.capacity() - room.len() < 4096 {
                    room.reserve(8192);
                }
                if clock.bound(stream.fill(room)).await? == 0 {
                    return Err(EnterError::Left);
                }
                continue;
            }
            Progress::Aborted => {
                send(&mut server, &mut stream, &clock).await?;
                // The client may be gone already; then there is nobody to close it for.
                let _ = clock.bound(stream.close()).await;
                return Err(EnterError::Left);
            }
            Progress::Ask(Ask::StartTls) => match &front.tls {
                None => server.refuse(Rep::ERR_POLICY, "TLS is off on this listener"),
                Some(tls) => {
                    server.answer_start_tls(inbox.bytes())?;
                    send(&mut server, &mut stream, &clock).await?;
                    (stream, certificate) = clock.bound(TlsStream::accept(stream, tls)).await?;
                    // Who it is decides from now on.
                    if let Some(shown) = &certificate
                        && let Ok(known) = Certificate::read(&shown.subject, &shown.sans)
                    {
                        visitor.prove(known);
                    }
                    continue;
                }
            },
            Progress::Ask(Ask::List) => {
                for (name, description) in visitor.list() {
                    server.list(name, description);
                    if server.output().len() >= SLICE {
                        send(&mut server, &mut stream, &clock).await?;
                    }
                }
                server.end_list();
            }
            Progress::Ask(Ask::Info { name, go, infos }) => {
                let verb = if go { Verb::Read } else { Verb::List };
                let opened = clock.stopped(&stream, visitor.open(&name, verb, drain)).await?;
                match opened.and_then(|(lease, decision)| {
                    let selected = server.selected(&name);
                    is_as_told(told.as_ref().filter(|_| go && !selected.is_empty()), &name, &lease)?;
                    let (lease, place) =
                        if go { seated(front, lease, handshake).map(|(l, p)| (l, Some(p)))? } else { (lease, None) };
                    Ok((lease, decision, selected, place))
                }) {
                    Err(error) => {
                        told = None;
                        refuse(visitor, &mut server, &name, &error);
                    }
                    Ok((lease, decision, selected, place)) => {
                        let asks = infos.contains(&Info::RESIZE);
                        let export = lease.export();
                        let (agreement, guard) = agreement(export, decision, &server, selected, asks, go);
                        let export = lease.export();
                        let description = export.description();
                        let offer = Offer {
                            size: agreement.size,
                            flags: agreement.flags,
                            name: &name,
                            description: description.as_deref(),
                            block_sizes: export.block_sizes(),
                            resize: agreement.offer.answers.then(|| resize_info(&agreement.offer)),
                        };
                        server.answer_info(&infos, &offer);
                        match guard.zip(place) {
                            Some((guard, place)) => entered = Some((lease, agreement, guard, place)),
                            None => told = Some(Told { name, lease }),
                        }
                    }
                }
            }
            Progress::Ask(Ask::ExportName { name }) => {
                let opened = clock.stopped(&stream, visitor.open(&name, Verb::Read, drain)).await?;
                let (lease, decision, place) = opened
                    .and_then(|(lease, decision)| {
                        is_as_told(told.as_ref().filter(|_| !server.selected(&name).is_empty()), &name, &lease)?;
                        seated(front, lease, handshake).map(|(lease, place)| (lease, decision, place))
                    })
                    .map_err(|error| {
                        visitor.refused(&name, &error);
                        EnterError::NoReply(error)
                    })?;
                let (export, selected) = (lease.export(), server.selected(&name));
                let (agreement, guard) = agreement(export, decision, &server, selected, false, true);
                server.answer_export_name(agreement.size, agreement.flags);
                entered = guard.map(|guard| (lease, agreement, guard, place));
            }
            Progress::Ask(Ask::Contexts { name, set, queries }) => {
                match clock.stopped(&stream, visitor.open(&name, Verb::List, drain)).await? {
                    Err(error) => {
                        told = None;
                        refuse(visitor, &mut server, &name, &error);
                    }
                    Ok((lease, decision)) => {
                        let contexts = contexts(lease.export(), decision.verbs, server.framing());
                        server.answer_contexts(&name, &match_contexts(&contexts, &queries, set));
                        told = Some(Told { name, lease });
                    }
                }
            }
        }
        send(&mut server, &mut stream, &clock).await?;
        if let Some((lease, agreement, guard, place)) = entered {
            return Ok(Entered { stream, lease, agreement, guard, certificate, place });
        }
    }
}

/// What a client was told in its handshake, and about which export.
struct Told {
    name: String,
    lease: Lease,
}

/// Whether the contexts that a client has selected are those of the export that it opens: it may have been closed for a
/// reload in between.
fn is_as_told(told: Option<&Told>, name: &str, lease: &Lease) -> Result<(), OpenError> {
    match told {
        Some(told) if told.name == name && !Arc::ptr_eq(told.lease.export(), lease.export()) => {
            Err(OpenError::Changed {
                export: name.to_owned(),
                how: "it was opened again after this client had selected its metadata contexts".to_owned(),
                clients: 1,
            })
        }
        Some(_) | None => Ok(()),
    }
}

/// What a session needs beside its export: a place of its tenant's, and one of its listener's.
fn seated(front: &ListenerConfig, lease: Lease, handshake: &Handshake) -> Result<(Lease, Place), OpenError> {
    let lease = lease.for_session()?;
    let export = lease.export();
    let others = front.registry.config().tenants().len() > 1;
    let full = |why| OpenError::Full { export: export.name().to_owned(), why };
    let place = handshake.session(&export.settings().config.tenant, others).map_err(full)?;
    Ok((lease, place))
}

fn refuse(visitor: &Visitor, server: &mut Server, name: &str, error: &OpenError) {
    let rep = match error {
        OpenError::Unknown { .. } | OpenError::Hidden { .. } | OpenError::Missing { .. } => Rep::ERR_UNKNOWN,
        OpenError::Forbidden { .. } => Rep::ERR_POLICY,
        OpenError::Crowded(_) | OpenError::Full { .. } | OpenError::Busy { .. } => Rep::ERR_POLICY,
        OpenError::Draining => Rep::ERR_SHUTDOWN,
        // Of the errors that there are, the one that clients put into the right words: "not available". ERR_PLATFORM is
        // read as "the server can't do this option".
        OpenError::Changed { .. } | OpenError::Backend { .. } => Rep::ERR_UNKNOWN,
    };
    visitor.refused(name, error);
    server.refuse(rep, &error.for_client());
}

/// The contexts that this client may select: the backend's, then those of `x-resize:` that it is offered.
fn contexts(export: &Export, verbs: Verbs, framing: Framing) -> Vec<(usize, &str)> {
    let offered = export.offer(verbs, &Negotiated::nothing(replies(framing))).contexts;
    let own = export.contexts();
    let sizes = Context::ALL.iter().enumerate().filter(|(_, context)| match context {
        Context::Automatic => offered.automatic,
        Context::NoAutomatic => offered.no_automatic,
        Context::SizeLow | Context::SizeHigh => offered.size,
        Context::Watch => offered.watch,
    });
    let sizes = sizes.map(|(i, context)| (own.len() + i, context.name()));
    own.iter().map(String::as_str).enumerate().chain(sizes).collect()
}

/// What the client is told; with a guard in the export's openers if it enters transmission with that.
fn agreement(
    export: &Arc<Export>,
    decision: Decision,
    server: &Server,
    selected: Vec<usize>,
    asks: bool,
    enters: bool,
) -> (Agreement, Option<OpenGuard>) {
    let framing = server.framing();
    let (contexts, sizes): (Vec<usize>, Vec<usize>) = selected.into_iter().partition(|c| *c < export.contexts().len());
    let sizes: Vec<Context> =
        sizes.iter().filter_map(|id| Context::ALL.get(id - export.contexts().len()).copied()).collect();
    let has = |context| sizes.contains(&context);
    let negotiated = Negotiated {
        replies: replies(framing),
        asks,
        automatic: has(Context::Automatic),
        no_automatic: has(Context::NoAutomatic),
        polls: has(Context::SizeLow) || has(Context::SizeHigh),
        watches: has(Context::Watch),
    };
    // Seated first: a shrink that does not see it has lowered the end by now, and that is the size that it is told.
    let guard = enters.then(|| export.resizer.openers.enter(negotiated.style()));
    let offer = export.offer(decision.verbs, &negotiated);
    let size = export.size_for(&offer);
    let flags = export.flags_for(decision.verbs, framing, offer.flag);
    (Agreement { framing, flags, contexts, size, style: negotiated.style(), offer, sizes, decision }, guard)
}

fn resize_info(offer: &policy::Offer) -> [u8; 26] {
    ResizeInfo {
        features: Features(offer.features.wire()),
        minimum: offer.min.bytes(),
        maximum: offer.max.bytes(),
        granularity: offer.granularity.bytes(),
    }
    .to_body()
}

async fn send(server: &mut Server, stream: &mut Stream, clock: &Clock<'_>) -> Result<(), EnterError> {
    if !server.output().is_empty() {
        let bytes = core::mem::take(server.output());
        clock.bound(stream.write_all(&bytes)).await?;
    }
    Ok(())
}

/// When the client's time is up.
struct Clock<'a> {
    over: Instant,
    handshake: &'a Handshake,
}

impl Clock<'_> {
    /// Something that the client can hold up.
    async fn bound<T, E>(&self, io: impl Future<Output = Result<T, E>>) -> Result<T, EnterError>
    where
        EnterError: From<E>,
    {
        match tokio::time::timeout_at(self.over, io).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(EnterError::Late),
        }
    }

    /// Something that the client waits for: given up when the client is gone.
    async fn stopped<T>(&mut self, stream: &Stream, work: impl Future<Output = T>) -> Result<T, EnterError> {
        let since = Instant::now();
        self.handshake.busy(true);
        let mut work = core::pin::pin!(work);
        loop {
            tokio::select! {
                // What is done is used, even if it took just as long as a look.
                biased;
                done = &mut work => {
                    self.handshake.busy(false);
                    self.over += since.elapsed();
                    return Ok(done);
                }
                () = tokio::time::sleep(LOOK) => {
                    if stream.far_end() != FarEnd::Open {
                        return Err(EnterError::Left);
                    }
                }
            }
        }
    }
}
