//! The shape of `[export.resize]`: the words that operators have for growing and shrinking.

use nbd_gateway_policy::export::{AutomaticGrowth, External, OverQuota, Publish};
use schemars::JsonSchema;
use serde::Deserialize;

use super::RawSize;
use super::word::Word;

/// How the export grows and shrinks, and what clients are offered of that.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawResize {
    /// How the backend is resized. `wire`: by NBD_CMD_RESIZE, if the NBD server turns out to know it; this is what an NBD
    /// server gets if nothing is said. `automatic`: by writing zeroes past its end, for an NBD server that grows by
    /// writes only. `window`: not at all; clients see its first bytes, and a resize shows more of it. `file`: the gateway
    /// sets the length of the file at `path` that the NBD server serves, and shakes hands anew. `qmp`: by block_resize,
    /// for qemu-storage-daemon or qemu. `restart`: the file at `path` is resized and `command` restarts the NBD server,
    /// for one that never looks at its file's size again. `exec`: by `command`. `none`: not at all, and clients are
    /// offered nothing of it. A `file:` or `memory:` backend is resized by the gateway itself, so there only `none` can
    /// stand.
    #[schemars(extend("examples" = ["wire"]))]
    pub(crate) driver: Option<RawDriver>,
    /// The file or block device that the NBD server serves, as the gateway's host sees it. For `driver = "file"`, and for
    /// `driver = "restart"` unless its command grows the image too. A block device is not resized by the gateway: it is
    /// looked at. In a template, `{}` is what `*` matched.
    #[schemars(extend("examples" = ["/srv/disks/vm1.img"]))]
    pub(crate) path: Option<String>,
    /// The QMP socket of qemu-storage-daemon or qemu, for `driver = "qmp"`. Nobody else can talk to it meanwhile.
    #[schemars(extend("examples" = ["/run/qsd/qmp.sock"]))]
    pub(crate) socket: Option<String>,
    /// The name of the block node to resize, for `driver = "qmp"`.
    #[schemars(extend("examples" = ["disk0"]))]
    pub(crate) node: Option<String>,
    /// The id of the NBD export of that node, for `driver = "qmp"`: it is taken off, because a node cannot be resized
    /// under a writable export, and put back.
    #[schemars(extend("examples" = ["export0"]))]
    pub(crate) export: Option<String>,
    /// A program and its arguments, run without a shell, for `driver = "exec"` and `driver = "restart"`. It gets
    /// NBD_GATEWAY_EXPORT, NBD_GATEWAY_TENANT, NBD_GATEWAY_OLD_SIZE and NBD_GATEWAY_NEW_SIZE (in bytes) in its
    /// environment, and the same as JSON on its standard input. `exec` prints the size that it reached, in bytes. It has
    /// `timeout` to end.
    #[schemars(extend("examples" = [["/usr/local/bin/grow-volume", "vg0/vm1"]]))]
    pub(crate) command: Option<Vec<String>>,
    /// Whose writes past the end grow the export. `opt-in`: those of clients that asked for it. `always`: everyone's but
    /// of clients that opted out. `never`: nobody's. `reconnect`: as `opt-in`, and those of stock clients with structured
    /// replies: the backend is grown, the connection closed without a reply, and a client that connects again (qemu with
    /// `reconnect-delay`) sends the write again and finds the room.
    #[schemars(extend("default" = "opt-in", "examples" = ["opt-in"]))]
    pub(crate) automatic: Option<Word<AutomaticGrowth>>,
    /// What clients see that know nothing of resizing. `actual`: the size that there is. `ceiling`: `max-size`; writes
    /// grow the backend behind it, and what is not there yet reads as zeroes.
    #[schemars(extend("default" = "actual", "examples" = ["ceiling"]))]
    pub(crate) present: Option<RawPresent>,
    /// Growth by writes goes by at least this much where there is room for it, so that a stream of writes costs few
    /// resizes; 0 is no more than each write needs. While writes go on past the end within a second of each other, each
    /// grow adds twice what the last one did, up to an eighth of the size and 1 GiB. A multiple of `granularity`. If it is
    /// absent and the default does not fit in with `granularity` or `max-step`, it is the nearest size that does.
    #[schemars(extend("default" = "1GiB", "examples" = ["1GiB"]))]
    pub(crate) step: Option<RawSize>,
    /// The most that one write may grow the export by, so that a stray one does not eat a quota; a multiple of
    /// `granularity`. If it is absent and `max-size` is stated, that is the bound; if neither is, it is 64GiB, or `step` if
    /// that is more.
    #[schemars(extend("examples" = ["16GiB"]))]
    pub(crate) max_step: Option<RawSize>,
    /// Sizes are multiples of this, a power of two.
    #[schemars(extend("default" = 1, "examples" = ["1MiB"]))]
    pub(crate) granularity: Option<RawSize>,
    /// The least that a shrink may reach; a multiple of `granularity`.
    #[schemars(extend("default" = 0, "examples" = ["1GiB"]))]
    pub(crate) min_size: Option<RawSize>,
    /// Whether the export may become smaller. What lies beyond the new end is lost.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub(crate) shrink: Option<bool>,
    /// How long a client that knows nothing of resizing and whose connection broke may come back to the size that it
    /// knew: no shrink before that. Whom the gateway served before it was started anew counts as broken off then.
    #[schemars(extend("default" = "60s", "examples" = ["60s"]))]
    pub(crate) shrink_grace: Option<String>,
    /// What a client gets that asks for more than its tenant's quota or `max-size` has left. `reject`: an error. `clamp`:
    /// as much as there is, if the client can be told how much that was.
    #[schemars(extend("default" = "reject", "examples" = ["clamp"]))]
    pub(crate) over_quota: Option<Word<OverQuota>>,
    /// How often an NBD server that cannot tell of a new size is asked for it; `off` or `0s` is never. While the size stays
    /// the same, the pause grows, up to 6 times this.
    #[schemars(extend("default" = "5s", "examples" = ["5s", "off"]))]
    pub(crate) poll: Option<String>,
    /// How long the backend has to answer a resize.
    #[schemars(extend("default" = "30s", "examples" = ["30s"]))]
    pub(crate) timeout: Option<String>,
    /// How long a write past the end waits where a rate of the tenant's holds up the growth that it needs; then it fails
    /// with ENOSPC. For the backend it waits `timeout`.
    #[schemars(extend("default" = "1s", "examples" = ["1s"]))]
    pub(crate) growth_wait: Option<String>,
    /// What happens to a larger size that another hand gave the backend. `adopt`: clients see it. `ignore`: they do not.
    /// `manual`: they do when an operator says so. It is counted against the quota in any case.
    #[schemars(extend("default" = "adopt", "examples" = ["manual"]))]
    pub(crate) external: Option<Word<External>>,
    /// When clients see that the export has become larger. `auto`: as soon as it has. `manual`: when an operator says so
    /// (`nbd-gateway publish`). `never`: when it is opened the next time, after its last client left. Only operators, and
    /// other hands, grow it then: what clients ask for is refused, for its answer would have to show it. A smaller size is
    /// seen at once; with `never` there is none.
    #[schemars(extend("default" = "auto", "examples" = ["manual"]))]
    pub(crate) publish: Option<Word<Publish>>,
    /// How many notices of its size the NBD server may send. One that sends more loses its subscription and is asked for its
    /// size instead, for `backend-notice-rest`. As many as in the time that is written may come at once.
    #[schemars(extend("default" = "100/s", "examples" = ["100/s"]))]
    pub(crate) backend_notice_rate: Option<String>,
    /// After how long an NBD server that sent too many notices is subscribed to again.
    #[schemars(extend("default" = "60s", "examples" = ["60s"]))]
    pub(crate) backend_notice_rest: Option<String>,
    /// Whether nobody but this gateway resizes the backend. It is then not asked for its size before each resize. With
    /// `read-ahead`, nobody else writes to it either.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub(crate) exclusive: Option<bool>,
    /// What clients are offered, as far as the backend and the client itself allow it: `explicit` (NBD_CMD_RESIZE),
    /// `automatic` (growth by writes), `query` (asking for the size), `notify` (being told of it). Shrinking is offered
    /// with `explicit` if `shrink` is true.
    #[schemars(extend("default" = ["explicit", "automatic", "query", "notify"], "examples" = [["explicit", "query"]]))]
    pub(crate) offer: Option<Vec<RawOffer>>,
}

#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RawDriver {
    Wire,
    Automatic,
    Window,
    File,
    Qmp,
    Restart,
    Exec,
    None,
}

#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RawPresent {
    Actual,
    Ceiling,
}

#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RawOffer {
    Explicit,
    Automatic,
    Query,
    Notify,
}
