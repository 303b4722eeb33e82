//! Clients of NBD servers: what `nbd-gateway client` and `nbd-gateway agent` do.
//!
//! Builds without the gateway. Speaks to a server only through `connect`, so that every command negotiates alike, keeps to
//! the server's block sizes, and names its errors alike. The [agent](agent::run) is given by its caller what only the gateway
//! has: a page for its metrics, and a service manager to report to.

use std::path::PathBuf;
use std::process::ExitCode;

pub mod agent;
pub mod cli;
mod connect;
mod error;
pub mod exit;
mod grow;
mod info;
mod output;
mod parts;
mod pieces;
mod read;
mod resize;
mod sink;
mod size;
mod sizes;
#[cfg(test)]
mod tests;
mod watch;
mod write;

use cli::ClientCommand;
pub use error::ClientError;
use exit::{DONE, FAILED, USAGE, failed};
use output::Output;

/// Runs a client command on a runtime of its own.
pub fn run(mut command: ClientCommand, certificates: Option<PathBuf>) -> ExitCode {
    if let Some(directory) = certificates {
        match command.uri_mut().tls_mut() {
            Some(tls) => tls.certificates = Some(directory),
            None => {
                eprintln!("nbd-gateway: --tls-certificates is for URIs that ask for TLS: use nbds:// or nbds+unix://");
                return ExitCode::from(USAGE);
            }
        }
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    match runtime.block_on(execute(&command)) {
        Ok(()) => ExitCode::from(DONE),
        // `client read URI | head`: whoever reads has seen enough.
        Err(fault) if fault.is_unread() => ExitCode::from(FAILED),
        Err(fault) => failed(&fault),
    }
}

/// Does it, and prints what came of it to stdout.
///
/// Files, stdin and stdout are read and written where the task stands: nothing else should run on this runtime.
async fn execute(command: &ClientCommand) -> Result<(), ClientError> {
    let (mut stdout, mut stderr) = (std::io::stdout(), std::io::stderr());
    let mut output = Output::new(&mut stdout, &mut stderr);
    match command {
        ClientCommand::Info(ask) => output.print(&info::run(ask).await?),
        ClientCommand::Size(ask) => size::run(&ask.uri, ask.json, &mut output).await,
        ClientCommand::Resize(args) => resize::run(&args.uri, args.size, args.durable, args.json, &mut output).await,
        ClientCommand::Watch(args) => {
            watch::run(&args.uri, args.interval.duration(), args.count.unwrap_or(0), args.json, &mut output).await
        }
        ClientCommand::Read(args) => read::run(args).await,
        ClientCommand::Write(args) => output.print(&write::run(args).await?),
    }
}
