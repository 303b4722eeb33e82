//! Promise: whatever the client agreed to and whatever the backend agreed to are bridged, and what both can is kept.

mod contexts;
mod errors;
mod framings;
mod limits;
mod tail;
