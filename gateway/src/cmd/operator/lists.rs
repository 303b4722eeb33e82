//! The lists: what an operator wants to see of many at a glance, and a line for each that needs a look.

use nbd_gateway_policy::access::Verb;

use super::shown::{bound, plain, size};
use super::table::{Cell, Column, Mood, Screen, painted, render};
use crate::admin::view::{ExportView, SessionView, TenantView};

/// The exports that are open.
pub(super) fn exports(list: &[ExportView], screen: Screen) -> String {
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
        Column::Word("GROWS"),
        Column::Number("CLIENTS"),
    ];
    let row = |export: &ExportView| {
        [
            plain(&export.name).into(),
            plain(&export.tenant).into(),
            size(export.size).into(),
            size(export.disk).into(),
            bound(export.max_size).into(),
            Cell::moody(plain(&export.standing), mood(&export.standing)),
            plain(&export.grows).into(),
            export.sessions.to_string().into(),
        ]
    };
    let mut text = render(columns, &list.iter().map(row).collect::<Vec<_>>(), screen);
    let noted = list.iter().filter_map(|export| Some((export, export.note.as_ref()?)));
    for (at, (export, note)) in noted.enumerate() {
        if at == 0 {
            text.push('\n');
        }
        let line = format!("{}: {}", plain(&export.name), plain(note));
        text.push_str(&painted(&line, mood(&export.standing), screen.colours));
        text.push('\n');
    }
    text
}

/// The tenants.
pub(super) fn tenants(list: &[TenantView], screen: Screen) -> String {
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
        let mood = match (tenant.over_quota, soft) {
            (true, _) => Mood::Bad,
            (false, true) => Mood::Odd,
            (false, false) => Mood::Plain,
        };
        let unsettled = if tenant.unsettled > 0 { Mood::Odd } else { Mood::Plain };
        [
            plain(&tenant.name).into(),
            bound(tenant.quota).into(),
            Cell::moody(size(tenant.used), mood),
            size(tenant.reserved).into(),
            Cell::moody(size(tenant.unsettled), unsettled),
            Cell::moody(bound(tenant.quota.map(|quota| quota.saturating_sub(held))), mood),
            tenant.exports.to_string().into(),
        ]
    };
    let mut text = render(columns, &list.iter().map(row).collect::<Vec<_>>(), screen);
    for (at, tenant) in list.iter().filter(|tenant| tenant.unmeasured_exports > 0).enumerate() {
        if at == 0 {
            text.push('\n');
        }
        let (name, count) = (plain(&tenant.name), tenant.unmeasured_exports);
        let line = format!("{name}: unmeasured exports: {count}; they count nothing until their servers answer");
        text.push_str(&painted(&line, Mood::Odd, screen.colours));
        text.push('\n');
    }
    text
}

/// The clients.
pub(super) fn sessions(list: &[SessionView], screen: Screen) -> String {
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
    ];
    let row = |session: &SessionView| {
        [
            session.id.to_string().into(),
            plain(&session.export).into(),
            plain(&session.tenant).into(),
            plain(&session.peer).into(),
            may(session).into(),
            size(session.size).into(),
            plain(&session.style).into(),
            plain(&session.framing).into(),
        ]
    };
    render(columns, &list.iter().map(row).collect::<Vec<_>>(), screen)
}

/// What a client may do; all of it is the rule.
fn may(session: &SessionView) -> String {
    if session.verbs.len() == Verb::ALL.len() { "all".to_owned() } else { plain(&session.verbs.join(" ")) }
}

/// How much a standing matters.
pub(super) fn mood(standing: &str) -> Mood {
    match standing {
        "ready" => Mood::Plain,
        "quarantined" => Mood::Bad,
        _ => Mood::Odd,
    }
}
