//! Lines through a real subscriber, and a clock that the tests move.

use nbd_gateway_metrics::Metrics;
use tracing::Metadata;
use tracing::callsite::Callsite;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format;
use tracing_subscriber::layer::SubscriberExt;

use super::*;

/// Two places in the program.
struct Place;

impl Callsite for Place {
    fn set_interest(&self, _: tracing::subscriber::Interest) {}
    fn metadata(&self) -> &Metadata<'_> {
        unreachable!("only told apart by its address")
    }
}

static HERE: [(u8, Place); 2] = [(0, Place), (1, Place)];

fn place(n: usize) -> Identifier {
    Identifier(&HERE[n].1)
}

fn bound() -> (Bound, IntCounter) {
    let suppressed = Metrics::new("0").unwrap().log_suppressed();
    (Bound::new(suppressed.clone()).unwrap(), suppressed)
}

fn at(seconds: u64) -> Moment {
    Moment::from_elapsed(Duration::from_secs(seconds))
}

fn export(number: u64) -> Cause {
    Cause { export: Some(number), tenant: Some(1), ..Cause::default() }
}

#[test]
fn a_flood_about_one_export_leaves_the_lines_about_others_alone_and_says_how_many_are_missing() {
    let (bound, suppressed) = bound();
    let shown = |cause, now| bound.admit(&place(0), cause, at(now));
    assert_eq!((0..1000).filter(|_| shown(export(1), 0).is_some()).count(), 20);
    assert_eq!((shown(export(2), 0), suppressed.get()), (Some(0), 980));
    // Five seconds pay for one line.
    assert_eq!((shown(export(1), 4), shown(export(1), 5), shown(export(1), 5)), (None, Some(981), None));
}

#[test]
fn names_that_a_tenant_makes_up_share_the_bound_of_the_tenant() {
    let (bound, _) = bound();
    let shown = |tenant, name| {
        let cause = Cause { export: Some(name), tenant: Some(tenant), ..Cause::default() };
        bound.admit(&place(0), cause, at(0)).is_some()
    };
    assert_eq!((0..5000).filter(|name| shown(1, *name)).count(), 200);
    assert!(shown(2, 9000), "another tenant");
}

#[test]
fn a_client_that_has_opened_nothing_is_known_by_its_address_whatever_name_it_says() {
    let (bound, _) = bound();
    let shown = |address, name| {
        let (listener, of_client) = (Some(7), true);
        let cause = Cause { export: Some(name), tenant: None, listener, address: Some(address), of_client };
        bound.admit(&place(0), cause, at(0)).is_some()
    };
    assert_eq!((0..100).filter(|name| shown(1, *name)).count(), 20);
    assert!(shown(2, 5));
}

#[test]
fn places_in_the_program_are_bounded_one_by_one_and_never_together() {
    let (bound, _) = bound();
    assert_eq!(
        (0..5000).filter(|n| bound.admit(&place(0), Cause { tenant: None, ..export(*n) }, at(0)).is_some()).count(),
        1000
    );
    assert_eq!(bound.admit(&place(1), export(1), at(0)), Some(0));
}

#[test]
fn what_is_kept_is_bounded_and_what_is_forgotten_is_told_with_the_next_line() {
    let (bound, suppressed) = bound();
    let mut shown = 0;
    for name in 0..100_000 {
        shown += u64::from(bound.admit(&place(0), Cause { tenant: Some(name), ..export(name) }, at(0)).is_some());
        assert!(bound.state.lock().known.len() <= MOST + 2);
    }
    assert_eq!(shown + suppressed.get(), 100_000);
    // All of them are paid off by then.
    let told = bound.admit(&place(0), export(1), at(86_400));
    assert_eq!(told, Some(suppressed.get()));
    assert!(bound.state.lock().known.len() < 10);
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Written {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// What is logged by sessions of many addresses that open two exports, and by an operator.
fn log_of(run: impl Fn(), json: bool) -> String {
    let (bound, _) = bound();
    let (bound, written) = (Arc::new(bound), Written::default());
    let causes = Causes(Arc::clone(&bound));
    let to = written.clone();
    if json {
        let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(to);
        let lines = lines.map_event_format(|inner| Bounded { inner, bound, json });
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines.and_then(causes)), run);
    } else {
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(to);
        let lines = lines.map_event_format(|inner: format::Format| Bounded { inner, bound, json });
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines.and_then(causes)), run);
    }
    String::from_utf8(std::mem::take(&mut *written.0.lock())).unwrap()
}

fn sessions() {
    for port in 0..100 {
        let (peer, listener) = (format!("192.0.2.1:{port}"), "l");
        let none = tracing::field::Empty;
        let span = tracing::error_span!(
            "session",
            session = port,
            peer,
            listener,
            export = none,
            tenant = tracing::field::Empty
        );
        span.in_scope(|| tracing::info!("handshake failed"));
        span.record("export", if port % 2 == 0 { "even" } else { "odd" }).record("tenant", "t");
        span.in_scope(|| tracing::info!("session opened"));
        tracing::info!(target: ORDERED, "an operator asks");
    }
}

#[test]
fn the_fields_of_a_line_and_of_its_spans_say_whom_it_is_about() {
    for json in [false, true] {
        let log = log_of(sessions, json);
        let lines = |words: &str| log.lines().filter(|line| line.contains(words)).count();
        assert_eq!(
            (lines("handshake failed"), lines("session opened"), lines("an operator asks")),
            (20, 40, 100),
            "{log}"
        );
    }
}

#[test]
fn the_next_line_has_the_number_of_those_left_out() {
    let flood = || {
        for _ in 0..30 {
            tracing::info!(export = "e", "again");
        }
    };
    // The bound has a clock of its own: a line of another cause is told the same way.
    for json in [false, true] {
        let (bound, _) = bound();
        let (bound, written) = (Arc::new(bound), Written::default());
        let all = Arc::clone(&bound);
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(written.clone());
        let run = || {
            flood();
            // As if the bound of the export had been forgotten.
            for (Key(_, which), kept) in &mut all.state.lock().known {
                kept.limiter = Limiter::new(kept.limiter.rate(), at(0));
                assert!(*which != Which::All || kept.not_shown == 0);
            }
            flood();
        };
        if json {
            let lines = lines.json().flatten_event(true).map_event_format(|inner| Bounded { inner, bound, json });
            tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), run);
        } else {
            let lines = lines.map_event_format(|inner| Bounded { inner, bound, json });
            tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), run);
        }
        let log = String::from_utf8(written.0.lock().clone()).unwrap();
        let told: Vec<&str> = log.lines().filter(|line| line.contains("not_shown")).collect();
        let wanted = if json { ",\"not_shown\":10}" } else { " not_shown=10" };
        assert!(told.len() == 1 && told[0].ends_with(wanted), "{log}");
        assert!(!json || log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{log}");
    }
}
