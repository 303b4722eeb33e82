//! From the shapes of the file to the model: every value and every combination is checked, every problem told.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nbd_gateway_policy::access::Access;
use nbd_gateway_policy::types::{ExportName, Size};

use crate::problem::{Report, nearest};
use crate::raw::notify::RawNotify;
use crate::raw::resize::RawDriver;
use crate::raw::{RawAdmin, RawConfig, RawExport, RawHold, RawListener, RawLog, RawLoss};
use crate::units::Interval;
use crate::uri::{UriError, has_tilde};

use super::address::{AdminAddress, ListenAddress};
use super::backend::{BackendError, Target};
use super::clients::Listeners;
use super::export::{DIAL_TIMEOUT, Entry, Exports, Fence, IDLE_TIMEOUT, LATE_WRITE_GUARD, Name, OnBackendLoss};
use super::limits::{LimitOverrides, Limits};
use super::notify::{Hook, url_fault};
use super::place::Reserved;
use super::resize::{Facts, NOTHING_FOR_EMBEDDED, Resize};
use super::section::Section;
use super::template::Template;
use super::tenant::{Tenant, Tenants};
use super::tls::{self, Listener};
use super::{Config, Log, circle, clash, embedded, tenant};

/// The whole configuration. None only if something was noted.
pub(super) fn config(raw: RawConfig, file: &Path, report: &mut Report) -> Option<Config> {
    let state = state(raw.state, report);
    let limits = Limits::read(raw.limits.unwrap_or_default(), &mut Section::new("limits", report));
    let token_file = token_file(raw.admin.as_ref(), report);
    let admin = admin(raw.admin, token_file.is_some(), report);
    let written = Listeners::written(raw.listener.as_deref());
    let listeners = listeners(raw.listener.unwrap_or_default(), admin.as_ref(), report);
    let tenants = tenant::read(raw.tenant, limits, &written, report);
    let mut reserved = Reserved::new(&state, file, token_file.as_deref(), &listeners, admin.as_ref());
    let exports = exports(raw.export.unwrap_or_default(), &tenants, &state, &listeners, &mut reserved, report);
    let threads = raw.runtime.unwrap_or_default().threads;
    let threads = Section::new("runtime", report).count("threads", threads, 1..=1024).and_then(nonzero);
    let log = log(&raw.log.unwrap_or_default(), &mut Section::new("log", report));
    report.is_empty().then_some(Config {
        state,
        listeners,
        admin,
        token_file,
        limits,
        log,
        threads,
        access: Access::new(tenants.clients),
        tenants: tenants.list,
        exports,
        reserved,
    })
}

fn state(raw: Option<String>, report: &mut Report) -> PathBuf {
    let state = raw.unwrap_or_else(|| embedded::STATE.to_owned());
    if state.is_empty() || state.contains('\0') || state.contains("{}") {
        report.note("state", "this has to be a directory: not empty, and without NUL or `{}`");
    } else if has_tilde(Path::new(&state)) {
        report.note("state", UriError::Tilde(state.clone()));
    }
    state.into()
}

fn token_file(raw: Option<&RawAdmin>, report: &mut Report) -> Option<PathBuf> {
    let path = raw?.token_file.as_ref()?;
    if path.is_empty() || path.contains('\0') {
        report.note("admin.token-file", "this has to be the path of a file");
    } else if has_tilde(Path::new(path)) {
        report.note("admin.token-file", UriError::Tilde(path.clone()));
    }
    Some(path.into())
}

fn admin(raw: Option<RawAdmin>, token: bool, report: &mut Report) -> Option<AdminAddress> {
    let Some(text) = raw.and_then(|raw| raw.address) else { return Some(embedded::admin()) };
    let mut section = Section::new("admin", report);
    let address = section.accept("address", AdminAddress::read(&text)).flatten()?;
    if address.is_open() && !token {
        section.note(
            "address",
            format_args!(
                "`{text}` can be reached from other hosts: set token-file, or use a loopback address or unix:PATH"
            ),
        );
    }
    Some(address)
}

fn listeners(raw: Vec<RawListener>, admin: Option<&AdminAddress>, report: &mut Report) -> Vec<Listener> {
    if raw.is_empty() {
        let example = "[[listener]]\naddress = \"0.0.0.0:10809\"";
        Section::new("", report).missing_with("listener", "at least one listener is needed", example);
    }
    let mut listeners: Vec<Listener> = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let mut section = Section::new(format!("listener[{index}]"), report);
        let tls = tls::listener(&raw, &mut section);
        let Some(text) = section.required("address", raw.address) else { continue };
        let Some(address) = section.accept("address", ListenAddress::read(&text)) else { continue };
        let clash = listeners.iter().find(|other| address.clashes(&other.address));
        if clash.is_some_and(|other| other.address == address) {
            section.note("address", format_args!("`{address}` stands twice: one socket cannot be bound two times"));
        } else if let Some(other) = clash {
            let other = &other.address;
            section
                .note("address", format_args!("`{address}` and `{other}` cannot be bound both: one covers the other"));
        } else if admin.is_some_and(|admin| address.clashes(&admin.as_listener())) {
            section
                .note("address", format_args!("`{address}` is the address of the admin interface too: choose another"));
        } else {
            listeners.extend(tls.map(|tls| Listener { address, tls }));
        }
    }
    listeners
}

