//! The program's commands, each in a room of its own. They print, and end with one clear line if they fail.

pub mod agent;
pub mod cli;
pub mod client;
pub mod describe;
pub mod explain;
pub mod manual;
pub mod operator;
pub mod serve;
mod token;

use std::fmt::Display;
use std::process::ExitCode;

use crate::net::escaped;

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
fn complain(what: &dyn Display) {
    eprintln!("{}", escaped(&what.to_string()));
}
