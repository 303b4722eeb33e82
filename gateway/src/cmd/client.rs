//! `nbd-gateway client …`: a small NBD client for people and scripts.
//!
//! Owns what its commands do and print; how they are written is in `cli`. Speaks to a server only
//! through `connect`, so that every command negotiates alike, keeps to the server's block sizes, and names its errors alike.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cmd::cli::ClientCommand;

mod connect;
mod fault;
mod grow;
mod info;
pub(crate) mod parts;
mod pieces;
mod read;
mod resize;
mod sink;
mod size;
pub(crate) mod sizes;
#[cfg(test)]
mod tests;
pub(crate) mod voice;
mod watch;
mod write;

pub use fault::ClientFault;
use voice::Voice;

/// Runs a client command on a runtime of its own.
pub fn main(mut command: ClientCommand, certificates: Option<PathBuf>) -> ExitCode {
    if let Some(directory) = certificates {
        match command.uri_mut().tls_mut() {
            Some(tls) => tls.certificates = Some(directory),
            None => {
                eprintln!("nbd-gateway: --tls-certificates is for URIs that ask for TLS: use nbds:// or nbds+unix://");
                return ExitCode::from(super::USAGE);
            }
        }
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return super::failed(&error),
    };
    match runtime.block_on(run(&command)) {
        Ok(()) => ExitCode::from(super::DONE),
        // `client read URI | head`: whoever reads has seen enough.
        Err(fault) if fault.is_unread() => ExitCode::from(super::FAILED),
        Err(fault) => super::failed(&fault),
    }
}

/// Does it, and prints what came of it to stdout.
///
/// Files, stdin and stdout are read and written where the task stands: nothing else should run on this runtime.
pub async fn run(command: &ClientCommand) -> Result<(), ClientFault> {
    let (mut stdout, mut stderr) = (std::io::stdout(), std::io::stderr());
    let mut voice = Voice::new(&mut stdout, &mut stderr);
    match command {
        ClientCommand::Info(ask) => voice.print(&info::run(ask).await?),
        ClientCommand::Size(ask) => size::run(&ask.uri, ask.json, &mut voice).await,
        ClientCommand::Resize(args) => resize::run(&args.uri, &args.into(), args.json, &mut voice).await,
        ClientCommand::Watch(args) => watch::run(&args.uri, &args.into(), args.json, &mut voice).await,
        ClientCommand::Read(args) => read::run(args).await,
        ClientCommand::Write(args) => voice.print(&write::run(args).await?),
    }
}
