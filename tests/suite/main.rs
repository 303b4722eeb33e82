//! nbd-gateway against programs that we did not write, and against peers that misbehave on purpose.
//!
//! One binary, one link. Every test brings its own servers, sockets and directory, so all of them can run at once.
//! `NBD_GATEWAY_BIN` names the gateway to test (default: the release build beside this binary);
//! `NBD_SUITE_ROUTE=direct` takes the gateway out of the way, which tells its faults from the peers' own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::disallowed_methods,
    reason = "a test that meets the unexpected must fail at once, and real peers run in real time"
)]

mod access;
mod admin;
mod arrivals;
mod bad_backend;
mod bad_client;
mod bench;
mod books;
mod ceiling;
mod chaos;
mod client;
mod comebacks;
mod commands;
mod departure;
mod dial;
mod different;
mod drain;
mod drivers;
mod durability;
mod events;
mod fairness;
mod gateway;
mod hooks;
mod image;
mod inherited;
mod instructions;
mod interop;
mod kernel;
mod kubernetes;
mod lanes;
mod late_writes;
mod limits;
mod listeners;
mod log;
mod long_requests;
mod meanwhile;
mod memory;
mod multiplex;
mod observability;
mod older_ledger;
mod openapi;
mod outage;
mod own_disk;
mod package;
mod page;
mod peer;
mod place;
mod process;
mod publish;
mod qmp;
mod quota;
mod rates;
mod read_ahead;
mod readme;
mod recipe;
mod reconcile;
mod reconnect;
mod reload;
mod resize;
mod resize_hostile;
mod route;
mod scripted;
mod shipped;
mod shown_table;
mod source;
mod systemd;
mod templates;
mod tenant_bounds;
mod tls;
mod translation;
mod trouble;
mod unmeasured;
mod vm;
mod window;
