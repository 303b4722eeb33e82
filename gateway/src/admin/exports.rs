//! `/api/v1/exports`, `/api/v1/tenants`, `/api/v1/sessions`: what there is, and the operator's hand on a size.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use nbd_gateway_config::Size;
use nbd_gateway_policy::access::Verb;
use nbd_gateway_policy::plan::Wish;
use nbd_gateway_policy::refusal::{Asked, Errno};
use serde::{Deserialize, Serialize};

use super::Shared;
use super::answer::{refuse, tell};
use crate::export::Export;
use crate::resize::jobs::Job;

#[derive(Serialize)]
struct ExportView {
    name: String,
    tenant: String,
    /// In bytes.
    size: u64,
    /// Changes of size since it was opened.
    generation: u64,
    /// Its last resizes, newest last.
    jobs: Vec<Job>,
}

impl ExportView {
    fn of(export: &Export) -> Self {
        let shown = export.view().shown();
        Self {
            name: export.name().to_owned(),
            tenant: export.tenant().to_owned(),
            size: shown.size,
            generation: shown.generation,
            jobs: export.resizer().jobs.list(),
        }
    }
}

#[derive(Serialize)]
struct TenantView {
    name: String,
    /// Bytes; absent: no quota.
    #[serde(skip_serializing_if = "Option::is_none")]
    quota: Option<u64>,
    /// The sizes of its exports that are open, in bytes.
    used: u64,
    /// Held for grows in flight, in bytes.
    reserved: u64,
    /// Held for grows of unknown outcome, in bytes.
    unsettled: u64,
}

#[derive(Serialize)]
struct SessionView {
    id: u64,
    export: String,
    tenant: String,
    /// What its client may do.
    verbs: Vec<&'static str>,
    /// The entry of `clients` that says so.
    rule: String,
}

/// A size: `{"size": 8589934592}` or `{"size": "8GiB"}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resize {
    size: Wanted,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Wanted {
    Bytes(u64),
    Text(String),
}

#[derive(Serialize)]
struct Resized {
    /// The size now in force, in bytes.
    size: u64,
}

/// The exports that are open.
pub(super) async fn list(State(shared): State<Shared>) -> Response {
    let open: Vec<ExportView> = shared.registry.open_now().iter().map(|e| ExportView::of(e)).collect();
    tell(open)
}

/// The tenants and what they use.
pub(super) async fn tenants(State(shared): State<Shared>) -> Response {
    let view = |tenant: &nbd_gateway_config::Tenant| {
        let usage = shared.registry.usage(&tenant.id);
        let of = |bytes: fn(&nbd_gateway_policy::quota::Usage) -> nbd_gateway_policy::types::Bytes| {
            usage.as_ref().map_or(0, |u| bytes(u).0)
        };
        TenantView {
            name: tenant.id.as_str().to_owned(),
            quota: tenant.allowance.quota.map(|q| q.0),
            used: of(|u| u.used),
            reserved: of(|u| u.reserved),
            unsettled: of(|u| u.unsettled),
        }
    };
    tell(shared.registry.tenants().iter().map(view).collect::<Vec<_>>())
}

/// The clients that are connected.
pub(super) async fn sessions(State(shared): State<Shared>) -> Response {
    let view = |s: crate::session::SessionInfo| SessionView {
        id: s.id,
        export: s.export,
        tenant: s.tenant,
        verbs: s.verbs.iter().map(Verb::as_str).collect(),
        rule: s.rule,
    };
    tell(shared.sessions.list().into_iter().map(view).collect::<Vec<_>>())
}

/// An operator's resize: waits for its end.
pub(super) async fn resize(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    body: Result<Json<Resize>, JsonRejection>,
) -> Response {
    let wanted = match body {
        Ok(Json(Resize { size })) => size,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &format!("{error}; send {{\"size\": \"8GiB\"}}")),
    };
    let target = match wanted {
        Wanted::Bytes(bytes) => bytes,
        Wanted::Text(text) => match text.parse::<Size>() {
            Ok(size) => size.bytes(),
            Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
        },
    };
    // Opens it if nobody has: an operator need not be a client first.
    let lease = match shared.registry.open(&name).await {
        Ok(lease) => lease,
        Err(error @ crate::export::OpenError::Unknown { .. }) => {
            return refuse(StatusCode::NOT_FOUND, &error.to_string());
        }
        Err(error) => return refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    };
    match lease.export().resizer().wish(Wish::Operator { target }).await {
        Ok(size) => tell(Resized { size: size.bytes() }),
        Err(refusal) => {
            let status = match refusal.reason.errno(Asked::Resize) {
                Errno::Inval => StatusCode::BAD_REQUEST,
                Errno::Io => StatusCode::BAD_GATEWAY,
                Errno::Shutdown => StatusCode::SERVICE_UNAVAILABLE,
                Errno::Perm | Errno::NoSpc => StatusCode::CONFLICT,
            };
            refuse(status, &refusal.to_string())
        }
    }
}

/// Cancels a resize that still waits for those before it.
pub(super) async fn cancel(State(shared): State<Shared>, Path((name, job)): Path<(String, u64)>) -> Response {
    let open: Option<Arc<Export>> = shared.registry.open_now().into_iter().find(|e| e.name() == name);
    match open {
        None => refuse(StatusCode::NOT_FOUND, &format!("export {name:?} is not open")),
        Some(export) if export.resizer().jobs.cancel(job) => tell(ExportView::of(&export)),
        Some(_) => refuse(StatusCode::CONFLICT, &format!("resize {job} of export {name:?} is not waiting any more")),
    }
}
