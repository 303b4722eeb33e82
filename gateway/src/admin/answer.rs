//! JSON answers. Sizes are integers in bytes; an error is `{"error": "a sentence"}`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

#[derive(Serialize)]
struct Refused<'a> {
    error: &'a str,
}

/// An error with its sentence.
pub(super) fn refuse(status: StatusCode, error: &str) -> Response {
    (status, Json(Refused { error })).into_response()
}

/// A value.
pub(super) fn tell(value: impl Serialize) -> Response {
    Json(value).into_response()
}
