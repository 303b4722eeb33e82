//! nbd-gateway: the program. Everything it does is in the library, so that tests can reach it.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::FromArgMatches;
use nbd_gateway::cmd::cli::{Cli, Command, LedgerCommand, command};
use nbd_gateway::cmd::{FAILED, USAGE, agent, describe, explain, failed, manual, operator, serve};

/// Prints what clap has to say (help, the version, a mistake), and gives its exit code; help that can't be written is a failure.
fn said(answer: &clap::Error) -> ExitCode {
    match answer.print().and_then(|()| std::io::stdout().flush()) {
        Ok(()) => ExitCode::from(u8::try_from(answer.exit_code()).unwrap_or(USAGE)),
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::from(FAILED),
        Err(error) => failed(&format!("cannot write to standard output: {error}")),
    }
}

fn main() -> ExitCode {
    let cli = command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match cli {
        Ok(cli) => cli,
        Err(answer) => return said(&answer),
    };
    match cli.command {
        Command::Serve { config } => serve::run(config.as_deref()),
        Command::Check { config } => describe::check(&config),
        Command::Client { command, tls_certificates } => nbd_gateway_client::run(command, tls_certificates),
        Command::Explain(asked) => explain::run(&asked),
        Command::Exports(ask) => operator::exports(&ask),
        Command::Tenants(ask) => operator::tenants(&ask),
        Command::Sessions(ask) => operator::sessions(&ask),
        Command::Events(ask) => operator::events(&ask),
        Command::Resize(order) => operator::resize(&order),
        Command::Publish(order) => operator::publish(&order),
        Command::Quota(order) => operator::quota(&order),
        Command::Ledger { command: LedgerCommand::Reconcile(order) } => operator::reconcile(&order),
        Command::Ledger { command: LedgerCommand::Settle(order) } => operator::settle(&order),
        Command::Reload(ask) => operator::reload(&ask),
        Command::Drain(ask) => operator::drain(&ask),
        Command::Agent(order) => agent::main(&order),
        Command::Schema => describe::schema(),
        Command::Completions { shell } => describe::completions(shell),
        Command::Man { page } => manual::man(page),
    }
}
