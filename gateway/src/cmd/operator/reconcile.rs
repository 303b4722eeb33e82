//! `nbd-gateway ledger reconcile`: what the ledger has on record, beside what there is.

use serde_json::json;

use super::ask::{Ask, AskError};
use super::lists::unsettled;
use super::shown::{bound, brief, plain};
use super::table::{Cell, Style, Table, Terminal, note_below, painted};
use crate::admin::view::{self, AccountView, Reconciled};
use crate::cmd::cli::Reconcile;
use crate::http::Method;

/// Has it done, and shows it. Whether all agrees.
pub(super) fn run(args: &Reconcile, terminal: Terminal) -> Result<bool, AskError> {
    let order = json!(view::Reconcile { apply: args.apply });
    let told = Ask::of(&args.admin)?.ask(Method::POST, "/api/v1/ledger/reconcile", Some(order))?;
    let agrees = told.read::<Reconciled>()?.agrees;
    told.print(args.admin.json, |all: Reconciled| shown(&all, terminal))?;
    Ok(agrees)
}

fn shown(all: &Reconciled, terminal: Terminal) -> String {
    if all.exports.is_empty() {
        return "the ledger has no exports\n".to_owned();
    }
    let mut text = Table::of(&all.exports)
        .name("EXPORT", |account| plain(&account.name))
        .name("TENANT", |account| plain(&account.tenant))
        .number("RECORD", |account| brief(account.record))
        .number("NOW", |account| bound(account.measured))
        .number("DRIFT", |account| account.drift.map_or_else(|| "-".to_owned(), |drift| drift.to_string()))
        .number("HELD", |account| brief(account.reserved))
        .number("UNSETTLED", |account| unsettled(account.unsettled))
        .word("STATE", |account| Cell::styled(plain(&account.state), style(&account.state)))
        .render(terminal);
    let noted = all.exports.iter().filter_map(|account| Some((account, account.note.as_ref()?)));
    let line = |(account, note): (&AccountView, &String)| {
        let line = format!("{}: {}", plain(&account.name), plain(note));
        painted(&line, style(&account.state), terminal.colours)
    };
    note_below(&mut text, noted.map(line));
    text
}

fn style(state: &str) -> Style {
    match state {
        "agrees" | "corrected" | "forgotten" => Style::Plain,
        "drifted" => Style::Alert,
        _ => Style::Warning,
    }
}
