//! The table of cells, as it is and as the README shows it.

use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::backend::Backend;
use super::cell::outcome;
use super::event::Event;
use super::expect::{Unable, unable};
use super::style::Style;
use crate::shown_table::is_in_the_readme;

#[test]
fn the_table_in_the_readme_is_the_table_of_cells_that_pass() {
    is_in_the_readme("resize", &draw());
}

/// Runs the cells that nobody has run yet, several at once: each mostly waits for processes to start and end.
fn run_all() {
    let cells: Vec<_> = Backend::ALL
        .iter()
        .flat_map(|backend| Style::ALL.iter().map(move |style| (*style, *backend)))
        .flat_map(|(style, backend)| Event::ALL.iter().map(move |event| (style, backend, *event)))
        .collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((style, backend, event)) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // What came of it is kept for whoever asks.
                    let _ = outcome(*style, *backend, *event);
                }
            });
        }
    });
}

/// Backends down, clients across, a sign per event; what cannot be is a number, explained below.
fn draw() -> String {
    run_all();
    let mut notes: Vec<Unable> = Vec::new();
    let mut table = String::from("| backend |");
    for style in Style::ALL {
        write!(table, " {} |", style.label()).unwrap();
    }
    write!(table, "\n| --- |{}", " :-: |".repeat(Style::ALL.len())).unwrap();
    for backend in Backend::ALL {
        write!(table, "\n| {} |", backend.label()).unwrap();
        for style in Style::ALL {
            let signs: String = Event::ALL.iter().map(|event| sign(*style, *backend, *event, &mut notes)).collect();
            write!(table, " `{signs}` |").unwrap();
        }
    }
    table.push('\n');
    for (index, unable) in notes.iter().enumerate() {
        write!(table, "\n{}. {}", index + 1, unable.note()).unwrap();
    }
    table.push('\n');
    table
}

fn sign(style: Style, backend: Backend, event: Event, notes: &mut Vec<Unable>) -> String {
    match (outcome(style, backend, event), unable(style, backend, event)) {
        (Err(_), _) => "!".to_owned(),
        (Ok(()), None) => event.sign().to_string(),
        (Ok(()), Some(unable)) => {
            let known = notes.iter().position(|note| *note == unable).unwrap_or_else(|| {
                notes.push(unable);
                notes.len() - 1
            });
            (known + 1).to_string()
        }
    }
}
