//! Each thing of a configuration as keys and values. A field that is added to the model does not compile until it is here.

use nbd_gateway_policy::access;
use nbd_gateway_policy::export::ExportPolicy;
use nbd_gateway_policy::quota::TenantLimits;
use nbd_gateway_policy::types;

use std::sync::Arc;

use super::super::backend::{Backend, Target};
use super::super::export::{Entry, Fence, OnBackendLoss};
use super::super::{
    Arrivals, Config, Crowd, Driver, Hook, IoRates, Limits, Listener, ListenerTls, Log, Qmp, Rates, Resize, Tenant, Way,
};
use super::words::{client, offer, rate, size, size_rate, text, time};

/// Keys in the order of the file, each once.
#[derive(Default)]
pub(super) struct Facts(pub(super) Vec<Fact>);

/// One key; of a value that is absent there may be none, or one without value.
pub(super) struct Fact {
    pub(super) key: String,
    pub(super) value: Option<String>,
    pub(super) secret: bool,
}

impl Facts {
    fn say(&mut self, key: impl Into<String>, value: impl Into<Option<String>>) {
        self.0.push(Fact { key: key.into(), value: value.into(), secret: false });
    }

    /// What is compared and never told.
    fn keep(&mut self, key: impl Into<String>, value: String) {
        self.0.push(Fact { key: key.into(), value: Some(value), secret: true });
    }
}

pub(super) fn state(config: &Config, facts: &mut Facts) {
    facts.say("state", text(config.state.to_string_lossy()));
}

pub(super) fn admin(config: &Config, facts: &mut Facts) {
    facts.say("address", config.admin.as_ref().map_or_else(|| "off".to_owned(), ToString::to_string));
    facts.say("token-file", config.token_file.as_ref().map(|path| text(path.to_string_lossy())));
}

pub(super) fn log(log: &Log, facts: &mut Facts) {
    let Log { format, level, otlp } = log;
    facts.say("format", format.as_str().to_owned());
    facts.say("level", level.as_str().to_owned());
    facts.say("otlp", otlp.as_deref().map(text));
}

pub(super) fn runtime(config: &Config, facts: &mut Facts) {
    facts.say("threads", config.threads.map(|threads| threads.to_string()));
}

/// The bounds of the process, and those that tenants and exports take from it.
pub(super) fn global(limits: &Limits, facts: &mut Facts) {
    facts.say("handshake-timeout", time(limits.handshake_timeout));
    facts.say("option-length", size(limits.option_length.into()));
    facts.say("sessions-per-listener", limits.sessions_per_listener.to_string());
    let Arrivals { backlog, handshakes, keepalive } = limits.arrivals;
    facts.say("handshakes-per-listener", handshakes.to_string());
    facts.say("listen-backlog", backlog.to_string());
    facts.say("tcp-keepalive", time(keepalive));
    bounds(limits, "", facts);
    facts.say("tenant-bytes", size(limits.tenant_bytes));
    facts.say("drain-timeout", time(limits.drain_timeout));
}

/// What each level can state.
fn bounds(limits: &Limits, prefix: &str, facts: &mut Facts) {
    let Limits {
        // Global.
        handshake_timeout: _,
        option_length: _,
        sessions_per_listener: _,
        drain_timeout: _,
        arrivals: _,
        // Of a tenant, or of an export.
        tenant_bytes: _,
        tenant_io: _,
        export_io: _,
        export_notices: _,
        session_requests,
        session_bytes,
        largest_payload,
        session_io,
        session_notices,
    } = limits;
    facts.say(format!("{prefix}session-requests"), session_requests.to_string());
    facts.say(format!("{prefix}session-bytes"), size(*session_bytes));
    facts.say(format!("{prefix}largest-payload"), size((*largest_payload).into()));
    io(session_io, &format!("{prefix}session-io"), facts);
    facts.say(format!("{prefix}session-notice-rate"), session_notices.map(rate));
}

