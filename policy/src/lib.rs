//! The policy room of nbd-gateway.

pub mod export;
pub mod offer;
pub mod quota;
pub mod refusal;
pub mod style;
pub mod types;
