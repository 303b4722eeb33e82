//! The policy room of nbd-gateway: who may do what, how much, how fast, and what is done about it.
//!
//! Everything here is a pure decision. There is no socket, no clock (`now` is an argument), no async, no lock, no
//! randomness but a seed that is handed in, and no dependency: so every promise is a table or a property test.
//!
//! How a size travels through it:
//!
//! ```text
//!  config ───> ExportPolicy, TenantLimits, Rate                      checked values; nothing here parses text
//!  client ────> Access::admit(identity) -> Admission                 for each export: decide() -> verbs, and the rule
//!  handshake ─> offer(backend, policy, now, negotiated) -> Offer     NBD_INFO_RESIZE, bit 9, contexts, writes past the end
//!
//!  RESIZE | write past the end | operator | backend changed          a Wish
//!    rate::take_all(now, 1), then (now, bytes)                       or Full: when there is room -> Refusal, EPERM
//!    Accounts::headroom ───> Situation { size, disk, policy, styles, other sessions, standing }
//!    plan(situation, wish) -> Plan                                   data; whoever executes it decides nothing
//!       Nothing | Refuse(Refusal: errno, label, sentence) | Adopt | Quarantine
//!       Grow, steps:   reserve (and note zeroes), re-read, ask, read back, renew lanes, zero, commit, publish
//!       Shrink, steps: lower the end, drain, re-read, ask, read back, renew lanes, publish, free quota
//!    Accounts::reserve(export, to) -> Reservation                      before the backend is asked; it may still refuse
//!    Grow::settle(situation, size read back) -> Grown                what to show, count, zero and answer
//!    Accounts::commit | rollback | unsettle (then settle)              freed by evidence only
//!    BackendStyle::after(trial)                                      a claim becomes proof, or is given up
//!
//!  published size ─> Notice::offer(size), Notice::poll(now)          per subscriber: latest wins, the last is never lost
//!                ─> ClientStyle::admitted_end                        per session: no surprise for those who never asked
//!  lost backend ──> Backoff::next_delay
//! ```
//!
//! Promises kept here: as soon as there is a rule, what no rule grants is denied; no growth that the ledger allows takes
//! a tenant over its quota; direction is judged against what a connection was last told; a claim is believed once it has
//! been read back; size never goes back by itself; only bytes that the gateway itself exposed are ever zeroed; in any
//! window a limiter admits at most its burst and its rate.

pub mod access;
pub mod backoff;
pub mod export;
pub mod notice;
pub mod offer;
pub mod plan;
pub mod quota;
pub mod rate;
pub mod refusal;
pub mod style;
pub mod types;
