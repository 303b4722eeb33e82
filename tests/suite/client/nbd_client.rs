//! nbd-client, whose other half is the kernel: without one it can list exports, and it says so in a dialect of its own.

use crate::process::Call;
use crate::route::Target;
use crate::trouble::Trouble;

pub(super) fn list(target: &Target) -> Result<String, Trouble> {
    let call = Call::new("nbd-client").arg("-l");
    let call = match target.tcp() {
        Some(address) => call.arg(address.ip().to_string()).arg(address.port().to_string()),
        None => call.arg("-unix").arg(&target.socket),
    };
    Ok(call.run()?.success()?.stdout)
}
