//! The lists: what an operator wants to see of many at a glance, and a line for each that needs a look.

use nbd_gateway_policy::access::Verb;
use nbd_gateway_policy::types::Bytes;

use super::shown::{bound, brief, moment, plain};
use super::table::{Cell, Style, Table, Terminal, note_below, painted};
use crate::admin::view::{ExportView, SessionView, TenantView};

/// The exports that are open.
pub(super) fn exports(list: &[ExportView], terminal: Terminal) -> String {
    if list.is_empty() {
        return "no export is open: no client uses one\n".to_owned();
    }
    let mut text = Table::of(list)
        .name("EXPORT", |export| plain(&export.name))
        .name("TENANT", |export| plain(&export.tenant))
        .number("SIZE", |export| brief(export.size))
        .number("DISK", |export| brief(export.disk))
        .number("MAX", |export| bound(export.max_size))
        .word("STATE", |export| Cell::styled(plain(&export.standing), style(&export.standing)))
        .word("BACKEND", |export| Cell::styled(plain(&export.health.state), health(&export.health.state)))
        .word("GROWS", |export| plain(&export.grows))
        .number("CLIENTS", |export| export.sessions.to_string())
        .render(terminal);
    let notes = list.iter().flat_map(|export| {
        let ill = health(&export.health.state);
        let ailing = (ill != Style::Plain).then_some((&export.name, &export.health.says, ill));
        export.note.iter().map(|note| (&export.name, note, style(&export.standing))).chain(ailing)
    });
    let line = |(name, note, style): (&String, &String, Style)| {
        painted(&format!("{}: {}", plain(name), plain(note)), style, terminal.colours)
    };
    note_below(&mut text, notes.map(line));
    text
}

pub(super) fn tenants(list: &[TenantView], terminal: Terminal) -> String {
    let held = |tenant: &TenantView| tenant.used.saturating_add(tenant.reserved).saturating_add(tenant.unsettled);
    let style = |tenant: &TenantView| match tenant.over_quota {
        true => Style::Alert,
        false if tenant.soft_quota.is_some_and(|soft| held(tenant) > soft) => Style::Warning,
        false => Style::Plain,
    };
    let left = |tenant: &TenantView| bound(tenant.quota.map(|quota| quota.saturating_sub(held(tenant))));
    let mut text = Table::of(list)
        .name("TENANT", |tenant| plain(&tenant.name))
        .number("QUOTA", |tenant| bound(tenant.quota))
        .number("USED", |tenant| Cell::styled(brief(tenant.used), style(tenant)))
        .number("RESERVED", |tenant| brief(tenant.reserved))
        .number("UNSETTLED", |tenant| unsettled(tenant.unsettled))
        .number("LEFT", |tenant| Cell::styled(left(tenant), style(tenant)))
        .number("EXPORTS", |tenant| tenant.exports.to_string())
        .render(terminal);
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
    note_below(&mut text, unmeasured.chain(noted));
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

pub(super) fn sessions(list: &[SessionView], terminal: Terminal) -> String {
    if list.is_empty() {
        return "no client is connected\n".to_owned();
    }
    Table::of(list)
        .number("ID", |session| session.id.to_string())
        .name("EXPORT", |session| plain(&session.export))
        .name("TENANT", |session| plain(&session.tenant))
        .name("CLIENT", |session| plain(&session.peer))
        .name("MAY", may)
        .number("KNOWS", |session| brief(session.size))
        .word("RESIZE", |session| plain(&session.style))
        .word("REPLIES", |session| plain(&session.framing))
        .word("TLS", |session| if session.tls { "yes" } else { "no" })
        .word("SINCE (UTC)", |session| moment(session.since.saturating_mul(1000)))
        .name("LISTENER", |session| plain(&session.listener))
        .render(terminal)
}

/// Bytes of which nobody knows whether they were got.
pub(super) fn unsettled(bytes: u64) -> Cell {
    Cell::styled(brief(bytes), if bytes > 0 { Style::Warning } else { Style::Plain })
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
