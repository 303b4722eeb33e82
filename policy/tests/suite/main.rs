//! The policy crate from outside: its tables, printed and compared, and its promises over random histories.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should end with a backtrace"
)]

mod access_table;
mod fixture;
mod offer_rules;
mod offer_table;
mod plan_adopting;
mod plan_properties;
mod plan_rules;
mod plan_settling;
mod plan_table;
mod quota_model;
mod quota_records;
mod rate_windows;
