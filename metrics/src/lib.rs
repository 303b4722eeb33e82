//! The metrics room of nbd-gateway.
