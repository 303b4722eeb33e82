//! How much the log takes of what clients and servers can cause at will. The one bound for all of it: it stands before the
//! subscriber's formatter, so that no line escapes it and no call site has a rate of its own.
//!
//! A line is told apart by the place in the program that logs it and by whom it is about: its export, or the listener and
//! the address of a client that has not opened one yet, and the tenant, from the line's own fields or from its spans. Of each
//! the log takes a burst, then a few lines a minute. The next line that is logged has a field `not_shown`: the number of
//! similar lines that were left out. `nbd_gateway_log_lines_suppressed_total` counts them at once.
//!
//! Lines with the target [`ORDERED`] have no bound: only an operator causes them.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt::{self, Write};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_metrics::IntCounter;
use nbd_gateway_net::escaped;
use nbd_gateway_policy::rate::{Limiter, Oversize, Rate, RateError};
use nbd_gateway_policy::types::Moment;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// The target of lines that only an operator can cause.
pub(crate) const ORDERED: &str = "nbd_gateway::ordered";

/// Of similar lines about one export (or one address at one listener): this many at once, then 12 a minute.
const OF_ONE: (u64, u64) = (20, 12);
/// About one tenant (or one listener): this many at once, then one a second.
const OF_SOME: (u64, u64) = (200, 60);
/// About everybody: this many at once (a host with a thousand exports may be restarted), then five a second.
const OF_ALL: (u64, u64) = (1000, 300);
/// How many bounds are kept at a time. Causes beyond share the wider bounds.
const MOST: usize = 8192;
/// The least time between two searches for bounds that are no longer needed.
const SWEEP: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Bound {
    start: Instant,
    rates: [Rate; 3],
    state: Mutex<State>,
    names: Names,
    suppressed: IntCounter,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<Key, Kept>,
    swept: Option<Moment>,
}

/// A place in the program, and which of its lines.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key(Identifier, Which);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Which {
    One(u64),
    Some(u64),
    All,
}

#[derive(Debug)]
struct Kept {
    limiter: Limiter,
    /// Lines that it kept out since one was logged.
    not_shown: u64,
}

/// Whom a line is about. Names are kept as hashes: a client may choose long ones, and many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cause {
    export: Option<u64>,
    tenant: Option<u64>,
    listener: Option<u64>,
    address: Option<u64>,
    /// The line is about a client, and the export in it a name that the client chose.
    of_client: bool,
}

impl Bound {
    /// Nothing was logged yet. `suppressed` counts the lines that are left out.
    pub(super) fn new(suppressed: IntCounter) -> Result<Self, RateError> {
        let rate = |(burst, a_minute)| Rate::new(a_minute, Duration::from_secs(60), burst, Oversize::Refuse);
        let rates = [rate(OF_ONE)?, rate(OF_SOME)?, rate(OF_ALL)?];
        Ok(Self { start: Instant::now(), rates, state: Mutex::default(), names: Names::default(), suppressed })
    }

    /// Whether a line of this place about `cause` is logged; if so, how many similar ones were left out before it.
    fn admit(&self, place: &Identifier, cause: Cause, now: Moment) -> Option<u64> {
        let [one, some, all] = self.rates;
        let export = cause.export.filter(|_| !cause.of_client);
        let whose = export.or_else(|| mixed(cause.listener, cause.address)).unwrap_or_default();
        let group = cause.tenant.or(cause.listener);
        let bounds = [(Some(Which::One(whose)), one), (group.map(Which::Some), some), (Some(Which::All), all)];
        let state = &mut *self.state.lock();
        if state.known.len() >= MOST {
            state.sweep(now);
        }
        for (which, rate) in bounds {
            let Some(which) = which else { continue };
            let key = Key(place.clone(), which);
            // There are only so many places in the program.
            if state.known.len() >= MOST && which != Which::All && !state.known.contains_key(&key) {
                continue;
            }
            let new = || Kept { limiter: Limiter::new(rate, now), not_shown: 0 };
            let kept = state.known.entry(key).or_insert_with(new);
            if kept.limiter.check(now, 1).is_err() {
                kept.not_shown = kept.not_shown.saturating_add(1);
                self.suppressed.inc();
                return None;
            }
        }
        let mut not_shown = 0_u64;
        for which in bounds.into_iter().filter_map(|(which, _)| which) {
            if let Some(kept) = state.known.get_mut(&Key(place.clone(), which)) {
                // It has just been found that there is room.
                let _ = kept.limiter.take(now, 1);
                not_shown = not_shown.saturating_add(std::mem::take(&mut kept.not_shown));
            }
        }
        Some(not_shown)
    }
}

