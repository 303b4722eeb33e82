//! The shapes of the file, as serde reads them and as the JSON schema shows them.
//!
//! The comments here are what users read as descriptions, and the examples are what problems show. Private: the rest of
//! the program sees only the model. A key stands here only if the gateway honours it.

pub(crate) mod clients;
pub(crate) mod io;
pub(crate) mod notify;
pub(crate) mod resize;
pub(crate) mod word;

use schemars::JsonSchema;
use serde::Deserialize;

use self::clients::RawClient;
use self::io::RawIo;
use self::notify::RawNotify;
use self::resize::RawResize;
use self::word::Word;
use crate::model::{LogFormat, LogLevel};

/// The configuration of nbd-gateway. At least one listener and one export are needed; everything else has a default.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[schemars(title = "nbd-gateway configuration")]
pub(crate) struct RawConfig {
    /// Directory for what the gateway keeps. A relative `file:` backend starts here; a relative directory starts at the
    /// directory that the gateway is started in. Created when it is first needed.
    #[schemars(extend("default" = "nbd-gateway-data", "examples" = ["/var/lib/nbd-gateway"]))]
    pub(crate) state: Option<String>,
    /// Where clients connect; at least one.
    #[schemars(required, length(min = 1))]
    pub(crate) listener: Option<Vec<RawListener>>,
    /// The admin interface: /livez, /readyz, /metrics.
    pub(crate) admin: Option<RawAdmin>,
    /// Who exports belong to. If no tenant is declared, there is one, called `default`, and all exports are its.
    pub(crate) tenant: Option<Vec<RawTenant>>,
    /// What clients can open; at least one.
    #[schemars(required, length(min = 1))]
    pub(crate) export: Option<Vec<RawExport>>,
    /// Bounds for everything; tenants and exports can have their own for some.
    pub(crate) limits: Option<RawLimits>,
    /// What is logged, to standard error.
    pub(crate) log: Option<RawLog>,
    /// How the process runs.
    pub(crate) runtime: Option<RawRuntime>,
}

/// A place where clients connect.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawListener {
    /// `IP:PORT` with an IPv4 address or an IPv6 address in brackets (a link-local one with its network interface:
    /// `[fe80::1%eth0]:10809`), `unix:PATH` for a Unix socket, or `systemd:NAME` for the socket that systemd passes under that name (FileDescriptorName= of the socket unit).
    #[schemars(required, extend("examples" = ["0.0.0.0:10809", "[::]:10809", "unix:/run/nbd-gateway.sock", "systemd:nbd"]))]
    pub(crate) address: Option<String>,
    /// `off`: no TLS; `allow`: TLS for clients that ask for it (NBD_OPT_STARTTLS); `require`: clients that do not ask get
    /// nothing, not even the list of exports.
    #[schemars(extend("default" = "off", "examples" = ["require"]))]
    pub(crate) tls: Option<RawTls>,
    /// The directory of `server-cert.pem` and `server-key.pem`, of `ca-cert.pem` if clients have to show certificates, and
    /// of `ca-crl.pem` if some of those are revoked. Files that change are read again; one that is wrong is reported, and
    /// what was read before stays in use. Needed for TLS.
    #[schemars(extend("examples" = ["/etc/pki/nbd-gateway"]))]
    pub(crate) tls_certificates: Option<String>,
    /// Whether clients have to show a certificate of a CA in `ca-cert.pem`.
    #[schemars(extend("default" = true, "examples" = [false]))]
    pub(crate) tls_verify_peer: Option<bool>,
}

/// Whether a listener speaks TLS.
#[derive(Deserialize, JsonSchema, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RawTls {
    Off,
    Allow,
    Require,
}

/// The admin interface.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawAdmin {
    /// `IP:PORT`, `unix:PATH` for a Unix socket, or `off`. An address that is not a loopback address needs `token-file`, and
    /// there everything but /livez, /readyz and the page without what it shows needs the token. It is plain HTTP: let it be
    /// reached only in a network that you trust.
    #[schemars(extend("default" = "127.0.0.1:9809", "examples" = ["127.0.0.1:9809", "unix:/run/nbd-gateway-admin.sock", "off"]))]
    pub(crate) address: Option<String>,
    /// A file whose first line is the token that every request that changes something must bring, as
    /// `Authorization: Bearer TOKEN`. It is read anew each time. Without it nothing can be changed over the admin interface.
    #[schemars(extend("examples" = ["/etc/nbd-gateway/token"]))]
    pub(crate) token_file: Option<String>,
}

