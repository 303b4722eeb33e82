//! What an export and its coordinator share: the backend, the view, and the requests on their way between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nbd_gateway_config::Resolved;
use nbd_gateway_policy::plan;
use nbd_gateway_policy::types::{ByteRange, ExportName, TenantId};
use tokio::sync::watch;

use super::backend::{Backend, Facts, Lanes};
use super::gate::Gate;
use super::second::Second;
use super::view::View;
use crate::accounting::cache::Notes;
use crate::driver::{Order, Was};
use crate::embedded::DiskError;
use crate::proto::{Cmd, CmdFlags, Errno, Features, Framing, Payload};
use crate::request::{Failure, Finished, Heard, Job, Outcome, Request};

/// The inside of one open export.
#[derive(Debug)]
pub(crate) struct Core {
    export: ExportName,
    template: Option<String>,
    tenant: TenantId,
    notes: Arc<Notes>,
    facts: Facts,
    pub(crate) backend: Backend,
    view: Arc<View>,
    pub(crate) gate: Gate,
    /// Whether its size can be looked at by a second connection.
    second: Second,
    /// The backend's size as last read, in bytes.
    known: AtomicU64,
    /// No lane has a connection, on purpose.
    aside: AtomicBool,
}

impl Core {
    pub(crate) fn new(
        config: &Resolved,
        notes: Arc<Notes>,
        facts: Facts,
        backend: Backend,
        view: Arc<View>,
    ) -> Arc<Self> {
        Arc::new(Self {
            export: config.name.clone(),
            template: config.template.clone(),
            tenant: config.tenant.clone(),
            notes,
            known: AtomicU64::new(facts.size),
            facts,
            backend,
            view,
            gate: Gate::default(),
            second: Second::default(),
            aside: AtomicBool::new(false),
        })
    }

    /// The export's name.
    pub(crate) fn name(&self) -> &str {
        self.export.as_str()
    }

    /// The export's name.
    pub(crate) fn export(&self) -> &ExportName {
        &self.export
    }

    /// The template that its name fits; None: it has an entry of its own.
    pub(crate) fn template(&self) -> Option<&str> {
        self.template.as_deref()
    }

    /// Whose it is.
    pub(crate) fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// What the backend said about itself when it was opened.
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What the export looks like now.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// The backend's size as last read, in bytes.
    pub(crate) fn disk(&self) -> u64 {
        self.known.load(Ordering::Acquire)
    }

    /// A request of the gateway's own, to its outcome. Cancel-safe: dropped, what was sent is still carried out; what
    /// changes data and was not is not sent.
    pub(crate) async fn call(&self, lane: u64, request: Request) -> Outcome {
        let (job, outcome) = Job::for_task(request);
        self.backend.submit(lane, &mut vec![job], &mut Finished::default());
        outcome.await.unwrap_or_else(|_| lost())
    }

    /// Opens a NOTIFY at the backend; ends with it.
    pub(crate) async fn subscribe(&self, request: Request, hears: watch::Sender<Heard>) -> Outcome {
        let (job, outcome) = Job::for_listener(request, hears);
        self.backend.submit(0, &mut vec![job], &mut Finished::default());
        outcome.await.unwrap_or_else(|_| lost())
    }

    /// Ends the standing NOTIFY: one of length 1 takes its place, and is answered at once.
    pub(crate) async fn unsubscribe(&self) {
        let request =
            Request { command: Cmd::RESIZE, flags: CmdFlags::NOTIFY, offset: 0, length: 1, payload: Payload::empty() };
        self.call(0, request).await;
    }

    /// The backend's size now, read from the backend: in band if it can, else by a second handshake.
    pub(crate) async fn read_size(self: &Arc<Self>) -> Result<u64, String> {
        let read = self.ask_size(false).await;
        if let Ok(size) = read {
            self.known.store(size, Ordering::Release);
        }
        read
    }

