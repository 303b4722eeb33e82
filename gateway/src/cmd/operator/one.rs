//! One export: all that there is to know of it, a line each, its connections to the backend, and its last resizes.

use std::time::Duration;

use nbd_gateway_policy::types::{Bytes, Span};

use super::lists::{health, style};
use super::shown::{moment, plain};
use super::table::{Cell, Column, Style, Terminal, painted, render};
use crate::admin::view::{ExportView, LaneView};
use crate::resize::jobs::{Job, JobState};

/// An export.
pub(super) fn export(export: &ExportView, terminal: Terminal) -> String {
    let say = |bytes: u64| Bytes(bytes).in_full();
    let style = style(&export.standing);
    let max = export.max_size.map_or_else(|| "no bound".to_owned(), say);
    let lines = [
        ("export", plain(&export.name)),
        ("tenant", plain(&export.tenant)),
        ("size", say(export.size)),
        ("backend has", say(export.disk)),
        ("may become", max),
        ("changes", export.generation.to_string()),
        ("state", painted(&plain(&export.standing), style, terminal.colours)),
        ("backend", format!("{}, driver {}", plain(&export.backend), plain(&export.driver))),
        ("health", painted(&plain(&export.health.state), health(&export.health.state), terminal.colours)),
        ("grows", plain(&export.grows)),
        ("tells", plain(&export.tells)),
        ("read-only", if export.read_only { "yes" } else { "no" }.to_owned()),
        ("clients", export.sessions.to_string()),
    ];
    let mut text: String = lines.iter().map(|(what, value)| format!("{what:<12} {value}\n")).collect();
    if let Some(note) = &export.note {
        text.push_str(&format!("\n{}\n", painted(&plain(note), style, terminal.colours)));
    }
    if !export.lanes.is_empty() {
        let says = painted(&plain(&export.health.says), health(&export.health.state), terminal.colours);
        let columns = [
            Column::Number("LANE"),
            Column::Word("STATE"),
            Column::Word("SINCE (UTC)"),
            Column::Number("RECONNECTS"),
            Column::Number("IN FLIGHT"),
            Column::Number("OLDEST"),
            Column::Name("BACKEND"),
            Column::Name("LAST ERROR"),
        ];
        let rows: Vec<_> = export.lanes.iter().map(lane).collect();
        text.push_str(&format!("\n{says}\n{}", render(columns, &rows, terminal)));
    }
    if !export.jobs.is_empty() {
        text.push('\n');
        let columns =
            [Column::Number("JOB"), Column::Word("STATE"), Column::Name("WISH"), Column::Name("WHAT CAME OF IT")];
        text.push_str(&render(columns, &export.jobs.iter().map(row).collect::<Vec<_>>(), terminal));
    }
    text
}

fn lane(lane: &LaneView) -> [Cell; 8] {
    [
        lane.number.to_string().into(),
        if lane.up { Cell::styled("up", Style::Plain) } else { Cell::styled("away", Style::Warning) },
        moment(lane.since.saturating_mul(1000)).into(),
        lane.reconnects.to_string().into(),
        lane.in_flight.to_string().into(),
        waited(lane.oldest_request_seconds).into(),
        plain(&lane.backend).into(),
        lane.last_error.as_deref().map_or_else(String::new, plain).into(),
    ]
}

/// How long the oldest request has waited.
fn waited(seconds: u64) -> String {
    if seconds == 0 { "-".to_owned() } else { Span(Duration::from_secs(seconds)).to_string() }
}

fn row(job: &Job) -> [Cell; 4] {
    let (state, style) = match job.state {
        JobState::Waiting => ("waiting", Style::Plain),
        JobState::Reserving => ("reserving", Style::Plain),
        JobState::AskingBackend => ("asking", Style::Plain),
        JobState::Draining => ("draining", Style::Plain),
        JobState::Settling => ("settling", Style::Plain),
        JobState::Done => ("done", Style::Plain),
        JobState::Refused => ("refused", Style::Warning),
        JobState::Unsettled => ("unsettled", Style::Alert),
    };
    let outcome = match (&job.error, job.size) {
        (Some(error), _) => plain(error),
        (None, Some(size)) => Bytes(size).to_string(),
        (None, None) => String::new(),
    };
    [job.id.to_string().into(), Cell::styled(state, style), plain(&job.wish).into(), outcome.into()]
}
