//! What an operator asks of a gateway that runs: the words that speak to its admin interface.

use std::path::PathBuf;

use clap::Args;

use super::Change;

/// Where the gateway is, and how to print.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Admin {
    /// The gateway's admin interface: http://HOST:PORT, or unix:PATH
    #[arg(long = "admin", value_name = "URL", env = "NBD_GATEWAY_ADMIN", default_value = "http://127.0.0.1:9809")]
    pub url: String,
    /// The file with the token of admin.token-file; needed for what changes something
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
    #[arg(value_name = "SIZE")]
    pub size: Change,
    /// Take the backend for what it is now: SIZE is what it has, and what it has lost is lost
    #[arg(long)]
    pub adopt: bool,
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
