//! JSON answers. Sizes are integers in bytes; an error is `{"error": "a sentence"}`.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use nbd_gateway_policy::refusal::{Asked, Errno, Reason, Refusal};
use serde::Serialize;

use super::view::Refused;
use crate::export::OpenError;

/// An error with its sentence.
pub(super) fn refuse(status: StatusCode, error: impl ToString) -> Response {
    (status, Json(Refused { error: error.to_string() })).into_response()
}

/// A body that says nothing, and one that would.
pub(super) fn unread(error: &JsonRejection, example: &str) -> Response {
    refuse(StatusCode::BAD_REQUEST, format!("{}; {example}", lowered(&error.to_string())))
}

/// A sentence of somebody else's as ours begin.
pub(super) fn lowered(said: &str) -> String {
    let mut letters = said.chars();
    let first = letters.next().into_iter().flat_map(char::to_lowercase);
    first.chain(letters).collect()
}

/// A value.
pub(super) fn tell(value: impl Serialize) -> Response {
    Json(value).into_response()
}

/// An export that can't be opened.
pub(super) fn unopened(error: &OpenError) -> Response {
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

/// A wish that was refused, with all that is known of why.
pub(super) fn refused(refusal: &Refusal, said: String) -> Response {
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
