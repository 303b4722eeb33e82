//! A hook that is a URL: a status of 200 to 299 says that it has heard.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use nbd_gateway_metrics::HookWay;
use nbd_gateway_net::clean;
use tokio::time::{Instant, timeout_at};

use super::Tell;
use crate::command::Occasion;
use crate::fault::Fault;
use crate::http::{Method, Request, Target, open};

/// What is read of an answer, in bytes: only the start of an error is shown.
const MOST_ANSWER: usize = 1024 * 1024;
/// How much of it is shown, in bytes.
const SHOWN: usize = 200;

/// Where to POST to.
pub(super) struct Http {
    pub(super) url: String,
    pub(super) limit: Duration,
}

impl Tell for Http {
    const WAY: HookWay = HookWay::Http;

    async fn tell(&self, occasion: &Occasion) -> Result<(), Fault> {
        let (target, path) = Target::of_url(&self.url)?;
        let request = Request {
            method: Method::POST,
            path: &path,
            headers: &[("content-type", "application/json")],
            body: Bytes::from(occasion.json()),
        };
        let until = Instant::now() + self.limit;
        let answer = open(&target, request, self.limit).await?;
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
        let said = if start.is_empty() { String::new() } else { format!(": {start}") };
        Err(Fault::backend(format!("it answered {status}{said}")))
    }
}

impl fmt::Display for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What follows the path may be a secret.
        write!(f, "POST {}", self.url.split(['?', '#']).next().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use nbd_gateway_policy::types::{ExportName, TenantId};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// What comes of an answer whose body never ends.
    async fn told(answer: &'static [u8], limit: Duration) -> Result<(), Fault> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let answers = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            stream.write_all(answer).await.unwrap();
            // Until the hook hangs up.
            while stream.read_u8().await.is_ok() {}
        });
        let occasion = Occasion {
            export: ExportName::new("vm").unwrap(),
            tenant: TenantId::new("blue").unwrap(),
            old_size: 1,
            size: 2,
            generation: None,
        };
        let told = Http { url, limit }.tell(&occasion).await;
        answers.await.unwrap();
        told
    }

    #[tokio::test]
    async fn a_status_that_says_so_is_enough_whether_the_body_ends_or_not() {
        let long = Duration::from_secs(60);
        assert_eq!(told(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nonly", long).await, Ok(()));
        let refused = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 10\r\n\r\nonly";
        let why = told(refused, Duration::from_millis(200)).await;
        assert_eq!(why.unwrap_err().message(), "it answered 500 Internal Server Error");
    }
}
