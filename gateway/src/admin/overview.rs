//! What there is: exports, tenants, sessions. Changes nothing, and opens nothing.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use nbd_gateway_config::Tenant;
use nbd_gateway_policy::types::TenantId;
use serde::Serialize;

use super::Shared;
use super::answer::{Answer, Problem, refuse, tell};
use super::name::Name;
use super::paced::Paced;
use super::text::{self, Encoded};
use super::view::{ExportView, SessionView, TenantView, UnopenedView};
use crate::export::{Export, OpenError, Unopened};
use crate::fault::Fault;

/// The exports that are open.
pub(super) async fn exports(State(shared): State<Shared>) -> Response {
    list(&shared, &shared.answers.exports, |shared| {
        let mut sessions: HashMap<String, u64> = HashMap::new();
        for session in shared.sessions.all() {
            let count = sessions.entry(session.export.name().to_owned()).or_default();
            *count = count.saturating_add(1);
        }
        let view = |export: &Arc<Export>| ExportView::of(export, sessions.get(export.name()).copied().unwrap_or(0));
        shared.registry.open_now().iter().map(view).collect::<Vec<_>>()
    })
    .await
}

/// Those that could not be opened.
pub(super) async fn unopened_exports(State(shared): State<Shared>) -> Response {
    list(&shared, &shared.answers.unopened, |shared| {
        let config = shared.registry.config();
        let view = |it: Unopened| {
            let tenant = config.export_for(&it.export).ok()?.tenant.clone();
            Some(UnopenedView::of(it, &tenant))
        };
        shared.registry.unopened().into_iter().filter_map(view).collect::<Vec<_>>()
    })
    .await
}

pub(super) async fn export(State(shared): State<Shared>, Path(Name(name)): Path<Name>) -> Answer {
    Ok(tell(one(&shared, &*open_now(&shared, &name)?)))
}

/// The tenants and what they use.
pub(super) async fn tenants(State(shared): State<Shared>) -> Response {
    list(&shared, &shared.answers.tenants, |shared| {
        let unmeasured = shared.registry.unmeasured_exports();
        let known = shared.registry.config();
        let view = |known: &Tenant| view(shared, &known.id, unmeasured.get(&known.id).copied().unwrap_or(0));
        known.tenants().iter().map(view).collect::<Vec<_>>()
    })
    .await
}

/// A tenant as it is now.
pub(super) fn tenant(shared: &Shared, id: &TenantId) -> TenantView {
    view(shared, id, shared.registry.unmeasured_exports().get(id).copied().unwrap_or(0))
}

fn view(shared: &Shared, id: &TenantId, unmeasured: u32) -> TenantView {
    let allowed = shared.registry.allowances.allowed(id).unwrap_or_default();
    TenantView::of(id, shared.registry.usage(id).as_ref(), unmeasured, allowed)
}

/// The clients that are connected.
pub(super) async fn sessions(State(shared): State<Shared>) -> Response {
    list(&shared, &shared.answers.sessions, |shared| {
        shared.sessions.all().iter().map(|session| SessionView::from(&**session)).collect::<Vec<_>>()
    })
    .await
}

/// A list that all who ask at the same time share: there may be thousands of lines in it.
async fn list<T: Serialize + 'static>(
    shared: &Shared,
    answers: &Paced<Encoded>,
    look: fn(&Shared) -> Vec<T>,
) -> Response {
    let encoded = answers.ask(|| {
        let shared = shared.clone();
        shared.answers.kept.clone().encode(move |to| {
            serde_json::to_writer(to, &look(&shared))
                .map_err(|error| Fault::us(format!("cannot encode the list: {error}")))
        })
    });
    text::answer("application/json", &encoded.await)
}

/// An export as it is now.
pub(super) fn one(shared: &Shared, export: &Export) -> ExportView {
    let sessions = shared.sessions.all().iter().filter(|session| session.export.name() == export.name()).count();
    ExportView::of(export, u64::try_from(sessions).unwrap_or(u64::MAX))
}

/// An export that is open; if it is not, the answer that says why not.
pub(super) fn open_now(shared: &Shared, name: &str) -> Result<Arc<Export>, Problem> {
    let found = shared.registry.open_now().into_iter().find(|export| export.name() == name);
    found.ok_or_else(|| match shared.registry.knows(name) {
        Ok(()) => refuse(StatusCode::NOT_FOUND, format!("export {name:?} is not open: no client uses it")),
        Err(why) => OpenError::Unknown { export: name.to_owned(), why }.into(),
    })
}
