//! `nbd-gateway events`: what has become of sizes, and with `--follow` what becomes of them from now on.
//!
//! Follows by asking for what came after the last one, every second: nothing is lost or shown twice in between, however
//! long a pause was, a restart of the gateway included.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use nbd_gateway_config::cli::Events;

use super::ask::{Ask, AskFault, escaped};
use super::shown::{moment, plain, size};
use super::table::{Cell, Column, Mood, Screen, painted, render};
use crate::admin::view::EventView;

/// How often to ask for new ones.
const PACE: Duration = Duration::from_secs(1);
/// How many new ones to ask for at a time.
const MOST: u32 = 1000;

/// Shows those that there are.
pub(super) fn show(args: &Events, screen: Screen) -> Result<(), AskFault> {
    Ask::of(&args.admin)?.look(&path(args, None, args.limit))?.print(args.admin.json, |list: Vec<EventView>| {
        if list.is_empty() { "nothing has happened to a size\n".to_owned() } else { table(&list, screen) }
    })
}

/// Shows those that there are, then each that comes. Ends when it can't ask any more, or nobody reads.
pub(super) fn follow(args: &Events, screen: Screen) -> Result<(), AskFault> {
    let asked = Ask::of(&args.admin)?;
    let mut list: Vec<EventView> = asked.look(&path(args, None, args.limit))?.read()?;
    let mut last = 0;
    loop {
        let mut out = std::io::stdout().lock();
        for event in &list {
            last = event.id;
            let line = if args.admin.json {
                serde_json::to_string(event).map_err(|error| AskFault::Stranger(error.to_string()))?
            } else {
                line(event, screen)
            };
            match writeln!(out, "{line}").and_then(|()| out.flush()) {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => return Err(AskFault::Stdout(error)),
                Ok(()) => {}
            }
        }
        drop(out);
        if list.len() < usize::try_from(MOST).unwrap_or(usize::MAX) {
            std::thread::sleep(PACE);
        }
        list = asked.look(&path(args, Some(last), MOST))?.read()?;
    }
}

fn path(args: &Events, since: Option<u64>, limit: u32) -> String {
    let mut path = format!("/api/v1/events?limit={limit}");
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
    if let Some(since) = since {
        path.push_str(&format!("&since={since}"));
    }
    path
}

fn table(list: &[EventView], screen: Screen) -> String {
    let columns = [
        Column::Word("WHEN (UTC)"),
        Column::Word("WHAT"),
        Column::Name("EXPORT"),
        Column::Name("TENANT"),
        Column::Number("FROM"),
        Column::Number("TO"),
        Column::Name("WHY"),
    ];
    let row = |event: &EventView| {
        [
            moment(event.at).into(),
            Cell::moody(plain(&event.kind), mood(&event.kind)),
            name(event.export.as_deref()).into(),
            name(event.tenant.as_deref()).into(),
            event.old_size.map_or_else(String::new, size).into(),
            event.new_size.map_or_else(String::new, size).into(),
            plain(&event.detail).into(),
        ]
    };
    render(columns, &list.iter().map(row).collect::<Vec<_>>(), screen)
}

/// One by itself: what will come after it is not known, so nothing is lined up.
fn line(event: &EventView, screen: Screen) -> String {
    let mut line = format!(
        "{}  {}  {}",
        moment(event.at),
        painted(&plain(&event.kind), mood(&event.kind), screen.colours),
        name(event.export.as_deref())
    );
    if let (Some(old), Some(new)) = (event.old_size, event.new_size) {
        line.push_str(&if old == new {
            format!("  {}", size(new))
        } else {
            format!("  {} -> {}", size(old), size(new))
        });
    }
    line.push_str("  ");
    line.push_str(&plain(&event.detail));
    line
}

fn name(name: Option<&str>) -> String {
    name.map_or_else(|| "-".to_owned(), plain)
}

fn mood(kind: &str) -> Mood {
    match kind {
        "quarantined" => Mood::Bad,
        "refused" | "unsettled" | "outside" | "soft-quota" => Mood::Odd,
        _ => Mood::Plain,
    }
}
