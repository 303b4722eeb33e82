//! What an operator orders: a size, a quota, what is to be made of a backend's own size, the end. Each waits for its outcome, and
//! each needs the token.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use nbd_gateway_config::NewSize;
use nbd_gateway_policy::export::Publish;
use nbd_gateway_policy::plan::Wish;
use nbd_gateway_policy::types::{self, Size, TenantId};

use super::Shared;
use super::answer::{Answer, Body, Problem, bad, read, refuse, refused, tell};
use super::name::Name;
use super::overview::{one, open_now, tenant};
use super::view::{Draining, QuotaOrder, Reconcile, Reconciled, Reloaded, Resize, Resized, Settle, Settled, Wanted};
use crate::accounting::allowance::{self, QuotaOrderError};
use crate::export::SettleError;
use crate::reload::ReloadError;

/// Another size.
pub(super) async fn resize(State(shared): State<Shared>, Path(Name(name)): Path<Name>, body: Body<Resize>) -> Answer {
    let Resize { size, adopt } = read(body, "send {\"size\": \"8GiB\"}")?;
    let change = match size {
        // Any number of bytes is judged with the rest.
        Wanted::Bytes(bytes) => NewSize::To(types::Bytes(bytes)),
        Wanted::Text(text) => text.parse().map_err(bad)?,
    };
    if adopt && matches!(change, NewSize::By(_)) {
        return Err(bad("what a backend is can only be adopted as a whole size, without a `+`"));
    }
    wish(&shared, &name, |now| match change {
        NewSize::To(size) if adopt => Wish::Adopt { target: size.0 },
        NewSize::To(size) => Wish::Operator { target: size.0 },
        NewSize::By(more) => Wish::Operator { target: now.saturating_add(more.0) },
    })
    .await
}

/// All that the backend has.
pub(super) async fn publish(State(shared): State<Shared>, Path(Name(name)): Path<Name>) -> Answer {
    wish(&shared, &name, |_| Wish::Publish).await
}

/// Opens the export if nobody has: an operator need not be a client first.
async fn wish(shared: &Shared, name: &str, wish: impl FnOnce(u64) -> Wish) -> Answer {
    let lease = shared.registry.open(name).await?;
    let export = lease.export();
    // What is there and not shown counts: who adds to it does not mean what clients see.
    let held = export.resizer.status().filter(|_| export.policy().publish != Publish::Auto);
    let now = held.map_or(0, |seen| seen.disk.bytes()).max(export.size());
    let size = export.resizer.order(wish(now)).await.map_err(|(refusal, said)| refused(&refusal, said))?;
    Ok(tell(Resized::of(export, size)))
}

/// Calls off a resize that still waits for those before it.
pub(super) async fn cancel(State(shared): State<Shared>, Path((Name(name), job)): Path<(Name, String)>) -> Answer {
    let number = job.parse();
    let number = number.map_err(|_| bad(format!("{job:?} is not the number of a resize; `exports` lists them")))?;
    let export = open_now(&shared, &name)?;
    if export.resizer.jobs.cancel(number) {
        return Ok(tell(one(&shared, &export)));
    }
    Err(refuse(StatusCode::CONFLICT, format!("resize {number} of export {name:?} is not waiting any more")))
}

/// Another quota, kept in the ledger.
pub(super) async fn quota(State(shared): State<Shared>, Path(name): Path<String>, body: Body<QuotaOrder>) -> Answer {
    const EXAMPLE: &str = "send {\"quota\": \"2TiB\", \"soft_quota\": null}, or one of them";
    let QuotaOrder { quota, soft_quota } = read(body, EXAMPLE)?;
    if quota.is_none() && soft_quota.is_none() {
        return Err(bad(format!("nothing is to be changed; {EXAMPLE}")));
    }
    let size = |limit: Option<Option<Wanted>>| limit.map(|limit| limit.map(bound).transpose()).transpose();
    let wanted = allowance::Wanted { quota: size(quota)?, soft: size(soft_quota)? };
    // A name that can't be one is nobody's.
    let id = TenantId::new(&name).map_err(|_| QuotaOrderError::Unknown(name))?;
    shared.registry.allowances.order(&id, wanted).await?;
    shared.registry.look_anew();
    Ok(tell(tenant(&shared, &id)))
}

impl From<QuotaOrderError> for Problem {
    fn from(error: QuotaOrderError) -> Self {
        let status = match error {
            QuotaOrderError::Unknown(_) => StatusCode::NOT_FOUND,
            QuotaOrderError::SoftAboveQuota { .. } => StatusCode::BAD_REQUEST,
            QuotaOrderError::Ledger(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        refuse(status, error)
    }
}

/// The size that a quota is to be.
fn bound(wanted: Wanted) -> Result<Size, Problem> {
    let bytes = match wanted {
        Wanted::Bytes(bytes) => bytes,
        Wanted::Text(text) => nbd_gateway_config::bytes(&text).map_err(bad)?.0,
    };
    let too_large = || bad(format!("a quota of {} is more than 2^63-1 bytes; null is none", types::Bytes(bytes)));
    Size::new(bytes).map_err(|_| too_large())
}

/// Holds the ledger against what there is.
pub(super) async fn reconcile(State(shared): State<Shared>, body: Body<Reconcile>) -> Answer {
    let Reconcile { apply } = read(body, "send {\"apply\": false}")?;
    let audited = shared.registry.reconcile(apply).await?;
    Ok(tell(Reconciled::of(apply, &audited)))
}

/// What an export has whose ledger is an older copy.
pub(super) async fn settle(State(shared): State<Shared>, Path(Name(name)): Path<Name>, body: Body<Settle>) -> Answer {
    let Settle { zero } = read(body, "send {\"zero\": false}")?;
    let settling = tokio::spawn(Arc::clone(&shared.registry).settle_older(name.clone(), zero));
    match settling.await {
        Ok(Ok(())) => Ok(tell(Settled { export: name, zero })),
        Ok(Err(error @ SettleError::NotInDoubt(_))) => Err(refuse(StatusCode::CONFLICT, error)),
        Ok(Err(error @ SettleError::Ledger(_))) => Err(refuse(StatusCode::SERVICE_UNAVAILABLE, error)),
        Err(error) => Err(refuse(StatusCode::SERVICE_UNAVAILABLE, error)),
    }
}

/// Reads the configuration anew.
pub(super) async fn reload(State(shared): State<Shared>) -> Answer {
    match shared.reload.ask().await {
        Ok(changes) => Ok(tell(Reloaded { changes: changes.to_vec() })),
        Err(why @ ReloadError::NotNow) => Err(refuse(StatusCode::SERVICE_UNAVAILABLE, why)),
        Err(why) => Err(refuse(StatusCode::UNPROCESSABLE_ENTITY, why)),
    }
}

/// Lets the gateway end as SIGTERM does.
pub(super) async fn drain(State(shared): State<Shared>) -> Response {
    if !shared.drain.send_replace(true) {
        tracing::info!("an operator ordered the end");
    }
    let sessions = u64::try_from(shared.sessions.len()).unwrap_or(u64::MAX);
    (StatusCode::ACCEPTED, Json(Draining { sessions })).into_response()
}
