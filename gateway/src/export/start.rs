//! Opening an export: its backend, its coordinator, and what follows the backend's size.

use std::path::Path;
use std::sync::Arc;

use nbd_gateway_config::{self as config, Resolved};
use nbd_gateway_metrics::ExportMetrics;
use nbd_gateway_policy::export::Publish;
use nbd_gateway_policy::types::Size;
use tokio::sync::watch;
use tracing::Instrument;

use super::registry::Shared;
use super::settings::Settings;
use super::{Export, Parts, unpublished};
use crate::accounting::account::{Clerk, Shows};
use crate::accounting::meanwhile::Smaller;
use crate::driver::{Driver, Healed, Qmp};
use crate::hooks::Hooks;
use crate::limits::TenantBudget;
use crate::proto::Features;
use crate::resize::Resizer;
use crate::resize::coordinator::{Coordinator, Start};
use crate::resize::follow::{Patience, follow};
use crate::resize::live_effects::LiveEffects;
use crate::resize::watchers::{self, Told};
use crate::resize::window::Opened;
use crate::target::{self, Core, ObserveSize, Shown};

/// Why an export is not open.
#[derive(Debug)]
pub(super) struct NotStarted {
    /// For operators.
    pub(super) why: String,
    /// Its server does not know the name.
    pub(super) unknown: bool,
}

impl From<String> for NotStarted {
    fn from(why: String) -> Self {
        Self { why, unknown: false }
    }
}

