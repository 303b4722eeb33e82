//! Asking a gateway: where it is, with which token, and what its answers mean. One sentence for each way to fail.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::admin::in_a_path;
use crate::admin::view::Refused;
use crate::cmd::cli::Admin;
use crate::http::{self, Answer, HttpError, Method, Request, StatusCode, Target};
use crate::token::token_in;

/// What a name in a path may have besides letters and digits.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// How long a gateway may take to say what it sees.
const LOOKING: Duration = Duration::from_secs(10);
/// How long it may take to carry an order out: zeroes may have to be written.
const ORDERING: Duration = Duration::from_secs(600);
/// The longest answer read, in bytes.
const LONGEST: usize = 64 << 20;

/// Why an operator does not get what was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// The command line.
    #[error("--admin: {0}")]
    Usage(HttpError),
    /// Nobody is there.
    #[error("{0}; does the gateway run, and is that its admin.address?")]
    Unreached(HttpError),
    /// It did not answer in time: nobody knows.
    #[error("{0}; it may still be at it, look with `nbd-gateway exports`")]
    Slow(HttpError),
    /// What is there is no gateway.
    #[error("{0}; is that a gateway's admin interface?")]
    Stranger(String),
    /// The token's file.
    #[error("can't read the token in {}: {error}", path.display())]
    Token { path: PathBuf, error: std::io::Error },
    /// No token was brought where one is needed.
    #[error(
        "this needs the token of the gateway's admin.token-file: give it with --token-file FILE (a gateway without a \
         configuration has made one where it was started, nbd-gateway-data/token)"
    )]
    NoToken,
    /// The wrong one was.
    #[error("the gateway does not take the token in {}", path.display())]
    WrongToken { path: PathBuf },
    /// The gateway's own sentence.
    #[error("{0}")]
    Refused(String),
    /// The same, where it may be otherwise soon.
    #[error("{0}")]
    NotNow(String),
    #[error("can't start: {0}")]
    Start(std::io::Error),
    /// Nothing can be printed.
    #[error("stdout: {0}")]
    Stdout(std::io::Error),
}

/// A gateway that can be asked.
pub(super) struct Ask<'a> {
    target: Target,
    /// What stands before every path, without a slash at its end.
    below: String,
    admin: &'a Admin,
    /// `Bearer TOKEN`.
    bearer: Option<String>,
}

/// What it answered; all was well.
pub(super) struct Told {
    body: Bytes,
    target: Target,
}

/// An export's name as a part of a path.
pub(super) fn part(name: &str) -> String {
    escaped(in_a_path(name))
}

/// A value in a query.
pub(super) fn escaped(name: &str) -> String {
    utf8_percent_encode(name, ESCAPED).to_string()
}

impl<'a> Ask<'a> {
    /// As the command line says.
    pub(super) fn of(admin: &'a Admin) -> Result<Self, AskError> {
        let (target, path) = Target::of_url(&admin.url).map_err(AskError::Usage)?;
        let bearer = match &admin.token_file {
            None => None,
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).map_err(|error| AskError::Token { path: path.clone(), error })?;
                Some(format!("Bearer {}", token_in(&text)))
            }
        };
        Ok(Self { target, below: path.trim_end_matches('/').to_owned(), admin, bearer })
    }

    /// Follows something: its events as they come, after the one of the number `last`.
    pub(super) async fn follow(&self, path: &str, last: Option<u64>) -> Result<Answer, AskError> {
        const STREAM: &str = "text/event-stream";
        let last = last.map(|number| number.to_string());
        let mut headers = vec![("Accept", STREAM)];
        headers.extend(last.as_deref().map(|last| ("Last-Event-ID", last)));
        let answer = self.asked(Method::GET, path, Bytes::new(), headers, LOOKING).await?;
        if answer.media.starts_with(STREAM) {
            return Ok(answer);
        }
        Err(AskError::Stranger(format!("{} answered {path} with no stream but {:?}", self.target, answer.media)))
    }

    /// Looks at something, or orders it and waits for the outcome.
    pub(super) fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Told, AskError> {
        let time = if method == Method::GET { LOOKING } else { ORDERING };
        let body = body.map(|body| body.to_string().into()).unwrap_or_default();
        let headers = vec![("Accept", "application/json"), ("Content-Type", "application/json")];
        let runtime = runtime()?;
        let told = async {
            let answer = self.asked(method, path, body, headers, time).await?;
            let (_, body) = answer.whole(LONGEST).await.map_err(unanswered)?;
            Ok(Told { body, target: self.target.clone() })
        };
        let slow = || AskError::Slow(HttpError::Slow { target: self.target.clone(), limit: time });
        runtime.block_on(async { tokio::time::timeout(time, told).await.unwrap_or_else(|_| Err(slow())) })
    }

    /// Asks, and reads the head of the answer; where that is a refusal, all of it.
    async fn asked(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        mut headers: Vec<(&str, &str)>,
        time: Duration,
    ) -> Result<Answer, AskError> {
        let path = format!("{}{path}", self.below);
        headers.extend(self.bearer.as_deref().map(|bearer| ("Authorization", bearer)));
        let request = Request { method, path: &path, headers: &headers, body };
        let answer = http::open(&self.target, request, time).await.map_err(unanswered)?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        let (status, body) = answer.whole(LONGEST).await.map_err(unanswered)?;
        Err(match (status, &self.admin.token_file, serde_json::from_slice::<Refused>(&body)) {
            (StatusCode::UNAUTHORIZED, None, _) => AskError::NoToken,
            (StatusCode::UNAUTHORIZED, Some(path), _) => AskError::WrongToken { path: path.clone() },
            (StatusCode::SERVICE_UNAVAILABLE, _, Ok(refused)) => AskError::NotNow(refused.error),
            (_, _, Ok(refused)) => AskError::Refused(refused.error),
            (_, _, Err(_)) => AskError::Stranger(format!("{} answered {status} to {path}", self.target)),
        })
    }
}

/// Where an asker waits.
pub(super) fn runtime() -> Result<Runtime, AskError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AskError::Start)
}

/// What it means that there is no answer.
pub(super) fn unanswered(error: HttpError) -> AskError {
    match error {
        HttpError::Unreached { .. } => AskError::Unreached(error),
        HttpError::Slow { .. } => AskError::Slow(error),
        HttpError::Url { .. } => AskError::Usage(error),
        HttpError::Header { .. } => AskError::Refused("the token has characters that can't be sent".to_owned()),
        HttpError::Broken { .. } | HttpError::TooLong { .. } => AskError::Stranger(error.to_string()),
    }
}

impl Told {
    /// What it is.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, AskError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| AskError::Stranger(format!("{} answered something else: {error}", self.target)))
    }

    /// Prints it: as it came, or in words.
    pub(super) fn print<T: DeserializeOwned>(self, json: bool, told: impl FnOnce(T) -> String) -> Result<(), AskError> {
        let value: T = self.read()?;
        if json {
            super::print(&format!("{}\n", String::from_utf8_lossy(&self.body).trim_end()))
        } else {
            super::print(&told(value))
        }
    }
}
