//! How a command ends: its exit code, and the one line on standard error.

use std::fmt::Display;
use std::process::ExitCode;

use nbd_gateway_net::escaped;

/// Everything went as asked.
pub const DONE: u8 = 0;
/// It did not; one line on standard error says why.
pub const FAILED: u8 = 1;
/// The command line or the configuration is wrong.
pub const USAGE: u8 = 2;

/// Prints the one line of a failure, and gives its exit code.
pub fn failed(error: &dyn Display) -> ExitCode {
    complain(&format_args!("nbd-gateway: {error}"));
    ExitCode::from(FAILED)
}

/// Prints sentences on standard error, which may name what others chose.
pub fn complain(what: &dyn Display) {
    eprintln!("{}", escaped(&what.to_string()));
}
