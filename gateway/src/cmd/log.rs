//! Where the log goes: lines to standard error, and, if the program was built so, spans to an OpenTelemetry collector.
//!
//! A span for each session and each export stands in every line that is told within it. Those of [`TRACES`] are for a
//! collector alone: a line within one shows the span around it.

use std::io::IsTerminal;

use nbd_gateway_config::{Log, LogFormat};
use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer};

#[cfg(feature = "otel")]
use super::otlp::Spans;
use crate::resize::TRACES;

/// What the log needs to live. Dropped, what waits is sent.
pub(super) struct Logging {
    #[cfg(feature = "otel")]
    _spans: Option<Spans>,
}

/// Whether this program can log so; a sentence if it can't.
pub(super) fn can(log: &Log) -> Result<(), &'static str> {
    if log.otlp.is_some() && !cfg!(feature = "otel") {
        return Err("log.otlp: this program was built without OpenTelemetry: leave `otlp` out, or build it with \
                    `cargo build --features otel`");
    }
    Ok(())
}

/// Begins to log.
///
/// # Errors
/// A sentence: this program can't log so.
pub(super) fn start(log: &Log) -> Result<Logging, String> {
    can(log)?;
    // Without a collector there is nothing between the lines and the registry: what no line wants costs a comparison.
    #[cfg(feature = "otel")]
    if let Some(url) = &log.otlp {
        let spans = Spans::start(url)?;
        begun(tracing_subscriber::registry().with(spans.layer()).with(lines(log)).try_init());
        return Ok(Logging { _spans: Some(spans) });
    }
    begun(tracing_subscriber::registry().with(lines(log)).try_init());
    Ok(Logging {
        #[cfg(feature = "otel")]
        _spans: None,
    })
}

fn begun(set: Result<(), TryInitError>) {
    if let Err(error) = set {
        eprintln!("nbd-gateway: logging can't be set up: {error}");
    }
}

/// Lines to standard error.
fn lines<S: Subscriber + for<'a> LookupSpan<'a>>(log: &Log) -> impl Layer<S> + use<S> {
    let filter = EnvFilter::new(format!("{},{TRACES}=off", log.level.as_str()));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    // A line that can't be written is lost. Complaining of it there would panic, in whichever task wanted to tell something:
    // a full disk under a log must not end what a client or a size relies on.
    let lines = lines.log_internal_errors(false);
    match log.format {
        LogFormat::Human => lines.with_ansi(std::io::stderr().is_terminal()).with_filter(filter).boxed(),
        LogFormat::Json => {
            let json = lines.json().flatten_event(true).with_current_span(true).with_span_list(false);
            json.with_filter(filter).boxed()
        }
    }
}
