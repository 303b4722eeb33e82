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
//! | *embedded disk* | a backend inside this process: a file or memory |
//! | *cookie* | the 64 bits by which a reply names its request; each lane has cookies of its own |
//! | *permit* | a passed check, as a value: so many requests, so many payload bytes |
//! | *job*, *outcome* | an admitted request on its way, and how it ended: the seam between a session and whatever serves it |
//! | *shard* | one thread with a runtime of its own |
//! | *orphan* | a request that may still change data although its session is gone |
//! | *late write* | a request that changes data, was in flight on a lost connection, and may still be carried out |
//! | *fence* | an act after which a server carries out nothing from its earlier connections |
//! | *view* | what an export looks like now: its size, and the end up to which requests are admitted |
//! | *wish*, *plan*, *step* | somebody wants another size; what is to be done about it, as data; one thing of it |
//! | *coordinator* | the one task that changes an export's size |
//! | *state* | what a part of a running gateway knows, as data that another process could go on from (`handover`); in tests only, so far |
//! | *notice* | a new size, told to a client that waits for it |
//! | *fault* | why something failed that the gateway undertook, and whose fault it is (`fault.rs`) |
//!
//! # The way of one request
//!
//! ```text
//!  client                                                                                              backend
//!    |  session/transmission.rs: one read into a pooled buffer, then everything whole in it:             ^
//!    |    proto/request.rs      decode the header                                                        |
//!    |    session/admit.rs      check it against the size and flags that this client was told            |
//!    |    limits/throttle.rs    wait for its turn, where there is a rate                                   |
//!    |    limits/turns.rs       wait for its turn, where few requests would queue behind many              |
//!    |    limits/permits.rs     take permits, BEFORE the payload is read                                 |
//!    |    proto/inbox.rs        the payload, as slices of the receive buffers                            |
//!    |  session/submit.rs       the batch; what the backend can't take goes over target/bridge.rs        |
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
//! `proto/` and `net/` are crates of their own ([`nbd_gateway_proto`], [`nbd_gateway_net`]); so is `client/`, which has the
//! commands `client` and `agent` ([`nbd_gateway_client`]), and `heap/`, which gives memory back ([`nbd_gateway_heap`]).
//!
//! On this way nothing is allocated per request but what its payload needs, no task is spawned, no channel is used, no
//! lock is held across an await, and no payload byte is copied between the two sockets; a batch shares its looks at the
//! clock ([`stamp`]). An outgoing queue is written by whoever appended to it, not by a task that would have to be woken;
//! only a socket that is full wakes its connection's own task. A client that does not read its replies runs out of permits,
//! and is read no further; nobody else on its lane waits for it. Requests that the backend can't take as they are (too large,
//! too long, not on its blocks), and those that must wait for an orphan, leave this way for a task of their own in
//! `target/bridge.rs`.
//!
//! A request knows its client by a [`Ticket`](request::Ticket): data, and a [`Client`](request::Client), one virtual call for
//! each reply. So nothing below a session imports it. Clients that were cut for a grow are remembered by the export
//! (`export/reconnects.rs`), because their sessions have ended.
//!
//! What is submitted to is a [`Target`](target::Target): one virtual call for each batch. What reads ahead
//! (`target/read_ahead`) is a target in front of another one; so would be what moves a disk.
//!
//! An [`embedded`] disk takes the same jobs: what needs no I/O is answered in the thread that submits, the rest by
//! a pool.
//!
//! # How a size travels
//!
//! ```text
//!  a client's RESIZE      a write past the end    an operator           the backend, by itself
//!  session/resize.rs      session/grow.rs         admin/order.rs        resize/follow.rs, target/open.rs
//!    | resize-rate          | waits in a task       |                     | NOTIFY, QUERY or a second handshake
//!    +----------------------+-----------+-----------+---------------------+
//!                                       v
//!  resize/mod.rs      Resizer: a job for people to look at (resize/jobs.rs), who else has the export open
//!                     (resize/openers.rs), one queue for each export
//!  resize/coordinator.rs: one wish at a time, in the order of arrival
//!    |  policy::plan::plan    decides, from the situation alone: nothing, refuse, grow, shrink, adopt, quarantine
//!    |
//!    |  a grow, step by step:                           a shrink:
//!    |    reserve the quota, by growth-rate, and note     put it on record
//!    |      what will have to be zeroed (accounting/)
//!    |    read the backend's size again                   lower the end (target/gate.rs): nothing past it is admitted
//!    |    ask the backend (resize/live_effects.rs;        drain: what is past it in flight is answered
//!    |      beside NBD by driver/: its lanes are          read the backend's size again
//!    |      suspended if need be)                         ask the backend
//!    |    READ BACK                                       READ BACK
//!    |    settle: what was got is what counts             settle
//!    |    lanes shake hands anew (lane/run.rs)            lanes shake hands anew
//!    |    zero what the backend does not                  publish
//!    |    commit the reservation, clear the note          free the quota
//!    |    publish
//!    v
//!  target/view.rs     the size, and its generation: one writer, many readers
//!    |
//!    +-> the reply to whoever wished        +-> a handshake, QUERY, BLOCK_STATUS of x-resize:size-low, size-high
//!    +-> NOTIFY (session/notify.rs)         +-> BLOCK_STATUS that waits for x-resize:watch (session/resize.rs)
//!    +-> [[export.notify]] (hooks/): a program, a URL, a running qemu
//! ```
//!
//! What counts takes four steps, each of which knows only the next: a coordinator makes one call for each step of a resize to
//! its export's account (`accounting/account.rs`), which moves the tenants' sums (`accounting/tenants.rs`, over policy's
//! `quota`) and sends one change to the [ledger](nbd_gateway_ledger), whose thread writes it to the database. The mailbox of that thread is the
//! seam for another store: changes and questions are data. What the ledger has of an export that is not open is in
//! `accounting/cache.rs`.
//!
//! The coordinator decides nothing and `policy` does nothing: a plan is data, and so is tested without a socket. What a
//! coordinator does to the world goes through its [`Effects`](resize::effects::Effects). When the outcome of an ask is
//! unknown (nobody answered, and the size can't be read), the reservation stays on the books, the end stays lowered, and
//! the size is asked for every second until it is known. A backend's size that can't be, smaller than what clients rely
//! on, puts the export into quarantine: it is served, and not resized, until the size fits again or an operator adopts
//! what is left.
//!
//! None of this is on the way of an ordinary request. That looks at the view's end, one atomic load, and passes the gate.
//!
//! What is on the wire is in [`nbd_gateway_proto::resize`].
//!
//! # How another configuration comes into force
//!
//! ```text
//!  SIGHUP, POST /api/v1/reload
//!    v
//!  reload/mod.rs      one at a time; who asks meanwhile shares the next
//!    | the file is read and checked; config's `Changes` says what differs, in the words of the file
//!    v
//!  reload/apply.rs    made ready, nothing changed yet: what needs a restart, what would harm those who are there
//!    |                (export/reconfigure.rs), listeners bound and certificates read (reload/listeners.rs), the token read,
//!    |                new disks opened. Any of it fails: all reasons are told, and what was made ready is let go
//!    v
//!  export/reconfigure.rs     what is in force (export/active.rs) is replaced, under one lock and in one go. Of each open export:
//!    |                stays | adjusted in place (export/adjust.rs) | reopened | ended
//!    +-> export/teardown.rs   ended: its sessions drain; reopened: they part; then the backend is let go. The entry is locked
//!    |                       until then, so that no name ever has two coordinators
//!    +-> session/table.rs    each session judged again: one whose client may do other things now is closed
//!    +-> reload/listeners.rs     their settings replaced, for connections that come from then on; removed listeners stop to accept
//! ```
//!
//! Nothing on the way of a request reads the configuration. Whoever begins something (a handshake's option, an opening) takes
//! what is in force then, once; a session that was judged by what was in force before and enters the table after the swap
//! is judged again when it has entered, so that none slips between. What only a restart can bring refuses the whole file
//! rather than being warned of: after a reload that succeeded, what runs is what the file says, but for quotas that an operator
//! ordered (`accounting/allowance.rs`) while it says the same of them.
//!
//! # How it is watched
//!
//! ```text
//!  a coordinator, the books      what has become of a size or a quota
//!    v  accounting/history.rs    in words
//!  ledger crate                  on the disk; then whoever waits for it is told that there is more
//!    v  admin/stream.rs          a page of events at a time, as fast as this reader takes them
//!  `events --follow`, the page
//!
//!  the registry, the session table, the books, the metrics
//!    ^  admin/overview.rs, admin/state.rs  as they are now, each time that somebody asks
//!  the page, Prometheus, `exports`, `tenants`, `sessions`
//!
//!  service/status.rs, service/pulse.rs --> systemd: how it is, in a sentence; a sign of life if every shard has one
//! ```
//!
//! `admin/routes.rs` is the one table of what can be asked for: the router and the OpenAPI document are made from it. Who comes
//! in is bounded (`admin/accept.rs`, `admin/patience.rs`) and has to call this host by its name (`admin/host.rs`). Nobody waits
//! for who looks. Orders (`admin/order.rs`) take the same ways as everything else: an operator's size is a wish of the
//! coordinator's, a quota an order of `accounting/allowance.rs`. The page (`admin/page/`) is some files in the program, and
//! knows no more than the interface answers to anyone. What many ask for is encoded once for all of them (`admin/paced.rs`).
//!
//! # The rooms, and where a change goes
//!
//! Each room uses only rooms below it; a test reads the imports and says which arrow is wrong (`tests/suite/source/arrows.rs`).
//!
//! ```text
//!  crates: policy  nbd-gateway-proto  metrics  config  nbd-gateway-net  nbd-gateway-ledger  nbd-gateway-client
//!    fault  descriptors  stamp  ordered_watch
//!      request  command  http  qmp  token
//!        handover
//!          limits  embedded  log
//!            lane  driver  shards
//!              fence  service
//!                target                     what serves an export's requests, by one trait
//!                  accounting  hooks
//!                    resize
//!                      export
//!                        session
//!                          listener - reload - admin - app - cmd
//! ```
//!
//! | to add or change | open |
//! |---|---|
//! | a metric | `metrics/src/families.rs`, or `export_families.rs` beside it for one of each export (its row: name, help, labels), `metrics/src/names.rs` (its handle), `metrics/golden.txt`, README's table, and the place that counts |
//! | a driver | config's `model/driver.rs` and `raw/resize.rs`, a file in `driver/`, `driver/mod.rs` |
//! | the errno of a refusal | policy's `refusal/table.rs`; of a failure, the table in `fault.rs` |
//! | an endpoint of the admin interface | `admin/routes.rs` (router and OpenAPI), `admin/view.rs` (its answer), `cmd/cli/operator.rs` and `cmd/operator/` (its command) |
//! | a second ledger | the crate `gateway/ledger`: another thread or task that takes the mailbox's `Query` and `Change` |
//! | a kind of backend | a file in `target/` that implements `Target`, and `target/open.rs` |
//! | something between an export and its backend | a `Target` that has a `Target` |
//! | a configuration key | config's `raw/`, `model/`, `changes/`; the compiler leads from there |
//! | a command of the protocol | the crate `gateway/proto`, then `session/admit.rs` |
//!
//! # Why one thread for a lane and its sessions
//!
//! A lane lives on one [shard](shards), and so does every session that uses it, so that a request and its reply never
//! change threads. Measured with one client and small requests: a work-stealing runtime of two threads took 1.4 times
//! the CPU for each request, all of it in waking threads. Exports, and the lanes of one export, are spread over the
//! shards in turn. A runtime apart accepts and shakes hands, so that neither waits for data, and carries out operators' orders. The
//! admin interface has a thread of its own, so that neither waits for readers; long answers are encoded beside that.
//!
//! # Memory
//!
//! - Requests and answers: a session holds at most `session-bytes`, or a single request, and 512 bytes for each of
//!   `session-requests`. Its first `largest-payload` bytes and those 512 are its own. What it holds beyond that comes out of
//!   its tenant's `tenant-bytes`. So a tenant's sessions hold at most `tenant-bytes + sessions * (largest-payload + 512 *
//!   session-requests)`. A READ or WRITE that could never have room there is refused. Every request is charged before its payload is read, until its reply is with the kernel: its
//!   payload or that of its answer, and 512 bytes for headers and an error's sentence. A
//!   BLOCK_STATUS is charged 128 bytes more for each context, and, as far as there is room, 16 bytes for each extent that
//!   its answer may have. No answer takes more than its request was charged: extents that do not fit are left out (the
//!   answer covers less), a sentence is cut, and a READ's answer in many small pieces is joined into one. The bridge adds at
//!   most two of the backend's blocks to a request.
//! - A session whose client is gone leaves what it still holds to its tenant's `tenant-bytes`. While more is held than
//!   that, no session of the tenant takes anything, so the excess is at most one share for each session that was there.
//! - RESIZE, QUERY and NOTIFY hold no permit: a session has 16 of them, each until its reply is written, of 1 KiB each.
//! - A handshake holds one option, and 16 KiB of the answer to a LIST at a time.
//! - Receive buffers, outside the permits: one of 128 KiB for each client's or backend's socket with an incomplete
//!   message. One that is idle holds none.
//! - The [pool](nbd_gateway_net::Pool) keeps up to 128 buffers (16 MiB) for the next reader.
//! - Embedded disks keep up to 8 MiB of the buffers of long reads (`embedded/buffers.rs`). A read that gets one of them holds
//!   less than twice its length.
//! - A payload in flight keeps alive the buffers it lies in. What nobody keeps takes no room beside it: bytes that are
//!   thrown away give way to what comes next, and a payload shorter than what was decoded before it is copied out
//!   ([`Inbox`](nbd_gateway_proto::Inbox)). A payload that waits for a slow client and fills less than half of its buffer is copied out
//!   ([`Outbox`](nbd_gateway_net::Outbox)). As soon as more than 128 full buffers (16 MiB, in the whole process) are pointed into, payloads of
//!   less than 32 KiB are copied out when they come. So beyond those 16 MiB, payloads hold at most four times their length.
//! - With TLS, each connection holds up to 128 KiB that are encrypted and wait for its socket, after the permits for them
//!   are back, and 64 KiB while it receives; rustls' own buffers beside that hold one record of 16 KiB each way.
//! - The admin interface keeps up to 64 MiB of encoded answers (`admin/text.rs`), and 64 KiB for each of its 256 connections.
//! - The log holds up to 1 MiB that waits to be written and 1 MiB that is being written.
//! - Late writes: one entry of about 100 bytes for each request that was in flight on a lost connection. Beyond 4096 of an
//!   export, those that are not sent again become one.
//! - A READ's answer that is still coming in pieces holds up to a quarter of the READ's length beside its data: it may have
//!   16 chunks, and one more for each 512 bytes. Other replies may have 128. A chunk of extents is received only as far as
//!   the request has room for it.
//! - Of an export, 1024 resizes wait. One standing NOTIFY of a session keeps one chunk unread and merges the rest. Of an
//!   export's resizes, a bounded number is remembered for operators.
//!
//! # Locks
//!
//! All are short, and none is held across an await; the one exception is named. Whoever takes two takes them in this
//! order:
//!
//! 1. an export's gate, then whatever its backend takes (2 and 3) and the gate's list of held requests;
//! 2. an export's orphans, then its lane's table or its exclusive ranges;
//! 3. a lane's table, then the incoming half of its outbox, the export's late writes, or what it has read ahead;
//! 4. an outbox's writer, then its incoming half, or its stream's TLS connection; who reads takes that one alone;
//! 5. a session's permits, then its tenant's budget, then the waker of the session that is to wait for bytes;
//! 6. a lane's queue of turns, then the waker of the session that is to wait in it;
//! 7. what is in force (the registry's), then its map of exports, then an export's settings;
//! 8. a session's standing NOTIFY, then the rates of notices, or the session's outbox.
//!
//! The gate is held for reading from judging a batch against the view's end until it stands in the backend's table, and for
//! writing only to lower that end: so a shrink's drain sees every request that was judged against the old end. The books
//! (quota, rates), an export's jobs and its openers have a lock each, taken alone.
//!
//! A log line may be logged under any lock: the log's own two (its rate limits, its queue) are taken last, alone, and never held
//! while anything is written.
//!
//! A lane's table is never held while a job is finished: replies are collected under the lock and given out after it. A
//! session's or a lane's waker, the pool and the metrics are taken last and alone. Guards of a DashMap (the registry,
//! the session table) are let go before any await. Two exceptions: an export's entry in the registry has an async lock,
//! held while its backend is opened or closed, so that it is opened once however many clients ask; and changes of quotas
//! take turns, each until the ledger has it, so that the books take them in the ledger's order.
//!
//! What can be changed under those who use it has no lock of its own on the way of a request: a bound on reading and
//! writing tells by an atomic number that it was changed ([`limits::IoLimits`]), and a coordinator takes new rules before it
//! does anything else ([`resize::rules`]).
//!
//! # Promises
//!
//! Kept today; each with the room that keeps it and where it is tested: in this crate, or in `tests/suite`.
//!
//! | promise | kept by | tested in |
//! |---|---|---|
//! | **Exactly one reply** for every request accepted, or the connection ends. A job that is dropped unfinished answers `EIO`. Cookies come back bit for bit, even one used twice at once. | `request`, `session/reply.rs`, `lane/table.rs` | `multiplex.rs`, `bad_client`, `bad_backend` |
//! | **What a client may not list does not exist for it**: a hidden name and a missing one take the same way, and dial nobody; what it has no verb for is neither offered nor done. | `session/visitor.rs`, policy's `access` | `access`, policy's `access` |
//! | **A name stays in its directory**: a name that a client makes up becomes one file below the directory of its template, reached over no symbolic link; that directory is none that the gateway, or its operator for it, keeps anything else in. | `embedded/place.rs`, config's `model/place.rs` | `embedded`, config's `problems.rs`, `templates.rs`, `commands` |
//! | **Bounded memory**: nothing is allocated because a peer claimed a length; what a request makes the gateway hold stays within the permits above, whether its client reads or not. | `limits/permits.rs`, `session/reply.rs`, `net/outbox.rs`, `proto` | `memory`, `multiplex.rs`, `bad_client`, `proto/handshake` |
//! | **Who is gone gives its place back**: a session whose client has closed its connection ends, whatever its backend does: at once over a Unix socket, within a second over TCP, also if it is out of permits and does not read. What it has in flight is the export's. | `session/departure.rs`, `target/orphans.rs` | `departure` |
//! | **One request, bounded work**: what is split into many pieces goes a few at a time, is given up when nobody waits for it, and holds others up for one piece only. | `target/bridge.rs` | `long_requests` |
//! | **Every conversation ends or makes progress**: a reply of endless chunks fails its request and ends the connection; redials pause longer until a connection lives for a second; a handshake has so many options. | `lane/decode.rs`, `lane/run.rs`, `proto/handshake/server.rs` | `bad_backend/endless.rs`, `proto/handshake/server/tests.rs` |
//! | **Few requests do not queue behind many**: while a session with at most two small requests in flight is active, the others on its shard share a window on each lane, as large as the light session's latency allows, and take turns in it. | `limits/turns.rs` | there, `fairness.rs` |
//! | **Nobody waits for another's reading.** | `session/transmission.rs`, `net/outbox.rs` | `multiplex.rs` |
//! | **In step**: what is wrong with a request is answered, its payload thrown away, and the stream goes on; where it can't be followed, that connection ends and no other. | `session/admit.rs`, `proto` | `session/admit.rs`, `bad_client`, `bad_backend` |
//! | **One size for all who ask**: LIST dials nobody; INFO, GO and EXPORT_NAME are answered from one place, the view. | `session/handshake.rs`, `target/view.rs` | `interop`, `resize` |
//! | **Nobody is moved unasked**: a session with structured replies that did not opt in stays within the size that it was told, even after a grow; the others are admitted up to the end. | `session/mod.rs`, `session/admit.rs` | `resize`, `session/admit.rs` |
//! | **A ceiling is kept**: who is shown `max-size` finds zeroes where there is nothing yet, and its writes there grow the export or fail whole. Nothing shrinks under it; a configuration that lowers it while such sessions are there is refused. | `target/ceiling.rs`, `session/table.rs`, `session/handshake.rs` | `session/tests/ceiling.rs`, `ceiling`, `reload` |
//! | **A cut is clean**: a session that the gateway ends is read no further, what was admitted is answered and written, then it is closed. A write that it is cut for is not answered and never reaches the backend; who does not come back is cut once. | `session/close.rs`, `session/grow.rs`, `export/reconnects.rs` | `session/tests`, `reconnect` |
//! | **The order of a change**: a grow is with the backend, read back, on all lanes and zeroed before anyone sees it; a shrink takes no new requests past the end and drains before the backend is asked. A reply comes after the view. | `resize/coordinator.rs`, `target/gate.rs`, policy's `plan::steps` | `resize`, policy's `plan_rules.rs` |
//! | **One at a time**: resizes of an export in the order of arrival; what is there already changes nothing and succeeds. | `resize/coordinator.rs` | `resize` |
//! | **Direction by what was told**: only less than what the connection was last told is a shrink; nobody who is behind cuts off another's data. | policy's `plan` | policy's `plan_rules.rs` |
//! | **Reserve before asking**: the quota is held before the backend is asked, and what was read back is what counts; an unknown outcome stays counted. | `accounting/tenants.rs`, policy's `quota` | `resize`, policy's `quota` |
//! | **Read back**: no answer of a backend is believed before its size has been read. Bit 9 without NBD_INFO_RESIZE is a hint that the first grow has to prove, and no shrink goes before that; one that was disproved is believed again after a pause. | `resize/coordinator.rs`, `target/style.rs`, policy's `style` | `resize`, policy's `style` |
//! | **No failure switches anything off for good**: a server's size is looked at again after each look that failed, after pauses that grow; silence alone never proves that a server takes one connection only if it answered a second one before. | `resize/follow.rs`, `target/second.rs`, `resize/coordinator.rs` | there, `unmeasured.rs`, `resize_hostile` |
//! | **Zeroes before shown**: what a grow exposes, also between the old size and a write's offset, is zero before a client can read it, also if the gateway ends in between. | `resize/coordinator.rs`, `resize/settle.rs`, `accounting/account.rs`, `ledger` | `resize`, `ledger/src/tests` |
//! | **Nothing by halves**: a write past the end whose growth is refused writes nothing, not even before the old end. | `session/grow.rs` | `resize` |
//! | **The last notice is told**: changes are merged when they come faster than a client reads, wants or may; the latest size wins. A flood from a backend costs one look for each interval. | `session/notify.rs`, `resize/follow.rs`, policy's `notice` | `resize`, policy's `notice` |
//! | **A hook hears the last size**: one attempt at a time, again until it is heard, as long as the export is open; who missed two sizes gets the last. | [`hooks`] | there, `hooks` |
//! | **No program is left behind**: what an operator's program starts in its group ends with it, in bounded time, also when the resize that wanted it is given up. A `restart` that succeeds may leave a server. | [`command`] | there, `hooks` |
//! | **Flags that are kept**: a client is told what the gateway can keep, from one function. | `export/flags.rs` | there, exhaustively |
//! | **FLUSH covers everybody**: several lanes only if the backend sets CAN_MULTI_CONN; clients are offered it only if one FLUSH covers all sessions. | `target/lanes.rs`, `export/flags.rs` | `multiplex.rs`, `export/flags.rs`, `simulation` |
//! | **Replay by one table**: after a lost connection, what is sent again can't undo what was answered, over this lane or another; a FLUSH fails once where answered writes may be gone, unless the export says `durable`; a session that began between two losses is told of the second one, and an export that is opened again remembers answered writes that no FLUSH has covered. Not kept: over a restart of the gateway. A backend that answers `ESHUTDOWN` is left, and asked again when it is back. | `lane/lost.rs`, `lane/mod.rs`, `target/lanes.rs` | there, `lane/tests/late.rs`, `bad_backend/{loss,shutdown}.rs`, `simulation` |
//! | **A size never goes back by itself**: a backend that returns smaller, or able to do less, is not used; one that says a smaller size while it is used puts the export into quarantine. | `target/facts.rs` (`fits`), `resize/coordinator.rs` | `outage`, policy's `plan_settling.rs` |
//! | **What was told binds while somebody holds it**: a server that came back different is used by nobody while a client is connected, or may come back, that was told otherwise; then the export is opened as it is now. A new handshake is told what is so now. | `target/presence.rs`, `export/entry.rs` (`fitness`) | `different`, `target/presence.rs` |
//! | **No write from the past**: while a request of a client that has closed its connection may still change data, at a server or on a disk of the gateway's own, nothing that overlaps it is sent; one that still waited for a grow is given up. A request that was in flight when its connection was lost is sent again at once if at all, and nothing else that overlaps it and changes data is sent, from anybody, until the server has ended, a fence was used, or `late-write-guard` has passed; nor a READ, if it failed. A gateway that starts after an unclean end holds every change back in the same way, in exports that had changed data. Not kept: for requests of a client over TCP that its session had not read yet, as long as others of its are answered; against a server without a fence that takes longer than the guard; between exports of one server; for READs after an unclean end. | `target/orphans.rs`, `target/held.rs`, `session/grow.rs`, `session/close.rs`, `lane/late.rs`, [`fence`] | there, `lane/tests/late.rs`, `multiplex.rs`, `own_disk.rs`, `late_writes`, `simulation` |
//! | **Read-ahead is exact**: a READ that is answered with what was read ahead finds nothing older than what had been answered when it came. What changes data, from anybody, takes what it overlaps away before it is sent, and bars it from being read ahead until it has ended; a connection that is made or lost takes everything away. Its memory has a bound of its own. Not kept: against other writers of the server's disk, another export's clients among them; `exclusive` says that there are none. | `target/read_ahead` | there, `read_ahead`, `simulation` |
//! | **Blocks are bridged**: requests below the backend's minimum are read, modified and written under an exclusive range. It excludes this gateway's clients only, not other writers of the backend. | `target/bridge.rs`, `target/ranges.rs` | `translation/limits.rs`, `target/ranges.rs` |
//! | **An export can go on elsewhere**: its lanes and its sessions are suspended together, at any byte of their conversations, and resumed from JSON. Each client gets the answers that it would have got. Nothing counts as lost, nothing that is done is done again, and a lane without a connection goes on waiting for one. A client that was cut for a grow is known where it comes back to, a coordinator knows all that it knew, who left without a goodbye still counts, a hook hears what it has not heard yet, what is owed to a rate of the export or of a session is owed there, and a backend that flooded is left alone for as long. In tests only, so far. Not kept: rates of a tenant; who had exports open that are closed; that a request over the bridge is an orphan, if its client has left; a request in pieces is sent again from its first unanswered piece, also if an overlapping request has been answered since; inside TLS, where connections are to be relayed. | `session/suspend.rs`, `session/suspend/`, `lane/suspend.rs`, `target/suspend.rs`, `target/held/suspend.rs`, `export/suspend.rs`, `resize/rest.rs`, `resize/coordinator/suspend.rs`, `handover/state` | `session/tests/{suspended,kept}.rs`, `lane/suspend/tests.rs`, `resize/fuzz/moved.rs`, `simulation` |
//! | **Nothing in common is lost**: framings, holes, error offsets, contexts, long requests. | `session/reply.rs`, `lane/gather.rs`, `target/bridge.rs` | `interop`, `translation` |
//! | **Nothing in the clear by mistake**: where TLS is required, nothing is told before it; what was agreed on before is forgotten, and what was sent in the clear behind STARTTLS ends the connection; a backend that refuses TLS is not used. Whose certificate a client showed is known to its session. | `proto/handshake`, `session/handshake.rs`, `net/negotiation.rs`, [`nbd_gateway_net::tls`] | `tls`, `net/tls/tests.rs`, `proto/handshake` |
//! | **A kernel's device follows**: it is told only what was just told, never less unasked, never a size together with a connection or while one is known to be dead; what it then has is read back. | [`nbd_gateway_client::agent`] | `kernel`, `client/src/agent/` |
//! | **Silent connections keep nobody out**: handshakes have places apart from sessions, one address has half of them at most, and the oldest gives way. A tenant whose server does not answer opens 64 exports at a time; the last descriptors are kept for the ledger, operators and servers. A TCP peer whose host has vanished is closed; one that does not read is not. | `limits/places.rs`, `descriptors.rs`, `export/evict.rs`, `net/keepalive.rs` | there, `arrivals` |
//! | **Accepting never ends** because of an error; one bad client, backend or export never takes the process down. | [`listener`] | `bad_client`, `bad_backend` |
//! | **Bounded series**: a metric's labels come from the configuration and from closed sets, never from a client; names that fit a template have series while they are open, a thousand at a time; the others share their template's, and what the configuration names always has its own. | `metrics` | there, `series.rs` |
//! | **The log holds nobody up**, and nobody fills it: its lines are written by a thread of their own from a bounded queue, and every line that a client or a server can cause passes one rate limit. | `log` | there, `log` |
//! | **A sign of life is one**: the service manager, and who asks `/livez`, is told that the gateway lives only after every shard and the control runtime have run a task; a thread that hangs, spins or has ended stops that. | [`service`], `admin/state.rs` | `systemd`, `service/tests.rs` |
//! | **All or nothing**: a configuration that is read anew is in force as a whole, or everything is as it was and every reason is told. Sessions of what did not change never notice. | [`reload`], `export/reconfigure.rs` | `reload`, config's `changes` |
//! | **Never two**: an export that is taken out and comes back is opened when its former self is closed, not before; so is a file that comes back under another name. | `export/teardown.rs`, `export/registry.rs` | there, `reload` |
//! | **A bounded end**: on SIGTERM what was admitted is finished, new requests get `ESHUTDOWN`, backends get DISC, and the process ends within `drain-timeout` and a second. | [`app`] | `drain.rs` |
//! | **What was never opened counts too**: a named export of a tenant with a quota and other exports is measured at the start, before anything of that tenant's grows; one whose server is away holds nobody up, is shown, and asked until it was measured once. | `export/unmeasured.rs`, `accounting/initial_measurement.rs` | `unmeasured` |
//! | **Found is held against recorded**: a disk smaller than on record is told or quarantined, at each opening and while it is open; nothing is granted or refused for want of room by a size that was only remembered. | `accounting/meanwhile.rs`, `export/closed.rs`, `accounting/looks.rs` | there, `meanwhile` |
//! | **The books outlive the process**: a grow is in the ledger before the backend is asked; after a crash each export counts at its last size, and a grow of unknown outcome until it is measured. What can't be written down does not grow, and everything else goes on. | `accounting/account.rs`, `accounting/tenants.rs`, `ledger` | `resize/tests.rs`, `books.rs`, `chaos`, `ledger/src/tests`, `simulation` |
//! | **A generation never goes back**: it goes on from the ledger, and is on record before its size is published; the same generation is the same size. Not kept: for sizes that were published while the ledger could not be written. | `accounting/cache.rs`, `accounting/account.rs` | `resize/tests.rs`, `books.rs`, `simulation` |
//! | **An order about a quota is kept**: it is in the ledger before it holds, holds over restarts, and ends where the configuration says something else than it did. A quota or a rate that is changed shrinks nothing, and gives nobody a burst. | `accounting/allowance.rs`, `export/adjust.rs`, policy's `rate` | there, `quota.rs` |
//! | **Who may come back is not forgotten**: a client that broke off finds no less than it left for `shrink-grace`, also when its export was closed, or the gateway started anew, meanwhile. | `resize/openers.rs`, `export/known_openers.rs` | there, `comebacks` |
//! | **What is held back stays so** until it is published, while the export is closed and over a restart too. | `export/unpublished.rs` | `publish.rs` |
//! | **Each event once**: it is on the disk before it is told, and who comes back with the number of the last one misses none. | `admin/stream.rs`, `ledger` | `events.rs` |
//! | **The page reaches nobody else**: it may load and ask nothing but this interface, and no client's words become markup. | `admin/page` | `page` |
//! | **A window shows nobody else's data**, and goes on record before it is shown; without a record it goes nowhere over a disk that is not zero past it. | `resize/window.rs`, `target/zeroing.rs`, `accounting/account.rs` | `resize/tests.rs`, `window.rs`, policy's `plan_settling.rs` |
//!
//! A lane has no permits of its own: what its sessions hold is its bound.
//!
//! `simulation/` checks many of these promises together: real sessions, lanes, coordinator and ledger between scripted
//! clients and a scripted server, in one thread and virtual time, from a seed. It kills the gateway too, and goes on with
//! another one on the same ledger. One of its tests suspends and resumes the export meanwhile, with its lanes and sessions.
//! So that a seed repeats exactly, every `select!` is `biased`, with the reason for its order, and a value with several
//! followers is an `OrderedWatch`: tokio wakes the receivers of one `watch` channel in random order.

// The page is for readers of the source, who document private items too.
#![allow(rustdoc::private_intra_doc_links)]

mod accounting;
mod admin;
mod app;
pub mod cmd;
mod command;
mod descriptors;
mod driver;
mod embedded;
mod export;
mod fault;
mod fence;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(test)]
mod handover;
mod hooks;
mod http;
mod lane;
mod limits;
mod listener;
mod log;
mod ordered_watch;
mod qmp;
mod reload;
mod request;
mod resize;
mod service;
mod session;
mod shards;
#[cfg(test)]
mod simulation;
mod stamp;
mod target;
mod token;
