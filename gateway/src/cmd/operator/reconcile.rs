//! `nbd-gateway ledger reconcile`: what the ledger has on record, beside what there is.

use super::ask::{Ask, AskError};
use super::shown::{bound, brief, plain};
use super::table::{Cell, Column, Style, Terminal, painted, render};
use crate::admin::view::{self, AccountView, Reconciled};
use crate::cmd::cli::Reconcile;

/// Has it done, and shows it. Whether all agrees.
pub(super) fn run(args: &Reconcile, terminal: Terminal) -> Result<bool, AskError> {
    let order = view::Reconcile { apply: args.apply };
    let told = Ask::of(&args.admin)?.order("/api/v1/ledger/reconcile", Some(&order))?;
    let agrees = told.read::<Reconciled>()?.agrees;
    told.print(args.admin.json, |all: Reconciled| shown(&all, terminal))?;
    Ok(agrees)
}

fn shown(all: &Reconciled, terminal: Terminal) -> String {
    if all.exports.is_empty() {
        return "the ledger has no exports\n".to_owned();
    }
    let columns = [
        Column::Name("EXPORT"),
        Column::Name("TENANT"),
        Column::Number("RECORD"),
        Column::Number("NOW"),
        Column::Number("DRIFT"),
        Column::Number("HELD"),
        Column::Number("UNSETTLED"),
        Column::Word("STATE"),
    ];
    let row = |account: &AccountView| {
        let unsettled = if account.unsettled > 0 { Style::Warning } else { Style::Plain };
        [
            plain(&account.name).into(),
            plain(&account.tenant).into(),
            brief(account.record).into(),
            bound(account.measured).into(),
            account.drift.map_or_else(|| "-".to_owned(), |drift| drift.to_string()).into(),
            brief(account.reserved).into(),
            Cell::styled(brief(account.unsettled), unsettled),
            Cell::styled(plain(&account.state), style(&account.state)),
        ]
    };
    let mut text = render(columns, &all.exports.iter().map(row).collect::<Vec<_>>(), terminal);
    let noted = all.exports.iter().filter_map(|account| Some((account, account.note.as_ref()?)));
    for (at, (account, note)) in noted.enumerate() {
        if at == 0 {
            text.push('\n');
        }
        let line = format!("{}: {}", plain(&account.name), plain(note));
        text.push_str(&painted(&line, style(&account.state), terminal.colours));
        text.push('\n');
    }
    text
}

fn style(state: &str) -> Style {
    match state {
        "agrees" | "corrected" | "forgotten" => Style::Plain,
        "drifted" => Style::Alert,
        _ => Style::Warning,
    }
}
