//! Spans of sessions and resizes, sent to an OpenTelemetry collector as OTLP over HTTP.
//!
//! A thread of the SDK's own posts them in batches, by this program's own HTTP. What waits is bounded, and what does not
//! fit is dropped: a collector that is away costs spans and one warning, and nobody waits for it.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider};
use tokio::runtime::Runtime;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::registry::LookupSpan;

use super::LogError;
use crate::http::{Bounds, Request as Post, Target, send};

/// How many ended spans wait to be sent; more are dropped.
const WAITING: usize = 2048;
/// How many are sent at a time.
const BATCH: usize = 512;
/// How long they wait for others.
const PAUSE: Duration = Duration::from_secs(5);
/// What one post may cost.
const BOUNDS: Bounds = Bounds { time: Duration::from_secs(5), body: 64 * 1024 };
/// How long the end of the process waits for the last post.
const LAST: Duration = Duration::from_secs(1);

/// The way to a collector. Dropped, what waits is sent, or given up soon.
pub(super) struct Spans {
    provider: SdkTracerProvider,
}

impl Spans {
    /// To the collector at this URL, `http://HOST[:PORT]`. Nobody is connected to yet.
    pub(super) fn start(url: &str) -> Result<Self, LogError> {
        let failed = |why: Box<dyn std::error::Error>| LogError::Spans { url: url.to_owned(), why };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| failed(error.into()))?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{url}/v1/traces"))
            .with_http_client(Client { runtime, lost: AtomicBool::new(false) })
            .build()
            .map_err(|error| failed(error.into()))?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(WAITING)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(PAUSE)
            .build();
        let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder().with_service_name("nbd-gateway").with_attribute(version).build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let provider = SdkTracerProvider::builder().with_resource(resource).with_span_processor(processor).build();
        Ok(Self { provider })
    }

    /// What hands spans over.
    pub(super) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + use<S> {
        let filter = filter_fn(wanted).with_max_level_hint(LevelFilter::DEBUG);
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("nbd-gateway"))
            .with_location(false)
            .with_threads(false)
            .with_filter(filter)
    }
}

impl Drop for Spans {
    fn drop(&mut self) {
        // What can't be sent now is lost; the client has said so.
        let _ = self.provider.shutdown_with_timeout(LAST);
    }
}

/// Sessions, resizes, and what is told in them. An export's span lasts as long as the export: it would never be sent.
fn wanted(what: &Metadata<'_>) -> bool {
    let ours = what.target().starts_with("nbd_gateway");
    ours && if what.is_span() { matches!(what.name(), "session" | "resize") } else { *what.level() <= Level::INFO }
}

/// This program's HTTP, as the SDK's thread calls it.
struct Client {
    runtime: Runtime,
    /// The last post failed, and that was said.
    lost: AtomicBool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// Blocks: its caller is a thread that does nothing else.
    fn post(&self, request: &Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (target, path) = Target::of_url(&request.uri().to_string())?;
        let text = |value: &hyper::header::HeaderValue| value.to_str().unwrap_or_default().to_owned();
        let headers: Vec<(&str, String)> =
            request.headers().iter().map(|(name, value)| (name.as_str(), text(value))).collect();
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let post =
            Post { method: request.method().clone(), path: &path, headers: &headers, body: request.body().clone() };
        let (status, body) = self.runtime.block_on(send(&target, post, BOUNDS))?;
        if !status.is_success() {
            return Err(format!("{target} answered {status}").into());
        }
        let mut answer = Response::new(body);
        *answer.status_mut() = status;
        Ok(answer)
    }
}

impl HttpClient for Client {
    fn send_bytes<'a, 'f>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>
    where
        'a: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let sent = self.post(&request);
            match &sent {
                Err(error) if !self.lost.swap(true, Ordering::Relaxed) => {
                    tracing::warn!(%error, "spans can't be sent to the collector; they are dropped until they can");
                }
                Ok(_) if self.lost.swap(false, Ordering::Relaxed) => {
                    tracing::info!("spans can be sent to the collector again");
                }
                Ok(_) | Err(_) => {}
            }
            sent
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::thread;

