//! nbd-gateway: the program.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nbd_gateway::cmd::client::ClientCommand;

/// A multiplexing NBD gateway
#[derive(Parser)]
#[command(name = "nbd-gateway", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A small NBD client
    #[command(subcommand)]
    Client(ClientCommand),
}

fn main() -> ExitCode {
    let Command::Client(command) = Cli::parse().command;
    let ran = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string());
    match ran.and_then(|runtime| runtime.block_on(command.run()).map_err(|fault| fault.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nbd-gateway: {error}");
            ExitCode::FAILURE
        }
    }
}
