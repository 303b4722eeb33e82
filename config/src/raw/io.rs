//! The shape of `io` and `session-io`: how fast somebody may read and write.

use schemars::JsonSchema;
use serde::Deserialize;

/// How fast somebody may read and write. A request that comes too soon waits; it does not fail. What is absent is not
/// bounded.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawIo {
    /// Requests of any kind.
    #[schemars(extend("examples" = ["2000/s"]))]
    pub(crate) iops: Option<String>,
    /// READ requests.
    #[schemars(extend("examples" = ["1500/s"]))]
    pub(crate) read_iops: Option<String>,
    /// WRITE, WRITE_ZEROES and TRIM requests.
    #[schemars(extend("examples" = ["500/s"]))]
    pub(crate) write_iops: Option<String>,
    /// Payload bytes, read and written.
    #[schemars(extend("examples" = ["200MiB/s"]))]
    pub(crate) bandwidth: Option<String>,
    /// Payload bytes read.
    #[schemars(extend("examples" = ["150MiB/s"]))]
    pub(crate) read_bandwidth: Option<String>,
    /// Payload bytes written.
    #[schemars(extend("examples" = ["50MiB/s"]))]
    pub(crate) write_bandwidth: Option<String>,
    /// As much as in this time may come at once after a pause; at least one request, however large, passes. 100ms if
    /// absent.
    #[schemars(extend("examples" = ["100ms"]))]
    pub(crate) burst: Option<String>,
}
