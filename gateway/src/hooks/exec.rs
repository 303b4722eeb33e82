//! A hook that is a program: an exit code of 0 says that it has heard.

use std::fmt;
use std::time::Duration;

use nbd_gateway_metrics::HookWay;

use super::Tell;
use crate::command::{self, Call, Left, Occasion};
use crate::fault::Fault;

/// A program and its arguments.
pub(super) struct Exec {
    pub(super) words: Vec<String>,
    pub(super) limit: Duration,
}

impl Tell for Exec {
    const WAY: HookWay = HookWay::Exec;

    async fn tell(&self, occasion: &Occasion) -> Result<(), Fault> {
        let call = Call::telling(&self.words, occasion, self.limit, Left::Killed);
        command::run(call).await.map(drop).map_err(Fault::from)
    }
}

impl fmt::Display for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its arguments may be secrets.
        write!(f, "exec {}", self.words.first().map_or("", String::as_str))
    }
}
