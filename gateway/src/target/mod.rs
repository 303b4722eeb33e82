//! What serves an export's requests, and what they pass on the way: lanes to an NBD server or an embedded disk, the view
//! that everyone reads, and the bookkeeping of requests that can't go to the backend as they are, or not now.

mod backend;
pub(crate) mod bridge;
pub(crate) mod ceiling;
mod core;
mod gate;
pub(crate) mod orphans;
pub(crate) mod presence;
mod probes;
pub(crate) mod ranges;
mod second;
mod view;

pub(crate) use self::core::Core;
pub(crate) use backend::{Backend, Facts};
pub(crate) use probes::Probes;
pub(crate) use view::{Shown, View};