fn exports(
    raw: Vec<RawExport>,
    tenants: &Tenants,
    state: &Path,
    listeners: &[Listener],
    reserved: &mut Reserved,
    report: &mut Report,
) -> Exports {
    if raw.is_empty() {
        let example = "[[export]]\nname = \"vm1\"\nbackend = \"nbd://10.0.0.5:10809/vm1\"";
        Section::new("", report).missing_with("export", "at least one export is needed", example);
    }
    let mut names: Vec<(usize, Name)> = Vec::new();
    let mut entries: Vec<(usize, Entry)> = Vec::new();
    for (index, mut raw) in raw.into_iter().enumerate() {
        let mut section = Section::new(format!("export[{index}]"), report);
        let name = section.required("name", raw.name.take()).and_then(|name| export_name(&name, &mut section));
        names.extend(name.clone().map(|name| (index, name)));
        entries.extend(export(name, raw, tenants, state, &mut section).map(|entry| (index, entry)));
    }
    clash::names(&names, report);
    entries.iter().for_each(|(_, entry)| reserved.add(entry));
    clash::files(&entries, reserved, report);
    clash::windows(&entries, report);
    clash::crowds(&entries, tenants, report);
    let names = names.into_iter().map(|(index, name)| match name {
        Name::Exact(name) => (index, name.as_str().to_owned()),
        Name::Template(template) => (index, template.name_of("x")),
    });
    let exports = Exports::new(entries.into_iter().map(|(_, entry)| entry));
    circle::note(&names.collect::<Vec<_>>(), &exports, listeners, report);
    exports
}