    use parking_lot::Mutex;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// Takes one post, and answers it with success. The head and the body.
    fn collector() -> (String, thread::JoinHandle<(String, Vec<u8>)>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let taken = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap().to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut body).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
            (head, body)
        });
        (url, taken)
    }

    /// A session that resizes, as the gateway tells of it.
    fn run() {
        let session = tracing::error_span!(
            "session",
            session = 7,
            export = tracing::field::Empty,
            tenant = tracing::field::Empty
        );
        session.record("export", "vm1").record("tenant", "blue");
        session.in_scope(|| {
            let resize = tracing::debug_span!(target: crate::log::TRACES, "resize", wish = "a client asks");
            resize.in_scope(|| tracing::info!(to = 4096, "size changed"));
            tracing::debug!("nobody asked for this");
        });
        tracing::error_span!("export", export = "never ends");
    }

    /// A text as protobuf has it: its length before it.
    fn has(body: &[u8], text: &str) -> bool {
        let field = [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        body.windows(field.len()).any(|window| window == field)
    }

    #[test]
    fn a_collector_is_sent_sessions_and_resizes_with_whose_they_are() {
        let (url, taken) = collector();
        let spans = Spans::start(&url).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(spans.layer()), run);
        drop(spans);
        let (head, body) = taken.join().unwrap();
        assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
        assert!(head.contains("content-type: application/x-protobuf\r\n"), "{head}");
        for text in [
            "nbd-gateway",
            "session",
            "export",
            "vm1",
            "tenant",
            "blue",
            "resize",
            "wish",
            "a client asks",
            "size changed",
        ] {
            assert!(has(&body, text), "no {text:?} in {}", String::from_utf8_lossy(&body));
        }
        for text in ["never ends", "nobody asked for this"] {
            assert!(!has(&body, text), "{text:?}");
        }
    }

    /// Counts what is logged at a level that people look at.
    #[derive(Clone, Default)]
    struct Warnings(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Warnings {
        fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            if *event.metadata().level() <= Level::WARN {
                self.0.lock().push(event.metadata().target().to_owned());
            }
        }
    }

    #[test]
    fn a_collector_that_is_away_costs_one_warning_until_it_is_back() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let client = |runtime| Client { runtime, lost: AtomicBool::new(false) };
        let client = client(tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
        let warnings = Warnings::default();
        let post = |url: String| {
            let request = Request::post(url).body(Bytes::from_static(b"spans")).unwrap();
            let sent = client.send_bytes(request);
            // As the SDK's thread does: outside of any runtime.
            futures_now(sent)
        };
        let seen = warnings.clone();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(seen), || {
            for _ in 0..3 {
                assert!(post(format!("http://{nobody}/v1/traces")).is_err());
            }
            assert_eq!(warnings.0.lock().len(), 1);
            let (url, taken) = collector();
            assert!(post(format!("{url}/v1/traces")).is_ok());
            taken.join().unwrap();
            assert!(post(format!("http://{nobody}/v1/traces")).is_err());
            assert_eq!(warnings.0.lock().len(), 2);
        });
    }

    /// What is ready at once.
    fn futures_now<T>(future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(done) => done,
            std::task::Poll::Pending => panic!("it waits"),
        }
    }

    /// A collector that takes connections and says nothing.
    #[test]
    fn nobody_waits_for_a_collector_that_hangs() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let spans = Spans::start(&format!("http://{}", silent.local_addr().unwrap())).unwrap();
        let began = tokio::time::Instant::now();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(spans.layer()), || {
            (0..10 * WAITING).for_each(|_| run());
        });
        drop(spans);
        // The last post is given up long before the collector's own time is over.
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    }
}