/// Who exports belong to.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawTenant {
    /// 1 to 64 of a-z, 0-9, `.`, `_` and `-`.
    #[schemars(required, extend("examples" = ["blue"]))]
    pub(crate) name: Option<String>,
    /// The most that the sizes of its exports may sum to. Growth that would go beyond is refused. If absent there is no
    /// such bound.
    #[schemars(extend("examples" = ["2TiB"]))]
    pub(crate) quota: Option<RawSize>,
    /// A sum beyond which the gateway warns; at most `quota`.
    #[schemars(extend("examples" = ["1.8TiB"]))]
    pub(crate) soft_quota: Option<RawSize>,
    /// How often its exports may be resized, all together. As many as in the time that is written may come at once. If
    /// absent there is no such bound.
    #[schemars(extend("examples" = ["10/min"]))]
    pub(crate) resize_rate: Option<String>,
    /// How fast its exports may grow, all together. As much as in the time that is written may come at once; a single
    /// growth by more passes too, if it comes first, and nothing after it until the rate has made up for it. If absent
    /// there is no such bound.
    #[schemars(extend("examples" = ["500GiB/h"]))]
    pub(crate) growth_rate: Option<String>,
    /// How many notices of a new size its clients are sent, all together. What comes faster is merged; the last is always
    /// sent. If absent there is no such bound.
    #[schemars(extend("examples" = ["5/s"]))]
    pub(crate) notice_rate: Option<String>,
    /// The largest that one of its exports may become. One that is larger already stays, and does not grow. If absent there
    /// is no such bound.
    #[schemars(extend("examples" = ["500GiB"]))]
    pub(crate) largest_export: Option<RawSize>,
    /// How many of its exports may be in use at once, 1 to 1000000; one that nobody uses is closed before its `idle-timeout`
    /// where another needs its place. One that is `file:` or `memory:` and has a name of its own is in use from the start. If
    /// absent there is no such bound.
    #[schemars(range(min = 1, max = 1_000_000), extend("examples" = [100]))]
    pub(crate) max_exports: Option<i64>,
    /// How many sessions may be open at once on all its exports together, 1 to 1000000. If absent there is no such bound
    /// but that of the listeners.
    #[schemars(range(min = 1, max = 1_000_000), extend("examples" = [200]))]
    pub(crate) max_sessions: Option<i64>,
    /// How many sessions its clients may open on all its exports together. As many as in the time that is written may come
    /// at once. If absent there is no such bound.
    #[schemars(extend("examples" = ["100/min"]))]
    pub(crate) session_rate: Option<String>,
    /// Whether what is over `quota`, `largest-export`, `max-exports`, `max-sessions` or `session-rate` is refused; if not, it
    /// is only counted and reported.
    #[schemars(extend("default" = true, "examples" = [false]))]
    pub(crate) enforce: Option<bool>,
    /// Who may use its exports, and how. The first entry that fits a client decides, alone. Without this, and as long as
    /// no tenant has it, everyone may do everything; as soon as one has, whoever fits no entry of an export's tenant may
    /// do nothing, and does not see the export.
    pub(crate) clients: Option<Vec<RawClient>>,
    /// This tenant's own bounds; what is absent is taken from `[limits]`.
    pub(crate) limits: Option<RawTenantLimits>,
}

