//! Where the log goes: lines to standard error, and, if the program was built so, spans to an OpenTelemetry collector.
//!
//! A span for each session and each export stands in every line that is told within it. Those of [`TRACES`] are for a
//! collector alone: a line within one shows the span around it.

use std::fmt::{self, Write};
use std::io::IsTerminal;

use nbd_gateway_config::{Log, LogFormat, LogLevel};
use tracing::Subscriber;
use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, reload};

#[cfg(feature = "otel")]
use super::otlp::Spans;
use crate::command::is_harmful;
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
        LogFormat::Human => {
            let lines = lines.with_ansi(std::io::stderr().is_terminal());
            lines.fmt_fields(debug_fn(said).delimited(" ")).with_filter(wanted).boxed()
        }
        LogFormat::Json => {
            let json = lines.json().flatten_event(true).with_current_span(true).with_span_list(false);
            json.with_filter(wanted).boxed()
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
