//! The handshake of one client: carries out what the sans-IO server asks for.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_policy::offer::{self as policy, Negotiated};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::export::{Export, Lease, OpenError, Registry};
use crate::net::Stream;
use crate::proto::handshake::server::{BadClient, match_contexts};
use crate::proto::handshake::{Ask, Offer, Progress, Server};
use crate::proto::resize::{Context, ResizeInfo};
use crate::proto::{Features, Framing, Inbox, Info, Rep};
use crate::resize::audience::Seat;
use crate::resize::style::replies;

use super::Agreement;

/// How a handshake ended without a session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoSession {
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
    Bad(#[from] BadClient),
    /// The socket failed.
    #[error("client connection failed: {0}")]
    Io(#[from] io::Error),
}

/// Runs the handshake. `drain` true refuses whatever would open an export. The client has `limit` for its part; what the
/// gateway takes to open an export has a deadline of its own and does not count.
/// Cancel-safe: no; dropped midway (drain), the connection is to be closed.
pub(crate) async fn negotiate(
    registry: &Arc<Registry>,
    option_length: u32,
    limit: Duration,
    stream: &mut Stream,
    inbox: &mut Inbox,
    drain: &watch::Receiver<bool>,
) -> Result<(Lease, Agreement, Seat), NoSession> {
    let mut server = Server::new(option_length);
    let mut clock = Clock(Instant::now() + limit);
    loop {
        let progress = server.handle_input(inbox.bytes())?;
        let mut entered = None;
        match progress {
            Progress::More => {
                send(&mut server, stream, &clock).await?;
                let room = inbox.bytes();
                if room.capacity() - room.len() < 4096 {
                    room.reserve(8192);
                }
                if clock.bound(stream.fill(room)).await? == 0 {
                    return Err(NoSession::Left);
                }
                continue;
            }
            Progress::Aborted => {
                send(&mut server, stream, &clock).await?;
                return Err(NoSession::Left);
            }
            Progress::Ask(Ask::StartTls) => server.refuse(Rep::ERR_POLICY, "TLS is off on this listener"),
            Progress::Ask(Ask::List) => server.answer_list(registry.list()),
            Progress::Ask(Ask::Info { name, go, infos }) => match clock
                .stopped(open(registry, &name, drain))
                .await
                .and_then(|lease| if go { lease.for_session() } else { Ok(lease) })
            {
                Err(error) => refuse(&mut server, &name, &error),
                Ok(lease) => {
                    let asks = infos.contains(&Info::RESIZE);
                    let (agreement, seat) = agreement(lease.export(), &server, server.selected(&name), asks, go);
                    let export = lease.export();
                    let offer = Offer {
                        size: agreement.size,
                        flags: agreement.flags,
                        name: &name,
                        description: export.description(),
                        block_sizes: export.block_sizes(),
                        resize: agreement.offer.answers.then(|| resize_info(&agreement.offer)),
                    };
                    server.answer_info(&infos, &offer);
                    entered = seat.map(|seat| (lease, agreement, seat));
                }
            },
            Progress::Ask(Ask::ExportName { name }) => {
                let opened = clock.stopped(open(registry, &name, drain)).await;
                let lease = opened.and_then(Lease::for_session).map_err(NoSession::NoReply)?;
                let (agreement, seat) = agreement(lease.export(), &server, server.selected(&name), false, true);
                server.answer_export_name(agreement.size, agreement.flags);
                entered = seat.map(|seat| (lease, agreement, seat));
            }
            Progress::Ask(Ask::Contexts { name, set, queries }) => {
                match clock.stopped(open(registry, &name, drain)).await {
                    Err(error) => refuse(&mut server, &name, &error),
                    Ok(lease) => {
                        let export = Arc::clone(lease.export());
                        let contexts = contexts(&export, server.framing());
                        server.answer_contexts(&name, &match_contexts(&contexts, &queries, set));
                    }
                }
            }
        }
        send(&mut server, stream, &clock).await?;
        if let Some(entered) = entered {
            return Ok(entered);
        }
    }
}

async fn open(registry: &Arc<Registry>, name: &str, drain: &watch::Receiver<bool>) -> Result<Lease, OpenError> {
    let mut drain = drain.clone();
    tokio::select! {
        biased;
        // An error means that nobody is left to say so.
        _ = drain.wait_for(|draining| *draining) => Err(OpenError::Draining),
        // An attempt that nobody waits for is dropped, so a backend that is silent holds no drain up.
        lease = registry.open(name) => lease,
    }
}

fn refuse(server: &mut Server, name: &str, error: &OpenError) {
    let rep = match error {
        OpenError::Unknown { .. } => Rep::ERR_UNKNOWN,
        OpenError::Crowded(_) => Rep::ERR_POLICY,
        OpenError::Draining => Rep::ERR_SHUTDOWN,
        OpenError::Backend { .. } => Rep::ERR_PLATFORM,
    };
    tracing::debug!(export = name, %error, "export refused");
    server.refuse(rep, &error.for_client());
}

/// The contexts that this client may select: the backend's, then those of `x-resize:` that it is offered.
fn contexts(export: &Export, framing: Framing) -> Vec<(usize, &str)> {
    let offered = export.offer(&Negotiated::nothing(replies(framing))).contexts;
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

/// What the client is told; with a seat in the export's audience if it enters transmission with that.
fn agreement(
    export: &Arc<Export>,
    server: &Server,
    selected: Vec<usize>,
    asks: bool,
    enters: bool,
) -> (Agreement, Option<Seat>) {
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
    let seat = enters.then(|| export.resizer().audience.enter(negotiated.style()));
    let offer = export.offer(&negotiated);
    let size = export.size_for(&offer);
    let flags = export.flags_for(framing, offer.flag);
    (Agreement { framing, flags, contexts, size, style: negotiated.style(), offer, sizes }, seat)
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

async fn send(server: &mut Server, stream: &mut Stream, clock: &Clock) -> Result<(), NoSession> {
    if !server.output().is_empty() {
        let bytes = core::mem::take(server.output());
        clock.bound(stream.write_all(&bytes)).await?;
    }
    Ok(())
}

/// When the client's time is up.
struct Clock(Instant);

impl Clock {
    /// Something that the client can hold up.
    async fn bound<T>(&self, io: impl Future<Output = io::Result<T>>) -> Result<T, NoSession> {
        match tokio::time::timeout_at(self.0, io).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(NoSession::Late),
        }
    }

    /// Something that the client waits for.
    async fn stopped<T>(&mut self, work: impl Future<Output = T>) -> T {
        let since = Instant::now();
        let done = work.await;
        self.0 += since.elapsed();
        done
    }
}
