//! What has become of sizes, out of the ledger's history: a list of it, or a stream that goes on. Changes nothing.

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use nbd_gateway_config::Moment;
use nbd_gateway_ledger::{EventFilter, UnixMillis};
use nbd_gateway_net::Peer;
use nbd_gateway_policy::types::{ExportName, TenantId};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Shared;
use super::answer::{Answer, bad, tell};
use super::stream::stream;
use super::view::EventView;
use crate::accounting::history::kinds;
use crate::fault::Fault;

/// The header in which a stream's reader that comes back says what it has seen.
pub(super) const LAST_SEEN: &str = "Last-Event-ID";
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
    #[schemars(extend("enum" = kinds()))]
    kind: Option<String>,
    /// Only those of this time and later: RFC 3339 (`2026-11-23T14:30:00Z`; without a zone it is UTC, without a time it is
    /// midnight), or seconds since 1970, to the millisecond.
    after: Option<String>,
    /// Only those before this time. Not for a stream, which has no end.
    before: Option<String>,
    /// The first ones after the event of this number; absent: the newest. A stream goes on to the last, whatever `limit` is,
    /// and takes `Last-Event-ID` before this.
    since: Option<u64>,
    /// How many at most, up to 10000; 100 if absent. 0, of a stream: only those that come from now on.
    limit: Option<u32>,
}

impl Which {
    fn filter(self) -> Result<EventFilter, Fault> {
        let tenant = self
            .tenant
            .map(|name| TenantId::new(&name).map_err(|why| Fault::client(format!("tenant: {why}"))))
            .transpose()?;
        let export = self
            .export
            .map(|name| ExportName::new(&name).map_err(|why| Fault::client(format!("export: {why}"))))
            .transpose()?;
        if let Some(kind) = &self.kind
            && !kinds().contains(&kind.as_str())
        {
            return Err(Fault::client(format!("there are no events of kind {kind:?}; ask for {}", kinds().join(", "))));
        }
        let moment = |name: &str, text: Option<String>| {
            let read = text.map(|text| text.parse::<Moment>()).transpose();
            read.map(|at| at.map(|at| UnixMillis(at.millis()))).map_err(|why| Fault::client(format!("{name}: {why}")))
        };
        let (after, before) = (moment("after", self.after)?, moment("before", self.before)?);
        let limit = self.limit.unwrap_or(USUAL);
        Ok(EventFilter { tenant, export, kind: self.kind, after, before, since: self.since, limit })
    }
}

/// The events, oldest first.
pub(super) async fn events(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    which: Result<Query<Which>, QueryRejection>,
) -> Answer {
    let filter = which.map_err(|error| unread(&error)).and_then(|Query(which)| which.filter()).map_err(bad)?;
    // Checked for a list too, which does not need it: what is no number is a mistake of whoever sends it.
    let seen = last_seen(&headers).map_err(bad)?;
    let ledger = shared.registry.ledger();
    if wants_stream(&headers) {
        if filter.before.is_some() {
            return Err(bad("a stream has no end: leave `before` out, or ask for JSON"));
        }
        let filter = EventFilter { since: seen.or(filter.since), ..filter };
        return stream(ledger, &shared.streams, peer, filter).await;
    }
    let events = ledger.events(filter).await?;
    Ok(tell(events.into_iter().map(EventView::from).collect::<Vec<_>>()))
}

/// What is wrong with a query, without the names of this program's types.
fn unread(error: &QueryRejection) -> Fault {
    let said = error.body_text();
    Fault::client(format!("cannot read the query: {}", said.split_once(": ").map_or(said.as_str(), |(_, why)| why)))
}

/// Whether a stream is asked for, and JSON is not liked better.
fn wants_stream(headers: &HeaderMap) -> bool {
    let named =
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let (mut stream, mut json) = (0.0, 0.0);
    for range in named {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok()).unwrap_or(1.0);
        if media.eq_ignore_ascii_case("text/event-stream") {
            stream = weight;
        } else if media.eq_ignore_ascii_case("application/json") {
            json = weight;
        }
    }
    stream > 0.0 && stream >= json
}

/// What a reader that comes back has seen.
fn last_seen(headers: &HeaderMap) -> Result<Option<u64>, Fault> {
    let Some(value) = headers.get(LAST_SEEN).filter(|value| !value.is_empty()) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| Fault::client(format!("{LAST_SEEN}: {value:?} is not the number of an event")))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_stream_is_for_those_who_like_it_as_well_as_json() {
        for (accept, stream) in [
            (&["text/event-stream"][..], true),
            (&["application/json", "Text/Event-Stream"], true),
            (&["application/json;q=0.5, text/event-stream; q=0.9"], true),
            (&["text/event-stream;q=0.5, application/json"], false),
            (&["text/event-stream;q=0"], false),
            (&["*/*"], false),
            (&["text/*"], false),
            (&[], false),
        ] {
            let headers = accept.iter().map(|text| (ACCEPT, HeaderValue::from_str(text).unwrap())).collect();
            assert_eq!(wants_stream(&headers), stream, "{accept:?}");
        }
    }

    #[test]
    fn what_was_seen_is_a_number() {
        let headers =
            |text: &'static str| HeaderMap::from_iter([(LAST_SEEN.parse().unwrap(), HeaderValue::from_static(text))]);
        assert_eq!(last_seen(&HeaderMap::new()), Ok(None));
        assert_eq!(last_seen(&headers("")), Ok(None));
        assert_eq!(last_seen(&headers("17")), Ok(Some(17)));
        assert_eq!(
            last_seen(&headers("x")).unwrap_err().message(),
            "Last-Event-ID: \"x\" is not the number of an event"
        );
    }

    #[test]
    fn a_time_that_is_none_is_named() {
        let which =
            |query: &str| Query::<Which>::try_from_uri(&format!("/?{query}").parse().unwrap()).unwrap().0.filter();
        let filter = which("after=2026-11-23T02:37:22Z&before=1795401443.5").unwrap();
        assert_eq!(filter.after, Some(UnixMillis(1_795_401_442_000)));
        assert_eq!(filter.before, Some(UnixMillis(1_795_401_443_500)));
        assert!(
            which("before=soon")
                .unwrap_err()
                .message()
                .starts_with("before: `soon` is not a point in time: write it like ")
        );
    }
}
