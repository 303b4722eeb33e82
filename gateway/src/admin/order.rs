//! What an operator orders: a size, a quota, what is to be made of a backend's own size, the end. Each waits for its outcome, and
//! each needs the token.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use nbd_gateway_config::NewSize;
use nbd_gateway_policy::export::Publish;
use nbd_gateway_policy::plan::Wish;
use nbd_gateway_policy::types::{self, Size, TenantId};

use super::Shared;
use super::answer::{Object, refuse, refused, tell, unopened, unread};
use super::name::Name;
use super::overview::{one, open_now, tenant};
use super::view::{Draining, QuotaOrder, Reconcile, Reconciled, Reloaded, Resize, Resized, Settle, Settled, Wanted};
use crate::accounting::allowance::{self, QuotaOrderError};
use crate::export::SettleError;
use crate::fault::Fault;
use crate::reload::ReloadError;

/// Another size.
pub(super) async fn resize(
    State(shared): State<Shared>,
    Path(Name(name)): Path<Name>,
    body: Result<Json<Object<Resize>>, JsonRejection>,
) -> Response {
    let (wanted, adopt) = match body {
        Ok(Json(Object(Resize { size, adopt }))) => (size, adopt),
        Err(error) => return unread(&error, "send {\"size\": \"8GiB\"}"),
    };
    let change = match wanted {
        // Any number of bytes is judged with the rest.
        Wanted::Bytes(bytes) => NewSize::To(types::Bytes(bytes)),
        Wanted::Text(text) => match text.parse::<NewSize>() {
            Ok(change) => change,
            Err(error) => return refuse(StatusCode::BAD_REQUEST, error),
        },
    };
    if adopt && matches!(change, NewSize::By(_)) {
        return refuse(StatusCode::BAD_REQUEST, "what a backend is can only be adopted as a whole size, without a `+`");
    }
    wish(&shared, &name, |now| match change {
        NewSize::To(size) if adopt => Wish::Adopt { target: size.0 },
        NewSize::To(size) => Wish::Operator { target: size.0 },
        NewSize::By(more) => Wish::Operator { target: now.saturating_add(more.0) },
    })
    .await
}

/// All that the backend has.
pub(super) async fn publish(State(shared): State<Shared>, Path(Name(name)): Path<Name>) -> Response {
    wish(&shared, &name, |_| Wish::Publish).await
}

/// Opens the export if nobody has: an operator need not be a client first.
async fn wish(shared: &Shared, name: &str, wish: impl FnOnce(u64) -> Wish) -> Response {
    let lease = match shared.registry.open(name).await {
        Ok(lease) => lease,
        Err(error) => return unopened(&error),
    };
    let export = lease.export();
    // What is there and not shown counts: who adds to it does not mean what clients see.
    let held = export.resizer.status().filter(|_| export.policy().publish != Publish::Auto);
    let now = held.map_or(0, |seen| seen.disk.bytes()).max(export.size());
    match export.resizer.order(wish(now)).await {
        Ok(size) => tell(Resized::of(export, size)),
        Err((refusal, said)) => refused(&refusal, said),
    }
}

/// Calls off a resize that still waits for those before it.
pub(super) async fn cancel(State(shared): State<Shared>, Path((Name(name), job)): Path<(Name, String)>) -> Response {
    let Ok(job) = job.parse() else {
        return refuse(StatusCode::BAD_REQUEST, format!("{job:?} is not the number of a resize; `exports` lists them"));
    };
    match open_now(&shared, &name) {
        Err(answer) => *answer,
        Ok(export) if export.resizer.jobs.cancel(job) => tell(one(&shared, &export)),
        Ok(_) => refuse(StatusCode::CONFLICT, format!("resize {job} of export {name:?} is not waiting any more")),
    }
}

