//! What is in force while the gateway runs, and how something else comes to be.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_config::{Config, Limits};
use nbd_gateway_metrics::Metrics;
use nbd_gateway_net::tls::BackendTls;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::listeners::PlannedListener;
use super::{Ask, ListenerContext, Listeners, Outcome, ReloadError, Source, check_backend_certificates};
use crate::export::{Lease, Opened, Registry, aliases};
use crate::log::ORDERED;
use crate::service::Service;
use crate::token::{TokenFile, read_token_file, token_in};

/// Everything that goes by the configuration.
pub(crate) struct Reloader {
    /// Where it comes from.
    pub source: Source,
    pub listeners: Listeners,
    /// What their connections share.
    pub context: ListenerContext,
    pub registry: Arc<Registry>,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
    /// The file of the admin interface's token.
    pub token_file: TokenFile,
    /// Embedded exports with a name of their own are open as long as the configuration has them.
    pub embedded: Embedded,
    /// Of backends, for the metrics.
    pub certificates: Vec<BackendTls>,
    /// Who is told that it reloads.
    pub service: Service,
}

/// The leases of exports that are open from the start, by name.
pub(crate) type Embedded = Arc<Mutex<HashMap<String, Lease>>>;

/// What is made ready before anything changes.
struct Ready {
    listeners: Vec<PlannedListener>,
    opened: Vec<Opened>,
    lines: Arc<[String]>,
}

impl Reloader {
    /// Opens the listeners that the gateway starts with.
    pub(crate) fn begin(&mut self, listeners: Vec<PlannedListener>, limits: &Limits) {
        self.listeners.open(listeners, limits, &self.context);
        self.in_force_now();
    }

    /// Nothing is reloaded any more. Waits until no listener accepts, once they have been told to; gives back what is open.
    pub(crate) async fn end(self) -> Embedded {
        self.listeners.closed().await;
        self.embedded
    }

    /// Answers whoever asks, for ever. Cancel-safe: what was changed is changed whole; what was made ready is let go.
    pub(crate) async fn serve(&mut self, asked: &mut mpsc::Receiver<Ask>) {
        let mut asks = Vec::new();
        loop {
            if asked.recv_many(&mut asks, super::WAITING).await == 0 {
                // Nobody can ask any more.
                return std::future::pending().await;
            }
            let outcome = self.reload().await;
            for ask in asks.drain(..) {
                // Whoever has left heard it from the log.
                let _ = ask.send(outcome.clone());
            }
        }
    }

    /// Reads the configuration anew, and tells the log and the metrics what came of it.
    async fn reload(&mut self) -> Outcome {
        tracing::info!(target: ORDERED, "reading the configuration anew");
        self.service.reloading().await;
        let outcome = self.read_anew().await;
        self.service.ready().await;
        match &outcome {
            Ok(lines) => {
                self.in_force_now();
                tracing::info!(target: ORDERED, changes = lines.len(), "the configuration is reloaded");
            }
            Err(ReloadError::NoFile) => tracing::warn!("{}", ReloadError::NoFile),
            Err(why) => {
                self.metrics.config_refused();
                tracing::error!(target: ORDERED, "{why}");
            }
        }
        outcome
    }

    /// The configuration was in order just now.
    fn in_force_now(&self) {
        let at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
        let at = i64::try_from(at).unwrap_or(i64::MAX);
        self.metrics.config_in_force(at);
    }

    async fn read_anew(&mut self) -> Outcome {
        let config = Arc::new(self.source.load().await?);
        let ready = self.make_ready(&config).await?;
        // Nobody waits for a look at files: one of them may hang.
        tokio::task::spawn_blocking({
            let (before, now) = (self.registry.config(), Arc::clone(&config));
            move || aliases::warn(&now, &aliases::aliases(&before))
        });
        // Before anything goes by it, so that what comes to be open has its bounds from the start. It can't fail.
        self.registry.allowances.configure_all(config.tenants()).await;
        Ok(self.apply(config, ready))
    }

    /// Everything that can fail. Changes nothing; in vain, nothing of it is left.
    async fn make_ready(&mut self, config: &Arc<Config>) -> Result<Ready, ReloadError> {
        let now = self.registry.config();
        let changes = now.changes_to(config);
        let fixed =
            changes.by_restart_only().map(|what| format!("{what}: this needs a restart, or leave it as it was"));
        let mut wrong: Vec<String> = fixed.collect();
        let mut objections = [self.registry.objections(config), self.context.table.objections(config)].concat();
        objections.sort();
        wrong.extend(objections);
        wrong.extend(misplaced_files(config).await);
        if let Some(file) = &config.token_file
            && now.token_file != config.token_file
        {
            wrong.extend(no_token(file).await);
        }
        let listeners = match self.listeners.plan(config).await {
            Ok(listeners) => listeners,
            Err(errors) => {
                wrong.extend([errors.first].iter().chain(&errors.others).map(ToString::to_string));
                Vec::new()
            }
        };
        let opened = if wrong.is_empty() { self.open_disks(config).await } else { Err(Vec::new()) };
        match opened {
            Ok(opened) => {
                let lines = changes.iter().map(ToString::to_string).collect();
                Ok(Ready { listeners, opened, lines })
            }
            Err(errors) => Err(ReloadError::wrong(wrong.into_iter().chain(errors))),
        }
    }

