//! nbd-gateway: a multiplexing NBD gateway.
pub mod proto;
pub mod session;
pub mod work;
