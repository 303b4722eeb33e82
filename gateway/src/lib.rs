//! nbd-gateway.