/// What clients can open: one export, or a template for many.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawExport {
    /// The name that clients ask for, at most 4096 bytes; `""` is the default export. A name with one `*` is a template
    /// for all names that fit. An exact name comes before a template, a template with more literal characters before
    /// one with fewer.
    #[schemars(required, extend("examples" = ["vm1", "blue/*", ""]))]
    pub(crate) name: Option<String>,
    /// The tenant that it belongs to. Needed as soon as a tenant is declared.
    #[schemars(extend("examples" = ["blue"]))]
    pub(crate) tenant: Option<String>,
    /// Where the data is: an NBD URI (`nbd://HOST[:PORT]/EXPORT`, `nbd+unix:///EXPORT?socket=PATH`; with TLS `nbds://`
    /// and `nbds+unix://`), `file:PATH` for a
    /// file that the gateway serves itself, or `memory:` for a disk that is gone when the gateway ends. In a template,
    /// `{}` is what `*` matched; it can stand in the export's name, in a socket's path and in a file's path, and a name
    /// with `/`, `..` or NUL is never put into a path. The files of a template need a directory that holds nothing but disks;
    /// in their names, other characters than ASCII letters, digits and `-_.~+=@,` are percent-encoded.
    #[schemars(required, extend("examples" = ["nbd://10.0.0.5:10809/vm1", "nbd+unix:///vm1?socket=/run/nbd.sock", "file:vm1.img", "memory:", "nbd://10.0.0.5/{}"]))]
    pub(crate) backend: Option<String>,
    /// For `nbds://` and `nbds+unix://`: the directory of `ca-cert.pem`, by which the server is known, of `client-cert.pem`
    /// and `client-key.pem` if the server wants to know its clients, and of `ca-crl.pem` if servers' certificates are
    /// revoked. The same as the URI's parameter. Files that change are read again.
    #[schemars(extend("examples" = ["/etc/pki/nbd-gateway"]))]
    pub(crate) tls_certificates: Option<String>,
    /// The name that the server's certificate has to have. If absent, it is the host of the URI; a Unix socket has none.
    /// The same as the URI's parameter.
    #[schemars(extend("examples" = ["storage.example.com"]))]
    pub(crate) tls_hostname: Option<String>,
    /// A sentence for people, shown to clients that ask for it (NBD_INFO_DESCRIPTION).
    #[schemars(extend("examples" = ["the build server's scratch disk"]))]
    pub(crate) description: Option<String>,
    /// Refuse everything that would change data, and say so in the handshake.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub(crate) read_only: Option<bool>,
    /// How large the disk is. Needed for `memory:`; for `file:` it applies only if the file is missing or empty. An NBD
    /// server says its own size; with `driver = "window"` this is how much of it is shown at first, and needed.
    #[schemars(extend("examples" = ["10GiB"]))]
    pub(crate) size: Option<RawSize>,
    /// The most that the export may become by this gateway; at least `size`, and a multiple of `granularity` of
    /// `[export.resize]`. If absent there is no such bound.
    #[schemars(extend("examples" = ["200GiB"]))]
    pub(crate) max_size: Option<RawSize>,
    /// Connections to the NBD server, 1 to 64. More than one is used only if the server allows it
    /// (NBD_FLAG_CAN_MULTI_CONN).
    #[schemars(range(min = 1, max = 64), extend("default" = 1, "examples" = [4]))]
    pub(crate) lanes: Option<i64>,
    /// What clients see when the connection to the NBD server is lost: errors, or nothing while it is dialled again.
    #[schemars(extend("default" = {"hold": "30s", "durable": false}, "examples" = [{"hold": "30s", "durable": false}, "error"]))]
    pub(crate) on_backend_loss: Option<RawLoss>,
    /// How long after a lost connection the NBD server may still carry out a write that it had received and not
    /// answered, 0s to 1h. Writes that overlap such a write wait, unless the server is known to have ended, or a fence was
    /// used. `0s`: the server carries out nothing after the end of a connection.
    #[schemars(extend("default" = "10s", "examples" = ["10s"]))]
    pub(crate) late_write_guard: Option<String>,
    /// How much is read ahead of clients that read from the front to the back, and kept for others that read the same;
    /// 1MiB to 1GiB of memory while the export is open. For servers that are far away. Needs `exclusive = true` in
    /// `[export.resize]`: only clients of this export change the server's disk. If absent, nothing is read ahead.
    #[schemars(extend("examples" = ["8MiB"]))]
    pub(crate) read_ahead: Option<RawSize>,
    /// A program and its arguments that makes sure that the NBD server is over everything from earlier connections. It
    /// runs when writes were in flight on a lost connection; exit code 0 says that it is done, within `timeout` of
    /// `[export.resize]`. If absent, `driver = "qmp"` and `driver = "restart"` do it in their own way; `off`: not at all. In a
    /// template, `{}` is what `*` matched.
    #[schemars(extend("examples" = [["/usr/local/bin/fence-vm1"], "off"]))]
    pub(crate) fence: Option<RawFence>,
    /// How long connecting to the NBD server, handshake included, may take.
    #[schemars(extend("default" = "10s", "examples" = ["10s"]))]
    pub(crate) dial_timeout: Option<String>,
    /// How long after the last session left the connections to the NBD server, or the file of a template, are let go; `0s`
    /// is at once.
    #[schemars(extend("default" = "60s", "examples" = ["60s"]))]
    pub(crate) idle_timeout: Option<String>,
    /// How the export grows and shrinks. Without it, it grows for those who ask, and never shrinks.
    pub(crate) resize: Option<RawResize>,
    /// Who else is told of a new size of the export: what its clients know nothing of, something beside them can do.
    pub(crate) notify: Option<Vec<RawNotify>>,
    /// This export's own bounds; what is absent is taken from the tenant, then from `[limits]`.
    pub(crate) limits: Option<RawExportLimits>,
}

