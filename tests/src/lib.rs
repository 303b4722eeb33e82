//! The suite is in `suite/`; here is what the gateway's own tests use as well.

pub mod pki;
