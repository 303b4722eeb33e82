//! Where the log goes: lines to standard error, and, if the program was built so, spans to an OpenTelemetry collector.
//!
//! A span for each session and each export stands in every line that is told within it. Those of [`TRACES`] are for a
//! collector alone: a line within one shows the span around it.

use std::io::IsTerminal;

use nbd_gateway_config::{Log, LogFormat, LogLevel};
use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, reload};

#[cfg(feature = "otel")]
use super::otlp::Spans;
use crate::reload::SetLevel;
use crate::resize::TRACES;

/// What the log needs to live. Dropped, what waits is sent.
pub(super) struct Logging {
    /// How to set another level; none: nothing is logged.
    pub(super) set_level: Option<SetLevel>,
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
        let (lines, level) = lines(log);
        let set_level = begun(tracing_subscriber::registry().with(spans.layer()).with(lines).try_init(), level);
        return Ok(Logging { set_level, _spans: Some(spans) });
    }
    let (lines, level) = lines(log);
    Ok(Logging {
        set_level: begun(tracing_subscriber::registry().with(lines).try_init(), level),
        #[cfg(feature = "otel")]
        _spans: None,
    })
}

fn begun(set: Result<(), TryInitError>, level: SetLevel) -> Option<SetLevel> {
    match set {
        Ok(()) => Some(level),
        Err(error) => {
            eprintln!("nbd-gateway: logging can't be set up: {error}");
            None
        }
    }
}

fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::new(format!("{},{TRACES}=off", level.as_str()))
}

/// Lines to standard error, and how to set another level for them later.
fn lines<S>(log: &Log) -> (impl Layer<S> + use<S>, SetLevel)
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let (wanted, level) = reload::Layer::new(filter(log.level));
    // An error would mean that there is no log any more.
    let set_level: SetLevel = Box::new(move |to| drop(level.reload(filter(to))));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    // A line that can't be written is lost. Complaining of it there would panic, in whichever task wanted to tell something:
    // a full disk under a log must not end what a client or a size relies on.
    let lines = lines.log_internal_errors(false);
    let lines = match log.format {
        LogFormat::Human => lines.with_ansi(std::io::stderr().is_terminal()).with_filter(wanted).boxed(),
        LogFormat::Json => {
            let json = lines.json().flatten_event(true).with_current_span(true).with_span_list(false);
            json.with_filter(wanted).boxed()
        }
    };
    (lines, set_level)
}
