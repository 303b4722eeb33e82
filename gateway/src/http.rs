//! The HTTP requests that this program sends: to its own admin interface, to an operator's hooks.
//!
//! Owns one exchange: connect, one request, one answer, close. Always with a deadline, and with a bound on what is read; an
//! answer that has no end is read piece by piece, each with a deadline.
//! Follows no redirect, keeps no connection, speaks no TLS, tries nothing twice: whoever asks knows whether that is safe.
//! Never decides what a status means.

use nbd_gateway_policy::types::{self, Span};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
pub(crate) use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;

use crate::fault::Fault;

/// The most that the head of an answer may take, in bytes.
const LONGEST_HEAD: usize = 64 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A host and its port.
    Tcp {
        /// A name or an address; an IPv6 address without its brackets.
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

#[derive(Clone, Debug)]
pub(crate) struct Request<'a> {
    pub method: Method,
    /// The path and the query, escaped, with its slash.
    pub path: &'a str,
    /// Headers; `Host` and `Content-Length` are set by the sender.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body; may be empty.
    pub body: Bytes,
}

/// What an exchange may cost.
#[cfg(any(test, feature = "otel"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// From connecting to the last byte of the answer.
    pub time: Duration,
    /// The longest body of an answer, in bytes.
    pub body: usize,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// The URL is none, or asks for what is not spoken here.
    #[error("`{url}` is not a URL that can be asked here: {why}; write http://HOST[:PORT]/PATH or unix:PATH")]
    Url {
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// A header that no request can have.
    #[error("the header {name:?} can't be sent: it has characters that HTTP does not allow")]
    Header { name: String },
    /// Nobody was reached: nothing has been sent.
    #[error("{target} can't be reached: {cause}")]
    Unreached {
        target: Target,
        /// What the system says.
        cause: io::Error,
    },
    /// The answer broke off, or was no HTTP. What was asked may have been done.
    #[error("{target} gave no answer in HTTP: {why}")]
    Broken { target: Target, why: String },
    /// The deadline passed. What was asked may have been done.
    #[error("{target} did not answer within {}", Span(*.limit))]
    Slow { target: Target, limit: Duration },
    /// The answer is longer than what is read. What was asked has been done, or refused.
    #[error("{target} answered with more than {}", types::Bytes::of(*.limit))]
    TooLong {
        target: Target,
        /// The bound, in bytes.
        limit: usize,
    },
}

impl From<HttpError> for Fault {
    fn from(error: HttpError) -> Self {
        Self::backend(error.to_string())
    }
}

