//! The policy room of nbd-gateway.

pub mod refusal;
pub mod style;
pub mod types;