/// Another quota, kept in the ledger.
pub(super) async fn quota(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    body: Result<Json<Object<QuotaOrder>>, JsonRejection>,
) -> Response {
    const EXAMPLE: &str = "send {\"quota\": \"2TiB\", \"soft_quota\": null}, or one of them";
    let wanted = match body {
        Ok(Json(Object(QuotaOrder { quota: None, soft_quota: None }))) => {
            return refuse(StatusCode::BAD_REQUEST, format!("nothing is to be changed; {EXAMPLE}"));
        }
        Ok(Json(Object(QuotaOrder { quota, soft_quota }))) => {
            let read = |limit: Option<Option<Wanted>>| limit.map(|limit| limit.map(bound).transpose()).transpose();
            match (read(quota), read(soft_quota)) {
                (Ok(quota), Ok(soft)) => allowance::Wanted { quota, soft },
                (Err(error), _) | (_, Err(error)) => return refuse(StatusCode::BAD_REQUEST, error),
            }
        }
        Err(error) => return unread(&error, EXAMPLE),
    };
    // A name that can't be one is nobody's.
    let Ok(id) = TenantId::new(&name) else { return refuse(StatusCode::NOT_FOUND, QuotaOrderError::Unknown(name)) };
    match shared.registry.allowances().order(&id, wanted).await {
        Ok(_) => {
            shared.registry.look_anew();
            tell(tenant(&shared, &id))
        }
        Err(error) => refuse(
            match error {
                QuotaOrderError::Unknown(_) => StatusCode::NOT_FOUND,
                QuotaOrderError::SoftAboveQuota { .. } => StatusCode::BAD_REQUEST,
                QuotaOrderError::Ledger(_) => StatusCode::SERVICE_UNAVAILABLE,
            },
            error,
        ),
    }
}

/// The size that a quota is to be.
fn bound(wanted: Wanted) -> Result<Size, Fault> {
    let bytes = match wanted {
        Wanted::Bytes(bytes) => bytes,
        Wanted::Text(text) => nbd_gateway_config::bytes(&text).map_err(|error| Fault::client(error.to_string()))?.0,
    };
    let too_large =
        || Fault::client(format!("a quota of {} is more than 2^63-1 bytes; null is none", types::Bytes(bytes)));
    Size::new(bytes).map_err(|_| too_large())
}

/// Holds the ledger against what there is.
pub(super) async fn reconcile(
    State(shared): State<Shared>,
    body: Result<Json<Object<Reconcile>>, JsonRejection>,
) -> Response {
    let apply = match body {
        Ok(Json(Object(Reconcile { apply }))) => apply,
        Err(error) => return unread(&error, "send {\"apply\": false}"),
    };
    match shared.registry.reconcile(apply).await {
        Ok(audited) => tell(Reconciled::of(apply, &audited)),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, error),
    }
}

/// What an export has whose ledger is an older copy.
pub(super) async fn settle(
    State(shared): State<Shared>,
    Path(Name(name)): Path<Name>,
    body: Result<Json<Object<Settle>>, JsonRejection>,
) -> Response {
    let zero = match body {
        Ok(Json(Object(Settle { zero }))) => zero,
        Err(error) => return unread(&error, "send {\"zero\": false}"),
    };
    let settling = tokio::spawn(Arc::clone(&shared.registry).settle_older(name.clone(), zero));
    match settling.await {
        Ok(Ok(())) => tell(Settled { export: name, zero }),
        Ok(Err(error @ SettleError::NotInDoubt(_))) => refuse(StatusCode::CONFLICT, error),
        Ok(Err(error @ SettleError::Ledger(_))) => refuse(StatusCode::SERVICE_UNAVAILABLE, error),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, error),
    }
}

/// Reads the configuration anew.
pub(super) async fn reload(State(shared): State<Shared>) -> Response {
    match shared.reload.ask().await {
        Ok(changes) => tell(Reloaded { changes: changes.to_vec() }),
        Err(why) => {
            let status = match why {
                ReloadError::NotNow => StatusCode::SERVICE_UNAVAILABLE,
                ReloadError::NoFile | ReloadError::Wrong(_) => StatusCode::UNPROCESSABLE_ENTITY,
            };
            refuse(status, why)
        }
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