/// One entry, or None and what is wrong with it. Its name was read before, so that a clash of names is told whatever
/// else is wrong.
fn export(
    name: Option<Name>,
    raw: RawExport,
    tenants: &Tenants,
    state: &Path,
    section: &mut Section<'_>,
) -> Option<Entry> {
    let tenant = tenant_of(raw.tenant, tenants, section);
    let size: Option<Size> = section.size_in("size", raw.size.as_ref(), 1..=Size::MAX.bytes());
    let max_size: Option<Size> = section.size_in("max-size", raw.max_size.as_ref(), 1..=Size::MAX.bytes());
    let backend = section.required("backend", raw.backend);
    let embedded = backend.as_deref().is_some_and(|text| text.starts_with("file:") || text.starts_with("memory:"));
    let dialled = backend.is_some() && !embedded;
    let window = dialled && raw.resize.as_ref().is_some_and(|resize| resize.driver == Some(RawDriver::Window));
    if dialled && !window && raw.size.is_some() {
        section.note("size", "an NBD server says its own size: leave this out, or use file: or memory:");
    }
    if window && raw.size.is_none() {
        section.missing("size", "a window needs a size: how much of the backend is shown at first");
    }
    let lanes = section.count("lanes", raw.lanes, 1..=64);
    if embedded {
        if lanes.is_some_and(|lanes| lanes > 1) {
            section.note_with("lanes", "a file: or memory: backend has no connections: leave this out", "lanes = 1");
        }
        section.note_stated(|key| {
            let idle = match key {
                "on-backend-loss" | "late-write-guard" | "fence" | "read-ahead" | "dial-timeout" => true,
                // What the configuration names is open as long as the gateway runs; a template's are closed like others.
                "idle-timeout" => !matches!(name, Some(Name::Template(_))),
                _ => false,
            };
            idle.then_some(NOTHING_FOR_EMBEDDED)
        });
    }
    let on_backend_loss = loss(raw.on_backend_loss, section);
    let guard_range = Interval::from_millis(0)..=Interval::from_secs(3600);
    let late_write_guard = section.interval("late-write-guard", raw.late_write_guard.as_deref(), guard_range);
    let fence = Fence::read(raw.fence.as_ref(), section);
    let dial_range = Interval::from_millis(1)..=Interval::from_secs(600);
    let dial_timeout = section.interval("dial-timeout", raw.dial_timeout.as_deref(), dial_range);
    let idle_range = Interval::from_millis(0)..=Interval::from_secs(24 * 3600);
    let idle_timeout = section.interval("idle-timeout", raw.idle_timeout.as_deref(), idle_range);
    let read_only = raw.read_only.unwrap_or(false);
    let facts = Facts { embedded, read_only, size: size.filter(|_| embedded || window), max_size };
    let resize = Resize::read(&raw.resize.unwrap_or_default(), &facts, section);
    let read_ahead = section.size_in("read-ahead", raw.read_ahead.as_ref(), 1 << 20..=1 << 30);
    if dialled && read_ahead.is_some() && !resize.policy.exclusive {
        let what = "what was read ahead would be old where somebody else changes the server's disk: say `exclusive = true` \
                    in [export.resize] if only this gateway does, or leave this out";
        section.note_with("read-ahead", what, None);
    }
    let notify = hooks(&raw.notify.unwrap_or_default(), section);
    let own = LimitOverrides::of_export(&raw.limits.unwrap_or_default(), &mut section.inner("limits"));
    let limits = tenant.map(|tenant| tenant.limits).unwrap_or_default().with(&own);
    if tenant.is_some() {
        limits.check(&own, &mut section.inner("limits"));
    }
    let (name, backend) = (name?, backend?);
    let mut target = match Target::read(&backend, matches!(name, Name::Template(_)), size, state) {
        Ok(target) => target,
        Err(BackendError::MemoryWithoutSize) => {
            section.missing("size", BackendError::MemoryWithoutSize);
            return None;
        }
        Err(fault) if matches!(name, Name::Template(_)) => {
            section.note_with("backend", fault, r#"backend = "nbd://10.0.0.5/{}""#);
            return None;
        }
        Err(fault) => {
            section.note("backend", fault);
            return None;
        }
    };
    if matches!(name, Name::Template(_)) && resize.driver.lacks_blank() {
        section.inner("resize").note("driver", BackendError::DriverWithoutBlank);
    }
    let secure = tls::backend(raw.tls_certificates, raw.tls_hostname, &mut target, section);
    Some(Entry {
        template: matches!(name, Name::Template(_)).then(|| name.as_str().to_owned()),
        name,
        backend: secure.then_some(target)?,
        tenant: tenant?.id.clone(),
        description: raw.description,
        read_only,
        lanes: lanes.and_then(nonzero).unwrap_or(NonZeroUsize::MIN),
        on_backend_loss,
        late_write_guard: late_write_guard.unwrap_or(LATE_WRITE_GUARD),
        fence,
        read_ahead,
        dial_timeout: dial_timeout.unwrap_or(DIAL_TIMEOUT),
        idle_timeout: idle_timeout.unwrap_or(IDLE_TIMEOUT),
        resize,
        notify,
        limits,
    })
}

fn hooks(raw: &[RawNotify], section: &mut Section<'_>) -> Vec<Hook> {
    let read = |(index, hook)| Hook::read(hook, &mut section.entry("notify", index));
    raw.iter().enumerate().filter_map(read).collect()
}

fn export_name(text: &str, section: &mut Section<'_>) -> Option<Name> {
    let name = section.accept("name", ExportName::new(text))?;
    if !text.contains('*') {
        return Some(Name::Exact(name));
    }
    let template = Template::new(text).map(Name::Template);
    if template.is_none() {
        section.note("name", format_args!("`{text}` has more than one `*`: a template has exactly one"));
    }
    template
}

fn tenant_of<'a>(name: Option<String>, tenants: &'a Tenants, section: &mut Section<'_>) -> Option<&'a Tenant> {
    let Some(name) = name else {
        if tenants.declared {
            let names =
                if tenants.names.is_empty() { String::new() } else { format!(": {}", tenants.names.join(", ")) };
            section.missing("tenant", format_args!("say which tenant this export belongs to{names}"));
            return None;
        }
        return tenants.list.first();
    };
    let found = tenants.list.iter().find(|tenant| tenant.id.as_str() == name);
    if found.is_none() && !tenants.declared {
        let example = format!("[[tenant]]\nname = {name:?}");
        section.note_with(
            "tenant",
            format_args!("there is no tenant `{name}`, for none is declared"),
            example.as_str(),
        );
    } else if found.is_none() && !tenants.names.contains(&name) {
        let meant = match nearest(&name, tenants.names.iter().map(String::as_str)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("declared are {}", tenants.names.join(", ")),
        };
        section.note_with("tenant", format_args!("there is no tenant `{name}`; {meant}"), None);
    }
    found
}

fn loss(raw: Option<RawLoss>, section: &mut Section<'_>) -> OnBackendLoss {
    match raw {
        None => OnBackendLoss::default(),
        Some(RawLoss::Word(_)) => OnBackendLoss::Error,
        Some(RawLoss::Hold(RawHold { hold, durable })) => {
            let range = Interval::from_millis(1)..=Interval::from_secs(24 * 3600);
            let time = section.inner("on-backend-loss").interval("hold", hold.as_deref(), range);
            let time = time.unwrap_or(Duration::from_secs(30));
            OnBackendLoss::Hold { time, durable: durable.unwrap_or(false) }
        }
    }
}

fn log(raw: &RawLog, section: &mut Section<'_>) -> Log {
    if let Some(url) = &raw.otlp
        && let Some(why) = url_fault(url)
    {
        let what = format_args!("`{url}` is not a collector that can be told: {why}; as http://HOST[:PORT]");
        section.note("otlp", what);
    }
    Log {
        otlp: raw.otlp.as_ref().map(|url| url.trim_end_matches('/').to_owned()),
        format: raw.format.map(|word| word.0).unwrap_or_default(),
        level: raw.level.map(|word| word.0).unwrap_or_default(),
    }
}

fn nonzero(number: u32) -> Option<NonZeroUsize> {
    usize::try_from(number).ok().and_then(NonZeroUsize::new)
}
