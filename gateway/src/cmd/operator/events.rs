//! `nbd-gateway events`: what has become of sizes, and with `--follow` what becomes of them from now on.
//!
//! Follows the gateway's stream. Where that ends or falls silent, because the gateway is started anew or the network is
//! gone, it comes back with the number of the last event that it has shown: nothing is lost or shown twice in between.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use super::ask::{Ask, AskError, escaped, runtime, unanswered};
use super::shown::{brief, moment, plain};
use super::stream::Stream;
use super::table::{Cell, Style, Table, Terminal, painted};
use crate::admin::view::EventView;
use crate::cmd::cli::Events;
use crate::http::Method;

/// How long to wait before coming back.
const PACE: Duration = Duration::from_secs(1);
/// A stream that says nothing for so long is not there any more: the gateway says something each 15 s.
const SILENCE: Duration = Duration::from_secs(45);

pub(super) fn show(args: &Events, terminal: Terminal) -> Result<(), AskError> {
    Ask::of(&args.admin)?.ask(Method::GET, &path(args), None)?.print(args.admin.json, |list: Vec<EventView>| {
        match (list.is_empty(), args.limit) {
            (true, 0) => "no events shown: --limit is 0; with --follow it shows only new ones\n".to_owned(),
            (true, _) => "nothing has happened to a size\n".to_owned(),
            (false, _) => table(&list, terminal),
        }
    })
}

/// Shows those that there are, then each that comes. Ends when it may not ask any more, or nobody reads.
pub(super) fn follow(args: &Events, terminal: Terminal) -> Result<(), AskError> {
    let asked = Ask::of(&args.admin)?;
    let path = path(args);
    let show = |data: &str| shown(data, args.admin.json, terminal);
    runtime()?.block_on(async {
        let mut follower = Follower { asked, path, last: None, begun: false, away: false };
        loop {
            match follower.follow(&show).await {
                Ended::Unread => return Ok(()),
                Ended::For(fault) if !follower.begun => return Err(fault),
                Ended::For(fault) if let Some(why) = lost(&fault) => {
                    if !std::mem::replace(&mut follower.away, true) {
                        crate::cmd::complain(&format_args!(
                            "nbd-gateway: the gateway is lost: {}; waiting until it is back",
                            plain(&why)
                        ));
                    }
                }
                Ended::For(fault) => return Err(fault),
            }
            tokio::time::sleep(PACE).await;
        }
    })
}

/// What was in the way, if it may be out of the way soon.
fn lost(fault: &AskError) -> Option<String> {
    match fault {
        AskError::Unreached(error) | AskError::Slow(error) => Some(error.to_string()),
        AskError::Stranger(why) | AskError::NotNow(why) => Some(why.clone()),
        AskError::Usage(_)
        | AskError::Token { .. }
        | AskError::NoToken
        | AskError::WrongToken { .. }
        | AskError::Refused(_)
        | AskError::Start(_)
        | AskError::Stdout(_) => None,
    }
}

/// Who follows, from one stream to the next.
struct Follower<'a> {
    asked: Ask<'a>,
    path: String,
    /// The last event that was shown.
    last: Option<u64>,
    /// There was a stream once.
    begun: bool,
    /// It is known to be lost.
    away: bool,
}

/// Why a stream is followed no further.
enum Ended {
    /// Nobody reads what is printed.
    Unread,
    /// Something else.
    For(AskError),
}

impl From<String> for Ended {
    fn from(why: String) -> Self {
        Self::For(AskError::Stranger(why))
    }
}

impl Follower<'_> {
    /// Follows one stream to its end.
    async fn follow(&mut self, show: &impl Fn(&str) -> Result<(), Ended>) -> Ended {
        let mut answer = match self.asked.follow(&self.path, self.last).await {
            Ok(answer) => answer,
            Err(fault) => return Ended::For(fault),
        };
        self.begun = true;
        if std::mem::take(&mut self.away) {
            crate::cmd::complain(&format_args!("nbd-gateway: the gateway is back"));
        }
        let mut stream = Stream::after(self.last);
        loop {
            match answer.next(SILENCE).await {
                Err(error) => return Ended::For(unanswered(error)),
                Ok(None) => return Ended::For(AskError::NotNow("it has ended the stream".to_owned())),
                Ok(Some(bytes)) => {
                    let read = stream.read(&bytes, show);
                    self.last = stream.last();
                    if let Err(ended) = read {
                        return ended;
                    }
                }
            }
        }
    }
}

/// Prints one.
fn shown(data: &str, json: bool, terminal: Terminal) -> Result<(), Ended> {
    let stranger = |error: serde_json::Error| format!("the stream has something else than events: {error}");
    let text = if json { data.to_owned() } else { line(&serde_json::from_str(data).map_err(stranger)?, terminal) };
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Ended::Unread),
        Err(error) => Err(Ended::For(AskError::Stdout(error))),
        Ok(()) => Ok(()),
    }
}

fn path(args: &Events) -> String {
    let mut path = format!("/api/v1/events?limit={}", args.limit);
    for (name, value) in [("export", &args.export), ("tenant", &args.tenant), ("kind", &args.kind)] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", escaped(value)));
        }
    }
    for (name, value) in [("after", args.after), ("before", args.before)] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", value.seen_now()));
        }
    }
    path
}

fn table(list: &[EventView], terminal: Terminal) -> String {
    Table::of(list)
        .word("WHEN (UTC)", |event| moment(event.at))
        .word("WHAT", |event| Cell::styled(plain(&event.kind), style(&event.kind)))
        .name("EXPORT", |event| named(event.export.as_deref()))
        .name("TENANT", |event| named(event.tenant.as_deref()))
        .number("FROM", |event| event.old_size.map_or_else(String::new, brief))
        .number("TO", |event| event.new_size.map_or_else(String::new, brief))
        .name("WHY", |event| plain(&event.detail))
        .render(terminal)
}

/// One by itself: what will come after it is not known, so nothing is lined up.
fn line(event: &EventView, terminal: Terminal) -> String {
    let mut line = format!(
        "{}  {}  {}",
        moment(event.at),
        painted(&plain(&event.kind), style(&event.kind), terminal.colours),
        named(event.export.as_deref().or(event.tenant.as_deref()))
    );
    if let (Some(old), Some(new)) = (event.old_size, event.new_size) {
        line.push_str(&if old == new {
            format!("  {}", brief(new))
        } else {
            format!("  {} -> {}", brief(old), brief(new))
        });
    }
    line.push_str("  ");
    line.push_str(&plain(&event.detail));
    line
}

fn named(name: Option<&str>) -> String {
    name.map_or_else(|| "-".to_owned(), plain)
}

fn style(kind: &str) -> Style {
    match kind {
        "quarantined" => Style::Alert,
        "refused" | "unsettled" | "outside" | "soft-quota" => Style::Warning,
        _ => Style::Plain,
    }
}
