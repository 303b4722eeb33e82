//! `nbd-gateway agent`: runs the agent until a signal.

mod page;

use std::process::ExitCode;

use nbd_gateway_client::agent::run;
use nbd_gateway_client::cli::Agent;
use tokio::signal::unix::SignalKind;

use super::serve::{ignore, stopped};
use super::{DONE, failed};
use crate::service::Service;

/// Runs it on a runtime of its own.
pub fn main(order: &Agent) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let outcome = runtime.block_on(async {
        // Caught before the device is touched: a signal then still ends in order.
        let stop = stopped()?;
        // Whoever takes it for another daemon must not end it.
        for (kind, name) in [
            (SignalKind::user_defined1(), "SIGUSR1"),
            (SignalKind::user_defined2(), "SIGUSR2"),
            (SignalKind::hangup(), "SIGHUP"),
        ] {
            ignore(kind, name);
        }
        let service = Service::from_env();
        // Nobody waits until the manager has heard it.
        let ready = Box::new(move || drop(tokio::spawn(async move { service.ready().await })));
        Ok::<_, std::io::Error>(run(order, &mut std::io::stdout(), ready, page::serve, stop).await)
    });
    // A request that the kernel holds must not hold up the end.
    runtime.shutdown_background();
    match outcome {
        Ok(Ok(())) => ExitCode::from(DONE),
        Ok(Err(fault)) => failed(&fault),
        Err(error) => failed(&error),
    }
}