    /// New disks of the gateway's own, or everything that keeps them from being opened.
    async fn open_disks(&self, config: &Arc<Config>) -> Result<Vec<Opened>, Vec<String>> {
        let (mut opened, mut errors) = (Vec::new(), Vec::new());
        let (registry, next) = (Arc::clone(&self.registry), Arc::clone(config));
        for export in look(move || registry.new_disks(&next)).await.map_err(|hangs| vec![hangs])? {
            match self.registry.open_beforehand(export).await {
                Ok(export) => opened.push(export),
                Err(error) => errors.push(error.to_string()),
            }
        }
        if errors.is_empty() {
            return Ok(opened);
        }
        for export in opened {
            self.registry.close_again(export).await;
        }
        Err(errors)
    }

    /// Nothing of this can fail, and nothing waits.
    fn apply(&mut self, config: Arc<Config>, ready: Ready) -> Arc<[String]> {
        let Ready { listeners, opened, lines } = ready;
        let before = self.registry.config();
        for line in lines.iter() {
            tracing::info!(target: ORDERED, "configuration: {line}");
        }
        if let Some(set) = self.source.level.as_ref().filter(|_| before.log.level != config.log.level) {
            set(config.log.level);
        }
        self.token_file.set(config.token_file.clone());
        self.certificates = check_backend_certificates(&config, Some(&before), &self.metrics);
        let over = Instant::now() + config.limits.drain_timeout;
        let replaced = self.registry.replace(Arc::clone(&config), opened, over);
        let ended = self.context.table.judge_again(&config);
        for uri in listeners.iter().flat_map(PlannedListener::uris) {
            tracing::info!(target: ORDERED, uri, "listening");
        }
        self.listeners.open(listeners, &config.limits, &self.context);
        let mut embedded = self.embedded.lock();
        let named: HashSet<String> = config.embedded().map(str::to_owned).collect();
        // One whose name only fits a template now stays open as long as somebody uses it.
        let left = embedded.extract_if(|name, lease| lease.is_leaving() || !named.contains(name));
        let left: Vec<Lease> = left.map(|(_, lease)| lease).collect();
        embedded.extend(replaced.leases.into_iter().map(|lease| (lease.export().name().to_owned(), lease)));
        let later: Vec<String> = named.into_iter().filter(|name| !embedded.contains_key(name)).collect();
        drop(embedded);
        drop(left);
        later.into_iter().for_each(|name| self.open_later(name));
        if replaced.leaving > 0 || ended > 0 {
            tracing::info!(
                exports = replaced.leaving,
                sessions = ended,
                "exports that have changed or left are closed, and sessions whose clients may do other things now are ended"
            );
        }
        lines
    }

    /// Opens a disk whose file, or whose name, another has that leaves: when that is closed.
    fn open_later(&self, name: String) {
        let (registry, embedded) = (Arc::clone(&self.registry), Arc::clone(&self.embedded));
        tokio::spawn(async move {
            match registry.open(&name).await {
                Ok(lease) => {
                    let mut embedded = embedded.lock();
                    // Another reload can have come between.
                    let is_named = registry.config().is_listable(&name);
                    if is_named && !lease.is_leaving() {
                        embedded.insert(name, lease);
                    }
                }
                Err(error) => {
                    tracing::error!(export = name, %error, "an export that is to be open from the start is not; it is tried again for each client");
                }
            }
        });
    }
}

/// What is wrong with a token's file.
async fn no_token(file: &Path) -> Option<String> {
    match read_token_file(file).await {
        Ok(text) if !token_in(&text).is_empty() => None,
        Ok(_) => Some(format!("[admin]: token-file {} has no token in its first line", file.display())),
        Err(error) => Some(format!("[admin]: token-file {} can't be read: {error}", file.display())),
    }
}

/// Why the configuration's files are in the wrong place.
async fn misplaced_files(config: &Arc<Config>) -> Vec<String> {
    let config = Arc::clone(config);
    look(move || aliases::misplaced_files(&config)).await.unwrap_or_else(|hangs| vec![hangs])
}

/// Looks at files. What hangs meanwhile hangs alone, and the reload is refused.
async fn look<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    match tokio::time::timeout(LOOK, tokio::task::spawn_blocking(look)).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(_)) | Err(_) => {
            Err(format!("can't look at the directories of files within {LOOK:?}: see whether a file system hangs"))
        }
    }
}

/// How long directories are looked at in a reload: none takes as long unless its file system hangs.
const LOOK: Duration = Duration::from_secs(10);
