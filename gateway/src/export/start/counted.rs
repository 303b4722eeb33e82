//! Counting and recording an export that opens, and starting its tasks: coordinator, hooks, follower of the backend's size.

use std::sync::Arc;

use nbd_gateway_config::Backend;
use nbd_gateway_metrics::{ExportMetrics, Open, ResizeResult, ResizeStyle};
use nbd_gateway_policy::export::Publish;
use nbd_gateway_proto::Features;
use parking_lot::RwLock;
use tokio::sync::watch;
use tracing::Instrument;

use super::super::Export;
use super::super::reconnects::Reconnects;
use super::{Measured, Opening};
use crate::accounting::account::{Account, Shows};
use crate::accounting::cache::Remembered;
use crate::accounting::history::History;
use crate::hooks::Hooks;
use crate::limits::{IoLimits, SharedLimiter, TenantBudget};
use crate::resize::coordinator::{Coordinator, ResizeState};
use crate::resize::counters;
use crate::resize::follow::{Patience, follow};
use crate::resize::live_effects::LiveEffects;
use crate::target::Core;

impl Measured<'_> {
    /// Puts it on the books, and starts the export's tasks. Needs a runtime.
    pub(super) async fn run(self, budget: Arc<TenantBudget>, metrics: impl Fn() -> ExportMetrics) -> Export {
        let Self { opening, settings, disk, window, smaller, older, size, count, unsettled, unzeroed } = self;
        let Opening { config, shared, target, view, driver, resizer, acts } = opening;
        let (export, tenant, timeout) = (config.name.clone(), config.tenant.clone(), config.resize.timeout);
        let (cache, policy) = (&shared.ledger_cache, settings.policy.clone());
        let Remembered { lowered, shown, .. } = cache.about(&export);
        let news = shared.accounts.open(&export, &tenant, count, unsettled.is_some());
        // What was held back is shown now, and not to be held back again.
        let let_go = window.is_none() && policy.publish != Publish::Manual && shown.is_some();
        let facts = target.facts();
        // A window shows what another may have written, whatever its disk promises of its own grows.
        let zeroed = window.is_none() && facts.resize.is_some_and(|info| info.features.has(Features::ZEROED));
        let zeroed_beside = match &driver {
            Some(driver) => driver.exposes_zeroes().await,
            None => false,
        };
        let core = Core::new(config, target, view);
        if let Some(asked) = unsettled {
            if let Some(lanes) = core.lanes() {
                lanes.late.suspect_resize(asked.bytes());
            }
            if let Some(end) = lowered.filter(|end| *end < size) {
                // Carried out late, the shrink would cut off what is written past it.
                core.lower_end(end.bytes());
            }
        }
        let unrecorded = match window {
            Some(window) => !window.is_settled(&core, cache, &tenant, disk, timeout).await,
            None => false,
        };
        let driven = counters::label(&config.resize.driver);
        let resizes = shared.metrics.resize(export.as_str(), config.template.as_deref(), tenant.as_str(), driven);
        let first = core.view().shown();
        counters::size(&resizes, size, first.generation);
        resizer.counted_by(resizes.clone());
        let shows = match window {
            Some(_) => Shows::Window { recorded: !unrecorded },
            None => Shows::of(policy.publish),
        };
        let (accounts, cache) = (Arc::clone(&shared.accounts), Arc::clone(cache));
        let mut account = Account::new(accounts, cache, export.clone(), tenant.clone(), shows);
        if (news || let_go || lowered.is_some()) && !older {
            account.open(count, first, unsettled.is_some()).await;
        }
        let start = ResizeState {
            export,
            tenant,
            policy,
            size,
            generation: first.generation,
            // The coordinator finds what is there by itself, and that it is less.
            disk: smaller.filter(|smaller| smaller.awaited).map_or(disk, |smaller| smaller.recorded),
            backend: core.facts().style,
            zeroed_by_backend: config.backend.is_embedded() || zeroed_beside || zeroed,
            unsettled,
            unzeroed,
            timeout,
            older,
        };
        let tells = start.backend.tells;
        let history = History::new(Arc::clone(&shared.ledger_cache), start.export.clone(), start.tenant.clone());
        let effects = LiveEffects::new(Arc::clone(&core), driver, history, start.timeout, start.unsettled.is_some());
        let coordinator = Coordinator::new(start, effects, account, Arc::clone(&resizer.desk), resizes.clone());
        let (end, ending) = watch::channel(false);
        // Before anybody can change the size.
        let hooks = Hooks::start(config, &core, &shared.metrics, &shared.clients);
        let (patience, patient) = watch::channel(Patience::of(config));
        // Of its own, whoever had it opened. What is told of a client's wish is told in its session's instead.
        let (name, tenant) = (config.name.as_str(), config.tenant.as_str());
        let span = tracing::error_span!(parent: None, "export", export = name, tenant);
        tokio::spawn(coordinator.run(acts).instrument(span));
        match smaller {
            Some(smaller) if smaller.awaited => resizer.seen(core.facts().size),
            Some(smaller) => {
                smaller.tell(&shared.ledger_cache, &config.name, &config.tenant);
                resizes.ended(ResizeStyle::Backend, ResizeResult::Ok);
            }
            None => {}
        }
        if matches!(config.backend, Backend::Memory { .. }) {
            // Nobody else can resize it.
            resizes.looked_at.set(1);
        } else {
            tokio::spawn(follow(Arc::clone(&core), resizer.clone(), tells, patient, resizes.clone(), ending));
        }
        let (metrics, limits) = (metrics(), config.limits);
        let io = IoLimits::new(limits.export_io);
        Export {
            core,
            resizer,
            notices: shared.accounts.notice_limiter(limits.export_notices),
            accounts: Arc::clone(&shared.accounts),
            budget,
            session_io: IoLimits::new(limits.session_io),
            limiter: SharedLimiter::new(Arc::clone(&io)),
            io,
            hooks,
            patience,
            _open: Open::new(&metrics.open),
            metrics,
            resize_metrics: resizes,
            reconnects: Reconnects::default(),
            end,
            leaving: watch::Sender::default(),
            settings: RwLock::new(Arc::new(settings)),
        }
    }
}
