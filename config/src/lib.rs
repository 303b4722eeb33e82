//! The config room of nbd-gateway.
