//! A hook that is a URL: a status of 200 to 299 says that it has heard.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use crate::command::{Occasion, clean};
use crate::http::{Method, Request, Target, open};

/// What is read of an answer, in bytes: only the start of an error is shown.
const MOST_ANSWER: usize = 1024 * 1024;
/// How much of it is shown, in bytes.
const SHOWN: usize = 200;

/// Where to POST to.
pub(super) struct Http {
    url: String,
    limit: Duration,
}

impl Http {
    pub(super) const fn new(url: String, limit: Duration) -> Self {
        Self { url, limit }
    }

    pub(super) async fn tell(&self, occasion: &Occasion) -> Result<(), String> {
        let (target, path) = Target::of_url(&self.url).map_err(|error| error.to_string())?;
        let request = Request {
            method: Method::POST,
            path: &path,
            headers: &[("content-type", "application/json")],
            body: Bytes::from(occasion.json()),
        };
        let until = Instant::now() + self.limit;
        let answer = open(&target, request, self.limit).await.map_err(|error| error.to_string())?;
        let status = answer.status;
        // The status says it: what follows may never end.
        if status.is_success() {
            return Ok(());
        }
        let body = match timeout_at(until, answer.whole(MOST_ANSWER)).await {
            Ok(Ok((_, body))) => body,
            Ok(Err(_)) | Err(_) => Bytes::new(),
        };
        let start = clean(body.get(..SHOWN).unwrap_or(&body));
        Err(if start.is_empty() { format!("it answered {status}") } else { format!("it answered {status}: {start}") })
    }
}

impl fmt::Display for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What follows the path may be a secret.
        write!(f, "POST {}", self.url.split(['?', '#']).next().unwrap_or_default())
    }
}
