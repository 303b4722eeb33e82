//! nbd-gateway: a multiplexing NBD gateway.
pub mod origin;
pub mod proto;
pub mod session;
pub mod work;