impl Target {
    /// Reads `http://HOST[:PORT][/PATH[?QUERY]]` or `unix:PATH`: who is asked, and the path with its query, `/` if there
    /// is none.
    pub(crate) fn of_url(url: &str) -> Result<(Self, String), HttpError> {
        let wrong = |why: &str| HttpError::Url { url: url.to_owned(), why: why.to_owned() };
        if let Some(path) = url.strip_prefix("unix:") {
            return if path.is_empty() {
                Err(wrong("the path of the socket is missing"))
            } else {
                Ok((Self::Unix(path.into()), "/".to_owned()))
            };
        }
        let uri: hyper::Uri = url.parse().map_err(|error: hyper::http::uri::InvalidUri| wrong(&error.to_string()))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(wrong("TLS is not spoken here")),
            Some(_) | None => return Err(wrong("it does not begin with http://")),
        }
        let authority = uri.authority().ok_or_else(|| wrong("the host is missing"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("a password in a URL is not kept from others"));
        }
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
        // A port that is no number, or none after the colon.
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => 80,
            Some(_) | None => authority.port_u16().ok_or_else(|| wrong("its port is not a number up to 65535"))?,
        };
        if host.is_empty() {
            return Err(wrong("the host is missing"));
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok((Self::Tcp { host: host.to_owned(), port }, path))
    }

    /// What a request calls it.
    fn host(&self) -> String {
        match self {
            Self::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port } => format!("{host}:{port}"),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { .. } => write!(f, "http://{}", self.host()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Sends one request, and reads the whole answer. Cancel-safe: yes, as far as nothing is left behind here; what was sent
/// may be carried out.
#[cfg(any(test, feature = "otel"))]
pub(crate) async fn send(
    target: &Target,
    request: Request<'_>,
    bounds: Bounds,
) -> Result<(StatusCode, Bytes), HttpError> {
    let request = built(target, request)?;
    let whole = async { begin(target, request).await?.whole(bounds.body).await };
    timed(target, bounds.time, whole).await
}

/// Sends one request, and reads the head of the answer within `limit`. Cancel-safe: yes; what was sent may be carried out.
pub(crate) async fn open(target: &Target, request: Request<'_>, limit: Duration) -> Result<Answer, HttpError> {
    let request = built(target, request)?;
    timed(target, limit, begin(target, request)).await
}

/// An answer whose head is there. Dropped, the connection is closed.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    /// What its body is, as it says; empty: it does not say.
    pub media: String,
    body: Incoming,
    target: Target,
    /// Moves the bytes.
    _connection: JoinSet<()>,
}

impl Answer {
    /// The next bytes of the body, waited for no longer than `limit`; `None` at its end. Cancel-safe: yes.
    pub(crate) async fn next(&mut self, limit: Duration) -> Result<Option<Bytes>, HttpError> {
        let Self { body, target, .. } = self;
        let some = async {
            loop {
                match body.frame().await {
                    None => return Ok(None),
                    Some(Err(error)) => return Err(broken(target, &reason(&error))),
                    // Trailers say nothing here.
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            return Ok(Some(data));
                        }
                    }
                }
            }
        };
        timed(target, limit, some).await
    }

    /// All of the body, if it is no longer than `limit` bytes.
    pub(crate) async fn whole(self, limit: usize) -> Result<(StatusCode, Bytes), HttpError> {
        let Self { status, body, target, _connection, .. } = self;
        match Limited::new(body, limit).collect().await {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(HttpError::TooLong { target, limit }),
            Err(error) => Err(broken(&target, &reason(error.as_ref()))),
        }
    }
}

async fn begin(target: &Target, request: hyper::Request<Full<Bytes>>) -> Result<Answer, HttpError> {
    let unreached = |cause| HttpError::Unreached { target: target.clone(), cause };
    match target {
        Target::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(unreached)?;
            exchange(target, stream, request).await
        }
        Target::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(unreached)?;
            exchange(target, stream, request).await
        }
    }
}

async fn timed<T>(
    target: &Target,
    limit: Duration,
    whole: impl Future<Output = Result<T, HttpError>>,
) -> Result<T, HttpError> {
    match tokio::time::timeout(limit, whole).await {
        Ok(ended) => ended,
        Err(_) => Err(HttpError::Slow { target: target.clone(), limit }),
    }
}

fn built(target: &Target, request: Request<'_>) -> Result<hyper::Request<Full<Bytes>>, HttpError> {
    let url = |error: &dyn fmt::Display| HttpError::Url { url: request.path.to_owned(), why: error.to_string() };
    let uri: hyper::Uri = request.path.parse().map_err(|error: hyper::http::uri::InvalidUri| url(&error))?;
    let mut out = hyper::Request::new(Full::new(request.body));
    *out.method_mut() = request.method;
    *out.uri_mut() = uri;
    for (name, value) in request.headers.iter().copied().chain([(HOST.as_str(), target.host().as_str())]) {
        let wrong = || HttpError::Header { name: name.to_owned() };
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        out.headers_mut().insert(key, HeaderValue::from_str(value).map_err(|_| wrong())?);
    }
    Ok(out)
}

/// One request over a stream that is open.
async fn exchange<S>(target: &Target, stream: S, request: hyper::Request<Full<Bytes>>) -> Result<Answer, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shaken = http1::Builder::new().max_buf_size(LONGEST_HEAD).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|error| broken(target, &reason(&error)))?;
    let mut moving = JoinSet::new();
    // How it ends is told by what is read.
    moving.spawn(async move { drop(connection.await) });
    let answer = sender.send_request(request).await.map_err(|error| broken(target, &reason(&error)))?;
    let (head, body) = answer.into_parts();
    let media = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    Ok(Answer { status: head.status, media, body, target: target.clone(), _connection: moving })
}

