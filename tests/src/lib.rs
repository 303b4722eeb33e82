//! The suite is in `suite/`; this library is empty on purpose.
