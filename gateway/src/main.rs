//! nbd-gateway: the program.

use std::process::ExitCode;

use clap::Parser;
use nbd_gateway::cmd::client;
use nbd_gateway_config::cli::{Cli, Command};

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Client { command } => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())
            .and_then(|runtime| runtime.block_on(client::run(&command)).map_err(|fault| fault.to_string())),
        _ => Err("this build knows only `nbd-gateway client`".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nbd-gateway: {error}");
            ExitCode::FAILURE
        }
    }
}