    /// The same, for whoever only wants to know: one at a time for each server, however many exports it has. A resize does
    /// not wait for a look that hangs.
    pub(crate) async fn look(self: &Arc<Self>) -> Result<u64, String> {
        let read = self.ask_size(true).await;
        if let Ok(size) = read {
            self.known.store(size, Ordering::Release);
        }
        read
    }

    /// Whole blocks: of a disk that ends inside one of its server's the rest can't be had.
    async fn ask_size(self: &Arc<Self>, only_to_know: bool) -> Result<u64, String> {
        self.ask_bytes(only_to_know).await.map(|size| size - size % self.facts.minimum_block())
    }

    async fn ask_bytes(self: &Arc<Self>, only_to_know: bool) -> Result<u64, String> {
        let lanes = match &self.backend {
            Backend::Embedded(_) => return self.measure_embedded().await.map_err(|error| error.to_string()),
            Backend::Lanes(lanes) => lanes,
        };
        let in_band = self.facts.framing != Framing::Simple
            && self.facts.resize.is_some_and(|info| info.features.has(Features::QUERY));
        if in_band {
            let query = Request {
                command: Cmd::RESIZE,
                flags: CmdFlags::QUERY,
                offset: 0,
                length: 0,
                payload: Payload::empty(),
            };
            return match self.call(0, query).await {
                Outcome::Resized(size) => Ok(size),
                Outcome::Failed(failure) => Err(format!("{}: {}", failure.errno, failure.message)),
                _ => Err("the backend's answer belongs to another command".to_owned()),
            };
        }
        if self.aside.load(Ordering::Acquire) {
            return self.read_size_aside(lanes).await;
        }
        if !self.second.is_due() {
            return Err("the backend takes one connection only".to_owned());
        }
        match if only_to_know { lanes.look().await } else { lanes.probe().await } {
            Ok(size) => {
                if self.second.answered() {
                    tracing::info!(export = self.name(), "the backend answers a second connection again");
                }
                Ok(size)
            }
            Err(error) => {
                if error.is_late() && self.second.late() {
                    tracing::warn!(export = self.name(), %error, "the backend does not answer a second connection; its size is looked at later again");
                }
                Err(error.to_string())
            }
        }
    }