/// What happens when the connection to the NBD server is lost.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum RawLoss {
    /// In words.
    Word(RawLossWord),
    /// With details.
    Hold(RawHold),
}

/// How the NBD server is made to be over earlier connections.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum RawFence {
    /// In words.
    Word(RawFenceWord),
    /// A program and its arguments.
    Command(Vec<String>),
}

/// `off`: no fence, whatever the driver.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RawFenceWord {
    Off,
}

/// `error`: requests in flight fail with EIO.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RawLossWord {
    Error,
}

/// Requests wait while the server is dialled again; what can be sent again safely is.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawHold {
    /// How long; then requests fail with EIO.
    #[schemars(extend("default" = "30s", "examples" = ["30s"]))]
    pub(crate) hold: Option<String>,
    /// Whether writes that the server answered outlive a lost connection (true for a server that keeps running and
    /// writes to a page cache). If not, the next FLUSH of each session fails once with EIO, so that nobody believes
    /// lost data to be safe.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub(crate) durable: Option<bool>,
}

/// Bounds for everything.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawLimits {
    /// How long a client may take from connecting to the end of the handshake, so that silent connections cost nothing
    /// for long.
    #[schemars(extend("default" = "10s", "examples" = ["10s"]))]
    pub(crate) handshake_timeout: Option<String>,
    /// The largest option of the handshake that is read, 12KiB to 16MiB; larger ones end the connection. The smallest
    /// value fits the longest export name and a meta context of the same length.
    #[schemars(extend("default" = "64KiB", "examples" = ["64KiB"]))]
    pub(crate) option_length: Option<RawSize>,
    /// Sessions in transmission that one listener serves at a time, 1 to 1000000; more are refused in the handshake. Keep
    /// the limit on open files (LimitNOFILE= of systemd) above the sum of all listeners, their handshakes included.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 1024, "examples" = [1024]))]
    pub(crate) sessions_per_listener: Option<i64>,
    /// Handshakes under way on one listener at a time, 1 to 1000000; they take no place of a session. One address (of
    /// IPv6, one /64 network; on a Unix socket, one user) has at most half of them. If another client comes, the oldest
    /// handshake of the address that has most of them is closed, unless it began within the last second.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 2048, "examples" = [2048]))]
    pub(crate) handshakes_per_listener: Option<i64>,
    /// Connections that the kernel keeps for one listening socket until the gateway accepts them, 1 to 65535; the admin
    /// interface's too. The kernel cuts it to /proc/sys/net/core/somaxconn. Not for sockets that systemd passes: those
    /// have `Backlog=` of their unit.
    #[schemars(range(min = 1, max = 65_535), extend("default" = 4096, "examples" = [4096]))]
    pub(crate) listen_backlog: Option<i64>,
    /// How long the host of a TCP client may answer nothing before its connection is closed, 3s to 1h: its network was cut
    /// or its power failed. A client that is idle, or does not read, is not closed for it: its host answers.
    #[schemars(extend("default" = "60s", "examples" = ["60s"]))]
    pub(crate) tcp_keepalive: Option<String>,
    /// Requests of one session that are in flight at a time, 1 to 65536; the session is read no further until one is
    /// done. Deeper queues only add latency.
    #[schemars(range(min = 1, max = 65_536), extend("default" = 256, "examples" = [256]))]
    pub(crate) session_requests: Option<i64>,
    /// Bytes that the requests of one session and their answers take in memory at a time; at least `largest-payload`. The
    /// default fits two of the largest requests, so that one is read while another is written.
    #[schemars(extend("default" = "64MiB", "examples" = ["64MiB"]))]
    pub(crate) session_bytes: Option<RawSize>,
    /// The same of all sessions of one tenant, beyond one `largest-payload` for each; at least `largest-payload`. It bounds
    /// what a tenant can make the gateway hold.
    #[schemars(extend("default" = "1GiB", "examples" = ["1GiB"]))]
    pub(crate) tenant_bytes: Option<RawSize>,
    /// The longest READ or WRITE for which every session has room of its own, a multiple of 64KiB from 64KiB to 64MiB; shown
    /// to clients as the maximum block size. A longer one works too where `session-bytes` and `tenant-bytes` have room for
    /// it. The default is what clients use that never asked.
    #[schemars(extend("default" = "32MiB", "examples" = ["32MiB"]))]
    pub(crate) largest_payload: Option<RawSize>,
    /// How fast each session may read and write. If absent there is no such bound.
    pub(crate) session_io: Option<RawIo>,
    /// How many notices of a new size each session is sent. What comes faster is merged; the last is always sent. As many
    /// as in the time that is written may come at once. If absent there is no such bound.
    #[schemars(extend("examples" = ["1/s"]))]
    pub(crate) session_notice_rate: Option<String>,
    /// How long requests in flight may take to finish when the gateway is told to end; then connections are closed, and one
    /// second later the gateway has ended.
    #[schemars(extend("default" = "30s", "examples" = ["30s"]))]
    pub(crate) drain_timeout: Option<String>,
}

