//! What an operator asks of a gateway that runs: the words that speak to its admin interface.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use nbd_gateway_config::{NewSize, When};

use super::Bound;

/// Where the gateway is, and how to print.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Admin {
    /// The gateway's admin interface: http://HOST:PORT, or unix:PATH
    #[arg(long = "admin", value_name = "URL", env = "NBD_GATEWAY_ADMIN", default_value = "http://127.0.0.1:9809")]
    pub url: String,
    /// The file with the token of admin.token-file; needed for what changes something. A gateway without a configuration
    /// has made one where it was started, nbd-gateway-data/token
    #[arg(long, value_name = "FILE", env = "NBD_GATEWAY_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Print the gateway's JSON, for programs; sizes are whole numbers, in bytes
    #[arg(long)]
    pub json: bool,
}

/// Which exports to show.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Exports {
    /// One export, with its last resizes; all that are open if absent
    #[arg(value_name = "EXPORT")]
    pub name: Option<String>,
    /// Where to ask.
    #[command(flatten)]
    pub admin: Admin,
}

/// What to list.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct List {
    /// Where to ask.
    #[command(flatten)]
    pub admin: Admin,
}

/// What to resize.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Order {
    /// The export, by its name
    #[arg(value_name = "EXPORT")]
    pub name: String,
    /// The new size, in bytes or like 10GiB; or how much more, like +1GiB
    #[arg(value_name = "SIZE", allow_hyphen_values = true)]
    pub size: NewSize,
    /// Take the backend for what it is now: SIZE is what it has, and what it has lost is lost
    #[arg(long)]
    pub adopt: bool,
    /// Where to ask.
    #[command(flatten)]
    pub admin: Admin,
}

/// What a tenant may have.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Quota {
    /// The tenant, by its name
    #[arg(value_name = "TENANT")]
    pub name: String,
    /// What its exports may sum to, in bytes or like 2TiB; none: as much as there is
    #[arg(value_name = "SIZE|none")]
    pub quota: Bound,
    /// A sum from which on the gateway warns, or none; stays as it is if absent
    #[arg(long = "soft", value_name = "SIZE|none")]
    pub soft: Option<Bound>,
    /// Where to ask.
    #[command(flatten)]
    pub admin: Admin,
}

/// What to show in full.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Publish {
    /// The export, by its name
    #[arg(value_name = "EXPORT")]
    pub name: String,
    /// Where to ask.
    #[command(flatten)]
    pub admin: Admin,
}

/// Which events to show.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Events {
    /// Only those of this export
    #[arg(long, value_name = "EXPORT")]
    pub export: Option<String>,
    /// Only those of this tenant
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Only those of this kind, like resized or refused
    #[arg(long, value_name = "KIND")]
    pub kind: Option<String>,
    /// Only those of this time and later: like 2026-11-23T14:30:00Z, 2026-11-23, 10m for 10 minutes ago, or in seconds
    /// since 1970. Where no zone is given it is UTC
    #[arg(long, value_name = "TIME")]
    pub after: Option<When>,
    /// Only those before this time
    #[arg(long, value_name = "TIME", conflicts_with = "follow")]
    pub before: Option<When>,
    /// The newest so many; 0, with --follow: only what comes from now on
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub limit: u32,
    /// Go on with each new one as it happens, until Ctrl-C, also when the gateway is started anew. With --json, one object
    /// a line
    #[arg(long)]
    pub follow: bool,
    /// Where to ask.
    #[command(flatten)]
    pub admin: Admin,
}

/// What can be done with the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum LedgerCommand {
    /// Measure every export of the ledger, and show where the size on record is another
    ///
    /// An export that nobody has open is opened for that, and counts at what it has from then on, as when a client opens
    /// it. With --apply those that are open count at what was measured too, and exports that the configuration no longer
    /// has are forgotten, unless bytes of them are still to be zeroed or a grow of them is of unknown outcome.
    ///
    /// Exit code 0: all agrees. 1: something does not, or could not be measured.
    Reconcile(Reconcile),
    /// Say what an export has, after an older copy of the ledger was restored
    ///
    /// A copy does not know what was shown, and zeroed, since it was made. So the exports of which it has a window, a size
    /// that is held back or bytes to be zeroed are not resized, and show no more than it knows, until this is said of each.
    Settle(Settle),
}

/// What to settle.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["zero", "keep"]))]
pub struct Settle {
    /// The export, by its name
    #[arg(value_name = "EXPORT")]
    pub name: String,
    /// The copy is right: what it has noted is zeroed, and what is past its window's end is nobody's
    #[arg(long)]
    pub zero: bool,
    /// What is there is the tenant's: nothing is zeroed. A window's size has to be said afterwards: nbd-gateway resize
    /// EXPORT SIZE --adopt
    #[arg(long)]
    pub keep: bool,
    /// Where to ask.
    #[command(flatten)]
    pub admin: Admin,
}

/// How to reconcile.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(group = ArgGroup::new("how").required(true).args(["dry_run", "apply"]))]
pub struct Reconcile {
    /// Only show
    #[arg(long)]
    pub dry_run: bool,
    /// Show, and make the ledger agree
    #[arg(long)]
    pub apply: bool,
    /// Where to ask.
    #[command(flatten)]
    pub admin: Admin,
}
