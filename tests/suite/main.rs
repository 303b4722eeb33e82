//! The suite: one binary, one link.