/// A tenant's own bounds.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawTenantLimits {
    /// As in `[limits]`, for each session of this tenant.
    #[schemars(range(min = 1, max = 65_536), extend("examples" = [256]))]
    pub(crate) session_requests: Option<i64>,
    /// As in `[limits]`, for each session of this tenant.
    #[schemars(extend("examples" = ["64MiB"]))]
    pub(crate) session_bytes: Option<RawSize>,
    /// As in `[limits]`, for this tenant.
    #[schemars(extend("examples" = ["1GiB"]))]
    pub(crate) tenant_bytes: Option<RawSize>,
    /// As in `[limits]`, for this tenant's exports.
    #[schemars(extend("examples" = ["32MiB"]))]
    pub(crate) largest_payload: Option<RawSize>,
    /// As in `[limits]`, for each session of this tenant.
    pub(crate) session_io: Option<RawIo>,
    /// As in `[limits]`, for each session of this tenant.
    #[schemars(extend("examples" = ["1/s"]))]
    pub(crate) session_notice_rate: Option<String>,
    /// How fast all sessions of this tenant together may read and write. If absent there is no such bound.
    pub(crate) io: Option<RawIo>,
}

/// An export's own bounds.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawExportLimits {
    /// As in `[limits]`, for each session of this export.
    #[schemars(range(min = 1, max = 65_536), extend("examples" = [256]))]
    pub(crate) session_requests: Option<i64>,
    /// As in `[limits]`, for each session of this export.
    #[schemars(extend("examples" = ["64MiB"]))]
    pub(crate) session_bytes: Option<RawSize>,
    /// As in `[limits]`, for this export.
    #[schemars(extend("examples" = ["32MiB"]))]
    pub(crate) largest_payload: Option<RawSize>,
    /// As in `[limits]`, for each session of this export.
    pub(crate) session_io: Option<RawIo>,
    /// As in `[limits]`, for each session of this export.
    #[schemars(extend("examples" = ["1/s"]))]
    pub(crate) session_notice_rate: Option<String>,
    /// How many notices of a new size all sessions of this export together are sent. What comes faster is merged; the last is
    /// always sent. As many as in the time that is written may come at once. If absent there is no such bound.
    #[schemars(extend("examples" = ["10/s"]))]
    pub(crate) notice_rate: Option<String>,
    /// How fast all sessions of this export together may read and write. If absent there is no such bound.
    pub(crate) io: Option<RawIo>,
}

/// What is logged, to standard error.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawLog {
    /// Lines for people, or one JSON object a line for programs.
    #[schemars(extend("default" = "human", "examples" = ["human"]))]
    pub(crate) format: Option<Word<LogFormat>>,
    /// The least severe level that is logged.
    #[schemars(extend("default" = "info", "examples" = ["info"]))]
    pub(crate) level: Option<Word<LogLevel>>,
    /// An OpenTelemetry collector that is sent a span for each session and each resize, by OTLP over HTTP (`POST
    /// /v1/traces`, protobuf). Only where the program was built with `--features otel`. Absent: none is.
    #[schemars(extend("examples" = ["http://127.0.0.1:4318"]))]
    pub(crate) otlp: Option<String>,
}

/// How the process runs.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawRuntime {
    /// Threads that serve sessions, 1 to 1024. Default: one for each processor that the process may use.
    #[schemars(range(min = 1, max = 1024), extend("examples" = [4]))]
    pub(crate) threads: Option<i64>,
}

/// A size: a text like `10GiB`, `512MiB` or `1TB`, or bytes.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum RawSize {
    Text(String),
    Bytes(i64),
}