fn broken(target: &Target, why: &str) -> HttpError {
    HttpError::Broken { target: target.clone(), why: why.to_owned() }
}

/// The innermost cause says most.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const LIMIT: usize = 1024;

    fn here() -> Target {
        Target::Tcp { host: "host".to_owned(), port: 80 }
    }

    fn asking(body: &'static str) -> Request<'static> {
        Request {
            method: Method::POST,
            path: "/a?b=c",
            headers: &[("x-who", "me")],
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    /// Reads until what was read ends so; all of it.
    async fn read_to(stream: &mut DuplexStream, end: &str) -> String {
        let mut read = Vec::new();
        while !read.ends_with(end.as_bytes()) {
            read.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(read).unwrap()
    }

    /// What comes of an answer of these bytes.
    async fn answered(answer: &'static [u8]) -> Result<(StatusCode, Bytes), HttpError> {
        let (near, mut far) = duplex(64);
        let target = here();
        let peer = async move {
            read_to(&mut far, "ping").await;
            // It may stop listening in the middle.
            let _ = far.write_all(answer).await;
        };
        let request = built(&target, asking("ping")).unwrap();
        let whole = async { exchange(&target, near, request).await?.whole(LIMIT).await };
        tokio::join!(whole, peer).0
    }

    #[tokio::test]
    async fn a_request_is_sent_whole_with_its_host_and_length() {
        let (near, mut far) = duplex(4096);
        let target = here();
        let peer = async move {
            let head = read_to(&mut far, "ping").await;
            far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            head
        };
        let request = built(&target, asking("ping")).unwrap();
        let whole = async { exchange(&target, near, request).await?.whole(LIMIT).await };
        let (answer, head) = tokio::join!(whole, peer);
        assert_eq!(answer.unwrap(), (StatusCode::NO_CONTENT, Bytes::new()));
        assert!(head.starts_with("POST /a?b=c HTTP/1.1\r\n"), "{head}");
        for line in ["x-who: me\r\n", "host: host:80\r\n", "content-length: 4\r\n"] {
            assert!(head.contains(line), "{head}");
        }
    }

    #[tokio::test]
    async fn an_answer_ends_by_its_length_by_its_last_chunk_or_with_the_connection() {
        for answer in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\npong"[..],
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\npo\r\n2\r\nng\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\npong",
        ] {
            assert_eq!(answered(answer).await.unwrap(), (StatusCode::OK, Bytes::from_static(b"pong")));
        }
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_or_is_no_http_is_no_answer() {
        for answer in [
            &b""[..],
            b"HTTP/1.1 2",
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npong",
            b"NBDMAGICIHAVEOPT\0\x03\r\n\r\n",
        ] {
            let error = answered(answer).await.unwrap_err();
            assert!(matches!(error, HttpError::Broken { .. }), "{error}");
            assert!(error.to_string().starts_with("http://host:80 gave no answer in HTTP: "), "{error}");
        }
    }

    #[tokio::test]
    async fn no_more_is_read_than_was_asked_for() {
        let long = b"HTTP/1.1 200 OK\r\ncontent-length: 1025\r\n\r\n";
        let long: &'static [u8] = Box::leak([&long[..], &[b'x'; 1025]].concat().into_boxed_slice());
        let error = answered(long).await.unwrap_err();
        assert_eq!(error.to_string(), "http://host:80 answered with more than 1 KiB");
        let head = [&b"HTTP/1.1 200 OK\r\nx: "[..], &vec![b'x'; 2 * LONGEST_HEAD], b"\r\n\r\n"].concat();
        let error = answered(Box::leak(head.into_boxed_slice())).await.unwrap_err();
        assert!(matches!(error, HttpError::Broken { .. }), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_the_deadline() {
        let (near, _far) = duplex(64);
        let target = here();
        let limit = Duration::from_secs(3);
        let began = tokio::time::Instant::now();
        let request = built(&target, asking("ping")).unwrap();
        let error = timed(&target, limit, exchange(&target, near, request)).await.unwrap_err();
        assert_eq!((error.to_string().as_str(), began.elapsed()), ("http://host:80 did not answer within 3s", limit));
    }

    #[tokio::test]
    async fn an_answer_without_an_end_is_read_as_it_comes_until_it_breaks_off() {
        let (near, mut far) = duplex(4096);
        let target = here();
        let peer = async {
            read_to(&mut far, "ping").await;
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
                .await
                .unwrap();
        };
        let request = built(&target, asking("ping")).unwrap();
        let (answer, ()) = tokio::join!(exchange(&target, near, request), peer);
        let mut answer = answer.unwrap();
        assert_eq!((answer.status, answer.media.as_str()), (StatusCode::OK, "text/event-stream"));
        let limit = Duration::from_secs(30);
        for piece in ["a", "bc"] {
            far.write_all(format!("{}\r\n{piece}\r\n", piece.len()).as_bytes()).await.unwrap();
            assert_eq!(answer.next(limit).await.unwrap().unwrap(), piece);
        }
        drop(far);
        assert!(matches!(answer.next(limit).await.unwrap_err(), HttpError::Broken { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn who_falls_silent_is_not_waited_for_for_ever() {
        let (near, mut far) = duplex(4096);
        let target = here();
        let request = built(&target, asking("")).unwrap();
        let peer = async {
            read_to(&mut far, "\r\n\r\n").await;
            far.write_all(b"HTTP/1.1 200 OK\r\n\r\nfirst").await.unwrap();
        };
        let (answer, ()) = tokio::join!(exchange(&target, near, request), peer);
        let (mut answer, limit) = (answer.unwrap(), Duration::from_secs(45));
        assert_eq!(answer.next(limit).await.unwrap().unwrap(), "first");
        let began = tokio::time::Instant::now();
        assert!(matches!(answer.next(limit).await.unwrap_err(), HttpError::Slow { .. }));
        assert_eq!(began.elapsed(), limit);
    }

    #[tokio::test]
    async fn where_nobody_listens_nothing_was_sent() {
        let bounds = Bounds { time: Duration::from_secs(30), body: LIMIT };
        let nowhere = Target::Unix("/nonexistent/socket".into());
        let error = send(&nowhere, asking(""), bounds).await.unwrap_err();
        assert!(matches!(error, HttpError::Unreached { .. }), "{error}");
        let says = "unix:/nonexistent/socket can't be reached: No such file or directory (os error 2)";
        assert_eq!(error.to_string(), says);
    }

    #[test]
    fn a_url_is_read_as_it_is_written() {
        let tcp = |host: &str, port| Target::Tcp { host: host.to_owned(), port };
        for (url, target, path) in [
            ("http://h", tcp("h", 80), "/"),
            ("http://127.0.0.1:9809", tcp("127.0.0.1", 9809), "/"),
            ("http://[::1]:81/a/b?c=d", tcp("::1", 81), "/a/b?c=d"),
            ("http://h?x", tcp("h", 80), "/?x"),
            ("unix:/run/a b", Target::Unix("/run/a b".into()), "/"),
        ] {
            assert_eq!(Target::of_url(url).unwrap(), (target, path.to_owned()), "{url}");
        }
        assert_eq!(tcp("::1", 81).to_string(), "http://[::1]:81");
    }

    #[test]
    fn a_url_that_cannot_be_asked_says_why() {
        for (url, why) in [
            ("https://h/", "TLS is not spoken here"),
            ("127.0.0.1:9809", "it does not begin with http://"),
            ("ftp://h/", "it does not begin with http://"),
            ("http://me:secret@h/", "a password in a URL"),
            ("http://h:x/", "port"),
            ("http://h:70000/", "port"),
            ("http://:80/", "host"),
            ("http://a b/", "invalid"),
            ("unix:", "the path of the socket is missing"),
            ("", "empty string"),
        ] {
            let error = Target::of_url(url).unwrap_err().to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
    }

    #[test]
    fn a_header_that_would_end_early_is_not_sent() {
        let request = Request { headers: &[("a", "b\r\nc: d")], ..asking("") };
        assert_eq!(
            built(&here(), request).unwrap_err().to_string(),
            "the header \"a\" can't be sent: it has characters that HTTP does not allow"
        );
    }
}
