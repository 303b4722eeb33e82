//! Every path of the interface, in one table: the router is built from it, and so is what [`document`](super::openapi)
//! tells of it. A path that is not here does not exist.

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, patch, post};
use axum::{Json, Router};
use schemars::generate::SchemaGenerator;
use schemars::{JsonSchema, Schema};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::answer::{explain, refuse};
use super::token;
use super::view::{
    Draining, EventView, ExportView, QuotaOrder, Reconcile, Reconciled, Reloaded, Resize, Resized, SessionView, Settle,
    Settled, TenantView, UnopenedView,
};
use super::{Reach, Shared, events, host, openapi, order, overview, page, state};
use crate::token::TokenFile;

/// The longest body taken, in bytes.
const LONGEST_BODY: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// Everybody: whether the process lives, and the page without what it shows, say nothing else.
    Anyone,
    /// Whoever reaches the address, if that is on this host; else whoever brings the token.
    Reader,
    /// Whoever brings the token.
    Operator,
}

/// What is sent with an answer or a request.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// JSON of this schema.
    Json(fn(&mut SchemaGenerator) -> Schema),
    /// JSON of a list of these, or a stream of them as server-sent events.
    Listed(fn(&mut SchemaGenerator) -> Schema),
    Text,
    /// A file of this type.
    File(&'static str),
}

/// One thing that can be asked for.
pub(super) struct Route {
    pub(super) method: Method,
    /// Parts in braces are names, escaped.
    pub(super) path: &'static str,
    /// What it does, for people.
    pub(super) does: &'static str,
    pub(super) asks: Asks,
    /// Whether it may be asked by any name of the address, where readers need no token: what says nothing of clients.
    pub(super) any_name: bool,
    /// What may stand after a `?`: the fields of an object.
    pub(super) filters: Option<fn(&mut SchemaGenerator) -> Schema>,
    pub(super) takes: Option<Shape>,
    /// What it answers when all is well.
    pub(super) answers: (StatusCode, Shape),
    /// How else it may end, besides what goes for all.
    pub(super) fails: &'static [StatusCode],
    serves: MethodRouter<Shared>,
}

fn json<T: JsonSchema>() -> Shape {
    Shape::Json(|generator| generator.subschema_for::<T>())
}

fn seen(path: &'static str, does: &'static str, shape: Shape, serves: MethodRouter<Shared>) -> Route {
    Route {
        method: Method::GET,
        path,
        does,
        asks: Asks::Reader,
        any_name: false,
        filters: None,
        takes: None,
        answers: (StatusCode::OK, shape),
        fails: &[],
        serves,
    }
}

fn ordered(path: &'static str, does: &'static str, shape: Shape, serves: MethodRouter<Shared>) -> Route {
    const ENDS: &[StatusCode] =
        &[StatusCode::NOT_FOUND, StatusCode::CONFLICT, StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE];
    Route { method: Method::POST, asks: Asks::Operator, fails: ENDS, ..seen(path, does, shape, serves) }
}

