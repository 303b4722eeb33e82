//! nbd-gateway: a multiplexing NBD gateway.

pub mod admin;
pub mod app;
pub mod cmd;
pub mod export;
pub mod lane;
pub mod ledger;
pub mod listener;
pub mod net;
pub mod origin;
pub mod proto;
pub mod session;
pub mod shards;
pub mod work;