fn io(rates: &IoRates, prefix: &str, facts: &mut Facts) {
    let IoRates { requests, reads, writes, bytes, bytes_read, bytes_written } = *rates;
    for (key, requests) in [("iops", requests), ("read-iops", reads), ("write-iops", writes)] {
        facts.say(format!("{prefix}.{key}"), requests.map(rate));
    }
    for (key, bytes) in [("bandwidth", bytes), ("read-bandwidth", bytes_read), ("write-bandwidth", bytes_written)] {
        facts.say(format!("{prefix}.{key}"), bytes.map(size_rate));
    }
}

pub(super) fn listener(listener: &Listener, facts: &mut Facts) {
    let Listener { address: _, tls } = listener;
    match tls {
        ListenerTls::Off => facts.say("tls", "off".to_owned()),
        ListenerTls::On { require, certificates, verify_peer } => {
            facts.say("tls", if *require { "require" } else { "allow" }.to_owned());
            facts.say("tls-certificates", text(certificates.to_string_lossy()));
            facts.say("tls-verify-peer", verify_peer.to_string());
        }
    }
}

pub(super) fn tenant(tenant: &Tenant, clients: Option<&[Arc<access::Entry>]>, facts: &mut Facts) {
    let Tenant { id: _, limits, allowance, rates, crowd } = tenant;
    let TenantLimits { quota, soft_quota, largest_export, enforce } = allowance;
    let Rates { resize, growth, notice } = rates;
    // `enforce` is one key for both.
    let Crowd { exports, sessions, session_rate, enforce: _ } = crowd;
    facts.say("quota", quota.map(|bytes| size(bytes.0)));
    facts.say("soft-quota", soft_quota.map(|bytes| size(bytes.0)));
    facts.say("largest-export", largest_export.map(|most| size(most.bytes())));
    facts.say("resize-rate", resize.map(rate));
    facts.say("growth-rate", growth.map(size_rate));
    facts.say("notice-rate", notice.map(rate));
    facts.say("max-exports", exports.map(|most| most.to_string()));
    facts.say("max-sessions", sessions.map(|most| most.to_string()));
    facts.say("session-rate", session_rate.map(rate));
    facts.say("enforce", enforce.to_string());
    // An empty list is another thing than none: nobody may do anything then.
    facts.say("clients", clients.map(|entries| format!("{} entries", entries.len())));
    for (at, entry) in clients.unwrap_or_default().iter().enumerate() {
        facts.say(format!("clients[{at}]"), client(entry));
    }
    bounds(limits, "limits.", facts);
    facts.say("limits.tenant-bytes", size(limits.tenant_bytes));
    io(&limits.tenant_io, "limits.io", facts);
}

pub(super) fn export(entry: &Entry, facts: &mut Facts) {
    let Entry {
        name: _,
        template: _,
        tenant,
        backend: target,
        description,
        read_only,
        lanes,
        on_backend_loss,
        late_write_guard,
        fence,
        read_ahead,
        dial_timeout,
        idle_timeout,
        resize,
        notify,
        limits,
    } = entry;
    facts.say("tenant", tenant.to_string());
    backend(target, facts);
    facts.say("description", description.as_ref().map(text));
    facts.say("read-only", read_only.to_string());
    facts.say("lanes", lanes.to_string());
    facts.say(
        "on-backend-loss",
        match on_backend_loss {
            OnBackendLoss::Error => "error".to_owned(),
            OnBackendLoss::Hold { time: hold, durable } => format!("{{hold = {}, durable = {durable}}}", time(*hold)),
        },
    );
    facts.say("late-write-guard", time(*late_write_guard));
    match fence {
        Fence::Driver => {}
        Fence::Off => facts.say("fence", "off".to_owned()),
        Fence::Command(command) => facts.keep("fence", format!("{command:?}")),
    }
    facts.say("read-ahead", read_ahead.map(|bytes| bytes.to_string()));
    facts.say("dial-timeout", time(*dial_timeout));
    facts.say("idle-timeout", time(*idle_timeout));
    sizes(resize, facts);
    for (at, hook) in notify.iter().enumerate() {
        told(hook, &format!("notify[{at}]"), facts);
    }
    bounds(limits, "limits.", facts);
    facts.say("limits.notice-rate", limits.export_notices.map(rate));
    io(&limits.export_io, "limits.io", facts);
}

