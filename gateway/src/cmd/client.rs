//! `nbd-gateway client …`: a small NBD client for people and scripts.
//!
//! Owns what its commands do and print; how they are written belongs to the configuration crate. Speaks to a server only
//! through `connect`, so that every command negotiates alike, keeps to the server's block sizes, and names its errors alike.

use std::io::Write;
use std::process::ExitCode;

use nbd_gateway_config::cli::ClientCommand;

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

/// Runs a client command on a runtime of its own.
pub fn main(command: &ClientCommand) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return super::failed(&error),
    };
    match runtime.block_on(run(command)) {
        Ok(()) => ExitCode::from(super::DONE),
        Err(fault) => super::failed(&fault),
    }
}

/// Does it, and prints what came of it to stdout.
///
/// Files, stdin and stdout are read and written where the task stands: nothing else should run on this runtime.
pub async fn run(command: &ClientCommand) -> Result<(), ClientFault> {
    match command {
        ClientCommand::Info(ask) => print(&info::run(ask).await?),
        ClientCommand::Size(ask) => print(&size::run(ask).await?),
        ClientCommand::Read(args) => read::run(args).await,
        ClientCommand::Write(args) => print(&write::run(args).await?),
    }
}

/// Prints whole lines. Unlike `println!`, a reader that went away is an error and no panic.
fn print(text: &str) -> Result<(), ClientFault> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|cause| ClientFault::local("stdout", cause))
}
