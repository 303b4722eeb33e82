//! nbd-gateway: a multiplexing NBD gateway.
//!
//! Any number of clients, few connections to the servers behind it, and a translation wherever the two sides agreed on
//! different dialects of the protocol. This page tells how it is built and what it promises; the README tells how it is
//! used.
//!
//! # Words
//!
//! | word | means |
//! |---|---|
//! | *client*, *backend* | who connects to the gateway; what the gateway takes an export's data from. Never upstream, downstream. |
//! | *session* | one client connection |
//! | *export* | what a client opens by name |
//! | *lane* | one backend connection, shared by many sessions; it outlives its socket |
//! | *origin* | a backend inside this process: a file or memory |
//! | *cookie* | the 64 bits by which a reply names its request; each lane has cookies of its own |
//! | *permit* | a passed check, as a value: so many requests, so many payload bytes |
//! | *job*, *outcome* | an admitted request on its way, and how it ended: the seam between a session and whatever serves it |
//! | *shard* | one thread with a runtime of its own |
//! | *orphan* | a request that may still change data although its session is gone |
//!
//! # The way of one request
//!
//! ```text
//!  client                                                                                              backend
//!    |  session/transmission.rs: one read into a pooled buffer, then everything whole in it:             ^
//!    |    proto/request.rs      decode the header                                                        |
//!    |    session/admit.rs      check it against the size and flags that this client was told            |
//!    |    session/permits.rs    take permits, BEFORE the payload is read                                 |
//!    |    proto/inbox.rs        the payload, as slices of the receive buffers                            |
//!    |  export/mod.rs           the batch; what the backend can't take goes over export/bridge.rs        |
//!    |  lane/mod.rs             lane/table.rs gives each a cookie and appends header and payload         |
//!    |  net/outbox.rs           ONE vectored write for the batch, by whoever appended  ------------------+
//!    |
//!    |  lane/run.rs: one read, then everything whole in it:    <------------------------------------- replies
//!    |    proto/reply.rs        decode; lane/gather.rs joins what comes in chunks, and checks it
//!    |    lane/table.rs         find the request by its cookie
//!    |    session/reply.rs      the reply in the client's framing, appended to its session
//!    v  net/outbox.rs           ONE vectored write for each session touched; then its permits go back
//! ```
//!
//! On this way nothing is allocated per request but what its payload needs, no task is spawned, no channel is used, no
//! lock is held across an await, and no payload byte is copied between the two sockets. An outgoing queue is written by
//! whoever appended to it, not by a task that would have to be woken; only a socket that is full wakes its connection's
//! own task. A client that does not read its replies runs out of permits, and is read no further; nobody else on its
//! lane waits for it. Requests that the backend can't take as they are (too large, too long, not on its blocks), and
//! those that must wait for an orphan, leave this way for a task of their own in `export/bridge.rs`.
//!
//! The embedded [`origin`] takes the same jobs: what needs no disk is answered in the thread that submits, the rest by
//! a pool.
//!
//! # Why one thread for a lane and its sessions
//!
//! A lane lives on one [shard](shards), and so does every session that uses it, so that a request and its reply never
//! change threads. Measured with one client and small requests: a work-stealing runtime of two threads took 1.4 times
//! the CPU for each request, all of it in waking threads. Exports, and the lanes of one export, are spread over the
//! shards in turn. A runtime apart accepts, shakes hands and serves the admin interface, so that none of it waits for
//! data.
//!
//! # Memory
//!
//! - Payloads: a session holds at most `session-bytes` in flight, or a single request. Its first `largest-payload`
//!   bytes are its own; what goes beyond comes out of its tenant's `tenant-bytes`. So a tenant's sessions hold at most
//!   `tenant-bytes + sessions * largest-payload`. A READ is charged when it is admitted, a WRITE before its payload is
//!   read; both until the reply is with the kernel. The bridge adds at most two of the backend's blocks to a request.
//! - Receive buffers, outside the permits: one of 128 KiB for each client socket with an incomplete message, and one
//!   for each connected lane. A client that is idle holds none.
//! - The [pool](net::Pool) keeps up to 128 buffers (16 MiB) for the next reader.
//! - A payload in flight keeps alive the buffers it lies in, all of each: at worst a few bytes hold 128 KiB. A client
//!   can have no more of these than requests in flight, a backend no more than chunks in its answers.
//! - Headers, error texts and extents are bounded one by one (proto.md's limits; 131072 extents of one context in one
//!   answer), and by the number of requests in flight, not by the permits for bytes.
//!
//! # Locks
//!
//! All are short, and none is held across an await; the one exception is named. Whoever takes two takes them in this
//! order:
//!
//! 1. an export's orphans, then its lane's table or its exclusive ranges;
//! 2. a lane's table, then the incoming half of its outbox;
//! 3. an outbox's writer, then its incoming half;
//! 4. a session's permits, then its tenant's budget.
//!
//! A lane's table is never held while a job is finished: replies are collected under the lock and given out after it. A
//! session's or a lane's waker, the pool and the metrics are taken last and alone. Guards of a DashMap (the registry,
//! the session table) are let go before any await. The exception: an export's entry in the registry has an async lock,
//! held while its backend is opened or closed, so that it is opened once however many clients ask.
//!
//! # Promises
//!
//! Kept today; each with the room that keeps it and where it is tested: in this crate, or in `tests/suite`.
//!
//! | promise | kept by | tested in |
//! |---|---|---|
//! | **Exactly one reply** for every request accepted, or the connection ends. A job that is dropped unfinished answers `EIO`. Cookies come back bit for bit, even one used twice at once. | `work`, `session/reply.rs`, `lane/table.rs` | `multiplex.rs`, `bad_client`, `bad_backend` |
//! | **Bounded memory**: nothing is allocated because a peer claimed a length; payloads stay within the permits above. | `session/permits.rs`, `net/outbox.rs`, `proto` | `multiplex.rs`, `bad_client`, `proto/*/tests.rs` |
//! | **Nobody waits for another's reading.** | `session/transmission.rs`, `net/outbox.rs` | `multiplex.rs` |
//! | **In step**: what is wrong with a request is answered, its payload thrown away, and the stream goes on; where it can't be followed, that connection ends and no other. | `session/admit.rs`, `proto` | `session/admit.rs`, `bad_client`, `bad_backend` |
//! | **One size for all who ask**: LIST dials nobody; INFO, GO and EXPORT_NAME are answered from one place. A session is admitted up to the size that its handshake told, and no further. | `session/handshake.rs`, `session/admit.rs` | `interop`, `session/admit.rs` |
//! | **Flags that are kept**: a client is told what the gateway can keep, from one function. | `proto/flags.rs` | there, exhaustively |
//! | **FLUSH covers everybody**: several lanes only if the backend sets CAN_MULTI_CONN; clients are offered it only if one FLUSH covers all sessions. | `export/backend.rs`, `proto/flags.rs` | `multiplex.rs`, `proto/flags.rs` |
//! | **Replay by one table**: after a lost connection, what is sent again can't undo what was answered; a FLUSH fails once where answered writes may be gone, unless the export says `durable`. | `lane/lost.rs` | there, `bad_backend/loss.rs` |
//! | **A size never goes back by itself**: a backend that returns smaller, or able to do less, is not used. | `export/backend.rs` (`fits`) | not yet |
//! | **No write from the past**: while a request of a session that is gone may still change data, nothing that overlaps it is sent. | `export/orphans.rs` | there |
//! | **Blocks are bridged**: requests below the backend's minimum are read, modified and written under an exclusive range. It excludes this gateway's clients only, not other writers of the backend. | `export/bridge.rs`, `export/ranges.rs` | `translation/limits.rs`, `export/ranges.rs` |
//! | **Nothing in common is lost**: framings, holes, error offsets, contexts, long requests. | `session/reply.rs`, `lane/gather.rs`, `export/bridge.rs` | `interop`, `translation` |
//! | **Accepting never ends** because of an error; one bad client, backend or export never takes the process down. | [`listener`] | `bad_client`, `bad_backend` |
//! | **A bounded end**: on SIGTERM what was admitted is finished, new requests get `ESHUTDOWN`, backends get DISC, and the process ends within `drain-timeout` and a few seconds. | [`app`] | `drain.rs` |
//!
//! Not kept yet, because nothing resizes yet: the order of growing and shrinking, quota, zeroing of what a grow
//! exposes, notices, and when a backend's claims are believed. The decisions are in the policy crate, with tests of
//! their own; the gateway does not ask it yet. A lane has no permits of its own: what its sessions hold is its bound.

pub mod admin;
pub mod app;
pub mod cmd;
pub mod export;
#[doc(hidden)]
pub mod fuzz;
pub mod lane;
pub mod ledger;
pub mod listener;
pub mod net;
pub mod origin;
pub mod proto;
pub mod resize;
pub mod session;
pub mod shards;
pub mod work;