fn backend(target: &Target, facts: &mut Facts) {
    // Of a template, with its blanks: they are no name that could not be filled in.
    let (said, length) = match target.fill("{}") {
        _ if let Target::File { path, size } = target => (format!("file:{}", path.fill("{}")), *size),
        Ok(Backend::File { path, size, .. }) => (format!("file:{}", path.display()), size),
        Ok(Backend::Memory { size }) => ("memory:".to_owned(), Some(size)),
        Ok(Backend::Nbd(uri)) => (uri.to_string().replace("%7B%7D", "{}"), None),
        Err(_) => (format!("{target:?}"), None),
    };
    facts.say("backend", said);
    if let Some(length) = length {
        facts.say("size", length.written());
    }
}

fn sizes(resize: &Resize, facts: &mut Facts) {
    let Resize { driver, policy, shrink_grace, poll, timeout, growth_wait, backend_notice_rate, backend_notice_rest } =
        resize;
    let ExportPolicy {
        automatic,
        ceiling,
        shrink,
        over_quota,
        external,
        publish,
        min_size,
        max_size,
        granularity,
        step,
        max_step,
        exclusive,
        // The export's own key says it.
        read_only: _,
        offer: offered,
    } = policy;
    facts.say("max-size", (*max_size < types::Size::MAX).then(|| size(max_size.bytes())));
    how(driver, facts);
    facts.say("resize.automatic", automatic.as_str().to_owned());
    facts.say("resize.present", if *ceiling { "ceiling" } else { "actual" }.to_owned());
    facts.say("resize.step", size(step.0));
    facts.say("resize.max-step", max_step.map(|most| size(most.0)));
    facts.say("resize.granularity", size(granularity.bytes()));
    facts.say("resize.min-size", size(min_size.bytes()));
    facts.say("resize.shrink", shrink.to_string());
    facts.say("resize.shrink-grace", time(*shrink_grace));
    facts.say("resize.over-quota", over_quota.as_str().to_owned());
    facts.say("resize.poll", poll.map_or_else(|| "off".to_owned(), time));
    facts.say("resize.timeout", time(*timeout));
    facts.say("resize.growth-wait", time(*growth_wait));
    facts.say("resize.external", external.as_str().to_owned());
    facts.say("resize.publish", publish.as_str().to_owned());
    facts.say("resize.backend-notice-rate", backend_notice_rate.map(rate));
    facts.say("resize.backend-notice-rest", time(*backend_notice_rest));
    facts.say("resize.exclusive", exclusive.to_string());
    facts.say("resize.offer", offer(*offered));
}

fn how(driver: &Driver, facts: &mut Facts) {
    facts.say("resize.driver", driver.key().unwrap_or("the gateway's own").to_owned());
    let path = |path: &std::path::Path| text(path.to_string_lossy());
    match driver {
        Driver::Origin | Driver::Wire | Driver::Automatic | Driver::None => {}
        Driver::Window { size: shown } => facts.say("size", size(shown.bytes())),
        Driver::File { path: file } => facts.say("resize.path", path(file)),
        Driver::Qmp(Qmp { socket, node, export }) => {
            facts.say("resize.socket", path(socket));
            facts.say("resize.node", text(node));
            facts.say("resize.export", text(export));
        }
        Driver::Restart { path: file, command } => {
            facts.say("resize.path", file.as_deref().map(path));
            facts.keep("resize.command", format!("{command:?}"));
        }
        Driver::Exec { command } => facts.keep("resize.command", format!("{command:?}")),
    }
}

fn told(hook: &Hook, prefix: &str, facts: &mut Facts) {
    let Hook { way, timeout } = hook;
    match way {
        Way::Qmp { socket, node } => {
            facts.say(format!("{prefix}.qmp"), text(socket.to_string_lossy()));
            facts.say(format!("{prefix}.node"), text(node));
        }
        Way::Http { url } => facts.keep(format!("{prefix}.http"), url.clone()),
        Way::Exec { command } => facts.keep(format!("{prefix}.exec"), format!("{command:?}")),
    }
    facts.say(format!("{prefix}.timeout"), time(*timeout));
}
