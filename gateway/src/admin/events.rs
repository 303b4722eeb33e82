//! What has become of sizes, out of the ledger's history. Changes nothing.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use nbd_gateway_policy::types::{ExportName, TenantId};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Shared;
use super::answer::{refuse, tell};
use super::view::EventView;
use crate::ledger::EventFilter;
use crate::resize::history::Kind;

/// How many are told to those who do not say how many they want.
const USUAL: u32 = 100;

/// Which ones; of several conditions all have to hold.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Only those of this tenant.
    tenant: Option<String>,
    /// Only those of this export.
    export: Option<String>,
    /// Only those of this kind.
    kind: Option<String>,
    /// The first ones after the event of this number; absent: the newest.
    since: Option<u64>,
    /// How many at most, up to 10000; 100 if absent.
    limit: Option<u32>,
}

impl Which {
    fn filter(self) -> Result<EventFilter, String> {
        let tenant =
            self.tenant.map(|name| TenantId::new(&name).map_err(|why| format!("tenant: {why}"))).transpose()?;
        let export =
            self.export.map(|name| ExportName::new(&name).map_err(|why| format!("export: {why}"))).transpose()?;
        if let Some(kind) = &self.kind
            && !Kind::ALL.iter().any(|known| known.word() == kind)
        {
            return Err(format!(
                "there are no events of kind {kind:?}; ask for {}",
                Kind::ALL.map(Kind::word).join(", ")
            ));
        }
        Ok(EventFilter { tenant, export, kind: self.kind, since: self.since, limit: self.limit.unwrap_or(USUAL) })
    }
}

/// The events, oldest first.
pub(super) async fn events(State(shared): State<Shared>, which: Result<Query<Which>, QueryRejection>) -> Response {
    let filter = match which.map_err(|error| error.body_text()).and_then(|Query(which)| which.filter()) {
        Ok(filter) => filter,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, error),
    };
    match shared.registry.ledger().events(filter).await {
        Ok(events) => tell(events.into_iter().map(EventView::from).collect::<Vec<_>>()),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, error),
    }
}
