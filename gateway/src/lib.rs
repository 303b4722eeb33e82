//! nbd-gateway: a multiplexing NBD gateway.
pub mod cmd;
pub mod proto;
pub mod session;
pub mod work;
