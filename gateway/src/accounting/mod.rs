//! Accounting: what each tenant uses, what each export counts, and what the ledger must keep of it.
//!
//! The arithmetic is `policy::quota`'s, the disk is the ledger crate's. Nothing here asks a backend for anything.

pub(crate) mod account;
pub(crate) mod allowance;
pub(crate) mod cache;
pub(crate) mod history;
pub(crate) mod initial_measurement;
pub(crate) mod looks;
pub(crate) mod meanwhile;
pub(crate) mod tenants;
