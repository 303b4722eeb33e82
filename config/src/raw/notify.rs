//! The shape of `[[export.notify]]`: who is told of a new size beside the export's clients.

use schemars::JsonSchema;
use serde::Deserialize;

/// One who is told of a new size: exactly one of `qmp`, `http` and `exec`.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawNotify {
    /// The QMP socket of a qemu that has the export open. The gateway ends that connection between two requests, has qemu
    /// connect again, and tells it to adopt the size that it then sees. Give qemu's NBD client a `reconnect-delay`.
    #[schemars(extend("examples" = ["/run/qemu/vm1.qmp"]))]
    pub(crate) qmp: Option<String>,
    /// The name of qemu's block node on the export; needed with `qmp`.
    #[schemars(extend("examples" = ["disk0"]))]
    pub(crate) node: Option<String>,
    /// An `http://` URL that gets a POST with the export, its size and generation as JSON. Anything but a status of 200 to
    /// 299 is tried again.
    #[schemars(extend("examples" = ["http://127.0.0.1:8080/resized"]))]
    pub(crate) http: Option<String>,
    /// A program and its arguments, run without a shell, with NBD_GATEWAY_EXPORT, NBD_GATEWAY_TENANT, NBD_GATEWAY_OLD_SIZE,
    /// NBD_GATEWAY_NEW_SIZE and NBD_GATEWAY_GENERATION in its environment and the same as JSON on its standard input.
    /// Anything but an exit code of 0 is tried again.
    #[schemars(extend("examples" = [["/usr/local/bin/disk-resized", "vm1"]]))]
    pub(crate) exec: Option<Vec<String>>,
    /// How long one attempt may take.
    #[schemars(extend("default" = "30s", "examples" = ["30s"]))]
    pub(crate) timeout: Option<String>,
}
