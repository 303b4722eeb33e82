//! `nbd-gateway client …`: a small NBD client for people and scripts.
//!
//! Owns the command line of its commands and what they print. Speaks to a server only through `connect`, so that every
//! command negotiates alike, keeps to the server's block sizes, and names the server's errors alike.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use nbd_gateway_config::{NbdUri, Size};

mod connect;
mod fault;
mod info;
mod pieces;
mod read;
mod size;
#[cfg(test)]
mod tests;
mod write;

pub use fault::ClientFault;

/// What to do with which server.
#[derive(Clone, Debug, Subcommand)]
pub enum ClientCommand {
    /// Show what an export is and what was negotiated
    Info(About),
    /// Print an export's size in bytes
    Size(About),
    /// Read a range of an export to a file or to stdout
    Read(ReadArgs),
    /// Write a file or stdin to an export, then flush
    Write(WriteArgs),
}

/// A question about an export.
#[derive(Clone, Debug, Args)]
pub struct About {
    /// The export: nbd://HOST:PORT/EXPORT or nbd+unix:///EXPORT?socket=PATH
    pub uri: NbdUri,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What to read, and where to.
#[derive(Clone, Debug, Args)]
pub struct ReadArgs {
    /// The export: nbd://HOST:PORT/EXPORT or nbd+unix:///EXPORT?socket=PATH
    pub uri: NbdUri,
    /// Where to start, like 4096 or 1GiB
    #[arg(long, default_value = "0")]
    pub offset: Size,
    /// How much to read; without it, up to the end
    #[arg(long)]
    pub length: Option<Size>,
    /// The file to write to, replaced if it exists; without it, stdout
    #[arg(long)]
    pub output: Option<PathBuf>,
}

/// What to write, and where to.
#[derive(Clone, Debug, Args)]
pub struct WriteArgs {
    /// The export: nbd://HOST:PORT/EXPORT or nbd+unix:///EXPORT?socket=PATH
    pub uri: NbdUri,
    /// Where to start, like 4096 or 1GiB
    #[arg(long, default_value = "0")]
    pub offset: Size,
    /// The file to read from; without it, stdin
    #[arg(long)]
    pub input: Option<PathBuf>,
}

impl ClientCommand {
    /// Does it, and prints what came of it to stdout.
    ///
    /// Files, stdin and stdout are read and written where the task stands: nothing else runs on this runtime.
    pub async fn run(self) -> Result<(), ClientFault> {
        match self {
            Self::Info(about) => print(&info::run(&about).await?),
            Self::Size(about) => print(&size::run(&about).await?),
            Self::Read(args) => read::run(&args).await,
            Self::Write(args) => print(&write::run(&args).await?),
        }
    }
}

/// Prints whole lines. Unlike `println!`, a reader that went away is an error and no panic.
fn print(text: &str) -> Result<(), ClientFault> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|cause| ClientFault::local("stdout", cause))
}
