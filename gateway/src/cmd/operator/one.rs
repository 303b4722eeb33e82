//! One export: all that there is to know of it, a line each, its connections to the backend, and its last resizes.

use std::time::Duration;

use nbd_gateway_policy::types::{Bytes, Span};

use super::lists::{health, style};
use super::shown::{moment, plain};
use super::table::{Cell, Style, Table, Terminal, painted};
use crate::admin::view::ExportView;
use crate::resize::jobs::{Job, JobState};

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
        text.push_str(&format!(
            "\n{says}\n{}",
            Table::of(&export.lanes)
                .number("LANE", |lane| lane.number.to_string())
                .word("STATE", |lane| match lane.up {
                    true => Cell::from("up"),
                    false => Cell::styled("away", Style::Warning),
                })
                .word("SINCE (UTC)", |lane| moment(lane.since.saturating_mul(1000)))
                .number("RECONNECTS", |lane| lane.reconnects.to_string())
                .number("IN FLIGHT", |lane| lane.in_flight.to_string())
                .number("OLDEST", |lane| waited(lane.oldest_request_seconds))
                .name("BACKEND", |lane| plain(&lane.backend))
                .name("LAST ERROR", |lane| lane.last_error.as_deref().map_or_else(String::new, plain))
                .render(terminal)
        ));
    }
    if !export.jobs.is_empty() {
        text.push('\n');
        text.push_str(
            &Table::of(&export.jobs)
                .number("JOB", |job| job.id.to_string())
                .word("STATE", state)
                .name("WISH", |job| plain(&job.wish))
                .name("WHAT CAME OF IT", outcome)
                .render(terminal),
        );
    }
    text
}

/// How long the oldest request has waited.
fn waited(seconds: u64) -> String {
    if seconds == 0 { "-".to_owned() } else { Span(Duration::from_secs(seconds)).to_string() }
}

fn state(job: &Job) -> Cell {
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
    Cell::styled(state, style)
}

fn outcome(job: &Job) -> String {
    match (&job.error, job.size) {
        (Some(error), _) => plain(error),
        (None, Some(size)) => Bytes(size).to_string(),
        (None, None) => String::new(),
    }
}
