//! JSON bodies, both ways. Sizes are integers in bytes; an error is `{"error": "a sentence"}`, also where the router or an
//! extractor refuses a request before anything here has seen it. A request's body is an object.

use std::fmt;
use std::marker::PhantomData;

use axum::Json;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::extract::rejection::JsonRejection;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use nbd_gateway_ledger::LedgerError;
use nbd_gateway_policy::refusal::{Asked, Errno, Reason, Refusal};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::routes::{in_text, methods_of};
use super::view::Refused;
use crate::export::OpenError;

/// The longest sentence of an extractor, in bytes.
const LONGEST_SENTENCE: usize = 4096;

/// What is answered instead.
#[derive(Debug)]
pub(super) struct Problem(StatusCode, Refused);

pub(super) type Answer = Result<Response, Problem>;

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

pub(super) fn refuse(status: StatusCode, error: impl ToString) -> Problem {
    Problem(status, Refused { error: error.to_string() })
}

/// The request is wrong.
pub(super) fn bad(error: impl ToString) -> Problem {
    refuse(StatusCode::BAD_REQUEST, error)
}

pub(super) type Body<T> = Result<Json<Object<T>>, JsonRejection>;

/// What a body says. One that can't be read is answered with one that could.
pub(super) fn read<T>(body: Body<T>, example: &str) -> Result<T, Problem> {
    let error = match body {
        Ok(Json(Object(read))) => return Ok(read),
        Err(error) => error,
    };
    let says = match &error {
        // The source says what is wrong; what axum says before it names types of this program.
        JsonRejection::JsonDataError(_) | JsonRejection::JsonSyntaxError(_) => {
            let mut innermost: &dyn std::error::Error = &error;
            while let Some(source) = innermost.source() {
                innermost = source;
            }
            format!("cannot read the body: {innermost}")
        }
        other => lowered(&other.body_text()),
    };
    let status = if error.status() == StatusCode::PAYLOAD_TOO_LARGE { error.status() } else { StatusCode::BAD_REQUEST };
    Err(refuse(status, format!("{says}; {example}")))
}

/// A JSON object that is a `T`. An array is none: serde would take it for the fields of a struct, in their order.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields))
            }
        }

        from.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

/// Makes JSON of every error that is not: those of the router (404, 405), and those of extractors. What answers in text
/// has text for its own errors.
pub(super) async fn explain(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answer = next.run(request).await;
    let status = answer.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let media = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !is_error || media.starts_with("application/json") || (media.starts_with("text/") && in_text(&path)) {
        return answer;
    }
    let says = match status {
        StatusCode::NOT_FOUND if media.is_empty() => {
            format!("there is nothing at {path}; GET /api/v1/openapi.json lists all paths")
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            let methods = methods_of(&path).join(", ");
            let mut answer = refuse(status, format!("{path} takes no {method}; it takes {methods}")).into_response();
            answer.headers_mut().extend(methods.parse().ok().map(|methods| (header::ALLOW, methods)));
            return answer;
        }
        _ => match to_bytes(answer.into_body(), LONGEST_SENTENCE).await {
            Ok(text) if !text.is_empty() => lowered(&String::from_utf8_lossy(&text)),
            Ok(_) | Err(_) => lowered(status.canonical_reason().unwrap_or("the request failed")),
        },
    };
    refuse(status, says).into_response()
}

/// A sentence of somebody else's as ours begin.
pub(super) fn lowered(said: &str) -> String {
    let mut letters = said.chars();
    let first = letters.next().into_iter().flat_map(char::to_lowercase);
    first.chain(letters).collect()
}

pub(super) fn tell(value: impl Serialize) -> Response {
    Json(value).into_response()
}

impl From<OpenError> for Problem {
    fn from(error: OpenError) -> Self {
        let status = match error {
            OpenError::Unknown { .. } | OpenError::Hidden { .. } | OpenError::Missing { .. } => StatusCode::NOT_FOUND,
            OpenError::Forbidden { .. } => StatusCode::FORBIDDEN,
            OpenError::Crowded(_) | OpenError::Full { .. } | OpenError::Busy { .. } | OpenError::Changed { .. } => {
                StatusCode::CONFLICT
            }
            OpenError::Draining | OpenError::Backend { .. } => StatusCode::SERVICE_UNAVAILABLE,
        };
        refuse(status, error)
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        refuse(StatusCode::SERVICE_UNAVAILABLE, error)
    }
}

/// A wish that was refused, with all that is known of why.
pub(super) fn refused(refusal: &Refusal, said: String) -> Problem {
    // The backend did nothing wrong: the export is not in a state for it.
    let conflict = matches!(
        refusal.reason,
        Reason::Unmeasured | Reason::Busy | Reason::Unsettled | Reason::Quarantined | Reason::DrainTimedOut
    );
    let status = match refusal.reason.errno(Asked::Resize) {
        _ if conflict => StatusCode::CONFLICT,
        Errno::Inval => StatusCode::BAD_REQUEST,
        Errno::Io => StatusCode::BAD_GATEWAY,
        Errno::Shutdown => StatusCode::SERVICE_UNAVAILABLE,
        Errno::Perm | Errno::NoSpc => StatusCode::CONFLICT,
    };
    refuse(status, said)
}

#[cfg(test)]
mod tests {
    use super::super::view::{QuotaOrder, Reconcile, Resize};
    use super::*;

    fn read<T: serde::de::DeserializeOwned>(body: &str) -> Result<T, String> {
        serde_json::from_str::<Object<T>>(body).map(|Object(read)| read).map_err(|error| error.to_string())
    }

    #[test]
    fn a_body_is_an_object_and_no_array_or_word_passes_for_one() {
        assert!(matches!(read::<QuotaOrder>(r#"{"quota": null}"#).unwrap().quota, Some(None)));
        for body in ["[null]", "[]", "null", "true", "1", "\"quota\"", "[[\"quota\", null]]"] {
            let error = read::<QuotaOrder>(body).unwrap_err();
            assert!(error.contains("expected an object"), "{body}: {error}");
        }
        assert!(read::<Resize>(r#"["3MiB", true]"#).is_err());
        assert!(read::<Reconcile>("[true]").is_err());
    }

    #[test]
    fn what_is_wrong_with_a_body_is_said_without_names_of_this_program() {
        for (error, says) in [
            (read::<Resize>(r#"{"size": []}"#).unwrap_err(), "a number of bytes, or a text such as"),
            (read::<Resize>(r#"{"size": "1", "size": "2"}"#).unwrap_err(), "duplicate field `size`"),
            (read::<Resize>("{}").unwrap_err(), "missing field `size`"),
            (read::<Resize>(r#"{"size": 1, "x": 1}"#).unwrap_err(), "unknown field `x`"),
            (read::<QuotaOrder>(r#"{"quota": true}"#).unwrap_err(), "a number of bytes, or a text such as"),
            (read::<Reconcile>(r#"{"apply": 1}"#).unwrap_err(), "expected a boolean"),
        ] {
            assert!(error.contains(says), "{error}");
            for name in ["Resize", "Wanted", "QuotaOrder", "struct", "enum"] {
                assert!(!error.contains(name), "{error}");
            }
        }
    }
}