impl State {
    /// Forgets the bounds that keep nothing out; what they have kept out is told with the next line of the place.
    fn sweep(&mut self, now: Moment) {
        if self.swept.is_some_and(|swept| now.since(swept) < SWEEP) {
            return;
        }
        self.swept = Some(now);
        let mut left = Vec::new();
        self.known.retain(|Key(place, which), kept| {
            let idle = *which != Which::All && kept.limiter.check(now, kept.limiter.rate().burst()).is_ok();
            if idle && kept.not_shown > 0 {
                left.push((place.clone(), kept.not_shown));
            }
            !idle
        });
        for (place, not_shown) in left {
            if let Some(all) = self.known.get_mut(&Key(place, Which::All)) {
                all.not_shown = all.not_shown.saturating_add(not_shown);
            }
        }
    }
}

fn mixed(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    (one.is_some() || other.is_some()).then(|| one.unwrap_or_default().rotate_left(1) ^ other.unwrap_or_default())
}

/// Makes a name a number that nobody outside can foresee.
#[derive(Clone, Debug, Default)]
struct Names(RandomState);

/// Finds the cause in the fields of a span or a line.
struct Finder<'a> {
    names: &'a Names,
    cause: &'a mut Cause,
}

impl Visit for Finder<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let place = match field.name() {
            "export" => &mut self.cause.export,
            "tenant" => &mut self.cause.tenant,
            "listener" => &mut self.cause.listener,
            "peer" => &mut self.cause.address,
            "client" => {
                self.cause.of_client = true;
                return;
            }
            _ => return,
        };
        let mut name = Name(self.names.0.build_hasher());
        // A hash takes everything.
        let _ = if field.name() == "peer" {
            let peer = format!("{value:?}");
            // The port is another one for each connection.
            name.write_str(peer.rsplit_once(':').map_or(&peer, |(address, _)| address))
        } else {
            write!(name, "{value:?}")
        };
        *place = Some(name.0.finish());
    }
}

/// Hashes what is written to it.
struct Name(<RandomState as BuildHasher>::Hasher);

impl Write for Name {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

/// Remembers whom each span is about.
#[derive(Debug)]
pub(super) struct Causes(pub(super) Arc<Bound>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Causes {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut cause = Cause::default();
        attributes.record(&mut Finder { names: &self.0.names, cause: &mut cause });
        if let Some(span) = context.span(id) {
            span.extensions_mut().replace(cause);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(cause) = span.extensions_mut().get_mut::<Cause>()
        {
            values.record(&mut Finder { names: &self.0.names, cause });
        }
    }
}

/// Formats the lines that the bound admits, and nothing for the others.
#[derive(Debug)]
pub(super) struct Bounded<F> {
    pub(super) inner: F,
    pub(super) bound: Arc<Bound>,
    /// Lines are JSON objects.
    pub(super) json: bool,
}

impl<S, N, F> FormatEvent<S, N> for Bounded<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let what = event.metadata();
        if what.target() == ORDERED {
            return self.inner.format_event(context, to, event);
        }
        let mut cause = Cause::default();
        event.record(&mut Finder { names: &self.bound.names, cause: &mut cause });
        for span in context.event_scope().into_iter().flatten() {
            if let Some(around) = span.extensions().get::<Cause>() {
                cause.export = cause.export.or(around.export);
                cause.tenant = cause.tenant.or(around.tenant);
                cause.listener = cause.listener.or(around.listener);
                cause.address = cause.address.or(around.address);
            }
        }
        let now = Moment::from_elapsed(self.bound.start.elapsed());
        let not_shown = match self.bound.admit(&what.callsite(), cause, now) {
            None => return Ok(()),
            Some(0) if !self.json => return self.inner.format_event(context, to, event),
            Some(not_shown) => not_shown,
        };
        let mut line = String::new();
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        let line = line.trim_end_matches('\n');
        match line.strip_suffix('}').filter(|_| self.json) {
            // JSON leaves characters as they are that a terminal obeys.
            Some(_) if not_shown == 0 => writeln!(to, "{}", escaped(line)),
            Some(open) => writeln!(to, "{},\"not_shown\":{not_shown}}}", escaped(open)),
            None => writeln!(to, "{line} not_shown={not_shown}"),
        }
    }
}

#[cfg(test)]
mod tests;
