//! `nbd-gateway exports`, `tenants`, `sessions`, `events`, `resize`, `publish`, `quota`, `ledger`, `reload`, `drain`: an
//! operator's words to a gateway that runs.
//!
//! Owns what they print. How the gateway is asked, and what its refusals are in words, is `ask`'s; how a table fits a
//! terminal is `table`'s. What is printed with `--json` is what the gateway answered, byte for byte.

use std::io::Write;
use std::process::ExitCode;

use nbd_gateway_config::NewSize;
use nbd_gateway_policy::types::{Bytes, Count};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

mod ask;
mod events;
mod lists;
mod one;
mod reconcile;
mod shown;
mod stream;
mod table;

use ask::{Ask, AskError, escaped, part};
use table::Terminal;

use crate::admin::view::{
    self, Draining, ExportView, QuotaOrder, Reloaded, Resize, Resized, SessionView, TenantView, Wanted,
};
use crate::cmd::cli::{Admin, Bound, Events, Exports, List, Order, Publish, Quota, Reconcile, Settle};
use crate::http::Method;

/// The exports that are open, or one of them.
pub fn exports(args: &Exports) -> ExitCode {
    let (admin, terminal) = (&args.admin, Terminal::stdout());
    match &args.name {
        None => {
            asked(admin, Method::GET, "/api/v1/exports", None, |list: Vec<ExportView>| lists::exports(&list, terminal))
        }
        Some(name) => {
            let path = format!("/api/v1/exports/{}", part(name));
            asked(admin, Method::GET, &path, None, |export: ExportView| one::export(&export, terminal))
        }
    }
}

/// The tenants and what they use.
pub fn tenants(args: &List) -> ExitCode {
    let told = |list: Vec<TenantView>| lists::tenants(&list, Terminal::stdout());
    asked(&args.admin, Method::GET, "/api/v1/tenants", None, told)
}

/// The clients that are connected.
pub fn sessions(args: &List) -> ExitCode {
    let told = |list: Vec<SessionView>| lists::sessions(&list, Terminal::stdout());
    asked(&args.admin, Method::GET, "/api/v1/sessions", None, told)
}

/// What has become of sizes.
pub fn events(args: &Events) -> ExitCode {
    let terminal = Terminal::stdout();
    ended(if args.follow { events::follow(args, terminal) } else { events::show(args, terminal) })
}

/// Another size, or what the backend is.
pub fn resize(args: &Order) -> ExitCode {
    if args.adopt && matches!(args.size, NewSize::By(_)) {
        return super::misused(&format_args!(
            "nbd-gateway: --adopt takes the size that the backend has, without a `+`"
        ));
    }
    let size = match args.size {
        NewSize::To(size) => Wanted::Bytes(size.0),
        NewSize::By(_) => Wanted::Text(args.size.to_string()),
    };
    let path = format!("/api/v1/exports/{}/resize", part(&args.name));
    let order = json!(Resize { size, adopt: args.adopt });
    asked(&args.admin, Method::POST, &path, Some(order), |done: Resized| now(&args.name, &done))
}

/// All that the backend has.
pub fn publish(args: &Publish) -> ExitCode {
    let path = format!("/api/v1/exports/{}/publish", part(&args.name));
    asked(&args.admin, Method::POST, &path, None, |done: Resized| now(&args.name, &done))
}

/// Another quota.
pub fn quota(args: &Quota) -> ExitCode {
    let wanted = |bound: Bound| match bound {
        Bound::At(size) => Some(Wanted::Bytes(size.0)),
        Bound::None => None,
    };
    let order = json!(QuotaOrder { quota: Some(wanted(args.quota)), soft_quota: args.soft.map(wanted) });
    let path = format!("/api/v1/tenants/{}", escaped(&args.name));
    asked(&args.admin, Method::PATCH, &path, Some(order), |now: TenantView| lists::allowance(&now))
}

/// The ledger, beside what there is.
pub fn reconcile(args: &Reconcile) -> ExitCode {
    match reconcile::run(args, Terminal::stdout()) {
        Ok(false) => ExitCode::from(super::FAILED),
        done => ended(done.map(drop)),
    }
}

/// What an export has whose ledger is an older copy.
pub fn settle(args: &Settle) -> ExitCode {
    let path = format!("/api/v1/exports/{}/settle", part(&args.name));
    let order = json!(view::Settle { zero: args.zero });
    asked(&args.admin, Method::POST, &path, Some(order), |done: view::Settled| {
        let what = if done.zero { "what the ledger has noted is zeroed" } else { "what is there is kept" };
        format!("{}: {what}\n", shown::plain(&done.export))
    })
}

/// The configuration file.
pub fn reload(args: &List) -> ExitCode {
    asked(&args.admin, Method::POST, "/api/v1/reload", None, |reloaded: Reloaded| {
        if reloaded.changes.is_empty() {
            return "nothing has changed\n".to_owned();
        }
        reloaded.changes.iter().map(|change| format!("{}\n", shown::plain(change))).collect()
    })
}

/// The end.
pub fn drain(args: &List) -> ExitCode {
    asked(&args.admin, Method::POST, "/api/v1/drain", None, |draining: Draining| match draining.sessions {
        0 => "the gateway ends; nobody is connected\n".to_owned(),
        some => format!("the gateway shuts down after the requests of {} are answered\n", Count(some, "session")),
    })
}

fn now(name: &str, done: &Resized) -> String {
    let (name, size) = (shown::plain(name), Bytes(done.size));
    match done.unpublished {
        None => format!("{name} is now {size}\n"),
        Some(there) => format!("{name} has {} now; clients are shown {size} until that is published\n", Bytes(there)),
    }
}

fn asked<T: DeserializeOwned>(
    admin: &Admin,
    method: Method,
    path: &str,
    body: Option<Value>,
    told: impl FnOnce(T) -> String,
) -> ExitCode {
    ended(Ask::of(admin).and_then(|gateway| gateway.ask(method, path, body)?.print(admin.json, told)))
}

fn ended(done: Result<(), AskError>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::from(super::DONE),
        Err(AskError::Usage(error)) => super::misused(&format_args!("nbd-gateway: {error}")),
        // The gateway's own sentences have names in them that its clients made up.
        Err(fault) => super::failed(&shown::plain_lines(&fault.to_string())),
    }
}

/// A reader that went away is no failure of what was asked.
fn print(text: &str) -> Result<(), AskError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(AskError::Stdout(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}
