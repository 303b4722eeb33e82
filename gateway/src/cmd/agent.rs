//! `nbd-gateway agent`: runs the agent until a signal.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use super::serve::ignore;
use super::{DONE, failed};
use crate::agent::run;
use crate::cmd::cli::Agent;
use crate::service::Service;

/// Runs it on a runtime of its own.
pub fn main(order: &Agent) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let outcome = runtime.block_on(async {
        // Caught before the device is touched: a signal then still ends in order.
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        // Whoever takes it for another daemon must not end it.
        for (kind, name) in [
            (SignalKind::user_defined1(), "SIGUSR1"),
            (SignalKind::user_defined2(), "SIGUSR2"),
            (SignalKind::hangup(), "SIGHUP"),
        ] {
            ignore(kind, name);
        }
        let stop = async move {
            tokio::select! {
                // In any order: both mean the same.
                biased;
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
        };
        Ok::<_, std::io::Error>(run(order, &mut std::io::stdout(), Service::from_env(), stop).await)
    });
    // A request that the kernel holds must not hold up the end.
    runtime.shutdown_background();
    match outcome {
        Ok(Ok(())) => ExitCode::from(DONE),
        Ok(Err(fault)) => failed(&fault),
        Err(error) => failed(&error),
    }
}
