//! The lists: what an operator wants to see of many at a glance, and a line for each that needs a look.

use nbd_gateway_policy::access::Verb;
use nbd_gateway_policy::types::Bytes;

use super::shown::{bound, brief, moment, plain};
use super::table::{Cell, Column, Style, Terminal, painted, render};
use crate::admin::view::{ExportView, SessionView, TenantView};

/// The exports that are open.
pub(super) fn exports(list: &[ExportView], terminal: Terminal) -> String {
    if list.is_empty() {
        return "no export is open: no client uses one\n".to_owned();
    }
    let columns = [
        Column::Name("EXPORT"),
        Column::Name("TENANT"),
        Column::Number("SIZE"),
        Column::Number("DISK"),
        Column::Number("MAX"),
        Column::Word("STATE"),
        Column::Word("BACKEND"),
        Column::Word("GROWS"),
        Column::Number("CLIENTS"),
    ];
    let row = |export: &ExportView| {
        [
            plain(&export.name).into(),
            plain(&export.tenant).into(),
            brief(export.size).into(),
            brief(export.disk).into(),
            bound(export.max_size).into(),
            Cell::styled(plain(&export.standing), style(&export.standing)),
            Cell::styled(plain(&export.health.state), health(&export.health.state)),
            plain(&export.grows).into(),
            export.sessions.to_string().into(),
        ]
    };
    let mut text = render(columns, &list.iter().map(row).collect::<Vec<_>>(), terminal);
    let notes = list.iter().flat_map(|export| {
        let ill = health(&export.health.state);
        let ailing = (ill != Style::Plain).then_some((&export.name, &export.health.says, ill));
        export.note.iter().map(|note| (&export.name, note, style(&export.standing))).chain(ailing)
    });
    for (at, (name, note, style)) in notes.enumerate() {
        if at == 0 {
            text.push('\n');
        }
        text.push_str(&painted(&format!("{}: {}", plain(name), plain(note)), style, terminal.colours));
        text.push('\n');
    }
    text
}

/// The tenants.
pub(super) fn tenants(list: &[TenantView], terminal: Terminal) -> String {
    let columns = [
        Column::Name("TENANT"),
        Column::Number("QUOTA"),
        Column::Number("USED"),
        Column::Number("RESERVED"),
        Column::Number("UNSETTLED"),
        Column::Number("LEFT"),
        Column::Number("EXPORTS"),
    ];
    let row = |tenant: &TenantView| {
        let held = tenant.used.saturating_add(tenant.reserved).saturating_add(tenant.unsettled);
        let soft = tenant.soft_quota.is_some_and(|soft| held > soft);
        let style = match (tenant.over_quota, soft) {
            (true, _) => Style::Alert,
            (false, true) => Style::Warning,
            (false, false) => Style::Plain,
        };
        let unsettled = if tenant.unsettled > 0 { Style::Warning } else { Style::Plain };
        [
            plain(&tenant.name).into(),
            bound(tenant.quota).into(),
            Cell::styled(brief(tenant.used), style),
            brief(tenant.reserved).into(),
            Cell::styled(brief(tenant.unsettled), unsettled),
            Cell::styled(bound(tenant.quota.map(|quota| quota.saturating_sub(held))), style),
            tenant.exports.to_string().into(),
        ]
    };
    let mut text = render(columns, &list.iter().map(row).collect::<Vec<_>>(), terminal);
    let unmeasured = list.iter().filter(|tenant| tenant.unmeasured_exports > 0).map(|tenant| {
        let count = tenant.unmeasured_exports;
        let line = format!(
            "{}: unmeasured exports: {count}; they count nothing until their servers answer",
            plain(&tenant.name)
        );
        painted(&line, Style::Warning, terminal.colours)
    });
    let noted =
        list.iter().filter_map(|tenant| Some(format!("{}: {}", plain(&tenant.name), plain(tenant.note.as_ref()?))));
    for (at, line) in unmeasured.chain(noted).enumerate() {
        if at == 0 {
            text.push('\n');
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// What a tenant may have now, and what there is to know of that.
pub(super) fn allowance(tenant: &TenantView) -> String {
    let name = plain(&tenant.name);
    let quota = tenant.quota.map_or_else(|| "as much as there is".to_owned(), |quota| Bytes(quota).to_string());
    let mut text = match tenant.soft_quota {
        Some(soft) => format!("{name} may have {quota} now, and the gateway warns from {} on\n", Bytes(soft)),
        None => format!("{name} may have {quota} now\n"),
    };
    if tenant.over_quota {
        let held = tenant.used.saturating_add(tenant.reserved).saturating_add(tenant.unsettled);
        text.push_str(&format!("it has {} already: nothing shrinks, and nothing of it grows\n", Bytes(held)));
    }
    if let Some(note) = &tenant.note {
        text.push_str(&format!("{}\n", plain(note)));
    }
    text
}

/// The clients.
pub(super) fn sessions(list: &[SessionView], terminal: Terminal) -> String {
    if list.is_empty() {
        return "no client is connected\n".to_owned();
    }
    let columns = [
        Column::Number("ID"),
        Column::Name("EXPORT"),
        Column::Name("TENANT"),
        Column::Name("CLIENT"),
        Column::Name("MAY"),
        Column::Number("KNOWS"),
        Column::Word("RESIZE"),
        Column::Word("REPLIES"),
        Column::Word("TLS"),
        Column::Word("SINCE (UTC)"),
        Column::Name("LISTENER"),
    ];
    let row = |session: &SessionView| {
        [
            session.id.to_string().into(),
            plain(&session.export).into(),
            plain(&session.tenant).into(),
            plain(&session.peer).into(),
            may(session).into(),
            brief(session.size).into(),
            plain(&session.style).into(),
            plain(&session.framing).into(),
            if session.tls { "yes" } else { "no" }.into(),
            moment(session.since.saturating_mul(1000)).into(),
            plain(&session.listener).into(),
        ]
    };
    render(columns, &list.iter().map(row).collect::<Vec<_>>(), terminal)
}

/// What a client may do; all of it is the rule.
fn may(session: &SessionView) -> String {
    if session.verbs.len() == Verb::ALL.len() { "all".to_owned() } else { plain(&session.verbs.join(" ")) }
}

/// How much a backend's health matters.
pub(super) fn health(state: &str) -> Style {
    match state {
        "up" | "embedded" => Style::Plain,
        "down" => Style::Alert,
        _ => Style::Warning,
    }
}

/// How much a standing matters.
pub(super) fn style(standing: &str) -> Style {
    match standing {
        "ready" => Style::Plain,
        "quarantined" => Style::Alert,
        _ => Style::Warning,
    }
}
