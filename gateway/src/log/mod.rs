//! Where the log goes: lines to standard error, and, if the program was built so, spans to an OpenTelemetry collector.
//!
//! `bound` decides which lines are logged, `writer` has the thread that writes them: nobody who logs waits for anything.
//!
//! A span for each session and each export stands in every line that is told within it. Those of [`TRACES`] are for a
//! collector alone: a line within one shows the span around it.

mod bound;
#[cfg(feature = "otel")]
mod otlp;
mod writer;

use std::fmt::{self, Write};
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_config::{Log, LogFormat, LogLevel};
use nbd_gateway_metrics::Metrics;
use nbd_gateway_net::is_harmful;
use tracing::Subscriber;
use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, reload};

use self::bound::{Bound, Bounded, Causes};
#[cfg(feature = "otel")]
use self::otlp::Spans;
use self::writer::Lines;

pub(crate) use self::bound::ORDERED;

/// The target of spans that are for a collector of traces, not for the lines of a log.
pub(crate) const TRACES: &str = "nbd_gateway::traces";

/// Sets the least severe level that is logged.
pub(crate) type SetLevel = Box<dyn Fn(LogLevel) + Send + Sync>;

/// How long the end of the process waits for the last lines.
const LAST: Duration = Duration::from_secs(1);

/// The log while it runs. Dropped, it writes and sends what waits, within a bounded time.
pub(crate) struct Logging {
    /// How to set another level; none: nothing is logged.
    pub(crate) set_level: Option<SetLevel>,
    lines: Lines,
    #[cfg(feature = "otel")]
    _spans: Option<Spans>,
}

impl Logging {
    /// Says a sentence on standard error, beside the log's lines.
    pub(crate) fn say(&self, sentence: &dyn fmt::Display) {
        self.lines.append(format!("nbd-gateway: {sentence}\n").as_bytes());
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        // What is not written by then is lost: nobody reads it.
        self.lines.flush(LAST);
    }
}

/// Why this program can't log so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error(
        "log.otlp: this program was built without OpenTelemetry: leave `otlp` out, or build it with `cargo build \
         --features otel`"
    )]
    Built,
    #[cfg(feature = "otel")]
    #[error("log.otlp: spans can't be sent to {url}: {why}")]
    Spans { url: String, why: Box<dyn std::error::Error> },
    #[error("cannot start the log: {0}")]
    Start(Box<dyn std::error::Error>),
}

/// Whether this program can log so.
pub(crate) fn can(log: &Log) -> Result<(), LogError> {
    if log.otlp.is_some() && !cfg!(feature = "otel") {
        return Err(LogError::Built);
    }
    Ok(())
}

/// Starts the log. Panics are logged too: their usual way is a write to standard error by the thread that panics.
pub(crate) fn start(log: &Log, metrics: &Metrics) -> Result<Logging, LogError> {
    can(log)?;
    let lines =
        Lines::start(std::io::stderr(), metrics.log_dropped()).map_err(|error| LogError::Start(error.into()))?;
    let bound = Arc::new(Bound::new(metrics.log_suppressed()).map_err(|error| LogError::Start(error.into()))?);
    let (layer, set_level) = layer(log, lines.clone(), bound);
    #[cfg(feature = "otel")]
    let spans = log.otlp.as_deref().map(Spans::start).transpose()?;
    // Without a collector there is nothing between the lines and the registry: what no line wants costs a comparison.
    #[cfg(feature = "otel")]
    let set = match &spans {
        Some(spans) => tracing_subscriber::registry().with(layer).with(spans.layer()).try_init(),
        None => tracing_subscriber::registry().with(layer).try_init(),
    };
    #[cfg(not(feature = "otel"))]
    let set = tracing_subscriber::registry().with(layer).try_init();
    set.map_err(|error| LogError::Start(error.into()))?;
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a task of the gateway panicked; report this")));
    Ok(Logging {
        set_level: Some(set_level),
        lines,
        #[cfg(feature = "otel")]
        _spans: spans,
    })
}

fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::new(format!("{},{TRACES}=off", level.as_str()))
}

/// Lines for `to`, and how to set another level for them later.
fn layer<S>(log: &Log, to: Lines, bound: Arc<Bound>) -> (impl Layer<S> + use<S>, SetLevel)
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let (wanted, level) = reload::Layer::new(filter(log.level));
    // An error would mean that there is no log any more.
    let set_level: SetLevel = Box::new(move |to| drop(level.reload(filter(to))));
    let lines =
        tracing_subscriber::fmt::layer().with_writer(move || to.clone()).with_target(false).log_internal_errors(false);
    let causes = Causes(Arc::clone(&bound));
    let lines = match log.format {
        LogFormat::Human => {
            let lines = lines.with_ansi(std::io::stderr().is_terminal());
            let lines = lines.fmt_fields(debug_fn(said).delimited(" "));
            let lines = lines.map_event_format(|inner| Bounded { inner, bound, json: false });
            lines.and_then(causes).with_filter(wanted).boxed()
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(true).with_span_list(false);
            let lines = lines.map_event_format(|inner| Bounded { inner, bound, json: true });
            lines.and_then(causes).with_filter(wanted).boxed()
        }
    };
    (lines, set_level)
}

/// One field of a line; of the message only what it says. Its value may have a name in it that a client made up: none ends the
/// line, and begins another that nobody told, or commands a terminal. Messages are the program's own, and may have lines.
fn said(to: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let name = field.name();
    if name == "message" {
        return write!(Fit { to, lines: true }, "{value:?}");
    }
    if to.has_ansi_escapes() {
        write!(to, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?;
    } else {
        write!(to, "{name}=")?;
    }
    write!(Fit { to, lines: false }, "{value:?}")
}

/// Writes a text of which nothing is obeyed.
struct Fit<'a, 'w> {
    to: &'a mut Writer<'w>,
    /// It may have lines.
    lines: bool,
}

impl Write for Fit<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(is_harmful) {
            let last = part.chars().next_back().filter(|c| is_harmful(*c) && !(self.lines && *c == '\n'));
            match last {
                None => self.to.write_str(part)?,
                Some(harmful) => {
                    self.to.write_str(part.strip_suffix(harmful).unwrap_or(part))?;
                    write!(self.to, "{}", harmful.escape_default())?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(text: &str, lines: bool) -> String {
        let mut out = String::new();
        Fit { to: &mut Writer::new(&mut out), lines }.write_str(text).unwrap();
        out
    }

    #[test]
    fn a_value_is_a_part_of_its_line_whatever_is_in_it() {
        assert_eq!(
            fit("export `a\nINFO x\u{1b}[31m\u{202e}\u{9b}é\t`", false),
            "export `a\\nINFO x\\u{1b}[31m\\u{202e}\\u{9b}é\\t`"
        );
        assert_eq!(fit("", false), "");
        assert_eq!(fit("one\ntwo\u{1b}", true), "one\ntwo\\u{1b}");
    }
}
