//! nbd-client, whose other half is the kernel: without one it can list exports, and it says so in a dialect of its own.

use serde_json::{Value, json};

use crate::process::Call;
use crate::route::Target;
use crate::trouble::Trouble;

pub(super) fn list(target: &Target) -> Result<Value, Trouble> {
    let call = Call::new("nbd-client").arg("-l");
    let call = match target.tcp() {
        Some(address) => call.arg(address.ip().to_string()).arg(address.port().to_string()),
        None => call.arg("-unix").arg(&target.socket),
    };
    let said = call.run()?.success()?.stdout;
    let line = |line: &str| match line.split_once(": ") {
        Some((name, description)) => json!({"export-name": name, "description": description}),
        None => json!({"export-name": line}),
    };
    // The first line is how the negotiation went.
    Ok(said.lines().skip(1).map(line).collect())
}