    /// Reads it while no lane has a connection: a server that has just been started again may not listen yet.
    /// Cancel-safe: yes.
    async fn read_size_aside(&self, lanes: &Lanes) -> Result<u64, String> {
        let mut pause = Duration::from_millis(20);
        loop {
            match lanes.probe().await {
                Ok(size) => return Ok(size),
                Err(error) if !self.aside.load(Ordering::Acquire) => return Err(error.to_string()),
                Err(error) => tracing::debug!(export = self.name(), %error, "the backend does not answer yet"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// The embedded disk's size, read anew.
    async fn measure_embedded(self: &Arc<Self>) -> Result<u64, DiskError> {
        let core = Arc::clone(self);
        let measure = move || match &core.backend {
            Backend::Embedded(disk) => disk.measure(),
            Backend::Lanes(_) => Err(DiskError::Closed),
        };
        tokio::task::spawn_blocking(measure).await.unwrap_or(Err(DiskError::Closed))
    }

    /// Sets the embedded disk's size; the size that is now in force.
    pub(crate) async fn set_embedded_size(self: &Arc<Self>, size: u64) -> Result<u64, DiskError> {
        let core = Arc::clone(self);
        let set = move || match &core.backend {
            Backend::Embedded(disk) => disk.set_size(size),
            Backend::Lanes(_) => Err(DiskError::Closed),
        };
        tokio::task::spawn_blocking(set).await.unwrap_or(Err(DiskError::Closed))
    }

    /// What a driver is to do to give the backend `to` bytes.
    pub(crate) fn order(&self, to: u64) -> Order {
        let was = Was {
            name: match &self.backend {
                Backend::Lanes(lanes) => lanes.export().to_owned(),
                Backend::Embedded(_) => String::new(),
            },
            flags: self.facts.flags,
            contexts: self.facts.contexts.clone(),
            description: self.facts.description.clone(),
        };
        let from = self.disk();
        Order { export: self.export.clone(), tenant: self.tenant.clone(), from, to, was }
    }

    /// Whether the backend takes one connection only, as far as is known.
    pub(crate) fn single_connection(&self) -> bool {
        self.second.is_refused()
    }

    /// The size that a lane's handshake told since [`forget_handshake_size`](Self::forget_handshake_size), in bytes.
    pub(crate) fn size_from_handshake(&self) -> Option<u64> {
        match &self.backend {
            Backend::Lanes(lanes) => lanes.size_from_handshake(),
            Backend::Embedded(_) => None,
        }
    }

    /// What handshakes told so far is out of date: the backend is asked for another size.
    pub(crate) fn forget_handshake_size(&self) {
        if let Backend::Lanes(lanes) = &self.backend {
            lanes.forget_handshake_size();
        }
    }

    /// Takes all lanes aside: what is in flight is answered and made durable, then there is no connection to the backend
    /// until [`renew_lanes`](Self::renew_lanes). Cancel-safe: dropped, they still go.
    pub(crate) async fn drop_lanes(&self) {
        if let Backend::Lanes(lanes) = &self.backend {
            self.aside.store(true, Ordering::Release);
            lanes.step_aside().await;
        }
    }

    /// Has lanes shake hands anew, so that they see a new size.
    pub(crate) async fn renew_lanes(&self, which: plan::Lanes) {
        if let Backend::Lanes(lanes) = &self.backend {
            self.aside.store(false, Ordering::Release);
            lanes.renew(which).await;
        }
    }

    /// Nobody waits any more for what changes data in `from..to`: nothing that overlaps it is sent before that is answered.
    pub(crate) fn left_behind(&self, from: u64, to: u64) {
        self.backend.left_behind(from, to);
    }

    /// Waits until no write of a lost connection may still land in `from..to`. Cancel-safe: yes.
    pub(crate) async fn clear_of_late_writes(&self, from: u64, to: u64) {
        self.backend.clear_of_late_writes(from, to).await;
    }

    /// Whether a RESIZE was in flight on a lost connection, and may still be carried out.
    pub(crate) fn resize_in_doubt(&self) -> bool {
        self.backend.resize_in_doubt()
    }

    /// It was carried out.
    pub(crate) fn resize_confirmed(&self) {
        self.backend.resize_confirmed();
    }

    /// A driver has ended the server, or its connections, at `begun` at the earliest: nothing from before lands any more.
    pub(crate) fn fenced(&self, begun: tokio::time::Instant) {
        self.backend.fenced(begun);
    }

    /// No request past `end` is admitted from now on.
    pub(crate) fn lower_end(&self, end: u64) {
        self.gate.shut(|| self.view.lower_end(end));
    }

    /// Waits until no request past `end` is in flight. Cancel-safe: yes.
    pub(crate) async fn drained_beyond(&self, end: u64) {
        self.gate.draining.store(true, Ordering::Release);
        loop {
            // A write that lands late past the new end would make the disk longer again.
            self.backend.clear_of_late_writes(end, u64::MAX).await;
            let answered = self.gate.answered.notified();
            tokio::pin!(answered);
            answered.as_mut().enable();
            if !self.backend.beyond(end) && !self.gate.holds_beyond(end) {
                self.gate.draining.store(false, Ordering::Release);
                return;
            }
            answered.await;
        }
    }

    /// Notes, durably, a range to be zeroed.
    pub(crate) async fn note_zeroes(&self, range: ByteRange) -> Result<(), String> {
        self.notes.note(&self.export, &self.tenant, range).await.map_err(|e| e.to_string())
    }

    /// Notes, durably, that it is zero.
    pub(crate) async fn clear_zeroes(&self, range: ByteRange) -> Result<(), String> {
        self.notes.clear(&self.export, range).await.map_err(|e| e.to_string())
    }
}

fn lost() -> Outcome {
    Outcome::Failed(Failure::new(Errno::EIO, "the request was lost in the gateway"))
}
