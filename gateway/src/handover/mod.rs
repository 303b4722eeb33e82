//! What a running gateway knows, as data: so that its sessions and its connections to servers can go on elsewhere.
//!
//! Each room suspends and resumes its own things; the types they become stand in [`state`]. Sockets are not among them: they
//! travel as descriptors. So far everything resumes in the process that suspended it, in tests, by way of JSON.

pub(crate) mod state;

/// What was agreed on inside TLS stays in its process, which then relays the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot suspend a connection inside TLS")]
pub(crate) struct SpeaksTls;
