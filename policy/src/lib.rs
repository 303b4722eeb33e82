//! The policy room of nbd-gateway.