pub(super) fn table() -> Vec<Route> {
    let not_ready: &[StatusCode] = &[StatusCode::SERVICE_UNAVAILABLE];
    let missing: &[StatusCode] = &[StatusCode::NOT_FOUND];
    vec![
        Route {
            asks: Asks::Anyone,
            any_name: true,
            fails: not_ready,
            ..seen("/livez", "whether every thread that moves requests answers", Shape::Text, get(state::livez))
        },
        Route {
            asks: Asks::Anyone,
            any_name: true,
            fails: not_ready,
            ..seen("/readyz", "whether it takes clients", Shape::Text, get(state::readyz))
        },
        Route {
            asks: Asks::Anyone,
            ..seen("/", "a page that shows all of this to people", Shape::File("text/html"), get(page::document))
        },
        Route {
            asks: Asks::Anyone,
            fails: missing,
            ..seen("/page/{file}", "what that page is made of", Shape::File("*/*"), get(page::part))
        },
        Route {
            fails: not_ready,
            ..seen("/metrics", "the metrics, in Prometheus' text format", Shape::Text, get(state::metrics))
        },
        seen("/api/v1/exports", "the exports that are open", json::<Vec<ExportView>>(), get(overview::exports)),
        Route {
            fails: missing,
            ..seen("/api/v1/exports/{name}", "one of them", json::<ExportView>(), get(overview::export))
        },
        seen(
            "/api/v1/unopened",
            "the exports that could not be opened at the last attempt: why, and since when",
            json::<Vec<UnopenedView>>(),
            get(overview::unopened_exports),
        ),
        seen(
            "/api/v1/tenants",
            "the tenants, what they may use, and what they do use",
            json::<Vec<TenantView>>(),
            get(overview::tenants),
        ),
        seen("/api/v1/sessions", "the clients that are connected", json::<Vec<SessionView>>(), get(overview::sessions)),
        Route {
            filters: Some(events::Which::json_schema),
            fails: not_ready,
            ..seen(
                "/api/v1/events",
                "what has become of sizes, oldest first: a list, or a stream that goes on with each new one as it happens",
                Shape::Listed(|generator| generator.subschema_for::<EventView>()),
                get(events::events),
            )
        },
        Route {
            takes: Some(json::<Resize>()),
            ..ordered(
                "/api/v1/exports/{name}/resize",
                "resizes an export, or adopts what its backend is; answers with the size now in force",
                json::<Resized>(),
                post(order::resize),
            )
        },
        Route {
            takes: Some(json::<Settle>()),
            fails: &[StatusCode::CONFLICT, StatusCode::SERVICE_UNAVAILABLE],
            ..ordered(
                "/api/v1/exports/{name}/settle",
                "says what an export has whose ledger is an older copy: with `zero` what the ledger noted is zeroed, else what is there is kept",
                json::<Settled>(),
                post(order::settle),
            )
        },
        ordered(
            "/api/v1/exports/{name}/publish",
            "shows clients all that the backend has; answers with the size now in force",
            json::<Resized>(),
            post(order::publish),
        ),
        Route {
            method: Method::DELETE,
            fails: &[StatusCode::NOT_FOUND, StatusCode::CONFLICT],
            ..ordered(
                "/api/v1/exports/{name}/jobs/{job}",
                "calls off a resize that still waits for others",
                json::<ExportView>(),
                delete(order::cancel),
            )
        },
        Route {
            method: Method::PATCH,
            takes: Some(json::<QuotaOrder>()),
            fails: &[StatusCode::NOT_FOUND, StatusCode::SERVICE_UNAVAILABLE],
            ..ordered(
                "/api/v1/tenants/{name}",
                "gives a tenant another quota, until the configuration says another than now",
                json::<TenantView>(),
                patch(order::quota),
            )
        },
        Route {
            takes: Some(json::<Reconcile>()),
            fails: not_ready,
            ..ordered(
                "/api/v1/ledger/reconcile",
                "measures every export of the ledger, and with `apply` makes the books agree",
                json::<Reconciled>(),
                post(order::reconcile),
            )
        },
        Route {
            fails: &[StatusCode::UNPROCESSABLE_ENTITY, StatusCode::SERVICE_UNAVAILABLE],
            ..ordered(
                "/api/v1/reload",
                "reads the configuration file anew as SIGHUP does: all of it, or nothing; answers with what has changed",
                json::<Reloaded>(),
                post(order::reload),
            )
        },
        Route {
            answers: (StatusCode::ACCEPTED, json::<Draining>()),
            fails: &[],
            ..ordered("/api/v1/drain", "lets the gateway end as SIGTERM does", json::<Draining>(), post(order::drain))
        },
        seen(
            "/api/v1/openapi.json",
            "this interface, as an OpenAPI document",
            json::<Schema>(),
            get(|| async { Json(openapi::document(&table())).into_response() }),
        ),
    ]
}

/// The router. Readers need the token too where the address is for others than this host, and where anybody of this host may
/// look, a browser of theirs must not do it for somebody else.
pub(super) fn router(token: &TokenFile, reach: Reach, shared: Shared) -> Router {
    let mut router = Router::new();
    for Route { path, asks, any_name, serves, .. } in table() {
        let open = match asks {
            Asks::Anyone => true,
            Asks::Reader => reach != Reach::Others,
            Asks::Operator => false,
        };
        let serves = match asks {
            Asks::Operator => serves.route_layer(from_fn_with_state(shared.control.clone(), by_control)),
            Asks::Anyone | Asks::Reader => serves,
        };
        let serves = if open { serves } else { serves.route_layer(from_fn_with_state(token.clone(), token::require)) };
        let named = any_name || reach != Reach::Host;
        let serves = if named { serves } else { serves.route_layer(from_fn(host::require)) };
        router = router.route(path, serves);
    }
    router.layer(DefaultBodyLimit::max(LONGEST_BODY)).layer(from_fn(explain)).with_state(shared)
}

/// Whether this path answers in text.
pub(super) fn in_text(path: &str) -> bool {
    table().iter().any(|route| route.path == path && matches!(route.answers.1, Shape::Text))
}

/// The methods that this path takes.
pub(super) fn methods_of(path: &str) -> Vec<String> {
    let fits = |pattern: &str| {
        pattern.split('/').count() == path.split('/').count()
            && pattern.split('/').zip(path.split('/')).all(|(part, is)| part.starts_with('{') || part == is)
    };
    table().iter().filter(|route| fits(route.path)).map(|route| route.method.to_string()).collect()
}

/// Has a request answered by the runtime that accepts and dials, where what it sets off may live on.
async fn by_control(State(control): State<Handle>, request: Request, next: Next) -> Response {
    let mut answering = JoinSet::new();
    // Dropped with this: an order whose sender has left ends as it does.
    answering.spawn_on(next.run(request), &control);
    match answering.join_next().await {
        Some(Ok(answer)) => answer,
        Some(Err(_)) | None => refuse(StatusCode::SERVICE_UNAVAILABLE, "the gateway ends").into_response(),
    }
}
