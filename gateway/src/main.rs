//! nbd-gateway: the program. Everything it does is in the library, so that tests can reach it.

use std::process::ExitCode;

use clap::Parser;
use nbd_gateway::cmd::{agent, client, describe, explain, operator, serve};
use nbd_gateway_config::cli::{Cli, Command, LedgerCommand};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve { config } => serve::run(config.as_deref()),
        Command::Check { config } => describe::check(&config),
        Command::Client { command, tls_certificates } => client::main(command, tls_certificates),
        Command::Explain(asked) => explain::run(&asked),
        Command::Exports(ask) => operator::exports(&ask),
        Command::Tenants(ask) => operator::tenants(&ask),
        Command::Sessions(ask) => operator::sessions(&ask),
        Command::Events(ask) => operator::events(&ask),
        Command::Resize(order) => operator::resize(&order),
        Command::Publish(order) => operator::publish(&order),
        Command::Quota(order) => operator::quota(&order),
        Command::Ledger { command: LedgerCommand::Reconcile(order) } => operator::reconcile(&order),
        Command::Reload(ask) => operator::reload(&ask),
        Command::Drain(ask) => operator::drain(&ask),
        Command::Agent(order) => agent::main(&order),
        Command::Schema => describe::schema(),
        Command::Completions { shell } => describe::completions(shell),
        Command::Man => describe::man(),
    }
}