/// Opens it. Cancel-safe: yes, what was begun is closed.
pub(super) async fn open(
    config: &Resolved,
    shared: &Shared,
    budget: Arc<TenantBudget>,
    metrics: impl Fn() -> ExportMetrics,
) -> Result<Export, NotStarted> {
    let name = config.name.as_str();
    let (export, tenant) = (config.name.clone(), config.tenant.clone());
    let resize = config.resize.clone();
    let (resizer, acts) = Resizer::new(
        export.clone(),
        tenant.clone(),
        shared.known_openers.of(&export, resize.shrink_grace),
        Arc::clone(&shared.book),
    );
    let driver = Driver::of(&resize.driver, resize.timeout, &shared.parts.state, name);
    let beside = driver.as_ref();
    let observer: Arc<dyn ObserveSize> = Arc::new(resizer.clone());
    let (target, view) = match target::open(config, &shared.parts, beside, &metrics, &observer).await {
        Ok(opened) => opened,
        Err(error) => match healed(config, &shared.parts.state, error.to_string()).await {
            Ok(()) => {
                target::open(config, &shared.parts, beside, &metrics, &observer).await.map_err(|e| e.to_string())?
            }
            Err(why) => return Err(NotStarted { why, unknown: error.is_unknown_name() }),
        },
    };
    let facts = target.facts().clone();
    let settings = Settings::of(config, &facts);
    let policy = settings.policy.clone();
    let disk = Size::new(facts.size).map_err(|e| e.to_string())?;
    let window = match Opened::of(&resize.driver, &shared.notes, &export, disk, facts.minimum_block()) {
        Ok(window) => window,
        Err(why) => {
            target.close(&export).await;
            return Err(why.into());
        }
    };
    // What an earlier life exposed and did not get to zero is not shown before it is zero.
    let mut unzeroed = shared.notes.owed(&export);
    let older = shared.notes.is_older(&export);
    let shown = unpublished::shown(&shared.notes, &export, policy.publish, disk);
    // What there is counts, also in a file that its server has not looked at again.
    let length = match &driver {
        Some(driver) => driver.length().await.and_then(|length| Size::new(length).ok()),
        None => None,
    };
    let there = length.map_or(disk, |length| length.max(disk));
    let in_memory = matches!(config.backend, config::Backend::Memory { .. });
    let smaller = match window {
        Some(_) => None,
        // Made anew each time.
        None if in_memory || older => None,
        None => Smaller::than_recorded(
            (shared.book.size(&export), there),
            shared.notes.lowered(&export),
            |recorded| unpublished::shown(&shared.notes, &export, policy.publish, recorded),
            resizer.openers.relying() > 0,
        ),
    };
    let kept = smaller.filter(|smaller| smaller.awaited);
    let end = window.map_or(kept.map_or(shown, |smaller| smaller.shown), |window| window.size);
    let size = unzeroed.iter().map(|range| range.start()).fold(end, Size::min);
    view.publish(Shown { size: size.bytes(), generation: 0 });
    if older {
        // Clients may have written there since.
        unzeroed.clear();
    }
    // Of a window what it shows; of what may have to be adopted what is on record, which stays until that is decided.
    let count = if older {
        // Nobody knows how much of it was shown.
        shared.book.size(&export).unwrap_or_default().max(there)
    } else if window.is_some() {
        size
    } else {
        kept.map_or(there, |smaller| smaller.recorded)
    };
    let lowered = shared.notes.lowered(&export).is_some();
    let news = shared.book.open(&export, &tenant, count);
    // What was held back is shown now, and not to be held back again.
    let let_go = window.is_none() && policy.publish != Publish::Manual && shared.notes.shown(&export).is_some();
    let style = facts.style;
    // A window shows what another may have written, whatever its disk promises of its own grows.
    let zeroed = window.is_none() && facts.resize.is_some_and(|info| info.features.has(Features::ZEROED));
    let embedded = config.backend.is_embedded();
    let zeroed_beside = match &driver {
        Some(driver) => driver.exposes_zeroes().await,
        None => false,
    };
    let core = Core::new(config, target, view);
    let unrecorded = match window {
        Some(window) => !window.is_settled(&core, &shared.notes, &tenant, disk, resize.timeout).await,
        None => false,
    };
    let told =
        Told(shared.metrics.resize(name, config.template.as_deref(), tenant.as_str(), watchers::label(&resize.driver)));
    told.size_at_start(size);
    resizer.counted_by(told.clone());
    let publish = policy.publish;
    let mut start = Start {
        export,
        tenant,
        policy,
        size,
        // The coordinator finds what is there by itself, and that it is less.
        disk: kept.map_or(disk, |smaller| smaller.recorded),
        backend: style,
        zeroed_by_backend: embedded || zeroed_beside || zeroed,
        unzeroed,
        timeout: resize.timeout,
        unrecorded,
        older,
        unwritten: false,
    };
    let shows = match window {
        Some(_) => Shows::Window { recorded: !unrecorded },
        None => Shows::of(publish),
    };
    let mut clerk = Clerk::new(Arc::clone(&shared.notes), config.name.clone(), config.tenant.clone(), shows);
    if (news || let_go || lowered)
        && !older
        && let Err(error) = clerk.open(count, core.view().shown()).await
    {
        tracing::warn!(export = name, %error, "the ledger does not take the size of an export; nothing of it grows until it does");
        start.unwritten = true;
    }
    let effects = LiveEffects::new(Arc::clone(&core), driver, clerk, resize.timeout);
    let coordinator = Coordinator::new(
        start,
        effects,
        Arc::clone(&shared.book),
        Arc::clone(&resizer.jobs),
        Arc::clone(&resizer.openers),
        told.clone(),
    )
    .ruled_by(Arc::clone(&resizer.rules))
    .seen_in(Arc::clone(&resizer.glance));
    let (end, ending) = watch::channel(false);
    // Before anybody can change the size.
    let hooks = Hooks::start(config, &core, &shared.metrics, &shared.sessions);
    let (patience, patient) = watch::channel(Patience::of(config));
    // Of its own, whoever had it opened. What is told of a client's wish is told in its session's instead.
    let span = tracing::error_span!(parent: None, "export", export = name, tenant = config.tenant.as_str());
    tokio::spawn(coordinator.run(acts).instrument(span));
    match smaller {
        Some(smaller) if smaller.awaited => resizer.seen(disk.bytes()),
        Some(smaller) => {
            smaller.tell(&shared.notes, &config.name, &config.tenant);
            told.adopted();
        }
        None => {}
    }
    if in_memory {
        // Nobody else can resize it.
        told.0.looked_at.set(1);
    } else {
        tokio::spawn(follow(Arc::clone(&core), resizer.clone(), style.tells, patient, told.0.clone(), ending));
    }
    let book = Arc::clone(&shared.book);
    let resize_metrics = told.0;
    let metrics = metrics();
    let parts = Parts { settings, core, resizer, book, budget, metrics, resize_metrics, hooks, patience, end };
    Ok(Export::new(parts))
}

/// What is wrong with a backend, and what its driver knows about it; nothing, if the driver could mend it.
async fn healed(export: &Resolved, state: &Path, error: String) -> Result<(), String> {
    let (config::Driver::Qmp(at), config::Backend::Nbd(uri)) = (&export.resize.driver, &export.backend) else {
        return Err(error);
    };
    match Qmp::new(at, state, export.name.as_str()).heal(uri.export().as_str()).await {
        Healed::Back => Ok(()),
        Healed::Missing(missing) => Err(format!("{error}; {missing}")),
        Healed::NotThis => Err(error),
    }
}
