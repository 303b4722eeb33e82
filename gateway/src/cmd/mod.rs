//! The program's commands, each in a room of its own. They print, and end with one clear line if they fail.

pub mod agent;
pub mod cli;
pub mod describe;
pub mod explain;
pub mod manual;
pub mod operator;
pub mod serve;
mod token;

use std::fmt::Display;
use std::process::ExitCode;

use nbd_gateway_client::exit::complain;
pub use nbd_gateway_client::exit::{DONE, FAILED, USAGE, failed};

/// Says what is wrong with the command line, or with what it names.
fn misused(what: &dyn Display) -> ExitCode {
    complain(what);
    ExitCode::from(USAGE)
}
