//! Promise: every command of the program does what its help says, and a failure is one clear line and an exit code: 1 for
//! what failed, 2 for what was asked wrongly.

mod client;
mod describe;
mod operator;
mod serve;

use crate::gateway::binary;
use crate::process::{Call, Output};
use crate::trouble::{Trouble, ensure};

/// The program with some words.
fn gateway<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(words: I) -> Result<Call, Trouble> {
    Ok(Call::new(&binary()?.display().to_string()).args(words))
}

/// The exit code was this one, and standard error says all of these words, in `lines` lines.
fn fails(output: &Output, code: i32, words: &[&str]) -> Result<(), Trouble> {
    let complete = words.iter().all(|word| output.stderr.contains(word));
    ensure(output.status.code() == Some(code) && complete && output.stdout.is_empty(), || {
        output.trouble(&format!("should have ended with {code} and said {words:?}")).to_string()
    })
}

/// The same, in one line: that is what somebody who only sees the last line of a log gets.
fn fails_in_a_line(output: &Output, code: i32, words: &[&str]) -> Result<(), Trouble> {
    fails(output, code, words)?;
    ensure(output.stderr.trim_end().lines().count() == 1, || output.trouble("should have said one line").to_string())
}
