//! What bounds a client: how much it may hold in flight, how fast its requests and its notices go, and when a session with
//! many requests waits for one with few.
//!
//! Nothing here knows a session: who has to wait leaves its [`Waker`](std::task::Waker), and is told apart by a number.

mod notices;
mod pacer;
mod permits;
mod places;
mod throttle;
mod turns;

pub(crate) use notices::{NoticeLimiter, RetryAfter, pass};
pub(crate) use pacer::{ACTIVE, Pacer};
pub(crate) use permits::{ANSWER, CONTEXT, EXTENT, Permits, TenantBudget};
pub(crate) use places::{Handshake, Place, PlaceError, Places, Source};
pub(crate) use throttle::{IoLimits, RateGate, SharedLimiter};
pub(crate) use turns::{Share, Turns};
